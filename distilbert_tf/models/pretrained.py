"""The base of all models: configuration, loading and saving checkpoints.

Shapes: B rows, T tokens in a row.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import keras
from transformers import DistilBertConfig

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import CONFIG, SAFETENSORS, find_checkpoint
from distilbert_tf.checkpoints.tensor_files import read_tensors, write_safetensors
from distilbert_tf.files import replacing
from distilbert_tf.models.distributed import DistributedTraining
from distilbert_tf.models.inputs import (
    ATTENTION_MASK,
    INPUT_IDS,
    NOT_INPUTS,
    as_keras_data,
    collect_inputs,
)
from distilbert_tf.models.outputs import EncoderOutput, HeadOutput
from distilbert_tf.models.weight_names import export_tensors, load_tensors

FROZEN_WEIGHTS = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"

Model = TypeVar("Model", bound="PreTrainedModel")


def refuse_frozen_weights() -> None:
    """Refuses to train in the environment of a server.

    Raises:
        RuntimeError: In this process oneDNN keeps a packed copy of each weight from its first use
            on, so training would never see the updates.
    """
    if os.environ.get(FROZEN_WEIGHTS, "0").lower() in ("1", "true"):
        raise RuntimeError(
            f"{FROZEN_WEIGHTS} is set: TensorFlow would go on computing with the weights of the "
            "first step. It is for processes that serve. Unset it and restart Python."
        )


class PreTrainedModel(DistributedTraining, keras.Model):
    """Base of all models: calls, configuration, strict loading and saving.

    Inputs are passed in one argument, as Keras does, `model(encoding)`, `model(ids)`, `model([ids,
    mask])` or `model({"input_ids": ids, "attention_mask": mask})`, or by name, as transformers
    does, `model(**encoding)` or `model(ids, attention_mask=mask)`: tensors, arrays or lists of
    rows, which may be ragged.

    A model with a head answers in kind. To one argument it returns the logits alone, which `fit`,
    `evaluate`, `predict` and functional models need: there `logits[0]` is the first row. To inputs
    by name, `labels` or `return_dict` it returns a `HeadOutput`, with hidden states and attentions
    if the configuration asks for them: there `output[0]` is the loss if there are labels, and else
    the logits. The encoder always returns an `EncoderOutput`.

    By default padding and masked tokens are not computed (unpadding), which saves most of the work
    for short and uneven texts. With `skip_padding=False` every position is computed, in shapes that
    depend on the shape of the batch alone, as XLA (`jit_compile=True`) and TPUs need; the results
    are the same. A call may choose for itself. One that asks for hidden states or attentions always
    computes every position, as PyTorch does.

    Args:
        config: Model configuration.
        skip_padding: Whether calls leave out what no token sees, unless they say otherwise.
        dtype: Keras dtype or policy, for example `"mixed_bfloat16"`; Keras' global policy if
            not given.
        **kwargs: Passed on to `keras.Model`.
    """

    input_names: ClassVar[tuple[str, ...]] = (INPUT_IDS, ATTENTION_MASK)

    def __init__(
        self, config: DistilBertConfig, *, skip_padding: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        self._skip_padding = skip_padding
        # Without padding, shapes depend on the contents of a batch: XLA would compile for each.
        self.supports_jit = not skip_padding

    @property
    def skip_padding(self) -> bool:
        """Whether calls leave out padding and masked tokens, unless they say otherwise."""
        return self._skip_padding

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
        as_transformers = bool(by_name) or labels is not None or return_dict is not None
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
        if "validation_data" in kwargs:
            kwargs["validation_data"] = as_keras_data(kwargs["validation_data"])
        return super().fit(as_keras_data(x), y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as Keras does; takes encodings of transformers wherever it takes dicts."""
        return super().evaluate(as_keras_data(x), y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts as Keras does; takes encodings of transformers wherever it takes dicts."""
        return super().predict(as_keras_data(x), *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for `.keras` files."""
        return {
            "config": self.config.to_dict(),
            "skip_padding": self.skip_padding,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the function that `fit` runs."""
        refuse_frozen_weights()
        return super().make_train_function(force)

    @classmethod
    def from_config(cls: type[Model], config: dict[str, Any], custom_objects: Any = None) -> Model:
        """Makes a model from what `get_config` returned."""
        config = dict(config)
        return cls(DistilBertConfig.from_dict(config.pop("config")), **config)

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_path: str | Path,
        *,
        fresh_head: bool | None = None,
        revision: str | None = None,
        dtype: Any = None,
        skip_padding: bool = True,
        **config_overrides: Any,
    ) -> Model:
        """Loads a DistilBERT checkpoint, or a BERT checkpoint as a DistilBERT of its depth.

        Args:
            name_or_path: A directory with `config.json` and weights (`model.safetensors`,
                single or sharded, or transformers' old `tf_model.h5`), `"demo"`, or a
                repository on the hub.
            fresh_head: Whether the head starts with new weights. By default a classifier gets them
                if the checkpoint has no classifier (and the log says so), while a masked-LM model
                must find its head.
            revision: Branch, tag or commit on the hub.
            dtype: Keras dtype or policy of the model.
            skip_padding: See the class.
            **config_overrides: Fields of the configuration to replace, such as `num_labels=3`,
                `id2label={0: "no", 1: "yes"}` or `dropout=0.0`.

        Returns:
            The model.

        Raises:
            FileNotFoundError: There is no such checkpoint within reach, or it lacks a file.
            CheckpointError: A tensor is missing, unexpected or of the wrong shape.
            ValueError: The configuration is that of another kind of model.
        """
        files = find_checkpoint(name_or_path, revision)
        config, family = load_config(files.config, **config_overrides)
        tensors = read_tensors(files.weights)
        model = cls(config, dtype=dtype, skip_padding=skip_padding)
        if fresh_head is None:
            fresh_head = cls._needs_fresh_head(tensors)
        load_tensors(model, tensors, family=family, fresh_head=fresh_head, where=str(files.weights))
        return model

    @classmethod
    def _needs_fresh_head(cls, tensors: Mapping[str, Any]) -> bool:
        return False

    def save_pretrained(self, directory: str | Path, dtype: str = "float32") -> None:
        """Saves a checkpoint that PyTorch transformers and `from_pretrained` open.

        Each file is replaced by one rename, so a process that is killed leaves the old file.

        Args:
            directory: Where `config.json` and `model.safetensors` go; made if missing.
            dtype: Float type of the file, `"float32"`, `"float16"` or `"bfloat16"`.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.architectures = [type(self).__name__.removeprefix("TF")]
        self.config.dtype = dtype
        write_safetensors(directory / SAFETENSORS, export_tensors(self, dtype))
        with replacing(directory / CONFIG) as temporary:
            temporary.write_text(self.config.to_json_string(use_diff=False), encoding="utf-8")
