"""The encoder, and what every model shares: loading, saving, KerasHub.

Shapes: B rows, T tokens in a row, D = config.dim, H = config.n_heads, L = config.n_layers; N tokens
in flat rows (see `unpadding`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import CONFIG, SAFETENSORS, find_checkpoint
from distilbert_tf.checkpoints.tensor_files import read_tensors, replacing, write_safetensors
from distilbert_tf.models.distributed import DistributedTraining
from distilbert_tf.models.embeddings import Embeddings
from distilbert_tf.models.transformer import Transformer
from distilbert_tf.models.unpadding import LENGTH_GROUPS, PaddedLayout, RowLayout, TokenLayout
from distilbert_tf.models.weight_names import export_tensors, load_tensors

FROZEN_WEIGHTS = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"

Model = TypeVar("Model", bound="PreTrainedModel")
ModelInputs: TypeAlias = tf.Tensor | Mapping[str, tf.Tensor]


class EncoderOutput(NamedTuple):
    """What the encoder gives.

    Attributes:
        last_hidden_state: Float (B, T, D), or (B, 1, D) of the first tokens alone. Zeros at masked
            positions, unless they were computed: see `PreTrainedModel`.
        hidden_states: L + 1 tensors (B, T, D), embeddings first; empty unless asked for.
        attentions: L tensors (B, H, T, T); empty unless asked for.
    """

    last_hidden_state: tf.Tensor
    hidden_states: tuple[tf.Tensor, ...] = ()
    attentions: tuple[tf.Tensor, ...] = ()


def split_inputs(inputs: ModelInputs) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes token ids and mask out of what a model was called with.

    Args:
        inputs: Integers (B, T), or a mapping with `input_ids` (B, T) and, if not every token
            counts, `attention_mask` (B, T).

    Returns:
        `input_ids` and `attention_mask`, both (B, T).

    Raises:
        ValueError: A name that the model does not know, a missing `input_ids`, a wrong rank or
            two different shapes.
        TypeError: `input_ids` are not integers.
    """
    named: dict[str, tf.Tensor] = (
        dict(inputs) if isinstance(inputs, Mapping) else {"input_ids": inputs}
    )
    if unknown := named.keys() - {"input_ids", "attention_mask"}:
        raise ValueError(
            f"Unknown input {sorted(unknown)[0]!r}: DistilBERT takes 'input_ids' and "
            "'attention_mask' (it has no token types)."
        )
    if "input_ids" not in named:
        raise ValueError("The inputs lack 'input_ids'.")
    ids = tf.convert_to_tensor(named["input_ids"])
    if not ids.dtype.is_integer:
        raise TypeError(f"input_ids must be integers; got {ids.dtype.name}.")
    if ids.shape.rank != 2:
        raise ValueError(f"input_ids must have shape (rows, tokens); got {tuple(ids.shape)}.")
    mask = named.get("attention_mask")
    if mask is None:
        return ids, tf.ones_like(ids)
    mask = tf.convert_to_tensor(mask)
    if not ids.shape.is_compatible_with(mask.shape):
        raise ValueError(
            f"attention_mask {tuple(mask.shape)} must have the shape of input_ids "
            f"{tuple(ids.shape)}."
        )
    return ids, mask


def refuse_frozen_weights() -> None:
    """Refuses to train in a server's environment.

    Raises:
        RuntimeError: In this process oneDNN keeps a packed copy of each weight from its first use
            on: training would never see its updates.
    """
    if os.environ.get(FROZEN_WEIGHTS, "0").lower() in ("1", "true"):
        raise RuntimeError(
            f"{FROZEN_WEIGHTS} is set: TensorFlow would compute with the weights of the first "
            "step for ever. It is for processes that serve. Unset it, and start Python anew."
        )


class PreTrainedModel(DistributedTraining, keras.Model):
    """Base of all models: configuration, strict loading and saving.

    By default padding and masked tokens are not computed, which for short and uneven texts is
    most of the work. With `skip_padding=False` every position is, from shapes that depend on the
    batch's shape alone, as XLA (`jit_compile=True`) and TPUs want; results are the same. So it is
    also in a call that asks for hidden states or attentions, which then are PyTorch's at every
    position.

    Args:
        config: Model configuration.
        skip_padding: Whether to leave out what no token can see. May be changed later, as the
            attribute of this name, before the model is compiled.
        dtype: Keras dtype or policy, for example `"mixed_bfloat16"`; Keras' global policy if
            not given.
        **kwargs: Passed on to `keras.Model`.
    """

    def __init__(
        self, config: DistilBertConfig, *, skip_padding: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.skip_padding = skip_padding

    @property
    def skip_padding(self) -> bool:
        """Whether padding and masked tokens are left out of the computation."""
        return self._skip_padding

    @skip_padding.setter
    def skip_padding(self, value: bool) -> None:
        self._skip_padding = value
        # Shapes depend on the batch's contents then, and XLA would compile anew for each.
        self.supports_jit = not value
        if hasattr(self, "distilbert"):  # a model with a head
            self.distilbert.skip_padding = value

    def __call__(self, inputs: ModelInputs, *args: Any, **kwargs: Any) -> Any:
        """Calls the model; takes transformers' BatchEncoding as well as a dict."""
        if isinstance(inputs, Mapping):
            inputs = dict(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Describes the model for Keras' own `.keras` files."""
        return {
            "config": self.config.to_dict(),
            "skip_padding": self.skip_padding,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    def make_train_function(self, force: bool = False) -> Any:
        """Makes what `fit` runs."""
        refuse_frozen_weights()
        return super().make_train_function(force)

    @classmethod
    def from_config(cls: type[Model], config: dict[str, Any], custom_objects: Any = None) -> Model:
        """Makes the model that `get_config` described."""
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
        """Loads a DistilBERT checkpoint, or a BERT one as the DistilBERT of its depth.

        Args:
            name_or_path: A directory with `config.json` and weights (`model.safetensors`,
                single or sharded, or transformers' old `tf_model.h5`), `"demo"`, or a
                repository on the hub.
            fresh_head: Whether the head may start with new weights. By default a classifier
                asks for them if the checkpoint has none (and the log says so), while a
                masked-LM model must find its head.
            revision: Branch, tag or commit on the hub.
            dtype: Keras dtype or policy of the model.
            skip_padding: See the class.
            **config_overrides: Fields of the configuration to replace, such as `num_labels=3`,
                `id2label={0: "no", 1: "yes"}` or `dropout=0.0`.

        Returns:
            The model.

        Raises:
            FileNotFoundError: No such checkpoint within reach, or it lacks a file.
            CheckpointError: A tensor is missing, left over or of another shape.
            ValueError: The configuration is not one of these models'.
        """
        files = find_checkpoint(name_or_path, revision)
        config, family = load_config(files.config, **config_overrides)
        tensors = read_tensors(files.weights)
        model = cls(config, dtype=dtype, skip_padding=skip_padding)
        if fresh_head is None:
            fresh_head = cls._asks_for_fresh_head(tensors)
        load_tensors(model, tensors, family=family, fresh_head=fresh_head, where=str(files.weights))
        return model

    @classmethod
    def _asks_for_fresh_head(cls, tensors: Mapping[str, Any]) -> bool:
        return False

    def save_pretrained(self, directory: str | Path, dtype: str = "float32") -> None:
        """Saves a checkpoint that PyTorch transformers and `from_pretrained` open.

        Each file is replaced whole: a process that is killed in between leaves the old one.

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


@keras.saving.register_keras_serializable(package="distilbert_tf")
class TFDistilBertModel(PreTrainedModel):
    """DistilBERT without a head.

    Args:
        config: Model configuration.
        **kwargs: See `PreTrainedModel`.

    Call arguments:
        inputs: Integers (B, T), or a mapping with `input_ids` (B, T) and `attention_mask`
            (B, T), nonzero where a token counts; any pattern, padding on either side.
        training: Whether dropout acts.
        output_hidden_states: Whether to give all hidden states.
        output_attentions: Whether to give the attention weights.
        first_token_only: Whether to compute the last hidden state of the first tokens alone, which
            is what a classifier reads: the last block then costs a third or less.

    Returns:
        An `EncoderOutput`.

    Attributes:
        length_groups: How many groups of rows by length attention is computed in; see
            `TokenLayout`.

    Reference:
        Sanh et al., "DistilBERT, a distilled version of BERT" (arXiv 1910.01108). Numbers
        equal those of transformers' `DistilBertModel` on PyTorch.
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.length_groups = LENGTH_GROUPS
        self.embeddings = Embeddings(config, name="embeddings", dtype=self.dtype_policy)
        self.transformer = Transformer(config, name="transformer", dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.embeddings.build()
        self.transformer.build()

    def call(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        first_token_only: bool = False,
    ) -> EncoderOutput:
        """Encodes tokens."""
        ids, mask = split_inputs(inputs)
        ids = self.embeddings.check_length(ids)
        layout: RowLayout
        if self.skip_padding and not (output_hidden_states or output_attentions):
            layout = TokenLayout(mask, self.length_groups)
        else:
            layout = PaddedLayout(mask)
        x = self.embeddings(layout.flatten(ids), layout.positions, training=training)
        output = self.transformer(
            x, layout=layout, first_token_only=first_token_only, training=training
        )

        def pad(x: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(layout.pad(x), [*ids.shape, self.config.dim])

        hidden_states = output.hidden_states if output_hidden_states else []
        attentions = output.attentions if output_attentions else []
        return EncoderOutput(
            output.last[:, tf.newaxis] if first_token_only else pad(output.last),
            tuple(map(pad, hidden_states)),
            tuple(weights for (weights,) in attentions),
        )

    @classmethod
    def from_preset(
        cls, preset: str | Path, *, dtype: Any = None, **config_overrides: Any
    ) -> "TFDistilBertModel":
        """Loads a KerasHub preset of DistilBERT.

        Args:
            preset: A built-in name such as `"distil_bert_base_en_uncased"`, a handle
                (`kaggle://`, `hf://`, `gs://`), or a directory that KerasHub wrote.
            dtype: Keras dtype or policy of the model.
            **config_overrides: See `from_keras_hub`.

        Returns:
            The model.

        Raises:
            FileNotFoundError: The preset is out of reach.
            ValueError: No preset of that name, or another kind of model.
        """
        from distilbert_tf.models.keras_hub import load_preset

        backbone = load_preset(preset, dtype)
        return cls.from_keras_hub(backbone, dtype=dtype, **config_overrides)

    @classmethod
    def from_keras_hub(
        cls, backbone: keras.Model, *, dtype: Any = None, **config_overrides: Any
    ) -> "TFDistilBertModel":
        """Copies a KerasHub backbone, whose predictions the model then gives.

        Args:
            backbone: A `keras_nlp.models.DistilBertBackbone`.
            dtype: Keras dtype or policy of the model; the backbone's own if not given.
            **config_overrides: Fields of the configuration to replace, such as
                `attention_dropout=0.0` (by default the backbone's one dropout rate).

        Returns:
            The model.

        Raises:
            TypeError: Another kind of object.
            ValueError: The backbone has weights that DistilBERT has not, or an override names
                no field.
            CheckpointError: An override does not fit the backbone's weights.
        """
        from distilbert_tf.models.keras_hub import backbone_config, backbone_tensors

        config = backbone_config(backbone, **config_overrides)
        tensors = backbone_tensors(backbone)
        model = cls(config, dtype=backbone.dtype_policy if dtype is None else dtype)
        load_tensors(model, tensors, where="the KerasHub backbone")
        return model

    def to_keras_hub(self) -> keras.Model:
        """Makes a `keras_nlp.models.DistilBertBackbone` that predicts what this model does.

        `attention_dropout` is left out, since KerasHub has one dropout rate (`dropout`).

        Returns:
            The backbone: `token_ids` and `padding_mask` in, the last hidden state out.

        Raises:
            ValueError: The activation is not the exact GELU, or the positions are sinusoidal.
        """
        from distilbert_tf.models.keras_hub import make_backbone

        return make_backbone(self)
