import json
import os
from pathlib import Path
from types import SimpleNamespace

import keras
import ml_dtypes
import numpy as np
import pytest
from recorded import (
    CLASSES,
    assert_encodes_as_recorded,
    assert_equals_recorded,
    outputs,
    recorded_outputs,
)
from safetensors.numpy import load_file, save_file
from transformers import DistilBertConfig

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.models import pretrained
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.layers import Linear
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.models.weight_names import (
    HEADS,
    export_tensors,
    list_slots,
    load_tensors,
    to_distilbert,
)

WORDS = "embeddings.word_embeddings.weight"
Q_WEIGHT = "transformer.layer.0.attention.q_lin.weight"
LIN1_WEIGHT = "transformer.layer.1.ffn.lin1.weight"


@pytest.fixture
def checkpoint(copy_reference):
    """Copies a recorded checkpoint, with its tensors (and configuration) changed by functions."""

    def make(name: str, change=lambda tensors: None, change_config=lambda fields: None) -> Path:
        directory = copy_reference(name)
        tensors = load_file(directory / "model.safetensors")
        tensors = change(tensors) or tensors
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        fields = json.loads((directory / "config.json").read_text())
        change_config(fields)
        (directory / "config.json").write_text(json.dumps(fields))
        return directory

    return make


@pytest.fixture
def absl_log(caplog):
    caplog.set_level("INFO", logger="absl")
    return caplog


def with_prefix(tensors: dict, prefix: str = "distilbert.") -> dict:
    heads = ("vocab_", "classifier", "pre_classifier", "qa_outputs")
    return {n if n.startswith(heads) else prefix + n: array for n, array in tensors.items()}


def drop(name: str):
    return lambda tensors: {other: tensors[other] for other in tensors if other != name}


def put(name: str, array: np.ndarray):
    return lambda tensors: tensors | {name: array}


def without_prefix(tensors: dict) -> dict:
    return {name.removeprefix("distilbert."): array for name, array in tensors.items()}


# Round trips.


@pytest.mark.parametrize("name", CLASSES)
def test_saved_file_holds_what_pytorch_saved(name, references, tmp_path):
    CLASSES[name].from_pretrained(references / name).save_pretrained(tmp_path / "new/directory")
    original = load_file(references / name / "model.safetensors")
    saved = load_file(tmp_path / "new/directory/model.safetensors")
    assert saved.keys() == original.keys()
    for tensor, array in original.items():
        np.testing.assert_array_equal(saved[tensor], array, err_msg=tensor, strict=True)
    fields = json.loads((tmp_path / "new/directory/config.json").read_text())
    original_fields = json.loads((references / name / "config.json").read_text())
    ignored = {"transformers_version", "label2id"}
    for field in original_fields.keys() - ignored:
        assert fields[field] == original_fields[field], field
    assert (tmp_path / "new/directory/model.safetensors").stat().st_mode & 0o777 == (
        0o666 & ~current_umask()
    )


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.parametrize("name", CLASSES)
def test_saved_model_loads_with_equal_outputs(name, references, tmp_path):
    model = CLASSES[name].from_pretrained(references / name)
    for weight in model.trainable_weights:  # not the ones that it was loaded with
        weight.assign(weight + 0.01)
    model.save_pretrained(tmp_path)
    loaded = CLASSES[name].from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        outputs(loaded, references / name), outputs(model, references / name)
    )
    assert not np.allclose(outputs(loaded, references / name), recorded_outputs(references / name))


def test_labels_survive(references, tmp_path):
    source = references / "classifier"
    labels = {0: "gut", 1: "schlecht", 2: "weder noch"}
    model = TFDistilBertForSequenceClassification.from_pretrained(source)
    assert model.config.id2label == labels
    model.save_pretrained(tmp_path)
    model = TFDistilBertForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.id2label == labels
    assert model.config.label2id == {"gut": 0, "schlecht": 1, "weder noch": 2}
    renamed = {0: "x", 1: "y", 2: "z"}
    model = TFDistilBertForSequenceClassification.from_pretrained(source, id2label=renamed)
    assert model.config.id2label == renamed
    assert_equals_recorded(model, source)


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype", "error"),
    [("float16", np.float16, 1e-3), ("bfloat16", ml_dtypes.bfloat16, 8e-3)],
)
@pytest.mark.parametrize("name", ["base", "classifier", "masked_lm"])
def test_half_precision_files(dtype, numpy_dtype, error, name, references, tmp_path):
    CLASSES[name].from_pretrained(references / name).save_pretrained(tmp_path, dtype=dtype)
    original = load_file(references / name / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    for tensor, array in original.items():
        np.testing.assert_array_equal(saved[tensor], array.astype(numpy_dtype), strict=True)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype
    model = CLASSES[name].from_pretrained(tmp_path)
    assert {variable.dtype for variable in model.trainable_weights} == {"float32"}
    for tensor, slot in list_slots(model).items():
        array = saved[tensor if tensor in saved else f"distilbert.{tensor}"].astype("float32")
        np.testing.assert_array_equal(slot.read(), array)
    expected = recorded_outputs(references / name)
    difference = np.abs(outputs(model, references / name) - expected).max()
    assert 0 < difference < 20 * error * np.abs(expected).max()


def test_training_goes_on_in_float32_after_a_half_precision_file(references, tmp_path):
    TFDistilBertModel.from_pretrained(references / "base").save_pretrained(tmp_path, "float16")
    TFDistilBertModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert {a.dtype.name for a in load_file(tmp_path / "model.safetensors").values()} == {"float32"}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


class WithPooler(PreTrainedModel):
    def __init__(self, config: DistilBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.distilbert = TFDistilBertModel(config, name="distilbert")
        self.pooler_lin = Linear(5, config, name="pooler_lin")
        self.pooler_lin.build((None, config.dim))


def test_a_new_layer_needs_one_row_of_the_table(references, tmp_path, monkeypatch):
    monkeypatch.setitem(HEADS, "pooling", {"pooler_lin": None})
    saved = WithPooler(load_config(references / "base/config.json")[0])
    saved.save_pretrained(tmp_path)
    kernel = load_file(tmp_path / "model.safetensors")["pooler_lin.weight"]
    np.testing.assert_array_equal(kernel, saved.pooler_lin.kernel.numpy().T)
    loaded = WithPooler.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.pooler_lin.kernel, saved.pooler_lin.kernel)
    with pytest.raises(CheckpointError, match="no head for WithPooler .none of pooler_lin.bias"):
        WithPooler.from_pretrained(references / "base")


# From one kind of model to another.


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("change", [with_prefix, without_prefix], ids=["prefix", "no prefix"])
def test_prefix_does_not_matter(name, change, checkpoint):
    def both(tensors):
        return change(without_prefix(tensors))

    directory = checkpoint(name, both)
    assert_equals_recorded(CLASSES[name].from_pretrained(directory), directory)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.", "net.encoder."])
def test_prefix_of_a_wrapper_is_left_out(name, prefix, checkpoint):
    directory = checkpoint(name, lambda tensors: {prefix + n: x for n, x in tensors.items()})
    assert_equals_recorded(CLASSES[name].from_pretrained(directory), directory)


def test_prefix_before_the_encoder_alone(checkpoint):
    directory = checkpoint("classifier", lambda t: with_prefix(without_prefix(t), "bert."))
    assert_equals_recorded(CLASSES["classifier"].from_pretrained(directory), directory)


def test_two_encoders_are_shown(checkpoint):
    def twice(tensors):
        return {f"{side}.{n}": x for side in ("query", "answer") for n, x in tensors.items()}

    directory = checkpoint("base", twice)
    count = len(load_file(directory / "model.safetensors")) // 2
    with pytest.raises(CheckpointError) as error:
        TFDistilBertModel.from_pretrained(directory)
    text = str(error.value)
    assert (
        f"of {2 * count} tensors there and {count} here, {count} missing, {2 * count} extra" in text
    )
    assert f"extra: answer.{WORDS} (37, 12), which TFDistilBertModel does not have" in text
    assert f"missing: {WORDS} (37, 12), which TFDistilBertModel has" in text
    assert f"extra: {2 * count - 6} more" in text
    assert len(text.splitlines()) == 15


@pytest.mark.parametrize("name", ["classifier", "masked_lm", "masked_lm_untied"])
def test_checkpoint_with_a_head_gives_its_encoder(name, references, absl_log):
    model = TFDistilBertModel.from_pretrained(references / name)
    assert_encodes_as_recorded(model, references / name)
    head = "pre_classifier.weight" if name == "classifier" else "vocab_transform.weight"
    assert f"{head}" in absl_log.text
    assert "Left out of" in absl_log.text


@pytest.mark.parametrize("name", ["base", "masked_lm", "masked_lm_untied"])
def test_classifier_from_a_checkpoint_without_one_is_fresh_and_says_so(name, references, absl_log):
    keras.utils.set_random_seed(0)
    model = TFDistilBertForSequenceClassification.from_pretrained(references / name, num_labels=4)
    warnings = [r.getMessage() for r in absl_log.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "freshly initialized head (classifier.bias, classifier.weight, pre_cl" in warnings[0]
    assert_encodes_as_recorded(model.distilbert, references / name)
    assert np.std(model.classifier.kernel) == pytest.approx(0.02, rel=0.4)
    np.testing.assert_array_equal(model.classifier.bias, np.zeros(4))
    with pytest.raises(CheckpointError, match="no head.*fresh_head=True"):
        TFDistilBertForSequenceClassification.from_pretrained(references / name, fresh_head=False)


def test_loaded_head_causes_no_warning(references, absl_log):
    TFDistilBertForSequenceClassification.from_pretrained(references / "classifier")
    assert absl_log.text == ""


def test_masked_lm_needs_its_head(references):
    for name in ("base", "classifier", "bert"):
        with pytest.raises(
            CheckpointError, match=r"no head for TFDistilBertForMaskedLM.*fresh_head"
        ):
            TFDistilBertForMaskedLM.from_pretrained(references / name)
    model = TFDistilBertForMaskedLM.from_pretrained(references / "base", fresh_head=True)
    assert_encodes_as_recorded(model.distilbert, references / "base")


def test_another_number_of_labels_suggests_a_fresh_head(references, absl_log):
    source = references / "classifier"
    with pytest.raises(CheckpointError) as error:
        TFDistilBertForSequenceClassification.from_pretrained(source, num_labels=5)
    assert "shape: classifier.weight is (3, 12) in" in str(error.value)
    assert "(5, 12) in TFDistilBertForSequenceClassification" in str(error.value)
    assert "fresh_head=True" in str(error.value)
    model = TFDistilBertForSequenceClassification.from_pretrained(
        source, num_labels=5, fresh_head=True
    )
    assert model.classifier.kernel.shape == (12, 5)
    assert "freshly initialized" not in absl_log.text  # that was asked for
    stored = load_file(source / "model.safetensors")["pre_classifier.weight"]
    assert not np.any(stored == np.asarray(model.pre_classifier.kernel).T)


# What people write for transformers.


def test_a_configuration_of_ones_own(references):
    source = references / "classifier"
    config = load_config(source / "config.json")[0]
    config.id2label = {0: "good", 1: "bad", 2: "neither"}
    config.label2id = {"good": 0, "bad": 1, "neither": 2}
    config.dropout = 0.5
    model = TFDistilBertForSequenceClassification.from_pretrained(source, config=config)
    assert model.config.id2label == {0: "good", 1: "bad", 2: "neither"}
    assert model.distilbert.embeddings.dropout.rate == 0.5
    assert model.config is not config
    assert_equals_recorded(model, source)
    fresh = TFDistilBertForSequenceClassification.from_config(config)
    assert fresh.classifier.kernel.shape == (12, 3)


def test_options_of_transformers(references):
    source = references / "base"
    nothing = {"from_pt": True, "use_safetensors": True, "trust_remote_code": False}
    assert_equals_recorded(TFDistilBertModel.from_pretrained(source, **nothing), source)
    for options, message in (
        ({"trust_remote_code": True}, "no code of a repository is ever run; leave it out"),
        ({"ignore_mismatched_sizes": True}, "pass fresh_head=True"),
        ({"torch_dtype": "float16"}, "pass dtype, a dtype or policy of Keras' such as"),
        ({"device_map": "auto"}, r"under `tf\.device` or in a strategy's scope"),
    ):
        with pytest.raises(TypeError, match=f"has no {next(iter(options))}: .*{message}"):
            TFDistilBertModel.from_pretrained(source, **options)


def test_options_of_transformers_when_saving(references, tmp_path):
    model = TFDistilBertModel.from_pretrained(references / "base")
    model.save_pretrained(tmp_path / "saved", safe_serialization=True)
    assert_equals_recorded(
        TFDistilBertModel.from_pretrained(tmp_path / "saved"), references / "base"
    )
    with pytest.raises(TypeError, match="save_pretrained has no saved_model: a SavedModel is wr"):
        model.save_pretrained(tmp_path / "other", saved_model=True)
    with pytest.raises(TypeError, match="save_pretrained has no dtyp"):
        model.save_pretrained(tmp_path / "other", dtyp="float16")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", CLASSES)
def test_number_of_parameters(name, references):
    model = CLASSES[name].from_pretrained(references / name)
    tensors = load_file(references / name / "model.safetensors")
    if name.startswith("bert"):  # what DistilBERT does not have
        tensors = to_distilbert(tensors, "bert")
    sizes = {n: x.size for n, x in tensors.items() if n != "cls.predictions.bias"}
    assert model.num_parameters() == sum(sizes.values())
    words = {n: size for n, size in sizes.items() if n.endswith("_embeddings.weight")}
    assert model.num_parameters(exclude_embeddings=True) == sum(sizes.values()) - sum(
        words.values()
    )
    getattr(model, "distilbert", model).embeddings.trainable = False
    frozen = sum(size for n, size in sizes.items() if "embeddings." in n)
    assert model.num_parameters(only_trainable=True) == sum(sizes.values()) - frozen


@pytest.mark.parametrize("name", ["base", "masked_lm", "masked_lm_untied"])
@pytest.mark.parametrize("rows", [40, 30])
def test_resizing_the_vocabulary(name, rows, references, tmp_path):
    source = references / name
    model = CLASSES[name].from_pretrained(source)
    before = {n: slot.read() for n, slot in list_slots(model).items()}
    paths = [weight.path for weight in model.weights]
    kept = min(rows, model.config.vocab_size)
    assert model.get_input_embeddings().embeddings.shape[0] == model.config.vocab_size != rows
    layer = model.resize_token_embeddings(rows)
    assert layer is model.get_input_embeddings()
    assert layer.embeddings.shape[0] == model.config.vocab_size == rows
    assert sorted(weight.path for weight in model.weights) == sorted(paths)
    for n, slot in list_slots(model).items():
        array = slot.read()
        np.testing.assert_array_equal(array[:kept], before[n][:kept], err_msg=n)
        if rows > kept and "position" not in n and array.shape[:1] == (rows,):
            assert np.any(array[kept:]) == (not n.endswith("bias"))
    last = model(np.array([[rows - 1, 1]]))
    model.save_pretrained(tmp_path)
    loaded = CLASSES[name].from_pretrained(tmp_path)
    again = loaded(np.array([[rows - 1, 1]]))
    np.testing.assert_array_equal(last[0], again[0])
    model.compile("adam", "mse")
    with pytest.raises(RuntimeError, match="resize it before `compile`"):
        model.resize_token_embeddings(rows + 1)


def test_resizing_to_a_multiple(references):
    model = TFDistilBertModel.from_pretrained(references / "base")
    model.resize_token_embeddings(pad_to_multiple_of=8)
    assert model.config.vocab_size == 40
    before = model.get_input_embeddings().embeddings
    assert model.resize_token_embeddings(40).embeddings is before


def test_push_to_hub(references, monkeypatch):
    seen = {}

    class Hub:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repo_id, *, private, exist_ok):
            seen["repository"] = (repo_id, private, exist_ok)
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, *, folder_path, **options):
            seen["options"] = options
            seen["model"] = TFDistilBertModel.from_pretrained(folder_path)
            return SimpleNamespace(commit_url="https://hub/me/mine/commit/1")

    monkeypatch.setattr(pretrained, "HfApi", Hub)
    model = TFDistilBertModel.from_pretrained(references / "base")
    url = model.push_to_hub("mine", private=True, token="hf_x", commit_message="First")
    assert url == "https://hub/me/mine/commit/1"
    assert (seen["token"], seen["repository"]) == ("hf_x", ("mine", True, True))
    assert (seen["options"]["repo_id"], seen["options"]["commit_message"]) == ("me/mine", "First")
    assert_equals_recorded(seen["model"], references / "base")


# The projector of masked LM.


def add_projector(tensors: dict, offset: float = 0.0) -> None:
    tensors["vocab_projector.weight"] = tensors[f"distilbert.{WORDS}"] + np.float32(offset)


def test_explicit_copy_of_a_tied_projector(checkpoint):
    directory = checkpoint("masked_lm", add_projector)
    model = TFDistilBertForMaskedLM.from_pretrained(directory)
    assert_equals_recorded(model, directory)
    assert model.vocab_projector.kernel is None


def test_tied_projector_that_differs(checkpoint):
    directory = checkpoint("masked_lm", lambda tensors: add_projector(tensors, 0.5))
    with pytest.raises(CheckpointError, match=r"differs.*tie_word_embeddings=False"):
        TFDistilBertForMaskedLM.from_pretrained(directory)
    model = TFDistilBertForMaskedLM.from_pretrained(directory, tie_word_embeddings=False)
    tensors = load_file(directory / "model.safetensors")
    np.testing.assert_array_equal(model.vocab_projector.kernel, tensors["vocab_projector.weight"])
    assert not np.allclose(outputs(model, directory), recorded_outputs(directory), atol=0.1)
    TFDistilBertModel.from_pretrained(directory)  # has no use for it


def test_tied_checkpoint_that_holds_the_projector_only(checkpoint):
    def change(tensors):
        tensors["vocab_projector.weight"] = tensors.pop(f"distilbert.{WORDS}")

    directory = checkpoint("masked_lm", change)
    assert_equals_recorded(TFDistilBertForMaskedLM.from_pretrained(directory), directory)


def test_untied_model_needs_a_projector(checkpoint):
    directory = checkpoint("masked_lm_untied", drop("vocab_projector.weight"))
    with pytest.raises(CheckpointError, match=r"missing: vocab_projector\.weight \(35, 14\)"):
        TFDistilBertForMaskedLM.from_pretrained(directory)


# BERT. Its numbers are compared in test_model.py.


def test_bert_with_prefix_and_old_names(checkpoint):
    def change(tensors):
        tensors["embeddings.position_ids"] = np.arange(9)[None]
        named = {f"bert.{name}": array for name, array in tensors.items()}
        old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
        for new_name, old_name in old.items():
            named = {n.replace(new_name, old_name): array for n, array in named.items()}
        named["cls.seq_relationship.weight"] = np.ones((2, 8), "float32")
        named["cls.seq_relationship.bias"] = np.ones(2, "float32")
        return named

    directory = checkpoint("bert", change)
    assert_equals_recorded(TFDistilBertModel.from_pretrained(directory), directory)


def test_bert_saved_as_distilbert(references, tmp_path):
    source = references / "bert_masked_lm"
    TFDistilBertForMaskedLM.from_pretrained(source).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["model_type"] == "distilbert"
    assert fields["architectures"] == ["DistilBertForMaskedLM"]
    loaded = TFDistilBertForMaskedLM.from_pretrained(tmp_path)
    assert_equals_recorded(loaded, source)
    assert_encodes_as_recorded(TFDistilBertModel.from_pretrained(source), source)


def test_bert_classifier_is_refused_unless_its_head_is_left_out(checkpoint):
    def change(tensors):
        named = {f"bert.{name}": array for name, array in tensors.items()}
        head = {"classifier.weight": np.ones((2, 8)), "classifier.bias": np.ones(2)}
        return named | {name: array.astype("float32") for name, array in head.items()}

    directory = checkpoint("bert", change)
    with pytest.raises(CheckpointError, match=r"BERT classifier.*tanh pooler.*fresh_head=True"):
        TFDistilBertForSequenceClassification.from_pretrained(directory)
    model = TFDistilBertForSequenceClassification.from_pretrained(directory, fresh_head=True)
    assert_encodes_as_recorded(model.distilbert, directory)
    assert_equals_recorded(TFDistilBertModel.from_pretrained(directory), directory)


# What does not fit.


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (drop(Q_WEIGHT), [f"missing: {Q_WEIGHT} (12, 12), which TFDistilBertModel has"]),
        (
            put("transformer.layer.2.ffn.lin1.weight", np.zeros((2, 3), "float32")),
            ["extra: transformer.layer.2.ffn.lin1.weight (2, 3), which TFDistilBertModel does not"],
        ),
        (
            put("something.else", np.zeros((2, 3), "float32")),
            ["extra: something.else (2, 3), which TFDistilBertModel does not have"],
        ),
        (
            lambda tensors: tensors | {n: tensors[n].T.copy() for n in (LIN1_WEIGHT, WORDS)},
            [
                f"shape: {LIN1_WEIGHT} is (12, 20) in {{where}}, (20, 12) in TFDistilBertModel",
                f"shape: {WORDS} is (12, 37) in {{where}}, (37, 12) in TFDistilBertModel",
            ],
        ),
    ],
    ids=["missing", "one more layer", "extra", "misshapen"],
)
def test_tensors_that_do_not_fit_are_named_with_both_sides(change, messages, checkpoint):
    directory = checkpoint("base", change)
    where = f"{directory}/model.safetensors"
    with pytest.raises(CheckpointError) as error:
        TFDistilBertModel.from_pretrained(directory)
    for message in [f"{where} does not fit TFDistilBertModel:", *messages]:
        assert message.replace("{where}", where) in str(error.value)
    assert "fresh_head" not in str(error.value)


def test_configuration_of_another_size_is_refused(checkpoint):
    def fewer_layers(fields):
        fields["n_layers"] = 1

    directory = checkpoint("base", change_config=fewer_layers)
    with pytest.raises(CheckpointError, match=r"extra: transformer\.layer\.1\."):
        TFDistilBertModel.from_pretrained(directory)


def test_failed_load_leaves_the_model_as_it_was(references):
    model = TFDistilBertModel.from_pretrained(references / "base")
    before = model.get_weights()
    tensors = {name: array + 1 for name, array in export_tensors(model).items()}
    del tensors[Q_WEIGHT]
    with pytest.raises(CheckpointError):
        load_tensors(model, tensors)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_same_tensor_under_two_names(checkpoint):
    def equal(tensors):
        tensors[f"distilbert.{WORDS}"] = tensors[WORDS]

    directory = checkpoint("base", equal)
    assert_equals_recorded(TFDistilBertModel.from_pretrained(directory), directory)
    with pytest.raises(CheckpointError, match="twice in the checkpoint"):
        to_distilbert({"a.b": np.zeros(2), "distilbert.a.b": np.ones(2)}, "distilbert")
