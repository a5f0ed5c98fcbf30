"""A version of a model in memory: its signatures, and the runs of its graph."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import grpc
import tensorflow as tf

from distilbert_serving.inspection.endpoint_contracts import describe_signatures
from distilbert_serving.inspection.saved_model_files import read_meta_graph
from distilbert_serving.server import status
from distilbert_serving.server.batching import Arrays, Batcher, Inputs, IsActive
from distilbert_serving.server.metrics import Metrics


class Servable:
    """A loaded version of a model; raises OSError or ValueError if it is not in the directory.

    `BatchingParameters` say how requests are merged; without them, each is run by itself.
    """

    def __init__(
        self, name: str, version: int, path: pathlib.Path, batching: Any, metrics: Metrics
    ) -> None:
        self.name = name
        self.version = version
        meta_graph = read_meta_graph(path)
        self.signatures = {each.name: each for each in describe_signatures(meta_graph)}
        self.signature_defs = dict(meta_graph.signature_def)
        try:
            # The restored object owns the variables that the signatures use.
            self._model: Any = tf.saved_model.load(os.fspath(path))
        except tf.errors.OpError as error:
            raise ValueError(f"{path} cannot be loaded: {error.message}") from error
        self._functions = dict(self._model.signatures)
        self._batcher = None if batching is None else Batcher(self._run, batching, name, metrics)

    def submit(
        self, signature_name: str, inputs: Inputs, is_active: IsActive
    ) -> Callable[[], Arrays]:
        """Queues a request, and returns what waits for its outputs: see `Batcher.submit`."""
        if self._batcher is None:
            return functools.partial(self._run, signature_name, inputs)
        signature = self.signatures[signature_name]
        is_batched = bool(signature.inputs) and not signature.unbatched
        return self._batcher.submit(
            signature_name, inputs, is_batched=is_batched, is_active=is_active
        )

    def close(self) -> None:
        """Ends its threads; what still waits in its queue gets UNAVAILABLE."""
        if self._batcher:
            self._batcher.close()

    def _run(self, signature_name: str, inputs: Inputs) -> Arrays:
        try:
            # Without the type, an empty array of strings would become one of floats.
            tensors = {
                name: tf.constant(array, tf.string if array.dtype.hasobject else None)
                for name, array in inputs.items()
            }
            outputs = self._functions[signature_name](**tensors)
        except tf.errors.OpError as error:
            code = next(code for code in grpc.StatusCode if code.value[0] == error.error_code)
            message = error.message
        except UnicodeDecodeError as error:
            # The op's message quotes its input, bytes that TensorFlow's Python cannot read.
            code = grpc.StatusCode.INVALID_ARGUMENT
            message = error.object.decode("utf-8", "replace")
        else:
            return {name: tensor.numpy() for name, tensor in outputs.items()}
        # The graph knows the names of its ops but not of its inputs.
        raise status.RequestError(
            code, f"Signature {signature_name} failed on {', '.join(inputs)}: {message}"
        )
