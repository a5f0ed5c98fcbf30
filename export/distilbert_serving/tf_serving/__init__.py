"""Files in TF Serving's formats: configuration, batching, warm-up, environment."""
