"""A SavedModel in memory: loading it, and running its endpoints."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_serving.inspection.saved_model_files import read_meta_graph
from distilbert_serving.protos import meta_graph_pb2
from distilbert_serving.server import status
from distilbert_serving.server.signature import Arrays, Signature, braces


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
        # Copies: a part of a message keeps all of it in memory, and the graph is large.
        self.signature_defs = {
            key: _copy(proto) for key, proto in read_meta_graph(path).signature_def.items()
        }
        try:
            # The restored object owns the variables that the endpoints use.
            self._model: Any = tf.saved_model.load(os.fspath(path))
        except tf.errors.OpError as error:
            raise ValueError(f"{path} cannot be loaded: {error.message}") from error
        self._signatures = {
            key: Signature.from_proto(key, proto)
            for key, proto in self.signature_defs.items()
            if key in self._model.signatures
        }
        self._functions = {key: self._model.signatures[key] for key in self._signatures}
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
                f"{braces(self._signatures)}.",
            )
        return self._signatures[name]

    def has_signature(self, name: str) -> bool:
        """Says whether there is an endpoint of that name."""
        return name in self._signatures

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
            outputs = self._functions[signature_name](
                **{name: _to_tensor(array) for name, array in inputs.items()}
            )
        except tf.errors.OpError as error:
            raise _failed(
                status.code_by_number(error.error_code), signature_name, inputs, error.message
            ) from error
        except UnicodeDecodeError as error:
            # The op's message quotes its input, bytes that TensorFlow's Python cannot read.
            quote = error.object.decode("utf-8", "replace")
            raise _failed(
                grpc.StatusCode.INVALID_ARGUMENT, signature_name, inputs, quote
            ) from error
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def _copy(proto: meta_graph_pb2.SignatureDef) -> meta_graph_pb2.SignatureDef:
    copy = meta_graph_pb2.SignatureDef()
    copy.CopyFrom(proto)
    return copy


def _failed(
    code: grpc.StatusCode, signature_name: str, inputs: Mapping[str, np.ndarray], message: str
) -> status.RequestError:
    """Makes the error of a graph, which knows the names of its ops but not of its inputs."""
    return status.RequestError(
        code, f"Signature {signature_name} failed on {braces(inputs)}: {message}"
    )


def _to_tensor(array: np.ndarray) -> tf.Tensor:
    # Without the type, an empty array of strings would become one of floats.
    return tf.constant(array, tf.string if array.dtype.hasobject else None)
