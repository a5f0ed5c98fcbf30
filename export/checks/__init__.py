"""Which servers can load a SavedModel, any SavedModel, and what it answers in a fresh process."""
