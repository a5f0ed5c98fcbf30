"""Weight quantization: exports of half or a quarter of the size, whose weights load as float32.

`fp16` stores large variables as float16; `int8` stores matrices as int8, with a scale for each row
or each column. Small variables (biases, layer norms, most heads) stay float32. The loader casts
them back when it restores them, so a call costs what it costs with float32 weights. Variables in
bfloat16 have half the size as they are, so only `int8` changes how they are stored. The memory
for what the loader read goes back to TensorFlow's pool, where the first calls find it.

While the SavedModel is written, the variables themselves save nothing. One object beside them saves
and restores them, with functions of its own, which TensorFlow traces into the SavedModel. A loader
in Python calls the traced function through the object graph, and a session (which is what TF
Serving runs) through the `saver_def`; neither needs this package. It has to be an object of its
own, since TensorFlow traces no such functions of variables, and a resource, like a table, since no
other object is kept when a loaded model is saved again. (Float16 variables that an initializer
copies into float32 ones would need variables without a shape to free them, and still have to keep
the float32 ones out of the checkpoint.)

All values come back to the bit on every machine: a float16 is a float32, and a scale has 8
significant bits (bfloat16), so that its product with an int8 is exact. Quantizing quantized values
changes nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

WEIGHTS = ("fp32", "fp16", "int8")

# Smaller variables are stored in float32: all together they are under 1% of a model.
_FEWEST_ELEMENTS = 4096
# A row of smaller values becomes zeros, since its scale would be a subnormal number, which some
# processors take for zero.
_SMALLEST_MAXIMUM = 2.0**-100
_INT8_STEPS = 127

# How a variable is stored; for int8, what shares a scale.
_FP32, _FP16, _INT8_ROWS, _INT8_COLUMNS = "fp32", "fp16", "int8_rows", "int8_columns"

# The largest values that can be stored. An int8 scale is rounded, by up to 1 in 256.
_FP16_LIMIT = float(np.finfo(np.float16).max)
_INT8_LIMIT = float(np.finfo(np.float32).max) * (1 - 1 / 256)

Tensors = dict[str, Any]  # of tf.Tensor


def fake_quantize(array: np.ndarray, weights: str) -> np.ndarray:
    """Computes the values that a variable will have once loaded.

    Args:
        array: The variable's values; other types than float32 and bfloat16 are stored as they are.
        weights: One of `WEIGHTS`.

    Returns:
        Values of the same shape and type, to the bit.

    Raises:
        ValueError: `weights` is unknown, or a value is NaN or too large for them.
    """
    storage = _choose_storage(array, weights)
    return array if storage == _FP32 else _fake_quantize(array, storage)


@contextlib.contextmanager
def fake_quantized(variables: Sequence[tf.Variable], weights: str) -> Iterator[None]:
    """Sets variables to the values that they will have once loaded, for the length of a block.

    Args:
        variables: What is saved.
        weights: One of `WEIGHTS`.

    Raises:
        ValueError: See `fake_quantize`; the message names the variable.
    """
    with contextlib.ExitStack() as undo:
        for variable, storage in _choose_storages(variables, weights):
            values = variable.numpy()
            undo.callback(variable.assign, values)
            variable.assign(_fake_quantize(values, storage))
        yield


@contextlib.contextmanager
def saved_quantized(
    module: tf.Module, variables: Sequence[tf.Variable], weights: str
) -> Iterator[None]:
    """Has `tf.saved_model.save` quantize variables, for the length of a block.

    Args:
        module: What is saved; it has the attribute `quantized_weights` meanwhile.
        variables: Those of its variables that may be quantized.
        weights: One of `WEIGHTS`; with "fp32" nothing changes.

    Raises:
        ValueError: See `fake_quantize`; the message names the variable.
    """
    quantized = _choose_storages(sorted(variables, key=lambda variable: variable.name), weights)
    if not quantized:
        yield
        return
    with contextlib.ExitStack() as undo:
        for variable, _ in quantized:
            _leave_out(variable, undo)
        module.quantized_weights = QuantizedWeights(quantized)
        undo.callback(delattr, module, "quantized_weights")
        yield


class QuantizedWeights(tf.saved_model.experimental.TrackableResource):
    """Saves variables quantized, and restores them.

    Args:
        quantized: Variables, each with how it is stored.

    Reference:
        `Trackable._serialize_to_tensors` in TensorFlow's trackable/base.py.
    """

    def __init__(self, quantized: Sequence[tuple[tf.Variable, str]]) -> None:
        super().__init__()
        self.quantized = quantized

    def _create_resource(self) -> tf.Tensor:
        # A resource must have a handle; nothing is stored under it.
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="quantized_weights")

    def _serialize_to_tensors(self) -> Tensors:
        # A loader in Python calls this before it restores, to learn the names, when a reduction
        # would fail. All variables are restored together, so one tells for all.
        initialized = self.quantized[0][0].is_initialized()
        return tf.cond(initialized, self._quantize_variables, self._quantize_nothing)

    def _quantize_variables(self) -> Tensors:
        return self._quantize([tf.convert_to_tensor(variable) for variable, _ in self.quantized])

    def _quantize_nothing(self) -> Tensors:
        return self._quantize(
            [tf.zeros([0, *variable.shape[1:]]) for variable, _ in self.quantized]
        )

    def _quantize(self, arrays: Sequence[tf.Tensor]) -> Tensors:
        return {
            f"weight_{number}_{part}": tensor
            for number, (array, (_, storage)) in enumerate(zip(arrays, self.quantized, strict=True))
            for part, tensor in _quantize_tensor(array, storage).items()
        }

    def _restore_from_tensors(self, restored_tensors: Tensors) -> None:
        for number, (variable, storage) in enumerate(self.quantized):
            names = ("fp16",) if storage == _FP16 else ("int8", "scale")
            parts = {name: restored_tensors[f"weight_{number}_{name}"] for name in names}
            variable.assign(tf.cast(_dequantize(parts), variable.dtype))

    def _deserialization_dependencies(self, children: Any) -> dict[str, tf.Variable]:
        return {f"weight_{number}": variable for number, (variable, _) in enumerate(self.quantized)}

    def _export_to_saved_model_graph(self, object_map: Any, **options: Any) -> list[Any]:
        tensors = super()._export_to_saved_model_graph(object_map, **options)
        # The graph of the SavedModel has variables of its own, which its saver must use.
        object_map[self].quantized = [
            (object_map[variable], storage) for variable, storage in self.quantized
        ]
        return tensors


def _leave_out(variable: tf.Variable, undo: contextlib.ExitStack) -> None:
    """Has a variable save nothing, nor its copy in the graph of the SavedModel."""
    export = variable._export_to_saved_model_graph

    def export_left_out(object_map: Any, **options: Any) -> list[Any]:
        tensors = export(object_map=object_map, **options)
        object_map[variable]._serialize_to_tensors = dict
        return tensors

    for name, replacement in {
        "_serialize_to_tensors": dict,
        "_export_to_saved_model_graph": export_left_out,
    }.items():
        setattr(variable, name, replacement)
        undo.callback(delattr, variable, name)


def _choose_storages(
    variables: Sequence[tf.Variable], weights: str
) -> list[tuple[tf.Variable, str]]:
    """Returns the variables that are not stored as they are, with how they are."""
    quantized = []
    for variable in variables:
        try:
            storage = _choose_storage(variable.numpy(), weights)
        except ValueError as error:
            raise ValueError(f"{variable.name}: {error}") from error
        if storage != _FP32:
            quantized.append((variable, storage))
    return quantized


def _choose_storage(array: np.ndarray, weights: str) -> str:
    """Chooses how values are stored, and checks that they can be."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}; got {weights!r}.")
    is_int8 = weights == "int8" and array.ndim == 2
    fits = array.dtype == np.float32 or (array.dtype == tf.bfloat16 and is_int8)
    if weights == "fp32" or not fits or array.size < _FEWEST_ELEMENTS:
        return _FP32
    largest, limit = np.abs(array).max(), _INT8_LIMIT if is_int8 else _FP16_LIMIT
    if not largest <= limit:  # also true of NaN
        raise ValueError(
            f"The largest of these weights is {largest:.6g}, but {'int8' if is_int8 else 'fp16'} "
            f"holds up to {limit:.6g}. Export with weights='fp32'."
        )
    if not is_int8:
        return _FP16
    # Output channels are rows in some layers and columns in others: choose what fits better.
    return min((_INT8_ROWS, _INT8_COLUMNS), key=lambda storage: _squared_error(array, storage))


def _squared_error(array: np.ndarray, storage: str) -> float:
    error = _fake_quantize(array, storage).astype(np.float64) - array.astype(np.float64)
    return float(np.square(error).sum())


def _fake_quantize(array: np.ndarray, storage: str) -> np.ndarray:
    values = _dequantize(_quantize_tensor(tf.constant(array), storage))
    return np.asarray(values.numpy(), array.dtype)


def _quantize_tensor(values: tf.Tensor, storage: str) -> Tensors:
    if storage == _FP16:
        return {"fp16": tf.cast(values, tf.float16)}
    values = tf.cast(values, tf.float32)
    maximum = tf.reduce_max(tf.abs(values), axis=storage == _INT8_ROWS, keepdims=True)
    scale = tf.where(maximum < _SMALLEST_MAXIMUM, 0.0, maximum / _INT8_STEPS)
    scale = tf.cast(scale, tf.bfloat16)
    # Rounding the scale can make the largest 127.25 steps, which is still 127.
    steps = tf.math.divide_no_nan(values, tf.cast(scale, tf.float32))
    return {"int8": tf.cast(tf.round(steps), tf.int8), "scale": scale}


def _dequantize(parts: Tensors) -> tf.Tensor:
    if "fp16" in parts:
        return tf.cast(parts["fp16"], tf.float32)
    return tf.cast(parts["int8"], tf.float32) * tf.cast(parts["scale"], tf.float32)
