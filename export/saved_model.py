"""Fine-tuned models and their tokenizer as a SavedModel that TF Serving loads as it is.

Shapes: B rows, C classes.
"""

import datetime
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_tf.checkpoint import slots
from distilbert_tf.heads import TFDistilBertForSequenceClassification
from distilbert_tf.multitask_checkpoint import find_task_directories, load_classifiers
from distilbert_tf.row_layout import LENGTH_GROUPS
from distilbert_tf.tokenizer import DistilBertTokenizer
from distilbert_tf.version import __version__
from export.compatibility import OLDEST_SERVER, check_saved_model
from export.publishing import check_version, publish, working_directory
from export.signatures import LABEL, LOGITS, PROBABILITIES, SERVING_DEFAULT, TEXT, TEXT_PAIR
from export.verification import Endpoint, verify_saved_model
from export.weights import rounded_in_memory, stored_as

EXTRA_ASSETS = "assets.extra"  # a server reads its warm-up requests there, and nothing else
EXPORT_RECORD = "export.json"

# oneDNN packs weights for 7 to 88 rows in one way and for more in another (measured on AVX-512).
FEW_TOKENS = (7, 80)

# What TF Serving and all its clients can name; TensorFlow's own begin with two underscores.
_SIGNATURE_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

Classifier = TFDistilBertForSequenceClassification
Signatures = dict[str, Any]  # of tf.types.experimental.ConcreteFunction


class ServingModule(tf.Module):
    """What is saved: the tables and variables that the signatures need, and nothing else.

    The Keras model is no attribute of it: TensorFlow would trace the model's own signature, and
    save the dropout's counters and a second copy of the weights.

    Args:
        tokenizer: The in-graph tokenizer, which owns the vocabulary's tables.
        signatures: The traced endpoints.
    """

    def __init__(self, tokenizer: Any, signatures: Signatures) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        unique = {id(variable): variable for f in signatures.values() for variable in f.variables}
        self.weights = list(unique.values())


def export_saved_model(
    model: Classifier | Mapping[str, Classifier],
    tokenizer: DistilBertTokenizer,
    base_path: str | os.PathLike[str],
    *,
    version: int | None = None,
    max_length: int | None = None,
    pair: bool | None = None,
    verify: bool = True,
    weights: str = "fp32",
) -> Path:
    """Exports a classifier, tokenizer included, as the next version under a base path.

    Several classifiers on one encoder make one export, which holds the encoder once.

    The signature `serving_default` takes `text`, string (B,), and for pair tasks `text_pair`,
    string (B,); B may be anything, 0 included. It gives `label`, string (B,), `probabilities`,
    float32 (B, C), and `logits`, float32 (B, C). Of several classifiers each has such a signature
    under its task's name, and `serving_default` is that of the first. The graph consists of core
    TensorFlow ops.

    On a CPU, serve it with the environment of `deploy/tf_serving.env`. A server then keeps packed
    weights for each signature that is asked, so memory grows with the tasks in use: by about twice
    the size of the encoder's matrices for each.

    The version's directory appears by one rename, after all checks: whatever happens in between, a
    server that polls the base path never meets a half-written or wrong model. Several processes
    may export into one base path at once.

    Args:
        model: The classifier, or classifiers by task, whose `distilbert` is one object; a
            mixed-precision one keeps computing as it does, with float32 outputs.
        tokenizer: The tokenizer of all of them.
        base_path: A local directory, made if missing; the server's `model_base_path`.
        version: The version's number; by default one more than the highest that is there.
        max_length: Longest row in tokens, special tokens included; longer texts are cut (of a
            pair, the longer text first). By default the tokenizer's `model_max_length`, which
            `finetune` sets to the length it trained with, and at most the model's positions.
        pair: Whether the model compares two texts; of several, all of them. By default each
            does if its `config.text_pair` says so.
        verify: Whether to reload the result in a fresh process (about 15 s) and compare it with
            the model. Without that, a wrong export can go unnoticed.
        weights: How large weights are stored: "fp32", "fp16" (half the size) or "int8" (a
            quarter). They are float32 once loaded, with the values that rounding gives.

    Returns:
        The version's directory, `<base_path>/<version>`.

    Raises:
        TypeError: Not a `TFDistilBertForSequenceClassification`.
        ValueError: A model is no single-label classifier, its vocabulary is smaller than the
            tokenizer's, it has fewer than `max_length` positions, `base_path` or `version` cannot
            be, several models have encoders of their own, or a task's name cannot be that of a
            signature.
        FileExistsError: There is such a version already.
        CompatibilityError: The graph holds something that a stock server lacks.
        VerificationError: The reloaded model fails or answers differently.
        OSError: The disk is full or cannot be written to.
    """
    start_s = time.monotonic()
    base = _local_path(base_path)
    check_version(base, version)
    tasks: dict[str, Endpoint] = {}
    if isinstance(model, Mapping):
        tasks = _make_endpoints(model, tokenizer, pair)
        first = next(iter(tasks.values()))
    else:
        first = _make_endpoint(model, tokenizer, pair)
    endpoints = {SERVING_DEFAULT: first, **tasks}
    max_length = _check_length(max_length, first.model, tokenizer)
    logging.info("Tracing the serving graph.")
    layer = tokenizer.as_layer(max_length=max_length)
    default = _trace_classifier(first, layer)
    signatures = {
        name: default if endpoint is first else _trace_classifier(endpoint, layer)
        for name, endpoint in endpoints.items()
    }
    module = ServingModule(layer, signatures)
    with working_directory(base) as work:
        written, moved = work / "written", work / "moved"
        logging.info("Writing the SavedModel.")
        with stored_as(module, module.weights, weights):
            _write(module, signatures, written)
        # From here on it lives elsewhere, so a path that crept into the graph leads nowhere.
        written.rename(moved)
        ops = check_saved_model(moved, private_paths=[base, work])
        logging.info("All %d ops are known to TF Serving %s.", len(ops), OLDEST_SERVER)
        difference = None
        if verify:
            logging.info("Reloading in a fresh process.")
            with rounded_in_memory(module.weights, weights):
                difference = verify_saved_model(moved, endpoints, tokenizer, max_length=max_length)
        else:
            logging.warning("Not reloaded and compared, since verify=False.")
        record = {
            **_describe(first),
            "max_length": max_length,
            "signatures": sorted(signatures),
            "compute_dtype": first.model.compute_dtype,
            "weights": weights,
            "max_logit_difference": difference,
            "distilbert_tf": __version__,
            "tensorflow": tf.__version__,
            "exported_at": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        }
        if tasks:
            record["tasks"] = {name: _describe(endpoint) for name, endpoint in tasks.items()}
        _write_record(moved / EXTRA_ASSETS / EXPORT_RECORD, record)
        published = publish(moved, base, version)
    logging.info("Exported %s in %.0f s.", published, time.monotonic() - start_s)
    return published


def export_pretrained(
    name_or_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    base_path: str | os.PathLike[str],
    **options: Any,
) -> Path:
    """Exports a fine-tuned checkpoint, or several that share an encoder: see `export_saved_model`.

    Args:
        name_or_path: A directory with the checkpoint and its tokenizer, or a hub repository. For
            several tasks a list of them (see `load_classifiers`), or the directory that holds
            theirs (see `find_task_directories`).
        base_path: See `export_saved_model`.
        **options: Its other arguments.

    Returns:
        The version's directory.

    Raises:
        FileNotFoundError: No such checkpoint, or it lacks a file.
        CheckpointError: It has no classifier (an untrained one is not worth serving), or does
            not fit; or several differ in their encoder or tokenizer.
    """
    sources: Sequence[str | os.PathLike[str]]
    if isinstance(name_or_path, str | os.PathLike):
        sources = find_task_directories(name_or_path)
        if not sources:
            source = os.fspath(name_or_path)
            model = Classifier.from_pretrained(source, fresh_head=False)
            tokenizer = DistilBertTokenizer.from_pretrained(source)
            return export_saved_model(model, tokenizer, base_path, **options)
    else:
        sources = name_or_path
    models = load_classifiers(sources)
    tokenizers = [DistilBertTokenizer.from_pretrained(os.fspath(source)) for source in sources]
    # They are equal but for this: no task's texts shall be cut shorter than in its training.
    tokenizers[0].model_max_length = max(each.model_max_length for each in tokenizers)
    return export_saved_model(models, tokenizers[0], base_path, **options)


def _local_path(base_path: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(base_path):
        raise ValueError(
            f"{os.fspath(base_path)} is not a local directory, and object stores cannot rename a "
            "directory in one step. Export to a local one, and copy the version's directory."
        )
    return Path(base_path).expanduser().absolute()


def _make_endpoints(
    models: Mapping[str, Classifier], tokenizer: DistilBertTokenizer, pair: bool | None
) -> dict[str, Endpoint]:
    """Checks that classifiers can stand in one export, and gives each under its task's name."""
    if not models:
        raise ValueError("There are no classifiers to export: the mapping is empty.")
    endpoints = {}
    for name in models:
        if not _SIGNATURE_NAME.fullmatch(name) or name == SERVING_DEFAULT:
            raise ValueError(
                f"{name!r} cannot be the name of a task's signature: it must consist of letters, "
                "digits and underscores, begin with a letter or one underscore, and not be "
                f"{SERVING_DEFAULT!r}, which is that of the first task."
            )
        try:
            endpoints[name] = _make_endpoint(models[name], tokenizer, pair)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Task {name!r}: {error}") from error
    first, *others = models
    for name in others:
        if models[name].distilbert is not models[first].distilbert:
            raise ValueError(
                f"The classifiers of {first!r} and {name!r} have encoders of their own; those of "
                "one export must share one, as load_classifiers makes them."
            )
    return endpoints


def _make_endpoint(
    model: Classifier, tokenizer: DistilBertTokenizer, pair: bool | None
) -> Endpoint:
    labels = _check_model(model, tokenizer)
    if pair is None:
        pair = getattr(model.config, "text_pair", False)
        if not isinstance(pair, bool):
            raise ValueError(f"config.text_pair must be true or false; got {pair!r}.")
    return Endpoint(model, labels, pair)


def _check_model(model: Classifier, tokenizer: DistilBertTokenizer) -> list[str]:
    """Checks that model and tokenizer go together, and gives the labels."""
    if not isinstance(model, Classifier):
        raise TypeError(
            "export_saved_model takes a TFDistilBertForSequenceClassification; "
            f"got {type(model).__name__}."
        )
    config = model.config
    labels = _list_labels(model)
    if len(labels) < 2 or config.problem_type in ("regression", "multi_label_classification"):
        raise ValueError(
            "Only a classifier that picks one of several labels can be exported; this model has "
            f"{len(labels)} label(s) and problem_type={config.problem_type!r}."
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        raise ValueError(
            f"The tokenizer gives ids up to {highest}, but the model has {config.vocab_size} "
            "words (config.vocab_size): they do not belong together."
        )
    return labels


def _check_length(max_length: int | None, model: Classifier, tokenizer: DistilBertTokenizer) -> int:
    """Gives the longest row in tokens, and checks that the model has as many positions."""
    positions = model.config.max_position_embeddings
    if max_length is None:
        return min(tokenizer.model_max_length, positions)
    if max_length > positions:
        raise ValueError(
            f"max_length={max_length}, but the model has {positions} positions "
            "(config.max_position_embeddings)."
        )
    return max_length


def _list_labels(model: Classifier) -> list[str]:
    """Lists the names of the classes, in the order of the logits."""
    names = {int(number): str(name) for number, name in model.config.id2label.items()}
    if sorted(names) != list(range(model.classifier.units)):
        raise ValueError(
            f"config.id2label must name the classes 0 to {model.classifier.units - 1}; "
            f"got {model.config.id2label}."
        )
    return [names[number] for number in sorted(names)]


def _trace_classifier(endpoint: Endpoint, tokenizer: Any) -> Any:
    """Traces strings to labels, as a tf.types.experimental.ConcreteFunction."""

    def classify(text: tf.Tensor, text_pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        logits = trace_logits(endpoint.model, tokenizer(text, text_pair))  # (B, C)
        return {
            LABEL: tf.gather(tf.constant(endpoint.labels), tf.argmax(logits, axis=1)),
            PROBABILITIES: tf.nn.softmax(logits),
            LOGITS: logits,
        }

    specs = {
        name: tf.TensorSpec([None], tf.string) for name in (TEXT, TEXT_PAIR)[: 1 + endpoint.pair]
    }
    return tf.function(classify, autograph=False).get_concrete_function(**specs)


def trace_logits(model: Classifier, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Traces the model twice, for few tokens and for many; a call takes one of the two.

    A server that packs its weights once (TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1) keeps for each op of
    the graph the layout of its first call. Few rows want another layout than many, and would pay
    for it anew in every call: 10 ms for a lone sentence. Two copies of each op keep both.

    Args:
        model: The classifier.
        inputs: `input_ids` and `attention_mask`, integers (B, T).

    Returns:
        Logits, float32 (B, C).
    """
    tokens = tf.math.count_nonzero(inputs["attention_mask"], dtype=tf.int32)
    few, most = FEW_TOKENS
    return tf.cond(
        (tokens >= few) & (tokens <= most),
        # With few tokens, more groups of rows cost more than they save.
        lambda: _trace_true_tokens(model, inputs, length_groups=1),
        lambda: _trace_true_tokens(model, inputs, length_groups=LENGTH_GROUPS),
    )


def _trace_true_tokens(
    model: Classifier, inputs: dict[str, tf.Tensor], length_groups: int
) -> tf.Tensor:
    """Calls a model, also one that was trained with its padding, for true tokens alone."""
    encoder = model.distilbert
    before = model.skip_padding, encoder.length_groups
    model.skip_padding, encoder.length_groups = True, length_groups
    try:
        return model(inputs, training=False)
    finally:
        model.skip_padding, encoder.length_groups = before


def _write(module: tf.Module, signatures: Signatures, directory: Path) -> None:
    # Gradients are for training, and would bring in functions and ops of their own.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(module, os.fspath(directory), signatures, options)
    except tf.errors.OpError as error:
        raise OSError(
            f"The SavedModel could not be written to {directory.parent}; is the disk full? "
            f"TensorFlow says: {error.message}"
        ) from error


def _write_record(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "labels": endpoint.labels,
        "pair": endpoint.pair,
        "weights_sha256": _digest_weights(endpoint.model),
    }


def _digest_weights(model: Classifier) -> str:
    """Hashes names and values of the weights, so that an export can be traced to its checkpoint."""
    digest = hashlib.sha256()
    for name, slot in sorted(slots(model).items()):
        array = np.ascontiguousarray(slot.read())
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
