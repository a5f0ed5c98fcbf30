"""The base of all models: configuration, loading and saving checkpoints.

Shapes: B rows, T tokens in a row.
"""

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import keras
from huggingface_hub import HfApi
from transformers import DistilBertConfig

from distilbert_tf.checkpoints.config import load_config, override
from distilbert_tf.checkpoints.hub import (
    CONFIG,
    SAFETENSORS,
    find_checkpoint,
    find_preset,
    take_hub_options,
)
from distilbert_tf.checkpoints.tensor_files import read_tensors, write_safetensors
from distilbert_tf.files import replacing
from distilbert_tf.models.calls import CallConventions
from distilbert_tf.models.embeddings import Embedding
from distilbert_tf.models.transformers_options import refuse_options
from distilbert_tf.models.weight_names import (
    export_tensors,
    list_slots,
    load_tensors,
    to_distilbert,
    warn_about_fresh_head,
)

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


class PreTrainedModel(CallConventions):
    """Base of all models: configuration, strict loading and saving.

    `CallConventions` says how inputs are passed, and what a call returns.

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

    has_classifier: ClassVar[bool] = False

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
    def from_config(cls: type[Model], config: Any, custom_objects: Any = None) -> Model:
        """Makes a model from what `get_config` returned, or from a configuration."""
        if isinstance(config, DistilBertConfig):
            return cls(config)
        config = dict(config)
        return cls(DistilBertConfig.from_dict(config.pop("config")), **config)

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_path: str | Path,
        *,
        config: Any = None,
        fresh_head: bool | None = None,
        revision: str | None = None,
        dtype: Any = None,
        skip_padding: bool = True,
        **options: Any,
    ) -> Model:
        """Loads a DistilBERT checkpoint, or a BERT checkpoint as a DistilBERT of its depth.

        Args:
            name_or_path: A directory with `config.json` and weights (`model.safetensors`,
                single or sharded, or transformers' old `tf_model.h5`) or with a KerasHub preset,
                `"demo"`, or a repository on the hub.
            config: A configuration to take instead of the checkpoint's, or its path.
            fresh_head: Whether the head starts with new weights. By default a classifier gets them
                if the checkpoint has no classifier (and the log says so), while a masked-LM model
                must find its head.
            revision: Branch, tag or commit on the hub.
            dtype: Keras dtype or policy of the model.
            skip_padding: See the class.
            **options: How the hub is read, with the names of `HubOptions` (`token`, `cache_dir`,
                `local_files_only`, `subfolder`, ...); and fields of the configuration to replace,
                such as `num_labels=3`, `id2label={0: "no", 1: "yes"}` or `dropout=0.0`.

        Returns:
            The model.

        Raises:
            FileNotFoundError: There is no such checkpoint within reach, or it lacks a file.
            CheckpointError: A tensor is missing, unexpected or of the wrong shape.
            ValueError: The configuration is that of another kind of model, or its labels contradict
                each other.
            TypeError: An option of transformers has no meaning here; the message says what does.
        """
        hub = take_hub_options(options)
        refuse_options("from_pretrained", options)
        if (preset := find_preset(name_or_path, CONFIG)) is not None:
            options |= {} if config is None else {"config": config}
            return cls.from_preset(
                preset, fresh_head=fresh_head, dtype=dtype, skip_padding=skip_padding, **options
            )
        files = find_checkpoint(name_or_path, revision, **hub)
        config, family = load_config(files.config, config, **options)
        tensors = to_distilbert(read_tensors(files.weights), family)
        model = cls(config, dtype=dtype, skip_padding=skip_padding)
        fresh_head = cls._decide_on_head(model, tensors, fresh_head)
        load_tensors(model, tensors, family=family, fresh_head=fresh_head, where=str(files.weights))
        return model

    @classmethod
    def from_preset(
        cls: type[Model],
        preset: str | Path,
        *,
        fresh_head: bool | None = None,
        dtype: Any = None,
        skip_padding: bool = True,
        **config_overrides: Any,
    ) -> Model:
        """Loads a KerasHub preset of DistilBERT: its backbone, and its classifier if it has one.

        Args:
            preset: A built-in name such as `"distil_bert_base_en_uncased"`, a handle
                (`kaggle://`, `hf://`, `gs://`), or a directory that KerasHub wrote.
            fresh_head: See `from_pretrained`.
            dtype: Keras dtype or policy of the model.
            skip_padding: See the class.
            **config_overrides: See `from_keras_hub`.

        Returns:
            The model.

        Raises:
            FileNotFoundError: The preset is out of reach; the message says what works offline.
            ValueError: There is no preset of that name, or it is another kind of model.
        """
        from distilbert_tf.models.keras_hub import load_preset

        return cls.from_keras_hub(
            load_preset(preset, dtype, with_head=cls.has_classifier),
            fresh_head=fresh_head,
            dtype=dtype,
            skip_padding=skip_padding,
            **config_overrides,
        )

    @classmethod
    def from_keras_hub(
        cls: type[Model],
        model: keras.Model,
        *,
        fresh_head: bool | None = None,
        dtype: Any = None,
        skip_padding: bool = True,
        **config_overrides: Any,
    ) -> Model:
        """Copies a model of KerasHub's; the copy predicts what the model does.

        Args:
            model: A `keras_nlp.models.DistilBertBackbone`; for a classifier also a
                `DistilBertTextClassifier`.
            fresh_head: See `from_pretrained`.
            dtype: Keras dtype or policy of the model; KerasHub's if not given.
            skip_padding: See the class.
            **config_overrides: Fields of the configuration to replace, such as
                `attention_dropout=0.0` (by default the backbone's one dropout rate) or `id2label`,
                since KerasHub has no names of labels.

        Returns:
            The model.

        Raises:
            TypeError: Another kind of object.
            ValueError: It has weights that DistilBERT does not have, or an override names no field.
            CheckpointError: An override does not fit the weights.
        """
        from distilbert_tf.models.keras_hub import read_model

        config, tensors = read_model(model, with_head=cls.has_classifier)
        override(config, **config_overrides)
        if dtype is None:
            dtype = getattr(model, "backbone", model).dtype_policy
        copy = cls(config, dtype=dtype, skip_padding=skip_padding)
        fresh_head = cls._decide_on_head(copy, tensors, fresh_head)
        where = f"the KerasHub {'classifier' if hasattr(model, 'backbone') else 'backbone'}"
        load_tensors(copy, tensors, fresh_head=fresh_head, where=where)
        return copy

    @classmethod
    def _decide_on_head(
        cls, model: "PreTrainedModel", tensors: Mapping[str, Any], fresh_head: bool | None
    ) -> bool:
        """Returns whether the head starts with new weights, and says so if nobody has asked."""
        if fresh_head is not None:
            return fresh_head
        if needs_one := cls._needs_fresh_head(tensors):
            warn_about_fresh_head(model)
        return needs_one

    @classmethod
    def _needs_fresh_head(cls, tensors: Mapping[str, Any]) -> bool:
        return False

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts parameters as PyTorch transformers does: those of a checkpoint, tied ones once.

        Args:
            only_trainable: Whether to leave out frozen ones.
            exclude_embeddings: Whether to leave out the embeddings of words and positions.
        """
        return sum(
            math.prod(slot.shape)
            for name, slot in list_slots(self).items()
            if (slot.variable.trainable or not only_trainable)
            and not (exclude_embeddings and name.endswith("_embeddings.weight"))
        )

    def get_input_embeddings(self) -> Embedding:
        """Returns the layer of the word embeddings; its `embeddings` are the table (V, D)."""
        encoder: Any = getattr(self, "distilbert", self)
        return encoder.embeddings.word_embeddings

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> Embedding:
        """Changes the size of the vocabulary, in place, as after `tokenizer.add_tokens`.

        New words get new weights. Resize before `compile`, and before making a pipeline, since
        both hold on to the old weights.

        Args:
            new_num_tokens: The new size, usually `len(tokenizer)`; the old one if not given.
            pad_to_multiple_of: What the size is rounded up to a multiple of.

        Returns:
            The layer of the word embeddings.

        Raises:
            RuntimeError: The model is compiled.
        """
        if self.compiled:
            raise RuntimeError(
                "This model is compiled for weights of the old size: resize it before `compile`."
            )
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of:
            size = math.ceil(size / pad_to_multiple_of) * pad_to_multiple_of
        words = self.get_input_embeddings()
        if size != words.input_dim:
            self._resize(size)
            encoder: Any = getattr(self, "distilbert", self)
            self.config.vocab_size = encoder.config.vocab_size = size
            self.predict_function = None  # traced with the old weights
        return words

    def _resize(self, vocab_size: int) -> None:
        self.get_input_embeddings().resize(vocab_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Saves the model to a repository on the hub, which is made if there is none.

        Args:
            repo_id: The repository, such as `"me/my-classifier"`.
            commit_message: What the commit says.
            private: Whether a new repository is private; as the account's default if not given.
            token: The user's token; by default that of `hf auth login`.
            revision: The branch; the default one if not given.
            create_pr: Whether to open a pull request instead of committing.

        Returns:
            The address of the commit.
        """
        hub = HfApi(token=token)
        repo_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            return hub.upload_folder(
                repo_id=repo_id,
                folder_path=directory,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            ).commit_url

    def save_pretrained(
        self, directory: str | Path, dtype: str = "float32", **options: Any
    ) -> None:
        """Saves a checkpoint that PyTorch transformers and `from_pretrained` open.

        Each file is replaced by one rename, so a process that is killed leaves the old file.

        Args:
            directory: Where `config.json` and `model.safetensors` go; made if missing.
            dtype: Float type of the file, `"float32"`, `"float16"` or `"bfloat16"`.
            **options: Those of transformers that change nothing (`safe_serialization`).

        Raises:
            TypeError: Another option; of one of transformers', the message says what does that.
        """
        refuse_options("save_pretrained", options)
        if options:
            raise TypeError(f"save_pretrained has no {min(options)}.")
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.architectures = [type(self).__name__.removeprefix("TF")]
        self.config.dtype = dtype
        write_safetensors(directory / SAFETENSORS, export_tensors(self, dtype))
        with replacing(directory / CONFIG) as temporary:
            temporary.write_text(self.config.to_json_string(use_diff=False), encoding="utf-8")
