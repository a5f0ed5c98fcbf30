"""A SavedModel ready to answer: which version to take, loading it, checking and running requests.

Status codes and the gist of the messages are TF Serving's, so that a client meets no surprise
when it moves from the local server to TF Serving.

Reference: predict_util.cc and tfrt_predict_util.cc in tensorflow_serving/servables/tensorflow, and
tensorflow_serving/batching/batching_session.cc for batch dimensions.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import message

from export import tensors
from export.protos import meta_graph_pb2, saved_model_pb2, tensor_pb2
from export.server import status

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
                f"len({_braces(protos)}) != len({_braces(self.inputs)}). "
                f"Sent extra: {_braces(set(protos) - set(self.inputs))}. "
                f"Missing but required: {_braces(set(self.inputs) - set(protos))}."
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
                    f"in the set {_braces(self.outputs)}."
                )
            if names.count(name) > 1:
                raise status.invalid(f"duplicate output tensor alias: {name}")
        return names or list(self.outputs)


class Servable:
    """A loaded version of a model.

    Args:
        name: The model's name.
        version: Its version.
        path: The version's directory, with saved_model.pb in it.

    Raises:
        OSError, ValueError: there is no SavedModel for serving in the directory.
    """

    def __init__(self, name: str, version: int, path: pathlib.Path) -> None:
        self.name = name
        self.version = version
        self.signature_defs = _read_signature_defs(path)
        # The restored object owns the variables that the endpoints use.
        self._model: Any = tf.saved_model.load(os.fspath(path))
        self._signatures = {
            key: Signature.from_proto(key, proto)
            for key, proto in self.signature_defs.items()
            if key in self._model.signatures
        }
        logging.info(
            "Loaded model %s version %d from %s: signatures %s",
            name,
            version,
            path,
            ", ".join(sorted(self._signatures)),
        )

    def signature(self, name: str) -> Signature:
        """Finds an endpoint.

        Raises:
            RequestError: FAILED_PRECONDITION; there is none of that name.
        """
        if name not in self._signatures:
            raise status.RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{name}" not found. The model has '
                f"{_braces(self._signatures)}.",
            )
        return self._signatures[name]

    def run(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Runs an endpoint's graph once.

        Args:
            signature_name: The endpoint.
            inputs: What `Signature.read_inputs` gave.

        Returns:
            All outputs by name, strings as objects of type bytes.

        Raises:
            RequestError: the graph failed; the code is the failed op's.
        """
        try:
            outputs = self._model.signatures[signature_name](
                **{name: _to_tensor(array) for name, array in inputs.items()}
            )
        except tf.errors.OpError as error:
            raise status.RequestError(
                status.code_by_number(error.error_code), error.message
            ) from error
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def find_versions(base_path: str | os.PathLike[str]) -> dict[int, pathlib.Path]:
    """Lists a model's versions: the sub-directories with numbers for names, as in TF Serving.

    Whatever has another name is not a version, so an export that is being written or was
    interrupted is never served.

    Raises:
        FileNotFoundError, NotADirectoryError: the base path is not a directory.
    """
    return {
        int(path.name): path
        for path in pathlib.Path(base_path).iterdir()
        if path.name.isascii() and path.name.isdigit() and path.is_dir()
    }


def load_newest(base_path: str | os.PathLike[str], name: str) -> Servable:
    """Loads the version with the greatest number.

    Args:
        base_path: The directory whose sub-directories are versions.
        name: The name that requests will use.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no version; the message lists what is there.
        OSError, ValueError: the version is not a SavedModel for serving.
    """
    versions = find_versions(base_path)
    if not versions:
        there = sorted(path.name for path in pathlib.Path(base_path).iterdir())
        hint = (
            "This is a version's own directory: give its parent, and give it a number for a name."
            if "saved_model.pb" in there
            else "A version is a sub-directory with a number for a name, such as 1."
        )
        listing = ", ".join(there[:10] + ["..."] * (len(there) > 10)) or "nothing"
        raise FileNotFoundError(
            f"No version of model {name} in {base_path}, where there is: {listing}. {hint}"
        )
    newest = max(versions)
    return Servable(name, newest, versions[newest])


def _read_signature_defs(path: pathlib.Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Reads the SignatureDefs of the graph tagged "serve" from saved_model.pb."""
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString((path / "saved_model.pb").read_bytes())
    except message.DecodeError as error:
        raise ValueError(f"{path / 'saved_model.pb'} is damaged: {error}") from error
    for meta_graph in saved_model.meta_graphs:
        if tf.saved_model.SERVING in meta_graph.meta_info_def.tags:
            return dict(meta_graph.signature_def)
    raise ValueError(f"No graph in {path} is tagged {tf.saved_model.SERVING!r}")


def _to_tensor(array: np.ndarray) -> tf.Tensor:
    # Without the type, an empty array of strings would become one of floats.
    return tf.constant(array, tf.string if array.dtype.hasobject else None)


def _read_shape(info: meta_graph_pb2.TensorInfo) -> Shape | None:
    if info.tensor_shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)


def _braces(names: Any) -> str:
    """Writes names the way TF Serving does: sorted, in braces, without blanks."""
    return "{" + ",".join(sorted(names)) + "}"
