"""Tensors in files: safetensors (single and sharded) and Hugging Face's old Keras HDF5.

This module is independent of any model: it converts files to a dict from tensor name to array, and
back. Arrays have PyTorch's layout, so a dense layer's weight is (outputs, inputs).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
import safetensors
from safetensors.numpy import save_file

from distilbert_tf.checkpoints.hub import SAFETENSORS_INDEX, TF_HDF5, shard_names
from distilbert_tf.files import replacing

Tensors = dict[str, np.ndarray]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model."""


def read_tensors(path: Path) -> Tensors:
    """Reads all tensors of a checkpoint as float32.

    Args:
        path: A safetensors file, the index of a sharded one, or a Hugging Face `tf_model.h5`.

    Returns:
        Arrays by name. Half-precision floats (fp16, bf16) are converted to float32; integers stay.

    Raises:
        CheckpointError: A file is damaged, or a tensor is in two shards.
    """
    read: Callable[[Path], Tensors]
    if path.name.endswith(SAFETENSORS_INDEX):
        read = _read_shards
    elif path.suffix in (".h5", ".hdf5"):
        read = _read_keras_hdf5
    else:
        read = _read_safetensors
    return {name: _widened(array) for name, array in read(path).items()}


def _widened(array: np.ndarray) -> np.ndarray:
    # kind "V" is how NumPy classes bfloat16, which comes from ml_dtypes.
    return array.astype(np.float32) if array.dtype.kind in "fV" else array


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors: {error}. It may be cut short: compare its "
            "size with the original's."
        ) from error


def _read_shards(index: Path) -> Tensors:
    tensors: Tensors = {}
    for name in shard_names(index):
        shard = _read_safetensors(index.parent / name)
        if repeated := sorted(shard.keys() & tensors.keys()):
            raise CheckpointError(f"{repeated[0]} is in two shards of {index}.")
        tensors.update(shard)
    return tensors


# Keras' layer paths -> PyTorch's module names: `layer_._0` is an item of a list, and
# `mlm___cls` is the attribute `mlm` of a layer named `cls`.
_LIST_ITEM = re.compile(r"_\._")
_ATTRIBUTE = re.compile(r"[^/]*___([^/]*)/")
_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "embeddings": "weight",
    "weight": "weight",
    "bias": "bias",
}


def _read_keras_hdf5(path: Path) -> Tensors:
    tensors: Tensors = {}
    try:
        with h5py.File(path, "r") as file:
            for name, dataset in _datasets(file):
                torch_name, transposed = _torch_name(name)
                array = np.asarray(dataset)
                tensors[torch_name] = array.T if transposed and array.ndim == 2 else array
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read as HDF5: {error}") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no weights in the layout of transformers' {TF_HDF5}.")
    return tensors


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Walks the weights that the file's attributes list, layer by layer."""
    for layer in file.attrs.get("layer_names", []):
        group = file[layer]
        for name in group.attrs["weight_names"]:
            text = name.decode() if isinstance(name, bytes) else name
            yield text, group[text]


def _torch_name(keras_name: str) -> tuple[str, bool]:
    name = keras_name.removesuffix(":0").partition("/")[2]  # without the model's own name
    name = _ATTRIBUTE.sub(r"\1/", name)
    name = _LIST_ITEM.sub("/", name)
    *modules, leaf = name.split("/")
    if leaf not in _LEAVES:
        raise CheckpointError(f"Cannot tell what the HDF5 weight {keras_name!r} is.")
    # Keras 2 repeats a scope that is entered twice ("vocab_projector/vocab_projector").
    return ".".join([*modules, _LEAVES[leaf]]), leaf == "kernel"


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file that PyTorch transformers can open, atomically.

    Args:
        path: The file to write.
        tensors: Arrays by name, in PyTorch's layout.
    """
    # save_file writes an array's memory as it is: transposed views must be copied first.
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"format": "pt"})
