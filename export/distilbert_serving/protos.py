"""TF Serving's protocol buffers, without paying for TensorFlow.

The generated modules in `tensorflow_serving.apis` import generated modules in `tensorflow.core`,
and the first import of anything below `tensorflow` runs the whole package: about 6 s of processor
time and 500 MB, for message classes that need only `google.protobuf`. So, in a process that has
not imported TensorFlow, an empty package stands in for `tensorflow` while the message classes are
imported (0.1 s, 30 MB), and is taken away again. A later `import tensorflow` is the real one and
shares these classes.

The stand-in is there for the first import of this module only; don't let another thread import
TensorFlow for the first time at that very moment.

Where TensorFlow is not installed, as beside a client alone, the classes are made of a descriptor
set that comes with this package.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

from distilbert_serving.protoset import load_modules


@contextlib.contextmanager
def _light_tensorflow() -> Iterator[None]:
    """Lets `tensorflow.core` be imported without `tensorflow/__init__.py` being run."""
    spec = None if "tensorflow" in sys.modules else importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        yield  # TensorFlow is here already
        return
    stand_in = types.ModuleType("tensorflow")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = stand_in
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


def _is_installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


if not (_is_installed("tensorflow") and _is_installed("tensorflow_serving")):
    globals().update(load_modules())
else:
    with _light_tensorflow():
        from tensorflow.core.example import example_pb2
        from tensorflow.core.framework import (
            attr_value_pb2,
            kernel_def_pb2,
            op_def_pb2,
            tensor_pb2,
            types_pb2,
        )
        from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, tensor_bundle_pb2
        from tensorflow_serving.apis import (
            classification_pb2,
            get_model_metadata_pb2,
            get_model_status_pb2,
            inference_pb2,
            input_pb2,
            model_management_pb2,
            model_pb2,
            model_service_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_log_pb2,
            prediction_service_pb2,
            prediction_service_pb2_grpc,
            regression_pb2,
        )
        from tensorflow_serving.config import model_server_config_pb2

__all__ = [
    "attr_value_pb2",
    "classification_pb2",
    "example_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "input_pb2",
    "kernel_def_pb2",
    "meta_graph_pb2",
    "model_management_pb2",
    "model_pb2",
    "model_server_config_pb2",
    "model_service_pb2",
    "model_service_pb2_grpc",
    "op_def_pb2",
    "predict_pb2",
    "prediction_log_pb2",
    "prediction_service_pb2",
    "prediction_service_pb2_grpc",
    "regression_pb2",
    "saved_model_pb2",
    "tensor_bundle_pb2",
    "tensor_pb2",
    "types_pb2",
]
