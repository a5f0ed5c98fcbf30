"""Fine-tuned models and their tokenizer as a SavedModel that TF Serving loads as it is."""

import datetime
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_serving import signatures as names
from distilbert_serving.inspection.compatibility import OLDEST_SERVER, check_saved_model
from distilbert_serving.inspection.saved_model_files import read_meta_graph
from distilbert_serving.saved_model.accuracy import Limits, find_evaluations, measure_changes
from distilbert_serving.saved_model.compute_precision import cast_models
from distilbert_serving.saved_model.endpoints import MAX_TEXT_BYTES, Tokenization, make_endpoints
from distilbert_serving.saved_model.graph_file import edit_graph
from distilbert_serving.saved_model.publishing import (
    check_version,
    explained_errors,
    publish,
    working_directory,
)
from distilbert_serving.saved_model.served_models import ServedModel
from distilbert_serving.saved_model.serving_checks import check_length, serve_model, serve_tasks
from distilbert_serving.saved_model.verification import measure_rounding, verify_saved_model
from distilbert_serving.saved_model.weight_quantization import fake_quantized, saved_quantized
from distilbert_serving.tf_serving.batching_parameters import batching_parameters
from distilbert_serving.tf_serving.serving_files import write_serving_files
from distilbert_serving.tf_serving.warmup import EXTRA_ASSETS
from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import CONFIG, find_checkpoint
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.models.shared_encoder import load_classifiers
from distilbert_tf.models.weight_names import list_slots
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.run_directory import find_task_directories
from distilbert_tf.version import __version__

EXPORT_RECORD = "export.json"

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
    model: PreTrainedModel | Mapping[str, TFDistilBertForSequenceClassification],
    tokenizer: DistilBertTokenizer,
    base_path: str | os.PathLike[str],
    *,
    version: int | None = None,
    max_length: int | None = None,
    pair: bool | None = None,
    regress_label: str | None = None,
    top_k: int = 5,
    max_masks: int = 16,
    max_text_bytes: int = MAX_TEXT_BYTES,
    weights: str = "fp32",
    compute: str | None = None,
    evaluate_on: Any = None,
    max_changed_labels: float | None = None,
    max_score_loss: float | None = None,
    max_batch_size: int = 32,
    max_latency_ms: float = 5.0,
    max_request_rows: int | None = None,
    allowed_batch_sizes: Sequence[int] | Literal["all"] | None = None,
    warmup: Sequence[str] = (names.SERVING_DEFAULT,),
    verify: bool = True,
) -> Path:
    """Exports a model, tokenizer included, as the next version under a base path.

    What the signatures take and return is listed in `signatures`; `serving_default` is
    `classify_text` of a classifier, `fill_mask` of a masked-LM model and `encode` of an encoder.
    Every batch may have any number of rows, 0 included. A row that cannot be computed gets NaN,
    empty strings and -1, and leaves the others alone. The graph consists of core TensorFlow ops.

    Several classifiers on one encoder make one export, which holds the encoder once, and each has
    its signatures under its task's name.

    On a CPU, serve it with the environment of `tf_serving.env`. A server then keeps packed
    weights for each signature that is asked, so memory grows with the signatures in use: by about
    twice the size of the encoder's matrices for each.

    The version's directory appears by one rename, after all checks: whatever happens in between, a
    server that polls the base path never meets a half-written or wrong model. Several processes
    may export into one base path at once.

    Args:
        model: A classifier, a masked-LM model or an encoder; or classifiers by task, whose
            `distilbert` is one object. It stays as it is.
        tokenizer: The tokenizer of all of them.
        base_path: A local directory, made if missing; the server's `model_base_path`.
        version: The version's number; by default one more than the highest that is there.
        max_length: Longest row in tokens, special tokens included; longer texts are cut (of a
            pair, the longer text first). By default the tokenizer's `model_max_length`, which
            `finetune` sets to the length it trained with, and at most the model's positions.
        pair: Whether the classifier compares two texts; of several, all of them. By default each
            does if its `config.text_pair` says so.
        regress_label: The label whose probability `regress` gives, for one classifier; by default
            the second of two labels and the first of more.
        top_k: How many words `fill_mask` returns for each mask.
        max_masks: The most masks that a text of `fill_mask` may have; the answer is as wide.
        max_text_bytes: The longest text that is computed, in bytes. Whatever `max_length` cuts
            later, the tokenizer needs some hundred bytes of memory for each byte in a batch.
        weights: How large weights are stored: "fp32", "fp16" (half the size) or "int8" (a
            quarter). Once loaded they are as `compute` says, with the values that rounding gives.
        compute: "float32", or "bfloat16" for processors that multiply it (AVX512_BF16, AMX): then
            weights are bfloat16, stored and loaded, so "fp32" and "fp16" of `weights` mean the
            same. By default as the model computes.
        evaluate_on: Labelled data to compare the classifiers of the export on with those in
            memory: what `load_examples` takes for the tasks that their configurations record, such
            as a directory. How many labels changed, and the scores before and after, stand in the
            log and in `export.json`.
        max_changed_labels: The share of those labels that may change, from 0 to 1.
        max_score_loss: By how much the tasks' first metrics may be lower on these data, 0 or more.
        max_batch_size: The most rows that a server computes at once.
        max_latency_ms: How long a request may wait for others to be computed with, in milliseconds.
        max_request_rows: The most rows in a request, which is computed in parts; by default 1024.
        allowed_batch_sizes: The sizes that batches may have, or "all" for each up to
            `max_batch_size`, for a GPU or XLA: see `batching_parameters`. By default any.
        warmup: What clients will use, and a server runs when it loads the version: signatures, or
            "signature:output+output" for clients that filter outputs.
        verify: Whether to reload the result in a fresh process (half a minute) and compare it with
            the model. Without that, a wrong export can go unnoticed.

    Returns:
        The version's directory, `<base_path>/<version>`.

    Raises:
        TypeError: Not a model of this package.
        ValueError: A classifier is not one that picks a single label, the vocabulary is smaller
            than the tokenizer's, the model has fewer than `max_length` positions, weights are too
            large to be stored as asked, `warmup` names a signature or an output that there is not,
            a number, `base_path` or `version` makes no sense, several models have encoders of their
            own, a task's name cannot be that of a signature, or a model to evaluate records none.
        FileExistsError: There is such a version already.
        CompatibilityError: The graph holds something that a stock server lacks.
        DataError: `evaluate_on` does not fit a task.
        VerificationError: The reloaded model fails or answers differently, or more labels change,
            or a score falls further, than is allowed.
        OSError: The disk is full or cannot be written to.
    """
    start_s = time.monotonic()
    base = _local_path(base_path)
    check_version(base, version)
    batching = batching_parameters(
        max_batch_size,
        max_latency_ms,
        max_request_rows=max_request_rows,
        allowed_batch_sizes=allowed_batch_sizes,
    )
    limits = Limits(max_changed_labels, max_score_loss)
    if evaluate_on is None and limits != Limits():
        raise ValueError("max_changed_labels and max_score_loss need data: pass evaluate_on.")
    limits.check()
    given: Mapping[str, Any] = model if isinstance(model, Mapping) else {"": model}

    def serve(models: Mapping[str, Any]) -> dict[str, ServedModel]:
        if not isinstance(model, Mapping):
            return {"": serve_model(models[""], tokenizer, pair, regress_label, top_k, max_masks)}
        if regress_label is not None:
            raise ValueError("regress_label is for one classifier, and the tasks' labels differ.")
        return serve_tasks(models, tokenizer, pair)

    exact = serve(given)
    evaluations = {} if evaluate_on is None else find_evaluations(given, evaluate_on)
    models = cast_models(given, compute)
    served = exact if models == given else serve(models)
    first = next(iter(served.values()))
    max_length = check_length(max_length, first.model, tokenizer)
    logging.info("Tracing the serving graph.")
    tokenization = Tokenization(tokenizer, max_length, max_text_bytes)
    endpoints = make_endpoints(served, tokenization)
    traced = {id(endpoint): endpoint.trace() for endpoint in endpoints.values()}
    signatures = {name: traced[id(endpoint)] for name, endpoint in endpoints.items()}
    module = ServingModule(tokenization.layer, signatures)
    with working_directory(base) as work:
        written, moved = work / "written", work / "moved"
        logging.info("Writing the SavedModel.")
        with saved_quantized(module, module.weights, weights):
            _write(module, signatures, written)
        with explained_errors(written):
            edit_graph(written)
        # From here on it lives elsewhere, so a path that crept into the graph leads nowhere.
        written.rename(moved)
        ops = check_saved_model(moved, private_paths=[base, work])
        logging.info("All %d ops are known to TF Serving %s.", len(ops), OLDEST_SERVER)
        signature_defs = read_meta_graph(moved).signature_def
        with explained_errors(moved):
            write_serving_files(moved, signature_defs, warmup, batching, max_length=max_length)
        compute_dtype = first.model.compute_dtype
        unrounded = endpoints if served is exact else make_endpoints(exact, tokenization)
        rounding = measure_rounding(
            unrounded[names.SERVING_DEFAULT],
            endpoints[names.SERVING_DEFAULT],
            module.weights,
            weights,
        )
        difference = None
        if verify:
            logging.info("Reloading in a fresh process.")
            with fake_quantized(module.weights, weights):
                in_float32 = None
                if compute == "bfloat16":
                    in_float32 = make_endpoints(serve(cast_models(models, "float32")), tokenization)
                difference = verify_saved_model(
                    moved, endpoints, compute_dtype=compute_dtype, in_float32=in_float32
                )
        else:
            logging.warning("Not reloaded and compared, since verify=False.")
        changes = measure_changes(moved, evaluations, tokenization, limits) if evaluations else {}
        record = {
            **_describe(next(iter(exact.values()))),
            "max_length": max_length,
            "max_text_bytes": max_text_bytes,
            "signatures": sorted(signatures),
            "compute_dtype": compute_dtype,
            "weights": weights,
            "rounding_difference": rounding,
            "max_difference": difference,
            "distilbert_tf": __version__,
            "tensorflow": tf.__version__,
            "exported_at": datetime.datetime.now(datetime.UTC).isoformat(),
        }
        if changes:
            record["evaluation"] = {task: change._asdict() for task, change in changes.items()}
        if isinstance(model, Mapping):
            record["tasks"] = {task: _describe(each) for task, each in exact.items()}
        with explained_errors(moved):
            _write_record(moved / EXTRA_ASSETS / EXPORT_RECORD, record)
        published = publish(moved, base, version)
    logging.info("Exported %s in %.0f s.", published, time.monotonic() - start_s)
    return published


def export_pretrained(
    name_or_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    base_path: str | os.PathLike[str],
    **options: Any,
) -> Path:
    """Exports a checkpoint, or several that share an encoder: see `export_saved_model`.

    What it is, `architectures` in its `config.json` says; without that, a classifier. Of one with
    another head, such as question answering, the encoder is exported, with a warning.

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
        CheckpointError: It lacks the head that its configuration names (an untrained one is not
            worth serving), or does not fit; or several differ in their encoder or tokenizer.
    """
    sources: Sequence[str | os.PathLike[str]]
    if isinstance(name_or_path, str | os.PathLike):
        sources = find_task_directories(name_or_path)
        if not sources:
            source = os.fspath(name_or_path)
            model = _model_class(source).from_pretrained(source, fresh_head=False)
            tokenizer = DistilBertTokenizer.from_pretrained(source)
            return export_saved_model(model, tokenizer, base_path, **options)
    else:
        sources = name_or_path
    models = load_classifiers(sources)
    tokenizers = [DistilBertTokenizer.from_pretrained(os.fspath(source)) for source in sources]
    # They are equal but for this: no task's texts may be cut shorter than in its training.
    tokenizers[0].model_max_length = max(each.model_max_length for each in tokenizers)
    return export_saved_model(models, tokenizers[0], base_path, **options)


def _model_class(source: str) -> type[PreTrainedModel]:
    """Returns the class of the model that a checkpoint holds."""
    config, _ = load_config(find_checkpoint(source).config)
    architecture = "".join(config.architectures or ["ForSequenceClassification"])
    if "ForSequenceClassification" in architecture:
        return TFDistilBertForSequenceClassification
    if "ForMaskedLM" in architecture:
        return TFDistilBertForMaskedLM
    if "For" in architecture:
        logging.warning(
            "%s is a %s, whose head is none of this package's: its encoder alone is exported, with "
            "the signature encode. (The heads are ForSequenceClassification and ForMaskedLM: see "
            "architectures in its %s.)",
            source,
            architecture,
            CONFIG,
        )
    return TFDistilBertModel


def _local_path(base_path: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(base_path):
        raise ValueError(
            f"{os.fspath(base_path)} is not a local directory, and object stores cannot rename a "
            "directory in one step. Export to a local one, and copy the version's directory."
        )
    return Path(base_path).expanduser().absolute()


def _write(module: tf.Module, signatures: Signatures, directory: Path) -> None:
    # Gradients are for training, and would bring in functions and ops of their own.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # or it lists every variable of every signature
    try:
        tf.saved_model.save(module, os.fspath(directory), signatures, options)
    except tf.errors.OpError as error:
        raise OSError(
            f"The SavedModel could not be written to {directory.parent}; is the disk full? "
            f"TensorFlow says: {error.message}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _write_record(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe(served: ServedModel) -> dict[str, Any]:
    return {**served.describe(), "weights_sha256": _digest_weights(served.model)}


def _digest_weights(model: PreTrainedModel) -> str:
    """Hashes names and values of the weights, so that an export can be traced to its checkpoint."""
    digest = hashlib.sha256()
    for name, slot in sorted(list_slots(model).items()):
        array = np.ascontiguousarray(slot.read())
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
