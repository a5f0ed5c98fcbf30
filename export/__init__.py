"""SavedModel export, TF Serving client and local server for distilbert_tf models."""
