"""An endpoint of a model as its SignatureDef describes it, and the checks of what is sent to it.

Status codes and the gist of the messages are TF Serving's, so that a client meets no surprise
when it moves from the local server to TF Serving.

Reference: predict_util.cc and tfrt_predict_util.cc in tensorflow_serving/servables/tensorflow, and
tensorflow_serving/batching/batching_session.cc for batch dimensions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from distilbert_serving import tensors
from distilbert_serving.protos import meta_graph_pb2, tensor_pb2
from distilbert_serving.server import status

Arrays = dict[str, np.ndarray]
Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Type and shape of an input.

    Args:
        data_type: A value of TensorFlow's DataType enum.
        shape: Sizes, None where any size will do; None for any shape at all.
    """

    data_type: int
    shape: Shape | None

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Says whether a tensor of this shape may be fed."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (None, have) for want, have in zip(self.shape, shape, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Signature:
    """An endpoint of a model, as its SignatureDef describes it.

    Args:
        name: The endpoint's name.
        inputs: What to feed, by name.
        outputs: The names of the outputs.
        is_batched: Whether every input and output has examples of any number along dimension 0,
            so that requests can be merged and split there.
    """

    name: str
    inputs: Mapping[str, InputSpec]
    outputs: tuple[str, ...]
    is_batched: bool

    @classmethod
    def from_proto(cls, name: str, proto: meta_graph_pb2.SignatureDef) -> "Signature":
        """Reads a SignatureDef."""
        inputs = {
            key: InputSpec(info.dtype, _read_shape(info))
            for key, info in sorted(proto.inputs.items())
        }
        shapes = [spec.shape for spec in inputs.values()]
        shapes += [_read_shape(info) for info in proto.outputs.values()]
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
        if self.is_batched:
            rows = {name: len(array) for name, array in arrays.items()}
            if len(set(rows.values())) > 1:
                raise status.invalid(
                    "Batching Run() input tensors must have equal 0th-dimension size, but they "
                    f"have {rows}"
                )
        return arrays

    def _read_input(self, name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
        spec = self.inputs[name]
        if proto.dtype != spec.data_type:
            raise status.invalid(
                f"Expected input {name} to be {tensors.data_type_name(spec.data_type)} but get "
                f"{tensors.data_type_name(proto.dtype)}."
            )
        try:
            # The shape first: it costs nothing, and reading the values can cost a lot.
            shape = tensors.read_shape(proto)
            if not spec.admits(shape):
                raise status.invalid(
                    f"Input {name} has shape {shape}, which is incompatible with the signature's "
                    f"shape {spec.shape} (None: any size)."
                )
            return tensors.to_array(proto)
        except ValueError as error:
            raise status.invalid(f"tensor parsing error: {name}: {error}") from error

    def check_outputs(self, names: list[str]) -> list[str]:
        """Checks a request's output filter and gives the outputs to answer with.

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


def braces(names: Any) -> str:
    """Writes names the way TF Serving does: sorted, in braces, without blanks."""
    return "{" + ",".join(sorted(names)) + "}"


def _read_shape(info: meta_graph_pb2.TensorInfo) -> Shape | None:
    if info.tensor_shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
