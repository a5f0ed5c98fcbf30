"""How models are called, and trained: as in Keras, and as in transformers."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
from transformers import BatchEncoding, DistilBertConfig

from distilbert_tf.models.distributed import DistributedTraining
from distilbert_tf.models.inputs import (
    ATTENTION_MASK,
    INPUT_IDS,
    NOT_INPUTS,
    as_keras_data,
    check_labels,
    collect_inputs,
)
from distilbert_tf.models.outputs import EncoderOutput, HeadOutput


class CallConventions(DistributedTraining, keras.Model):
    """Takes inputs as Keras and as transformers do, in calls and in `fit` and its like.

    Inputs are passed in one argument, as Keras does, `model(encoding)`, `model(ids)`, `model([ids,
    mask])` or `model({"input_ids": ids, "attention_mask": mask})`, or by name, as transformers
    does, `model(**encoding)` or `model(ids, attention_mask=mask)`: tensors, arrays or lists of
    rows, which may be ragged.

    A model with a head answers in kind. To one argument it returns the logits alone, which `fit`,
    `evaluate`, `predict` and functional models need: there `logits[0]` is the first row. To inputs
    by name, `labels` or `return_dict` it returns a `HeadOutput`, with hidden states and attentions
    if the configuration asks for them: there `output[0]` is the loss if there are labels, and else
    the logits. So it does to an encoding if the configuration asks. The encoder always returns an
    `EncoderOutput`.
    """

    config: DistilBertConfig
    input_names: ClassVar[tuple[str, ...]] = (INPUT_IDS, ATTENTION_MASK)

    @property
    def asks_for_states(self) -> bool:
        """Whether the configuration asks for hidden states or attentions."""
        return self.config.output_hidden_states or self.config.output_attentions

    def __call__(
        self,
        inputs: Any = None,
        attention_mask: Any = None,
        *,
        labels: Any = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Calls the model; see the class for how inputs are passed, and what is returned."""
        known = (*self.input_names, *NOT_INPUTS)
        by_name = {name: kwargs.pop(name) for name in known if name in kwargs}
        if attention_mask is not None:
            by_name[ATTENTION_MASK] = attention_mask
        as_transformers = (
            bool(by_name)
            or labels is not None
            or return_dict is not None
            or (self.asks_for_states and isinstance(inputs, BatchEncoding))
        )
        if as_transformers:
            for name in ("output_hidden_states", "output_attentions"):
                if kwargs.get(name) is None:
                    kwargs[name] = getattr(self.config, name)
        fields = collect_inputs(inputs, by_name, self.input_names, self.config.pad_token_id)
        output = super().__call__(fields, **kwargs)
        if not as_transformers:
            return output
        output = self._complete(output, labels)
        wants_fields = self.config.return_dict if return_dict is None else return_dict
        return output if wants_fields else output.to_tuple()

    def _complete(self, output: Any, labels: Any) -> EncoderOutput | HeadOutput:
        """Makes the output of a call as transformers has it."""
        if labels is not None:
            raise ValueError(f"{type(self).__name__} has no head, so labels give it no loss.")
        return output

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as Keras does; takes encodings of transformers wherever it takes dicts."""
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple) and validation:
            kwargs["validation_data"] = (as_keras_data(validation[0]), *validation[1:])
            check_labels(validation[1] if len(validation) > 1 else None)
        elif validation is not None:
            kwargs["validation_data"] = as_keras_data(validation)
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # or Keras warns that it leaves that to the dataset
        check_labels(y)
        return super().fit(as_keras_data(x), y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as Keras does; takes encodings: see `fit`."""
        check_labels(y)
        return super().evaluate(as_keras_data(x), y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts as Keras does; takes encodings: see `fit`."""
        return super().predict(as_keras_data(x), *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains on one batch as Keras does; takes an encoding."""
        check_labels(y)
        return super().train_on_batch(as_keras_data(x), y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates one batch as Keras does; takes an encoding."""
        check_labels(y)
        return super().test_on_batch(as_keras_data(x), y, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predicts one batch as Keras does; takes an encoding."""
        return super().predict_on_batch(as_keras_data(x))
