"""Models as SavedModels: signatures, tracing, verification, publishing."""
