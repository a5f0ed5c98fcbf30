"""What models are called with: the inputs of Keras, of transformers and of plain Python, made one.

Shapes: B rows, T tokens in the longest of them.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from transformers import BatchEncoding

INPUT_IDS, ATTENTION_MASK = "input_ids", "attention_mask"

ModelInputs: TypeAlias = tf.Tensor | Mapping[str, tf.Tensor]

# What other models and transformers' take, and why it is no input here.
NOT_INPUTS = {
    "head_mask": "no heads are masked; leave it out",
    "inputs_embeds": "embeddings cannot stand in for ids",
    "labels": "pass labels to a call by name, and to `fit` and `evaluate` as targets",
    "position_ids": "positions always count from 0",
    "token_type_ids": "it has no token types",
}


def collect_inputs(
    inputs: Any, by_name: Mapping[str, Any], names: Sequence[str], pad_id: int | None
) -> dict[str, Any]:
    """Makes one mapping of the inputs of a call, however they are passed.

    Args:
        inputs: Token ids; `[ids, mask]`; a mapping by name; or None if all are in `by_name`. Ids
            and mask are tensors or arrays (B, T), ragged tensors, or lists of rows.
        by_name: Inputs that were passed by name; those that are None do not count.
        names: The inputs that the model has.
        pad_id: The id that fills up ragged rows.

    Returns:
        Tensors or arrays by name. Ragged rows are padded, and masked where they are.

    Raises:
        ValueError: An input is unknown, given twice, or has another rank or shape than it must; or
            there are no ids.
        TypeError: Ids are not integers.
    """
    fields = _name_inputs(inputs)
    if twice := fields.keys() & by_name.keys():
        raise ValueError(f"{min(twice)} is given twice: by position and by name.")
    fields = {name: x for name, x in {**fields, **by_name}.items() if x is not None}
    if unknown := sorted(fields.keys() - set(names)):
        why = f" ({NOT_INPUTS[unknown[0]]})" if unknown[0] in NOT_INPUTS else ""
        known = ", ".join(map(repr, names[:-1]))
        raise ValueError(
            f"Unknown input {unknown[0]!r}: DistilBERT takes {known} and {names[-1]!r}{why}."
        )
    if INPUT_IDS not in fields:
        raise ValueError("The inputs lack 'input_ids'.")
    fields = pad_ragged(fields, pad_id or 0)
    _check(fields)
    return fields


def pad_ragged(fields: Mapping[str, Any], pad_id: int) -> dict[str, Any]:
    """Makes tensors or arrays of ragged tensors and lists of rows.

    Args:
        fields: Inputs by name.
        pad_id: The id that fills up short rows; the mask of these, made if not given, is 0.

    Returns:
        Dense inputs by name.

    Raises:
        TypeError: A row holds something other than integers.
    """
    dense, lengths = {}, None
    for name, value in fields.items():
        fill = pad_id if name == INPUT_IDS else 0
        found = None
        if isinstance(value, tf.RaggedTensor):
            dense[name], found = value.to_tensor(fill), value.row_lengths()
        elif isinstance(value, list | tuple) or (
            isinstance(value, np.ndarray) and value.dtype == "O"
        ):
            dense[name], found = _stack(name, value, fill)
        else:
            dense[name] = value
        if name == INPUT_IDS:
            lengths = found
    if lengths is not None and ATTENTION_MASK not in dense:
        width = tf.shape(dense[INPUT_IDS])[1]
        dense[ATTENTION_MASK] = tf.sequence_mask(lengths, width, tf.int32)
    return dense


def split_inputs(inputs: ModelInputs) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits inputs that `collect_inputs` has checked into token ids and mask.

    Args:
        inputs: A mapping with `input_ids` (B, T) and, if not every token counts, `attention_mask`
            (B, T); or the ids alone.

    Returns:
        `input_ids` and `attention_mask`, both (B, T).
    """
    named = inputs if isinstance(inputs, Mapping) else {INPUT_IDS: inputs}
    ids = tf.convert_to_tensor(named[INPUT_IDS])
    mask = named.get(ATTENTION_MASK)
    return ids, tf.ones_like(ids) if mask is None else tf.convert_to_tensor(mask)


def as_keras_data(data: Any) -> Any:
    """Makes data of Keras' kind of what `fit`, `evaluate` and `predict` are given.

    Args:
        data: Any data of Keras'; encodings, alone or in tuples, generators and datasets; or lists
            of rows.

    Returns:
        Dicts for encodings and lists of rows, anything else as it was.

    Raises:
        TypeError: The data are texts.
    """
    if isinstance(data, types.GeneratorType):
        return (_plain_batch(batch) for batch in data)
    if isinstance(data, keras.utils.PyDataset):
        return _PlainBatches(data)
    if isinstance(data, tf.data.Dataset):
        spec = data.element_spec
        parts = spec if isinstance(spec, tuple) else (spec,)
        if any(isinstance(part, BatchEncoding) for part in parts):
            return data.map(lambda *parts: tuple(map(_plain, parts)))
        return data
    if isinstance(data, list | tuple) and _rank(data) == 2:
        return pad_ragged({INPUT_IDS: data}, 0)
    if _holds_texts(data):
        raise TypeError(
            "A model takes token ids, not texts: pass what the tokenizer returns for them, with "
            "padding=True."
        )
    return _plain(data)


def check_labels(labels: Any) -> None:
    """Checks that labels are numbers.

    Args:
        labels: Those of a call or of `fit`; None if there are none.

    Raises:
        TypeError: They are texts.
    """
    if _holds_texts(labels):
        raise TypeError(
            "labels must be ids, not texts: pass model.config.label2id[label] for each label; "
            "from_pretrained(..., id2label={0: ..., 1: ...}) names them."
        )


def _holds_texts(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return bool(values) and _holds_texts(values[0])
    if isinstance(values, np.ndarray) or hasattr(values, "iloc"):  # pandas
        array = np.asarray(values)
        is_object = array.dtype.kind == "O" and array.size > 0
        return array.dtype.kind in "US" or (is_object and isinstance(array.flat[0], str))
    return isinstance(values, str) or (tf.is_tensor(values) and values.dtype == tf.string)


class _PlainBatches(keras.utils.PyDataset):
    """Batches of another dataset, with dicts for encodings."""

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset = dataset

    @property
    def num_batches(self) -> int | None:
        return self._dataset.num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return _plain_batch(self._dataset[index])

    def on_epoch_begin(self) -> None:
        self._dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._dataset.on_epoch_end()


def _plain_batch(batch: Any) -> tuple[Any, ...]:
    if not isinstance(batch, tuple):
        return (_plain(batch),)
    check_labels(batch[1] if len(batch) > 1 else None)
    return tuple(map(_plain, batch))


def _plain(part: Any) -> Any:
    """Makes a dict of an encoding, and a tuple of a list of inputs."""
    if isinstance(part, BatchEncoding):
        return pad_ragged(part, 0)  # masked, so any id will do
    return tuple(part) if isinstance(part, list) and _rank(part) == 3 else part


def _name_inputs(inputs: Any) -> dict[str, Any]:
    if inputs is None:
        return {}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if isinstance(inputs, list | tuple) and _rank(inputs) == 3:
        if len(inputs) > 2:
            raise ValueError(
                f"A list of inputs is [input_ids, attention_mask]; this one has {len(inputs)} of "
                "them. Pass them by name."
            )
        return dict(zip((INPUT_IDS, ATTENTION_MASK), inputs, strict=False))
    return {INPUT_IDS: inputs}


def _rank(value: Any) -> int:
    if isinstance(value, list | tuple):
        return 1 + (_rank(value[0]) if value else 0)
    rank = tf.TensorShape(getattr(value, "shape", ())).rank
    return 2 if rank is None else rank


def _stack(name: str, rows: Iterable[Any], fill: int) -> tuple[np.ndarray, list[int] | None]:
    """Stacks rows, and returns their lengths if they differ."""
    rows = list(rows)
    arrays = list(map(np.asarray, rows))
    for i, array in enumerate(arrays):
        if array.size and array.dtype.kind not in "iub":
            what = "is text: tokenize it first"
            if array.dtype.kind not in "US":
                cells = np.ravel(np.array(rows[i], object)).tolist()
                what = f"holds {next(x for x in cells if not isinstance(x, int))!r}"
            raise TypeError(f"{name} must be integers; row {i} (from 0) {what}.")
    if len({array.shape for array in arrays}) <= 1 or any(array.ndim != 1 for array in arrays):
        return np.array(arrays, np.int32), None
    lengths = [len(array) for array in arrays]
    stacked = np.full((len(arrays), max(lengths)), fill, np.int32)
    for i, array in enumerate(arrays):
        stacked[i, : len(array)] = array
    return stacked, lengths


def _check(fields: Mapping[str, Any]) -> None:
    ids = fields[INPUT_IDS]
    if not hasattr(ids, "dtype") or not hasattr(ids, "shape"):
        raise TypeError(f"input_ids must be integers (rows, tokens); got {type(ids).__name__}.")
    try:
        dtype = tf.as_dtype(ids.dtype)
    except TypeError:  # NumPy's strings of a fixed width
        dtype = tf.string
    if not dtype.is_integer:
        hint = ": tokenize the texts first" if dtype == tf.string else ""
        raise TypeError(f"input_ids must be integers; got {dtype.name}{hint}.")
    shape = tf.TensorShape(ids.shape)
    if shape.rank != 2:
        hint = "; a single row is [ids]" if shape.rank == 1 else ""
        raise ValueError(f"input_ids must have shape (rows, tokens); got {tuple(ids.shape)}{hint}.")
    mask = fields.get(ATTENTION_MASK)
    if mask is not None and not shape.is_compatible_with(np.shape(mask)):
        raise ValueError(
            f"attention_mask {tuple(mask.shape)} must have the shape of input_ids "
            f"{tuple(ids.shape)}."
        )
