"""What an export holds and answers, and what it refuses."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import assert_close
from distilbert_serving import signatures as names
from distilbert_serving.inspection.compatibility import check_saved_model
from distilbert_serving.inspection.saved_model_files import read_meta_graph
from distilbert_serving.saved_model.exporter import (
    EXPORT_RECORD,
    export_pretrained,
    export_saved_model,
)
from distilbert_serving.saved_model.tracing import FEW, FEW_TOKENS
from distilbert_serving.saved_model.verification import VerificationError
from distilbert_serving.tensors import read_signature
from distilbert_serving.tf_serving.warmup import EXTRA_ASSETS
from exporting import LABELS, TINY_MAX_LENGTH, TINY_ROUNDINGS, make_tiny_model

from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.version import __version__

TEXTS = [
    "the film was never boring",
    "",
    "The ACTORS, though, seemed lost: 3 out of 10?",
    "Ça va? Der Über-Regisseur änderte alles 😀😀",
    "not bad, and not good. " * 30,
    "[MASK] was very [MASK]\x00\t東京",
    "good",
]
BATCHES = [[], [TEXTS[2]], TEXTS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    # After a training step, so that there is an optimizer, and the dropout's counters have moved.
    model, tokenizer = tiny
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = dict(
        tokenizer(TEXTS[:4], padding=True, truncation=True, max_length=9, return_tensors="tf")
    )
    model.fit(inputs, np.array([0, 1, 2, 0]), batch_size=2, verbose=0)
    base = tmp_path_factory.mktemp("base") / "made" / "on_the_way"
    return export_saved_model(model, tokenizer, base, max_length=TINY_MAX_LENGTH)


def assert_same_answers(version, model, tokenizer, *, pair=False, max_length, dtype="float32"):
    """Compares with an eager call on the ids of transformers' tokenizer."""
    loaded = tf.saved_model.load(os.fspath(version))
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    seen = set()
    for texts in BATCHES:
        sides = [texts, texts[::-1]] if pair else [texts]
        named = zip(["text", "text_pair"], sides, strict=False)
        inputs = {name: tf.constant(side, tf.string) for name, side in named}
        answer = {k: v.numpy() for k, v in loaded.signatures["serving_default"](**inputs).items()}
        assert answer.keys() == {"label", "label_id", "probabilities", "logits"}
        logits = np.zeros((0, len(labels)), np.float32)
        if texts:
            encoding = tokenizer(
                *sides, truncation=True, max_length=max_length, padding=True, return_tensors="tf"
            )
            logits = model(encoding, training=False).numpy()
        assert answer["logits"].shape == (len(texts), len(labels))
        assert answer["logits"].dtype == answer["probabilities"].dtype == np.float32
        assert_close(answer["logits"], logits, TINY_ROUNDINGS, size=1.0, dtype=dtype)
        softmax = np.exp(answer["logits"]) / np.exp(answer["logits"]).sum(axis=1, keepdims=True)
        assert_close(answer["probabilities"], softmax, TINY_ROUNDINGS, size=1.0)
        assert [label.decode() for label in answer["label"]] == [
            labels[i] for i in answer["logits"].argmax(axis=1)
        ]
        assert answer["label_id"].dtype == np.int32
        assert answer["label_id"].tolist() == answer["logits"].argmax(axis=1).tolist()
        seen.update(answer["label"])
    assert len(seen) > 1  # or the comparison would prove little


def test_answers_as_in_memory(exported, tiny):
    assert exported.name == "1"
    assert os.listdir(exported.parent) == ["1"]
    assert_same_answers(exported, *tiny, max_length=TINY_MAX_LENGTH)


def test_few_tokens_and_many(exported, tiny):
    """The graph holds the model twice; which one runs depends on the number of tokens."""
    model, tokenizer = tiny
    signature = tf.saved_model.load(os.fspath(exported)).signatures["serving_default"]
    text = TEXTS[2]
    counts = []
    for texts in (["ok"], [text], [text, "ok"], [text] * 3 + ["ok"], [text] * 12, ["ok"] * 40):
        encoding = tokenizer(
            texts, truncation=True, max_length=TINY_MAX_LENGTH, padding=True, return_tensors="tf"
        )
        counts.append(int(tf.reduce_sum(encoding["attention_mask"])))
        logits = signature(text=tf.constant(texts))["logits"]
        assert_close(logits, model(encoding, training=False), TINY_ROUNDINGS, size=1.0)
    assert counts[0] < FEW.least_tokens
    assert sum(FEW.least_tokens <= count <= FEW_TOKENS for count in counts) >= 2
    assert sum(count > FEW_TOKENS for count in counts) >= 2


def test_a_model_trained_with_padding_is_exported_without(exported, tiny, tmp_path):
    model, tokenizer = tiny
    padded = type(model)(model.config, skip_padding=False)
    padded.set_weights(model.get_weights())
    version = export_saved_model(
        padded, tokenizer, tmp_path, max_length=TINY_MAX_LENGTH, verify=False
    )
    assert_same_answers(version, model, tokenizer, max_length=TINY_MAX_LENGTH)
    ops = check_saved_model(version)
    assert "InvertPermutation" in ops  # groups of rows, put in order again
    assert ops == check_saved_model(exported)


def test_the_contract(exported):
    """Names, types and ranks are those of the table, and widths are fixed but for token ids."""
    found = read_meta_graph(exported).signature_def
    for name, kind, endpoint in (
        (names.SERVING_DEFAULT, "texts", names.CLASSIFY_TEXT),
        (names.CLASSIFY_TEXT, "texts", names.CLASSIFY_TEXT),
        (names.CLASSIFY, "examples", names.CLASSIFY),
        (names.REGRESS, "examples", names.REGRESS),
        (names.ENCODE, "texts", names.ENCODE),
        (names.TOKENIZE, "texts", names.TOKENIZE),
        (names.FROM_IDS, "ids", names.CLASSIFY_TEXT),
    ):
        signature = read_signature(found[name])
        assert signature.inputs == names.INPUTS[kind], name
        contract = names.OUTPUTS[endpoint]
        assert signature.outputs.keys() == contract.keys()
        for output, info in signature.outputs.items():
            assert info.fits(contract[output])
            assert info.is_batched
            assert None not in info.shape[1:]
    assert read_signature(found["classify"]).outputs["scores"].shape == (None, 3)


def test_pairs(tiny, tmp_path):
    model, tokenizer = tiny
    version = export_saved_model(
        model, tokenizer, tmp_path, version=7, pair=True, max_length=TINY_MAX_LENGTH
    )
    assert version == tmp_path / "7"
    assert_same_answers(version, model, tokenizer, pair=True, max_length=TINY_MAX_LENGTH)
    signature = tf.saved_model.load(os.fspath(version)).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="differ in length"):
        signature(text=tf.constant(["a", "b"]), text_pair=tf.constant(["c"]))


def test_holds_each_weight_once_and_nothing_else(exported, tiny):
    stored = dict(tf.train.list_variables(os.fspath(exported / "variables" / "variables")))
    del stored["_CHECKPOINTABLE_OBJECT_GRAPH"]
    weights = [v for v in tiny[0].variables if not v.path.endswith("/step")]
    assert sorted(map(tuple, stored.values())) == sorted(tuple(v.shape) for v in weights)


def test_record(exported):
    record = json.loads((exported / "assets.extra" / "export.json").read_text(encoding="utf-8"))
    assert record["labels"] == LABELS
    assert record["max_length"] == TINY_MAX_LENGTH
    assert record["pair"] is False
    assert record["max_difference"] >= 0  # what verification found, and allowed
    assert (record["weights"], record["rounding_difference"]) == ("fp32", 0.0)
    assert (record["distilbert_tf"], record["tensorflow"]) == (__version__, tf.__version__)
    assert len(record["weights_sha256"]) == 64


def test_ops(exported):
    ops = check_saved_model(exported)
    # Ops of the loop over pieces and of the Unicode path: they stand inside branches.
    assert {"While", "Substr", "UnicodeDecode", "LookupTableFindV2"} <= ops


@pytest.mark.slow
def test_mixed_precision(tmp_path):
    model, tokenizer = make_tiny_model(tmp_path / "model", dtype="mixed_bfloat16")
    version = export_saved_model(
        model, tokenizer, tmp_path / "base", max_length=TINY_MAX_LENGTH, verify=False
    )
    assert_same_answers(version, model, tokenizer, max_length=TINY_MAX_LENGTH, dtype="bfloat16")


def test_diverged_model(tiny, tmp_path):
    model, tokenizer = make_tiny_model(tmp_path / "model")
    model.classifier.bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(VerificationError, match="not finite"):
        export_saved_model(model, tokenizer, tmp_path / "base", max_length=TINY_MAX_LENGTH)
    assert os.listdir(tmp_path / "base") == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": {0: "only"}}, r"1 label\(s\) and problem_type=None"),
        ({"problem_type": "regression"}, r"a regression one; this model has 3 label\(s\)"),
        ({"max_position_embeddings": 20}, "max_length=21, but the model has 20 positions"),
        ({"vocab_size": 60}, "gives ids up to .*, but the model has 60 words"),
        ({"id2label": {0: "a", 2: "b"}}, r"must name the classes 0 to 1; got \{0: 'a', 2: 'b'\}"),
    ],
    ids=["one_label", "regression", "positions", "vocabulary", "labels"],
)
def test_models_that_do_not_fit(fields, message, tmp_path):
    model, tokenizer = make_tiny_model(tmp_path / "model", fields=fields)
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tokenizer, tmp_path / "base", max_length=21)
    assert not (tmp_path / "base").exists()


def test_arguments_that_do_not_fit(tiny, tmp_path):
    model, tokenizer = tiny
    with pytest.raises(TypeError, match="TFDistilBertModel; got Sequential"):
        export_saved_model(keras.Sequential(), tokenizer, tmp_path)
    with pytest.raises(ValueError, match="gs://bucket/model is not a local directory"):
        export_saved_model(model, tokenizer, "gs://bucket/model")
    with pytest.raises(
        ValueError, match="no signature 'predict' to warm up, but .*classify, class"
    ):
        export_saved_model(model, tokenizer, tmp_path, warmup=["serving_default", "predict"])
    (tmp_path / "3").mkdir()
    with pytest.raises(FileExistsError, match="has a version 3 already"):
        export_saved_model(model, tokenizer, tmp_path, version=3)


def test_exports_a_checkpoint(tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    version = export_pretrained(
        tmp_path / "checkpoint", tmp_path / "base", max_length=TINY_MAX_LENGTH, verify=False
    )
    assert_same_answers(version, model, tokenizer, max_length=TINY_MAX_LENGTH)
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    model.distilbert.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has no head"):
        export_pretrained(tmp_path / "checkpoint", tmp_path / "base")


def test_a_head_of_another_kind_is_left_out_with_a_warning(tiny, tmp_path, caplog):
    model, tokenizer = tiny
    source = tmp_path / "checkpoint"
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    fields = json.loads((source / "config.json").read_text())
    for kind in ("DistilBertModel", "DistilBertForTokenClassification"):
        fields["architectures"] = [kind]
        (source / "config.json").write_text(json.dumps(fields))
        caplog.clear()
        version = export_pretrained(source, tmp_path / kind, max_length=9, verify=False)
        signatures = tf.saved_model.load(version).signatures
        assert "encode" in signatures
        assert "classify_text" not in signatures
        messages = [x.getMessage() for x in caplog.records if "architectures" in x.getMessage()]
        assert len(messages) == kind.count("For")
    assert f"{source} is a DistilBertForTokenClassification, whose head is none" in messages[0]


@pytest.mark.slow
def test_demo_encoder(demo, tmp_path):
    keras.utils.set_random_seed(3)  # of a head that tells these sentences apart
    labels = {0: "negative", 1: "positive"}
    model = TFDistilBertForSequenceClassification.from_pretrained(demo, id2label=labels)
    model.classifier.kernel.assign(model.classifier.kernel * 100)  # as far apart as after training
    tokenizer = DistilBertTokenizer.from_pretrained(demo)
    version = export_saved_model(model, tokenizer, tmp_path, verify=False)
    # By default rows are as long as the tokenizer says.
    assert_same_answers(version, model, tokenizer, max_length=tokenizer.model_max_length)
    assert json.loads((version / EXTRA_ASSETS / EXPORT_RECORD).read_text())["max_length"] == 512
    num_bytes = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
    num_weight_bytes = 4 * model.count_params()
    # Besides the weights: the graph, with the vocabulary and the Unicode table.
    assert num_weight_bytes < num_bytes < num_weight_bytes + 4e6
