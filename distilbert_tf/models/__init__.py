"""DistilBERT: layers, encoder, heads, and their weights' names in checkpoints."""
