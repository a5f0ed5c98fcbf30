"""The local server: TF Serving's API for a laptop, a notebook and tests."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilbert_serving.server.model_server import ModelServer, serve

__all__ = ["ModelServer", "serve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from distilbert_serving.server import model_server  # late: it imports TensorFlow

    return getattr(model_server, name)
