"""Exports of distilbert_tf models: SavedModels, clients, checks, and a local server.

Names are imported when they are first used: the clients need no TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilbert_serving.client.async_predict_client import AsyncPredictClient
    from distilbert_serving.client.channel import Tls
    from distilbert_serving.client.errors import InvalidRowsError, PredictError
    from distilbert_serving.client.predict_client import PredictClient
    from distilbert_serving.saved_model.exporter import export_pretrained, export_saved_model
    from distilbert_serving.server import ModelServer

_HOMES = {
    "AsyncPredictClient": "distilbert_serving.client.async_predict_client",
    "InvalidRowsError": "distilbert_serving.client.errors",
    "ModelServer": "distilbert_serving.server",
    "PredictClient": "distilbert_serving.client.predict_client",
    "PredictError": "distilbert_serving.client.errors",
    "Tls": "distilbert_serving.client.channel",
    "export_pretrained": "distilbert_serving.saved_model.exporter",
    "export_saved_model": "distilbert_serving.saved_model.exporter",
}

__all__ = [
    "AsyncPredictClient",
    "InvalidRowsError",
    "ModelServer",
    "PredictClient",
    "PredictError",
    "Tls",
    "export_pretrained",
    "export_saved_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
