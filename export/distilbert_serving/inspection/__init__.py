"""What is in a SavedModel, and which servers can load it."""
