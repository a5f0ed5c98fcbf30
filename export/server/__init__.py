"""The local server: TF Serving's API for a laptop, a notebook and tests."""

from export.server.model_server import ModelServer, serve

__all__ = ["ModelServer", "serve"]
