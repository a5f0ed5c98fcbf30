"""The local server: TF Serving's API for a laptop, a notebook and tests."""

from distilbert_serving.server.model_server import ModelServer, serve

__all__ = ["ModelServer", "serve"]
