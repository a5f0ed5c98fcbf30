"""Weights that take a half or a quarter of the room in an export, and are float32 once loaded.

`fp16` stores large variables as float16; `int8` stores matrices as int8, with a scale for each row
or each column. Whatever is small (biases, layer norms, most heads) stays float32. The loader casts
them back when it restores them, so a call costs what it costs with float32 weights. What it read
goes back to TensorFlow's memory pool, where the first calls find it.

How it works: while the SavedModel is written, the variables themselves save nothing. One object
beside them does it, with functions of its own for saving and restoring, which TensorFlow traces
into the SavedModel. The loader of Python calls the traced function through the object graph, and
a session (that is what TF Serving runs) through the `saver_def`; neither needs this package. It
takes an object of its own since TensorFlow traces no such functions of variables, so a loader
would not have them. It is a resource, like a table, since of all objects only those come through
when a loaded model is saved again.

The alternative, float16 variables that an initializer copies into float32 ones and then empties,
needs variables without a shape, and must keep the float32 ones out of the checkpoint all the same.

All values come back to the bit on every machine: a float16 is a float32, and a scale has 8
significant bits (bfloat16), so that its product with an int8 is exact. Rounding rounded values
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
# A row of nothing but smaller values becomes zeros, or its scale would be no normal number, which
# some processors take for zero and some do not.
_SMALLEST_MAXIMUM = 2.0**-100
_INT8_STEPS = 127

# How a variable is stored. Of int8, the form says what shares a scale.
_FP32, _FP16, _INT8_ROWS, _INT8_COLUMNS = "fp32", "fp16", "int8_rows", "int8_columns"

# The largest values that can be stored. An int8 scale is rounded, by up to 1 in 256.
_FP16_LIMIT = float(np.finfo(np.float16).max)
_INT8_LIMIT = float(np.finfo(np.float32).max) * (1 - 1 / 256)

Tensors = dict[str, Any]  # of tf.Tensor


def rounded(array: np.ndarray, weights: str) -> np.ndarray:
    """Gives the values that a variable will have once loaded.

    Args:
        array: The variable's values; other types than float32 are stored as they are.
        weights: One of `WEIGHTS`.

    Returns:
        Values of the same shape and type, to the bit.

    Raises:
        ValueError: Unknown `weights`, or a value that is no number or too large to be stored so.
    """
    form = _choose_form(array, weights)
    return array if form == _FP32 else _round(array, form)


@contextlib.contextmanager
def rounded_in_memory(variables: Sequence[tf.Variable], weights: str) -> Iterator[None]:
    """Gives variables the values that they will have once loaded, for the length of a block.

    Args:
        variables: What is saved.
        weights: One of `WEIGHTS`.

    Raises:
        ValueError: See `rounded`; the message names the variable.
    """
    with contextlib.ExitStack() as undo:
        for variable, form in _choose_forms(variables, weights):
            values = variable.numpy()
            undo.callback(variable.assign, values)
            variable.assign(_round(values, form))
        yield


@contextlib.contextmanager
def stored_as(module: tf.Module, variables: Sequence[tf.Variable], weights: str) -> Iterator[None]:
    """Lets `tf.saved_model.save` store variables in fewer bits, for the length of a block.

    Args:
        module: What is saved; it has the attribute `packed_weights` meanwhile.
        variables: Those of its variables that may be stored in fewer bits.
        weights: One of `WEIGHTS`; with "fp32" nothing changes.

    Raises:
        ValueError: See `rounded`; the message names the variable.
    """
    packed = _choose_forms(sorted(variables, key=lambda variable: variable.name), weights)
    if not packed:
        yield
        return
    with contextlib.ExitStack() as undo:
        for variable, _ in packed:
            _leave_out(variable, undo)
        module.packed_weights = PackedWeights(packed)
        undo.callback(delattr, module, "packed_weights")
        yield


class PackedWeights(tf.saved_model.experimental.TrackableResource):
    """Saves variables in fewer bits, and restores them.

    Args:
        packed: Variables, each with the form in which it is stored.

    Reference:
        `Trackable._serialize_to_tensors` in TensorFlow's trackable/base.py.
    """

    def __init__(self, packed: Sequence[tuple[tf.Variable, str]]) -> None:
        super().__init__()
        self.packed = packed

    def _create_resource(self) -> tf.Tensor:
        # A resource must have a handle. Nothing is ever stored under this one.
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="packed_weights")

    def _serialize_to_tensors(self) -> Tensors:
        # The loader of Python calls this before it restores, to learn the names. A reduction would
        # fail on what is not initialized. All are restored together, so one speaks for all.
        initialized = self.packed[0][0].is_initialized()
        return tf.cond(initialized, self._pack_variables, self._pack_nothing)

    def _pack_variables(self) -> Tensors:
        return self._pack([tf.convert_to_tensor(variable) for variable, _ in self.packed])

    def _pack_nothing(self) -> Tensors:
        return self._pack([tf.zeros([0, *variable.shape[1:]]) for variable, _ in self.packed])

    def _pack(self, arrays: Sequence[tf.Tensor]) -> Tensors:
        return {
            f"weight_{number}_{part}": tensor
            for number, (array, (_, form)) in enumerate(zip(arrays, self.packed, strict=True))
            for part, tensor in _encode(array, form).items()
        }

    def _restore_from_tensors(self, restored_tensors: Tensors) -> None:
        for number, (variable, form) in enumerate(self.packed):
            names = ("fp16",) if form == _FP16 else ("int8", "scale")
            parts = {name: restored_tensors[f"weight_{number}_{name}"] for name in names}
            variable.assign(_decode(parts))

    def _deserialization_dependencies(self, children: Any) -> dict[str, tf.Variable]:
        return {f"weight_{number}": variable for number, (variable, _) in enumerate(self.packed)}

    def _export_to_saved_model_graph(self, object_map: Any, **options: Any) -> list[Any]:
        tensors = super()._export_to_saved_model_graph(object_map, **options)
        # The graph of the SavedModel has variables of its own; its saver must use them.
        object_map[self].packed = [(object_map[variable], form) for variable, form in self.packed]
        return tensors


def _leave_out(variable: tf.Variable, undo: contextlib.ExitStack) -> None:
    """Lets a variable save nothing, nor its copy in the graph of the SavedModel."""
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


def _choose_forms(variables: Sequence[tf.Variable], weights: str) -> list[tuple[tf.Variable, str]]:
    """Gives the variables that are not stored as they are, and how they are."""
    packed = []
    for variable in variables:
        try:
            form = _choose_form(variable.numpy(), weights)
        except ValueError as error:
            raise ValueError(f"{variable.name}: {error}") from error
        if form != _FP32:
            packed.append((variable, form))
    return packed


def _choose_form(array: np.ndarray, weights: str) -> str:
    """Decides how values are stored, and checks that they can be."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}; got {weights!r}.")
    if weights == "fp32" or array.dtype != np.float32 or array.size < _FEWEST_ELEMENTS:
        return _FP32
    is_int8 = weights == "int8" and array.ndim == 2
    largest, limit = np.abs(array).max(), _INT8_LIMIT if is_int8 else _FP16_LIMIT
    if not largest <= limit:  # or it is not a number
        raise ValueError(
            f"The largest of these weights is {largest:.6g}, but {'int8' if is_int8 else 'fp16'} "
            f"holds up to {limit:.6g}. Export with weights='fp32'."
        )
    if not is_int8:
        return _FP16
    # Output channels are rows in some layers here and columns in others; what fits better decides.
    return min((_INT8_ROWS, _INT8_COLUMNS), key=lambda form: _squared_error(array, form))


def _squared_error(array: np.ndarray, form: str) -> float:
    return float(np.square(_round(array, form) - array, dtype=np.float64).sum())


def _round(array: np.ndarray, form: str) -> np.ndarray:
    return _decode(_encode(tf.constant(array), form)).numpy()


def _encode(values: tf.Tensor, form: str) -> Tensors:
    if form == _FP16:
        return {"fp16": tf.cast(values, tf.float16)}
    maximum = tf.reduce_max(tf.abs(values), axis=form == _INT8_ROWS, keepdims=True)
    scale = tf.where(maximum < _SMALLEST_MAXIMUM, 0.0, maximum / _INT8_STEPS)
    scale = tf.cast(scale, tf.bfloat16)
    # The largest may be 127.25 steps now, which is still 127.
    steps = tf.math.divide_no_nan(values, tf.cast(scale, tf.float32))
    return {"int8": tf.cast(tf.round(steps), tf.int8), "scale": scale}


def _decode(parts: Tensors) -> tf.Tensor:
    if "fp16" in parts:
        return tf.cast(parts["fp16"], tf.float32)
    return tf.cast(parts["int8"], tf.float32) * tf.cast(parts["scale"], tf.float32)
