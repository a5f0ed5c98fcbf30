"""Exports that compute in bfloat16: what they hold, answer, and report of the change."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.inspection.loader_comparison import compare_export
from distilbert_serving.inspection.saved_model_files import find_compute_dtype, read_meta_graph
from distilbert_serving.output_comparison import TOLERANCES
from distilbert_serving.sample_sentences import SENTENCES
from distilbert_serving.saved_model.compute_precision import cast_models
from distilbert_serving.saved_model.exporter import EXPORT_RECORD, export_saved_model
from distilbert_serving.saved_model.verification import VerificationError
from distilbert_serving.saved_model.weight_quantization import fake_quantize
from distilbert_serving.tf_serving.warmup import EXTRA_ASSETS
from exporting import LABELS, TINY_MAX_LENGTH, make_tiny_model

from distilbert_tf import cli
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

TASK = {"name": "tone", "text_columns": ["text"], "label_columns": ["tone"], "labels": LABELS}
# Wide enough for matrices that int8 quantizes.
WIDE = {"dim": 48, "hidden_dim": 96, "initializer_range": 0.3, "task": TASK}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), fields=WIDE)


@pytest.fixture(scope="module")
def data(classifier):
    """Rows whose labels are the classifier's own, so that it scores 1."""
    model, tokenizer = classifier
    words = list(tokenizer.get_vocab())[5:40]
    random = np.random.default_rng(5)
    texts = [" ".join(random.choice(words, count)) for count in random.integers(1, 15, 150)]
    ids = compute(model, tokenizer, texts).argmax(axis=1)
    return {"validation": {"text": texts, "tone": [LABELS[i] for i in ids]}}


@pytest.fixture(scope="module")
def exported(classifier, data, tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    options = {"max_length": TINY_MAX_LENGTH, "compute": "bfloat16", "evaluate_on": data}
    return export_saved_model(*classifier, base, **options)


def read_record(version):
    return json.loads((version / EXTRA_ASSETS / EXPORT_RECORD).read_text(encoding="utf-8"))


def answer(version, texts=SENTENCES):
    signature = tf.saved_model.load(os.fspath(version)).signatures["serving_default"]
    return signature(text=tf.constant(texts))


def compute(model, tokenizer, texts=SENTENCES):
    encoding = tokenizer(
        list(texts), truncation=True, max_length=TINY_MAX_LENGTH, padding=True, return_tensors="tf"
    )
    return model(encoding, training=False).numpy()


def test_weights_are_bfloat16_and_statistics_float32(exported):
    variables = tf.saved_model.load(os.fspath(exported)).weights
    float32 = {v.name for v in variables if v.dtype == tf.float32}
    assert {v.dtype for v in variables} == {tf.float32, tf.bfloat16}
    kinds = {name.split("/")[-2] for name in float32}
    assert kinds == {"LayerNorm", "sa_layer_norm", "output_layer_norm", "classifier"}


def casts_of_weights(version):
    """Counts the casts of what was just read from a variable, in all functions of the graph."""
    library = read_meta_graph(version).graph_def.library
    count = 0
    for function in library.function:
        ops = {node.name: node for node in function.node_def}
        for node in function.node_def:
            source = ops.get(node.input[0].split(":")[0]) if node.op == "Cast" else None
            count += source is not None and source.op == "ReadVariableOp"
    return count


def test_no_call_casts_a_weight(exported, tmp_path):
    assert casts_of_weights(exported) == 0
    model, tokenizer = make_tiny_model(tmp_path / "model", dtype="mixed_bfloat16")
    mixed = export_saved_model(
        model, tokenizer, tmp_path / "mixed", max_length=TINY_MAX_LENGTH, verify=False
    )
    assert casts_of_weights(mixed) > 0


def test_its_loaders_are_compared_as_bfloat16(exported):
    assert find_compute_dtype(read_meta_graph(exported)) == "bfloat16"
    assert compare_export(exported).error is None


def test_half_the_size(classifier, exported, tmp_path):
    options = {"max_length": TINY_MAX_LENGTH, "verify": False}
    sizes = [
        sum(file.stat().st_size for file in (version / "variables").glob("*.data-*"))
        for version in (exported, export_saved_model(*classifier, tmp_path, **options))
    ]
    weights = sum(np.prod(slot.shape) for slot in classifier[0].weights)
    assert sizes[1] > 4 * weights
    assert sizes[0] < 0.6 * sizes[1]


def test_answers_are_those_of_the_rounded_model(classifier, exported):
    model, tokenizer = classifier
    cast = cast_models({"": model}, "bfloat16")[""]
    for ours, theirs in zip(cast.weights, model.weights, strict=True):
        if ours.dtype == "bfloat16":
            assert (ours.numpy() == theirs.numpy().astype(ml_dtypes.bfloat16)).all()
    exact, rounded = compute(model, tokenizer), compute(cast, tokenizer)
    found = answer(exported)["logits"]
    assert found.dtype == tf.float32
    assert np.abs(found - rounded).max() < TOLERANCES["bfloat16"] * np.abs(exact).max()
    record = read_record(exported)
    assert (record["compute_dtype"], record["weights"]) == ("bfloat16", "fp32")
    assert record["rounding_difference"] == pytest.approx(np.abs(rounded - exact).max(), rel=1e-3)
    assert 0 < record["rounding_difference"] < 0.1 * np.abs(exact).max()
    assert np.ptp(exact, axis=0).max() > 1  # or it would prove little


@pytest.mark.parametrize("compute_in", ["float32", None])
def test_models_that_are_as_asked_are_not_copied(classifier, compute_in):
    assert cast_models({"": classifier[0]}, compute_in)[""] is classifier[0]


def test_a_mixed_model_can_compute_in_float32(tmp_path):
    model, tokenizer = make_tiny_model(tmp_path, dtype="mixed_bfloat16")
    exact, _ = make_tiny_model(tmp_path)
    cast = cast_models({"": model}, "float32")[""]
    np.testing.assert_array_equal(compute(cast, tokenizer), compute(exact, tokenizer))


def test_copies_share_the_copy_of_the_encoder(classifier, tmp_path):
    model, _ = classifier
    second, _ = make_tiny_model(tmp_path, seed=8, fields=WIDE, encoder=model.distilbert)
    cast = cast_models({"first": model, "second": second}, "bfloat16")
    assert cast["first"].distilbert is cast["second"].distilbert is not model.distilbert
    head = cast["second"].pre_classifier.kernel.numpy()
    np.testing.assert_array_equal(
        head, second.pre_classifier.kernel.numpy().astype(ml_dtypes.bfloat16)
    )


def test_stored_as_int8(classifier, tmp_path):
    """Once loaded, they are the bfloat16 nearest to what int8 gives."""
    model, _ = classifier
    version = export_saved_model(
        *classifier, tmp_path, max_length=TINY_MAX_LENGTH, compute="bfloat16", weights="int8"
    )
    loaded = [v.numpy() for v in tf.saved_model.load(os.fspath(version)).weights]
    cast = cast_models({"": model}, "bfloat16")[""]
    count = 0
    for weight in [each for each in cast.weights if not each.path.endswith("/step")]:
        array = weight.numpy()
        expected = fake_quantize(array, "int8")
        count += expected is not array
        assert expected.dtype == array.dtype
        assert any(other.shape == array.shape and (other == expected).all() for other in loaded), (
            weight.path
        )
    assert count == 7  # six of two layers, and the words
    names = {
        name for name, _ in tf.train.list_variables(os.fspath(version / "variables" / "variables"))
    }
    assert sum("_int8" in name for name in names) == count


@pytest.fixture
def fragile(tmp_path):
    """A classifier whose units all have a thousand added, which leaves bfloat16 no digits."""
    model, tokenizer = make_tiny_model(tmp_path / "fragile", fields=WIDE)
    model.pre_classifier.bias.assign(model.pre_classifier.bias + 1000)
    kernel = model.classifier.kernel.numpy()
    model.classifier.bias.assign(model.classifier.bias - 1000 * kernel.sum(axis=0))
    return model, tokenizer


@pytest.fixture
def labelled_sentences(fragile):
    ids = compute(*fragile).argmax(axis=1)
    return {"validation": {"text": SENTENCES, "tone": [LABELS[i] for i in ids]}}


def test_changes_are_counted_and_recorded(fragile, labelled_sentences, tmp_path):
    version = export_saved_model(
        *fragile, tmp_path / "base", max_length=TINY_MAX_LENGTH, compute="bfloat16", verify=False,
        evaluate_on=labelled_sentences, max_changed_labels=1.0, max_score_loss=1.0,
    )  # fmt: skip
    labels = [label.decode() for label in answer(version)["label"].numpy()]
    rows = len(SENTENCES)
    changed = sum(
        ours != theirs
        for ours, theirs in zip(labels, labelled_sentences["validation"]["tone"], strict=True)
    )
    assert 0 < changed < rows
    assert read_record(version)["evaluation"][""] == {
        "rows": rows,
        "changed_labels": changed,
        "before": {"accuracy": 1.0},
        "after": {"accuracy": pytest.approx(1 - changed / rows)},
    }


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_changed_labels": 0.05},
            rf"Not exported: tone: \d+ of {len(SENTENCES)} labels changed; .* -> .* allows 5\.00%",
        ),
        ({"max_score_loss": 0.0}, r"accuracy is lower by 0\.\d+; max_score_loss allows 0\.0000"),
    ],
    ids=["labels", "score"],
)
def test_nothing_is_exported_beyond_the_limits(
    fragile, labelled_sentences, limits, message, tmp_path
):
    base = tmp_path / "base"
    options = {
        "max_length": TINY_MAX_LENGTH, "evaluate_on": labelled_sentences, "verify": False, **limits,
    }  # fmt: skip
    with pytest.raises(VerificationError, match=message):
        export_saved_model(*fragile, base, compute="bfloat16", **options)
    assert not list(base.iterdir())
    export_saved_model(*fragile, base, compute="float32", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"compute": "float16"}, ValueError, "compute must be one of float32, bfloat16; got 'floa"),
        ({"max_changed_labels": 0.1}, ValueError, "need data: pass evaluate_on"),
        ({"max_score_loss": 0.1}, ValueError, "need data: pass evaluate_on"),
        ({"evaluate_on": "nowhere"}, FileNotFoundError, "nowhere"),
        ({"evaluate_on": {}, "max_changed_labels": 5}, ValueError, "from 0 to 1; got 5"),
        ({"evaluate_on": {}, "max_score_loss": -0.1}, ValueError, "must be 0 or more; got -0.1"),
    ],
)
def test_what_cannot_be_done(classifier, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export_saved_model(
            *classifier, tmp_path / "base", max_length=TINY_MAX_LENGTH, verify=False, **options
        )
    assert not (tmp_path / "base").exists()  # said before any work


def test_only_classifiers_of_a_task_can_be_evaluated(tmp_path):
    model, tokenizer = make_tiny_model(tmp_path / "model")
    options = {"max_length": TINY_MAX_LENGTH, "evaluate_on": {}, "verify": False}
    with pytest.raises(ValueError, match="The model does not record which task it is for"):
        export_saved_model(model, tokenizer, tmp_path / "base", **options)
    masked = TFDistilBertForMaskedLM(model.config)
    with pytest.raises(TypeError, match="for classifiers; this is a TFDistilBertForMaskedLM"):
        export_saved_model(masked, tokenizer, tmp_path / "base", **options)


def test_the_command_says_what_changed(classifier, data, tmp_path, caplog):
    model, tokenizer = classifier
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    rows = zip(*data["validation"].values(), strict=True)
    lines = [
        "text,tone",
        *(f'"{text.replace(chr(34), 2 * chr(34))}",{tone}' for text, tone in rows),
    ]
    (tmp_path / "dev.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    cli.main(
        ["export", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'base'}",
         f"--max_length={TINY_MAX_LENGTH}", "--compute=bfloat16", f"--evaluate_on={tmp_path}",
         "--max_changed_labels=0.2"]
    )  # fmt: skip
    assert read_record(tmp_path / "base" / "1")["evaluation"][""]["rows"] == 150
    assert "of 150 labels changed; accuracy 1.0000 -> " in caplog.text
