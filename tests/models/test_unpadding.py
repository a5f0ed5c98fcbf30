"""Unpadding: computing true tokens only equals computing every position."""

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, WITH_GRADIENTS, assert_close, largest, roundings
from hypothesis import given, settings
from transformers import DistilBertConfig

from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.unpadding import LENGTH_GROUPS, UnpaddedLayout, Unpadding

CONFIG = DistilBertConfig(
    vocab_size=31, dim=24, n_layers=3, n_heads=3, hidden_dim=40, max_position_embeddings=40,
    num_labels=3, initializer_range=0.3,
)  # fmt: skip
HEADS = [TFDistilBertModel, TFDistilBertForSequenceClassification, TFDistilBertForMaskedLM]
WIDTH = 17


@pytest.fixture(scope="module", params=HEADS, ids=lambda cls: cls.__name__)
def model(request) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = request.param(CONFIG, dtype="float64")  # and so within tiny bounds
    for weight in model.weights:
        if weight.dtype == "float64":  # fresh biases are 0 and LayerNorms 1
            weight.assign(weight + 0.1 * keras.random.normal(weight.shape))
    return model


def mask_of(*lengths: int) -> np.ndarray:
    return (np.arange(WIDTH) < np.array(lengths)[:, np.newaxis]).astype("int32")


@st.composite
def masks(draw) -> np.ndarray:
    """Rows of every kind: full, short, padded left, with holes, empty; one long among short."""
    kinds = draw(st.lists(st.sampled_from("full short left holes empty".split()), max_size=9))
    rows = []
    for kind in kinds:
        length = draw(st.integers(1, WIDTH))
        row = np.arange(WIDTH) < length
        if kind == "left":
            row = row[::-1]
        elif kind == "holes":
            row = np.array(draw(st.lists(st.booleans(), min_size=WIDTH, max_size=WIDTH)))
        rows.append({"full": np.ones(WIDTH, bool), "empty": np.zeros(WIDTH, bool)}.get(kind, row))
    return np.array(rows, "int32").reshape(-1, WIDTH)


def inputs_for(mask: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(mask.sum())
    ids = random.integers(0, CONFIG.vocab_size, mask.shape, "int32")
    return {"input_ids": ids, "attention_mask": mask}


def run(model: keras.Model, mask: np.ndarray, *, skip_padding: bool) -> tuple[np.ndarray, dict]:
    """Returns outputs, and gradients of a sum that weighs every true output differently."""
    with tf.GradientTape() as tape:
        output = model(inputs_for(mask), skip_padding=skip_padding)
        output = output if tf.is_tensor(output) else output.last_hidden_state
        weights = np.random.default_rng(7).standard_normal(output.shape)
        if output.shape.rank == 3:
            weights *= mask[:, :, np.newaxis]
        loss = tf.reduce_sum(tf.cast(output, "float64") * weights)
    variables = model.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    return output.numpy(), {
        variable.path: gradient.numpy()
        for variable, gradient in zip(variables, gradients, strict=True)
        if gradient is not None
    }


def assert_same(model: keras.Model, mask: np.ndarray) -> None:
    output, gradients = run(model, mask, skip_padding=True)
    expected, expected_gradients = run(model, mask, skip_padding=False)
    if output.ndim == 3:
        computed = mask.astype(bool) | ~mask.any(axis=1, keepdims=True)
        computed[:, 0] = True
        assert (output[~computed] == 0).all()
        output, expected = output[mask != 0], expected[mask != 0]
    # Heads round to float32 in the end, under any policy.
    count = roundings(CONFIG) if output.dtype == np.float64 else FEW
    assert_close(output, expected, count, dtype=output.dtype.name)
    assert gradients.keys() == expected_gradients.keys()
    count = roundings(CONFIG, WITH_GRADIENTS)
    size = max(map(largest, expected_gradients.values()), default=0.0)
    for path, gradient in expected_gradients.items():
        assert_close(gradients[path], gradient, count, size=size, dtype="float64", err_msg=path)


@settings(max_examples=25, deadline=None)
@given(mask=masks())
def test_outputs_and_gradients_for_any_mask(model, mask):
    assert_same(model, mask)


def test_one_long_row_among_short_ones(model):
    assert_same(model, mask_of(2, 1, WIDTH, 3, 8, 4, 1))


ARRANGEMENTS = [
    Unpadding(length_groups=1),
    Unpadding(length_groups=2),
    Unpadding(length_groups=5),
    Unpadding(token_multiple=32),
    Unpadding(length_multiple=16),
    Unpadding(least_tokens=50),
    Unpadding(length_groups=1, token_multiple=7, length_multiple=3),
]


@pytest.mark.parametrize("unpadding", ARRANGEMENTS)
def test_any_arrangement(unpadding):
    keras.utils.set_random_seed(1)
    model = TFDistilBertModel(CONFIG)
    inputs = inputs_for(mask_of(1, 16, 7, 3, 9, 2))
    for first_token_only in (False, True):
        expected = model(inputs, first_token_only=first_token_only).last_hidden_state
        actual = model(
            inputs, first_token_only=first_token_only, unpadding=unpadding
        ).last_hidden_state
        assert np.ptp(expected[:, 0], axis=0).min() > 0.1
        assert_close(actual, expected, roundings(CONFIG))


def test_numbers_are_rounded_up():
    def count(mask, **options):
        return len(UnpaddedLayout(mask, Unpadding(**options)).positions)

    mask, empty = mask_of(1, 16, 7, 3, 9, 2), np.zeros((0, 5), "int32")  # 38 tokens and none
    assert count(mask) == 38
    assert count(mask, least_tokens=8) == 38
    assert count(mask, least_tokens=50) == 50
    assert count(mask, token_multiple=32) == 64
    assert count(mask, token_multiple=19) == 38
    assert count(empty, least_tokens=8, token_multiple=32) == 0
    groups = UnpaddedLayout(mask, Unpadding(length_groups=2, length_multiple=16)).groups
    assert [group.mask.shape[-1] for group in groups] == [16, 16]


@pytest.mark.parametrize("options", [{"least_tokens": 32}, {"token_multiple": 32}])
def test_copies_have_no_gradient(options):
    model = TFDistilBertModel(CONFIG)
    with tf.GradientTape() as tape:
        encoded = model(inputs_for(mask_of(3, 9)), unpadding=Unpadding(**options))
    with pytest.raises(ValueError, match="token_multiple"):
        tape.gradient(encoded.last_hidden_state, model.trainable_variables)


def test_float32_agrees_too():
    keras.utils.set_random_seed(2)
    config = DistilBertConfig(vocab_size=97, dim=192, n_layers=6, n_heads=12, hidden_dim=768)
    model = TFDistilBertForSequenceClassification(config)
    random = np.random.default_rng(3)
    for _ in range(5):
        mask = (random.random((6, 60)) < random.random((6, 1))).astype("int32")
        inputs = {"input_ids": random.integers(0, 97, mask.shape), "attention_mask": mask}
        assert_close(model(inputs), model(inputs, skip_padding=False), roundings(model))


def test_tokens_are_counted_and_placed():
    mask = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], "int32")
    layout = UnpaddedLayout(mask)
    # The first token of each row is computed, masked or not, and an empty row as it is.
    assert layout.positions.numpy().tolist() == [0, 1, 0, 1, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    numbered = np.arange(16).reshape(4, 4)
    tokens = layout.flatten(tf.constant(numbered)).numpy()
    assert tokens.tolist() == [0, 1, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    padded = layout.pad(tf.constant(tokens[:, np.newaxis])).numpy()[:, :, 0]
    kept = np.isin(numbered, tokens)
    np.testing.assert_array_equal(padded, np.where(kept, numbered, 0))
    firsts = layout.first_tokens(tf.constant(tokens[:, np.newaxis]))
    assert firsts.numpy()[:, 0].tolist() == [0, 4, 8, 12]


def test_a_long_row_does_not_widen_the_others():
    lengths = [3, 100, 4, 60, 5, 30, 26, 25]
    mask = np.arange(100) < np.array(lengths)[:, np.newaxis]
    layout = UnpaddedLayout(mask)
    rows = {tuple(group.rows.numpy()): group.mask.shape[-1] for group in layout.groups}
    assert rows == {(1, 3): 100, (5, 6): 30, (0, 2, 4, 7): 25}
    (rectangle,) = UnpaddedLayout(mask, Unpadding(length_groups=1)).groups
    assert rectangle.mask.shape == (8, 1, 1, 100)


def test_first_token_alone_is_the_first_of_all():
    keras.utils.set_random_seed(0)
    model = TFDistilBertModel(CONFIG)
    inputs = inputs_for(mask_of(3, 17, 9, 1))
    for skip_padding in (True, False):
        whole = model(inputs, skip_padding=skip_padding).last_hidden_state
        alone = model(inputs, skip_padding=skip_padding, first_token_only=True).last_hidden_state
        assert_close(alone, whole[:, :1], roundings(model))


def test_the_padded_path_is_what_xla_compiles():
    keras.utils.set_random_seed(0)
    model = TFDistilBertForSequenceClassification(CONFIG, skip_padding=False)
    inputs = inputs_for(mask_of(3, 17, 9, 1))
    compiled = tf.function(lambda inputs: model(inputs), jit_compile=True)
    assert_close(compiled(inputs), model(inputs), roundings(model))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), jit_compile=True)
    assert model.jit_compile
    history = model.fit(inputs, np.array([0, 1, 2, 1]), epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_keras_does_not_use_xla_where_padding_is_skipped():
    model = TFDistilBertForSequenceClassification(CONFIG)
    assert model.skip_padding
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("adam", "mse", jit_compile=True)
    assert not model.jit_compile


def test_the_choice_is_kept_in_a_keras_file(tmp_path):
    model = TFDistilBertForSequenceClassification(CONFIG, skip_padding=False)
    model.save(tmp_path / "padded.keras")
    loaded = keras.saving.load_model(tmp_path / "padded.keras")
    assert not loaded.skip_padding
    assert loaded.supports_jit


def test_dropout_falls_on_true_tokens_alone_and_differs_by_step():
    keras.utils.set_random_seed(0)
    model = TFDistilBertForSequenceClassification(CONFIG)
    inputs = inputs_for(mask_of(3, 17))
    first, second = (model(inputs, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    assert int(model.distilbert.embeddings.dropout.step) == 2
    attention = model.distilbert.transformer.layer[0].attention
    assert int(attention.dropout.step) == 2 * LENGTH_GROUPS


class TestMaskPositions:
    @pytest.fixture
    def model(self) -> TFDistilBertForMaskedLM:
        keras.utils.set_random_seed(0)
        return TFDistilBertForMaskedLM(CONFIG)

    @pytest.mark.parametrize("skip_padding", [True, False])
    def test_logits_are_those_of_the_positions(self, model, skip_padding):
        inputs = inputs_for(mask_of(3, 17, 9))
        positions = np.array([[1, 2], [16, 0], [4, 4]])
        everywhere = model(inputs).numpy()
        logits = model({**inputs, "mask_positions": positions}, skip_padding=skip_padding)
        assert logits.shape == (3, 2, CONFIG.vocab_size)
        expected = np.take_along_axis(everywhere, positions[:, :, np.newaxis], axis=1)
        assert_close(logits, expected, roundings(model))

    def test_it_trains(self, model):
        inputs = inputs_for(np.ones((4, WIDTH), "int32"))
        positions = np.array([[1, 5], [2, 2], [3, 9], [4, 16]])
        words = np.take_along_axis(inputs["input_ids"], positions, axis=1)
        masked = np.where(np.arange(WIDTH) % 5 == 1, 3, inputs["input_ids"])
        inputs |= {"input_ids": masked, "mask_positions": positions}
        weights = np.array([[1, 1], [1, 0], [1, 1], [1, 1]], "float32")
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses = model.fit(inputs, words, sample_weight=weights, epochs=12, verbose=0)
        assert losses.history["loss"][-1] < 0.8 * losses.history["loss"][0]

    @pytest.mark.parametrize("positions", [np.array([1, 2]), np.array([[1.0]])])
    def test_wrong_positions_are_named(self, model, positions):
        with pytest.raises(ValueError, match=r"mask_positions must be integers of shape \(rows, p"):
            model({"input_ids": np.ones((1, 3), "int32"), "mask_positions": positions})
