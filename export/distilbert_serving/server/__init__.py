"""The local server: TF Serving's API for a laptop, a notebook and tests.

Names are imported when they are first used: the flags of `serve` need no TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilbert_serving.server.model_server import ModelServer, serve

__all__ = ["ModelServer", "serve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("distilbert_serving.server.model_server"), name)
