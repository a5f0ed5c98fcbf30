"""A version of a model in memory: its signatures, the checks of what is sent to it, its runs.

Status codes and the gist of the messages are TF Serving's, so that a client meets no surprise
when it moves from the local server to TF Serving.

Reference: predict_util.cc and tfrt_predict_util.cc in tensorflow_serving/servables/tensorflow, and
tensorflow_serving/batching/batching_session.cc for batch dimensions.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_serving import tensors
from distilbert_serving.inspection.saved_model_files import read_meta_graph
from distilbert_serving.protos import meta_graph_pb2, tensor_pb2
from distilbert_serving.server import status
from distilbert_serving.server.batching import Batcher, IsActive
from distilbert_serving.server.merging import Arrays, Inputs
from distilbert_serving.server.metrics import Metrics

Shape = tuple[int | None, ...]  # None: any size


@dataclasses.dataclass(frozen=True)
class Signature:
    """An endpoint of a model, as its SignatureDef describes it.

    Args:
        name: The endpoint's name.
        inputs: DataType and shape of the inputs by name; None for a shape of any rank.
        outputs: The names of the outputs.
        is_batched: Whether every input and output has examples of any number along dimension 0,
            so that requests can be merged and split there.
    """

    name: str
    inputs: Mapping[str, tuple[int, Shape | None]]
    outputs: tuple[str, ...]
    is_batched: bool

    @classmethod
    def from_proto(cls, name: str, proto: meta_graph_pb2.SignatureDef) -> "Signature":
        """Reads a SignatureDef."""
        inputs = {
            key: (info.dtype, _read_shape(info)) for key, info in sorted(proto.inputs.items())
        }
        shapes = [_read_shape(i) for i in (*proto.inputs.values(), *proto.outputs.values())]
        is_batched = bool(inputs) and all(shape and shape[0] is None for shape in shapes)
        return cls(name, inputs, tuple(sorted(proto.outputs)), is_batched)

    def read_inputs(self, protos: Mapping[str, tensor_pb2.TensorProto]) -> Arrays:
        """Checks and reads a request's inputs.

        Raises:
            RequestError: INVALID_ARGUMENT; names, types, shapes or contents don't fit.
        """
        if set(protos) != set(self.inputs):
            raise status.invalid(
                f"input size does not match signature: {len(protos)}!={len(self.inputs)} "
                f"len({braces(protos)}) != len({braces(self.inputs)}). "
                f"Sent extra: {braces(set(protos) - set(self.inputs))}. "
                f"Missing but required: {braces(set(self.inputs) - set(protos))}."
            )
        arrays = {name: self._read_input(name, protos[name]) for name in self.inputs}
        if self.is_batched and len({len(array) for array in arrays.values()}) > 1:
            rows = {name: len(array) for name, array in arrays.items()}
            raise status.invalid(
                f"Batching Run() input tensors must have equal 0th-dimension size, but have {rows}"
            )
        return arrays

    def _read_input(self, name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
        data_type, wanted = self.inputs[name]
        if proto.dtype != data_type:
            raise status.invalid(
                f"Expected input {name} to be {tensors.data_type_name(data_type)} but get "
                f"{tensors.data_type_name(proto.dtype)}."
            )
        try:
            # The shape first: it costs nothing, and reading the values can cost a lot.
            shape = tensors.read_shape(proto)
            if wanted is not None and not (
                len(shape) == len(wanted)
                and all(want in (None, have) for want, have in zip(wanted, shape, strict=True))
            ):
                raise status.invalid(
                    f"Input {name} has shape {shape}, which is incompatible with the signature's "
                    f"shape {wanted} (None: any size)."
                )
            return tensors.to_array(proto)
        except ValueError as error:
            raise status.invalid(f"tensor parsing error: {name}: {error}") from error

    def check_outputs(self, names: list[str]) -> list[str]:
        """Checks a request's output filter and returns the outputs to answer with.

        Raises:
            RequestError: INVALID_ARGUMENT; an output is unknown or named twice.
        """
        for name in names:
            if name not in self.outputs:
                raise status.invalid(
                    f"output tensor alias not found in signature: {name} Outputs expected to be "
                    f"in the set {braces(self.outputs)}."
                )
            if names.count(name) > 1:
                raise status.invalid(f"duplicate output tensor alias: {name}")
        return names or list(self.outputs)


class Servable:
    """A loaded version of a model, and what merges its requests.

    Args:
        name: The model's name.
        version: Its version.
        path: The version's directory, with saved_model.pb in it.
        batching: How requests are merged: `BatchingParameters`; None to run each by itself.
        metrics: Is told of runs.

    Raises:
        OSError, ValueError: There is no SavedModel for serving in the directory.
    """

    def __init__(
        self,
        name: str,
        version: int,
        path: pathlib.Path,
        batching: Any,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.version = version
        # Copies: a part of a message keeps all of it in memory, and the graph is large.
        self.signature_defs: dict[str, meta_graph_pb2.SignatureDef] = {}
        for key, proto in read_meta_graph(path).signature_def.items():
            self.signature_defs[key] = meta_graph_pb2.SignatureDef()
            self.signature_defs[key].CopyFrom(proto)
        try:
            # The restored object owns the variables that the endpoints use.
            self._model: Any = tf.saved_model.load(os.fspath(path))
        except tf.errors.OpError as error:
            raise ValueError(f"{path} cannot be loaded: {error.message}") from error
        self._functions = dict(self._model.signatures)
        self.signatures = {
            key: Signature.from_proto(key, self.signature_defs[key]) for key in self._functions
        }
        self._batcher: Batcher | None = None
        if batching is not None:
            self._batcher = Batcher(
                self._run,
                batching,
                functools.partial(metrics.observe_batch, name),
                functools.partial(metrics.set_queue_length, name),
            )
        logging.info("Loaded model %s %d: signatures %s", name, version, braces(self.signatures))

    def submit(
        self, signature: Signature, inputs: Inputs, is_active: IsActive
    ) -> Callable[[], Arrays]:
        """Queues a request, see `Batcher.submit`; without batching, nothing happens yet.

        Returns:
            What waits for the outputs by name, strings as objects of type bytes; or raises
            `status.RequestError`, if the graph failed with the failed op's code.
        """
        if self._batcher is None:
            return functools.partial(self._run, signature.name, inputs)
        return self._batcher.submit(
            signature.name, inputs, is_batched=signature.is_batched, is_active=is_active
        )

    def close(self) -> None:
        """Ends its threads; what still waits in its queue gets UNAVAILABLE."""
        if self._batcher:
            self._batcher.close()

    def _run(self, signature_name: str, inputs: Inputs) -> Arrays:
        try:
            outputs = self._functions[signature_name](
                **{name: _to_tensor(array) for name, array in inputs.items()}
            )
        except tf.errors.OpError as error:
            code, message = status.code_by_number(error.error_code), error.message
        except UnicodeDecodeError as error:
            # The op's message quotes its input, bytes that TensorFlow's Python cannot read.
            code = grpc.StatusCode.INVALID_ARGUMENT
            message = error.object.decode("utf-8", "replace")
        else:
            return {name: tensor.numpy() for name, tensor in outputs.items()}
        # The graph knows the names of its ops but not of its inputs.
        raise status.RequestError(
            code, f"Signature {signature_name} failed on {braces(inputs)}: {message}"
        )


def braces(names: Iterable[str]) -> str:
    """Writes names the way TF Serving does: sorted, in braces, without blanks."""
    return "{" + ",".join(sorted(names)) + "}"


def _read_shape(info: meta_graph_pb2.TensorInfo) -> Shape | None:
    if info.tensor_shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)


def _to_tensor(array: np.ndarray) -> tf.Tensor:
    # Without the type, an empty array of strings would become one of floats.
    return tf.constant(array, tf.string if array.dtype.hasobject else None)
