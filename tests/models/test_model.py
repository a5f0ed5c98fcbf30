from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import assert_close, largest, roundings
from recorded import at_tokens, largest_differences, run
from transformers import BatchEncoding, DistilBertConfig

from distilbert_tf.models.embeddings import sinusoidal_positions
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import HeadOutput, TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

CASES = {
    "base": TFDistilBertModel,
    "base_sinusoidal": TFDistilBertModel,
    "bert": TFDistilBertModel,
    "classifier": TFDistilBertForSequenceClassification,
    "masked_lm": TFDistilBertForMaskedLM,
    "masked_lm_untied": TFDistilBertForMaskedLM,
    "bert_masked_lm": TFDistilBertForMaskedLM,
}
TRAINABLE = ["base", "classifier", "masked_lm", "masked_lm_untied"]


@pytest.fixture
def load(references: Path):
    return lambda name, **kwargs: CASES[name].from_pretrained(references / name, **kwargs)


@pytest.fixture
def recorded(references: Path):
    return lambda name: dict(np.load(references / name / "expected.npz"))


def inputs_of(arrays: dict, *, mask: bool = True) -> dict:
    names = ("input_ids", "attention_mask") if mask else ("input_ids",)
    return {name: arrays[name].astype("int32") for name in names}


def output_of(model: keras.Model, inputs) -> np.ndarray:
    output = model(inputs)
    return np.asarray(output if tf.is_tensor(output) else output.last_hidden_state)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_pytorchs(name, training, load, recorded):
    expected = recorded(name)
    config = load(name).config
    config.dropout = config.attention_dropout = config.seq_classif_dropout = 0.0
    model = load(name, config=config)
    differences = largest_differences(run(model, expected, training), expected, model)
    assert set(differences) >= {"loss", "hidden_states", "attentions"}
    assert ("gradient" in differences) == (not name.startswith("bert"))
    assert {kind: times for kind, times in differences.items() if times > 1} == {}


def test_demo_encoder_equals_pytorchs(demo, references):
    expected = np.load(references / "demo.npz")
    model = TFDistilBertModel.from_pretrained(demo)
    output = model(
        {name: expected[name] for name in ("input_ids", "attention_mask")},
        output_hidden_states=True,
    )
    count = roundings(model)
    assert_close(output.last_hidden_state[:, 0], expected["cls_rows"], count)
    for state, projected in zip(output.hidden_states, expected["projected"], strict=True):
        assert_close(state.numpy() @ expected["vector"], projected, count, size=largest(state))


@pytest.mark.parametrize("name", CASES)
def test_no_mask_means_that_every_token_counts(name, load, recorded):
    inputs = inputs_of(recorded(name), mask=False)
    ones = {"attention_mask": np.ones_like(inputs["input_ids"])}
    model = load(name)
    np.testing.assert_array_equal(output_of(model, inputs), output_of(model, inputs | ones))


@pytest.mark.parametrize("mask_dtype", ["bool", "int8", "int32", "int64", "float32"])
def test_tensor_dict_and_batch_encoding_give_the_same(mask_dtype, load, recorded):
    arrays = recorded("classifier")
    ids, mask = arrays["input_ids"], arrays["attention_mask"].astype(mask_dtype)
    model = load("classifier")
    expected = arrays["logits"]
    named = {"input_ids": ids, "attention_mask": mask}
    for inputs in (
        named,
        {name: tf.constant(array) for name, array in named.items()},
        BatchEncoding(named),
        BatchEncoding({name: tf.constant(array) for name, array in named.items()}),
    ):
        assert_close(model(inputs), expected, roundings(model))
    full = arrays["attention_mask"].all(axis=1)
    for inputs in (ids, tf.constant(ids), tf.constant(ids, "int32")):
        assert_close(model(inputs)[full], expected[full], roundings(model))


def test_hidden_states_and_attentions_come_only_when_asked_for(load, recorded):
    inputs = inputs_of(recorded("classifier"))
    model = load("classifier")
    assert tf.is_tensor(model(inputs))
    only_states = model(inputs, output_hidden_states=True)
    only_attentions = model(inputs, output_attentions=True)
    assert isinstance(only_states, HeadOutput)
    assert only_states.attentions == ()
    assert only_attentions.hidden_states == ()
    layers = model.config.n_layers
    assert [len(only_states.hidden_states), len(only_attentions.attentions)] == [layers + 1, layers]
    encoded = model.distilbert(inputs)
    assert encoded.hidden_states == ()
    assert encoded.attentions == ()
    counts = inputs["attention_mask"][:, :, np.newaxis]
    assert_close(
        encoded.last_hidden_state * counts,
        only_states.hidden_states[-1] * counts,
        roundings(model),
    )


@pytest.mark.parametrize("name", ["base", "classifier", "masked_lm"])
def test_what_stands_at_masked_positions_does_not_matter(name, load, recorded):
    inputs = inputs_of(recorded(name))
    counts = inputs["attention_mask"] != 0
    some = counts.any(axis=1)
    changed = np.where(counts, inputs["input_ids"], 5)
    assert np.any(changed[some] != inputs["input_ids"][some])
    model = load(name)
    before, after = output_of(model, inputs), output_of(model, inputs | {"input_ids": changed})
    if before.ndim == 3:
        assert_close(before[counts], after[counts], roundings(model))
    else:  # [CLS] counts in these rows
        assert_close(before[counts[:, 0]], after[counts[:, 0]], roundings(model))
    at_counted = np.where(counts, (inputs["input_ids"] + 1) % 20, inputs["input_ids"])
    assert not np.allclose(before, output_of(model, inputs | {"input_ids": at_counted}), atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_row_without_any_token_gives_no_nan(dtype, load, recorded):
    inputs = inputs_of(recorded("masked_lm"))
    assert not inputs["attention_mask"][4].any()
    model = load("masked_lm", dtype=dtype)
    for layer in model.distilbert.transformer.layer:  # scores of -30: below float16's last step
        dim = layer.attention.dim
        layer.attention.qkv_lin.bias.assign([10.0] * dim + [-10.0] * dim + [0.0] * dim)
    assert np.isfinite(model(inputs)).all()


@pytest.mark.parametrize("name", ["classifier", "masked_lm", "masked_lm_untied"])
def test_mixed_bfloat16_is_near_and_gives_float32_logits(name, load, recorded):
    expected = recorded(name)
    model = load(name, dtype="mixed_bfloat16")
    output = model(inputs_of(expected), output_hidden_states=True)
    assert output.logits.dtype == tf.float32
    assert output.hidden_states[-1].dtype == tf.bfloat16
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    error = np.abs(output.logits - expected["logits"])
    assert 1e-4 < error.max() < 0.05 * np.abs(expected["logits"]).max()


@pytest.mark.parametrize("name", ["base", "masked_lm"])
def test_embedding_gradient_is_float32_in_mixed_bfloat16(name, load, recorded):
    expected = recorded(name)
    results = run(load(name, dtype="mixed_bfloat16"), expected)
    gradient = results["gradient.embeddings.word_embeddings.weight"]
    assert gradient.dtype == np.float32
    assert np.abs(gradient).max() > 0


def functional(model: keras.Model) -> keras.Model:
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    mask = keras.Input((None,), dtype="int32", name="attention_mask")
    inputs = {"input_ids": ids, "attention_mask": mask}
    return keras.Model(inputs, model(inputs))


@pytest.mark.parametrize("name", ["classifier", "masked_lm"])
def test_functional_model_around_it_saved_and_loaded(name, load, recorded, tmp_path):
    expected = recorded(name)
    wrapped = functional(load(name))
    logits = wrapped.predict(inputs_of(expected), verbose=0)
    mask = expected["attention_mask"]
    assert_close(
        at_tokens(logits, mask),
        at_tokens(expected["logits"], mask),
        roundings(wrapped.layers[-1]),
    )
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.saving.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(loaded.predict(inputs_of(expected), verbose=0), logits)


def test_own_head_on_the_encoder_trains(load, recorded):
    keras.utils.set_random_seed(0)  # of the head and the dropout
    expected = recorded("bert")
    ids = keras.Input((None,), dtype="int32")
    score = keras.layers.Dense(1)(load("bert")(ids).last_hidden_state[:, 0])
    model = keras.Model(ids, score)
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    targets = np.linspace(-1, 1, len(expected["input_ids"]))[:, None]
    data = (expected["input_ids"], targets)
    before = model.evaluate(*data, verbose=0)  # without dropout, whose noise is as large
    model.fit(*data, epochs=40, verbose=0)
    assert model.evaluate(*data, verbose=0) < 0.5 * before


@pytest.mark.parametrize("name", ["base", "base_sinusoidal", "classifier", "masked_lm_untied"])
def test_keras_file_keeps_weights_configuration_and_policy(name, load, recorded, tmp_path):
    inputs = inputs_of(recorded(name))
    model = load(name, dtype="mixed_bfloat16")
    model(inputs, training=True)  # counts a step of dropout
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert loaded.config.to_dict() == model.config.to_dict()
    assert loaded.config.id2label == model.config.id2label
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    np.testing.assert_array_equal(output_of(model, inputs), output_of(loaded, inputs))


def tiny(cls: type, *, dtype: str = "float32", **fields) -> keras.Model:
    config = DistilBertConfig(
        vocab_size=11, dim=8, n_layers=1, n_heads=2, hidden_dim=6, max_position_embeddings=7,
        dropout=0.3, initializer_range=0.5, pad_token_id=3, num_labels=3, **fields,
    )  # fmt: skip
    return cls(config, dtype=dtype)


TINY_INPUTS = {
    "input_ids": np.arange(3, 31).reshape(4, 7).astype("int32") % 11,
    "attention_mask": np.tri(4, 7, 3, dtype="int32"),
}


def fit_one_step(model: keras.Model, **compile_options) -> dict[str, bool]:
    """Trains one step; tells of every weight, by the end of its path, whether it changed."""
    ids = TINY_INPUTS["input_ids"]
    targets = ids if hasattr(model, "vocab_projector") else ids[:, 1] % 3
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_options,
    )
    before = [np.array(variable) for variable in model.weights]
    losses = model.fit(TINY_INPUTS, targets, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    return {
        "/".join(variable.path.split("/")[-2:]): bool(np.any(old != np.array(variable)))
        for old, variable in zip(before, model.weights, strict=True)
    }


@pytest.mark.parametrize(
    ("cls", "options", "dtype", "compile_options"),
    [
        (TFDistilBertForSequenceClassification, {}, "float32", {}),  # with XLA, as Keras chooses
        (TFDistilBertForMaskedLM, {}, "mixed_bfloat16", {"jit_compile": False}),
        (TFDistilBertForMaskedLM, {"tie_word_embeddings": False}, "float32", {"run_eagerly": True}),
    ],
)
def test_one_step_of_fit_changes_every_weight(cls, options, dtype, compile_options):
    keras.utils.set_random_seed(0)
    changed = fit_one_step(tiny(cls, dtype=dtype, **options), **compile_options)
    assert [path for path, did in changed.items() if not did] == []
    assert "dropout/step" in changed


def test_fit_leaves_sinusoidal_positions_alone():
    keras.utils.set_random_seed(0)
    model = tiny(TFDistilBertForSequenceClassification, sinusoidal_pos_embds=True)
    changed = fit_one_step(model, run_eagerly=True)
    unchanged = [path for path, did in changed.items() if not did]
    assert unchanged == ["position_embeddings/embeddings"]
    positions = model.distilbert.embeddings.position_embeddings.embeddings
    np.testing.assert_array_equal(positions, sinusoidal_positions(7, 8))


@pytest.mark.parametrize("name", ["base", "classifier", "masked_lm"])
def test_wrong_inputs_are_named(name, load):
    model = load(name)
    ids = np.ones((2, 3), "int32")
    with pytest.raises(ValueError, match="Unknown input 'token_type_ids'.*has no token types"):
        model({"input_ids": ids, "token_type_ids": ids})
    with pytest.raises(ValueError, match="lack 'input_ids'"):
        model({"attention_mask": ids})
    with pytest.raises(TypeError, match="input_ids must be integers; got float32"):
        model(ids.astype("float32"))
    with pytest.raises(ValueError, match=r"shape \(rows, tokens\); got \(3,\)"):
        model(ids[0])
    with pytest.raises(ValueError, match=r"shape \(rows, tokens\); got \(1, 2, 3\)"):
        model(ids[None])
    with pytest.raises(ValueError, match=r"attention_mask \(2, 2\).*input_ids \(2, 3\)"):
        model({"input_ids": ids, "attention_mask": ids[:, :2]})


def test_a_row_longer_than_the_positions_is_refused(load):
    model = load("base")
    positions = model.config.max_position_embeddings
    ids = np.ones((2, positions + 1), "int32")
    assert output_of(model, ids[:, :positions]).shape == (2, positions, model.config.dim)
    with pytest.raises(ValueError, match=f"longer than the {positions} positions.*Its length is"):
        model(ids)
    dynamic = tf.function(
        lambda x: model(x)[0], input_signature=[tf.TensorSpec([None, None], tf.int32)]
    )
    assert dynamic(ids[:, :positions]).shape == (2, positions, model.config.dim)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"longer than the {positions}"):
        dynamic(ids)


def test_graph_with_unknown_shapes_gives_the_same(load, recorded):
    arrays = recorded("masked_lm")
    model = load("masked_lm")
    spec = tf.TensorSpec([None, None], tf.int32)
    graph = tf.function(lambda ids, mask: model({"input_ids": ids, "attention_mask": mask}))
    graph = graph.get_concrete_function(spec, spec)
    inputs = inputs_of(arrays)
    for rows, length in [(5, 7), (1, 7), (3, 1), (0, 4)]:
        ids, mask = (tf.constant(x[:rows, :length]) for x in inputs.values())
        expected = model({"input_ids": ids, "attention_mask": mask})
        assert_close(graph(ids, mask), expected, roundings(model))


def test_config_fields_reach_the_layers():
    config = DistilBertConfig(
        vocab_size=9, dim=8, n_layers=3, n_heads=2, hidden_dim=6, max_position_embeddings=5,
        dropout=0.11, attention_dropout=0.22, seq_classif_dropout=0.33, initializer_range=0.5,
        num_labels=4,
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    model = TFDistilBertForSequenceClassification(config)
    block = model.distilbert.transformer.layer[2]
    rates = [model.distilbert.embeddings.dropout.rate, block.ffn.dropout.rate]
    rates += [block.attention.dropout.rate, model.dropout.rate]
    assert rates == [0.11, 0.11, 0.22, 0.33]
    assert len(model.distilbert.transformer.layer) == 3
    assert np.std(block.attention.qkv_lin.kernel) == pytest.approx(0.5, rel=0.3)
    assert np.std(model.distilbert.embeddings.word_embeddings.embeddings) > 0.3
    assert model(np.ones((2, 5), "int32")).shape == (2, 4)


@pytest.mark.parametrize("tie", [True, False])
def test_tied_projector_has_no_weights_of_its_own(tie):
    config = DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=2, hidden_dim=6)
    config.tie_word_embeddings = tie
    model = TFDistilBertForMaskedLM(config)
    ids = np.array([[1, 2, 3]], "int32")
    before = model(ids).numpy()
    words = model.distilbert.embeddings.word_embeddings.embeddings
    new = np.array(words)
    new[7] += 1  # a word that the input does not hold
    words.assign(new)
    changed = np.any(model(ids).numpy() != before, axis=(0, 1))
    assert changed.tolist() == [tie and word == 7 for word in range(9)]
