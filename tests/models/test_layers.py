import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import EPS, FEW, assert_close, largest
from safetensors.numpy import load_file
from transformers import DistilBertConfig

from distilbert_tf.models.attention import MultiHeadSelfAttention
from distilbert_tf.models.embeddings import (
    Embedding,
    gather_with_dense_gradient,
    sinusoidal_positions,
)
from distilbert_tf.models.layers import LAYER_NORM_EPSILON, Dropout, LayerNorm

ONES = np.ones((300, 200), "float32")


def built_dropout(rate: float, seed: int | None = None) -> Dropout:
    layer = Dropout(rate, seed)
    layer.build()
    return layer


def test_dropout_drops_its_rate_and_scales_the_rest():
    dropped = built_dropout(0.1, seed=1)(ONES, training=True).numpy()
    assert np.mean(dropped == 0) == pytest.approx(0.1, abs=0.005)
    kept = dropped[dropped != 0]
    assert_close(kept, np.full_like(kept, 1 / 0.9), FEW)
    # Independent elements: rows and columns differ in what they drop.
    assert np.mean(dropped == 0, axis=0).std() == pytest.approx((0.09 / 300) ** 0.5, rel=0.25)
    assert np.mean(dropped == 0, axis=1).std() == pytest.approx((0.09 / 200) ** 0.5, rel=0.25)


def test_dropout_acts_in_training_only():
    layer = built_dropout(0.5, seed=1)
    np.testing.assert_array_equal(layer(ONES, training=False), ONES)
    np.testing.assert_array_equal(layer(ONES), ONES)
    np.testing.assert_array_equal(built_dropout(0.0)(ONES, training=True), ONES)


def test_dropout_draws_another_mask_on_each_step():
    layer = built_dropout(0.1, seed=1)
    step = tf.function(lambda: layer(ONES, training=True) == 0)
    first, second = step().numpy(), step().numpy()
    # Independent masks agree where both keep (0.81) or both drop (0.01).
    assert np.mean(first == second) == pytest.approx(0.82, abs=0.01)


def test_dropout_repeats_after_set_random_seed():
    def mask(seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        return built_dropout(0.1)(ONES, training=True).numpy()

    np.testing.assert_array_equal(mask(3), mask(3))
    assert np.mean(mask(3) != mask(4)) > 0.1


def test_two_dropouts_of_one_model_draw_different_masks():
    keras.utils.set_random_seed(0)
    first, second = built_dropout(0.1), built_dropout(0.1)
    assert np.any(first(ONES, training=True).numpy() != second(ONES, training=True).numpy())


def test_dropout_continues_where_saved_weights_left_off():
    layer = built_dropout(0.1, seed=5)
    for _ in range(3):
        layer(ONES, training=True)
    resumed = built_dropout(0.1, seed=5)
    resumed.set_weights(layer.get_weights())
    assert [int(weight) for weight in layer.get_weights()] == [3]
    np.testing.assert_array_equal(layer(ONES, training=True), resumed(ONES, training=True))


def test_replicas_draw_different_masks(monkeypatch):
    class Context:
        replica_id_in_sync_group = 1

    first = built_dropout(0.1, seed=5)(ONES, training=True).numpy()
    second_layer = built_dropout(0.1, seed=5)
    monkeypatch.setattr(tf.distribute, "get_replica_context", Context)
    second = second_layer(ONES, training=True).numpy()
    assert np.mean((first == 0) == (second == 0)) == pytest.approx(0.82, abs=0.01)


@pytest.mark.parametrize("rate", [1.0, -0.1, 10])
def test_dropout_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Dropout(rate)


@pytest.mark.parametrize("rows", [0, 1, 300])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
def test_layer_norm_is_the_definition(policy, fused, rows):
    random = np.random.default_rng(rows)
    layer = LayerNorm(dtype=policy)
    layer.build((None, 48))
    for weight in layer.weights:
        assert weight.dtype == "float32"
        weight.assign(random.normal(1, 0.5, 48))
    sizes = 10.0 ** random.integers(-3, 3, (rows, 1))
    x = tf.cast(random.normal(0.3, 1.0, (rows, 48)) * sizes, policy)
    call = tf.function(
        lambda x: layer(x, fused=fused), input_signature=[tf.TensorSpec([None, 48], policy)]
    )
    exact = x.numpy().astype("float64")
    exact -= exact.mean(axis=1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
    exact = exact * layer.gamma.numpy().astype("float64") + layer.beta.numpy()
    found = call(x)
    assert found.dtype == policy
    bound = FEW * EPS if policy == "float32" else 2.0**-8  # rounded once, at the end
    assert np.abs(found.numpy() - exact).max(initial=0.0) <= bound * largest(exact)


def test_dim_must_be_a_multiple_of_heads():
    config = DistilBertConfig(dim=10, n_heads=2)
    config.n_heads = 3
    with pytest.raises(ValueError, match=r"dim \(10\).*multiple.*n_heads \(3\)"):
        MultiHeadSelfAttention(config)


TABLE = np.arange(12, dtype="float32").reshape(4, 3)
IDS = np.array([[1, 3, 1], [3, 3, 0]])


def test_gather_has_a_dense_gradient_with_repeated_rows_summed():
    table = tf.Variable(TABLE)
    upstream = np.random.default_rng(0).standard_normal((2, 3, 3)).astype("float32")
    with tf.GradientTape() as tape:
        rows = gather_with_dense_gradient(tf.convert_to_tensor(table), IDS)
        loss = tf.reduce_sum(rows * upstream)
    gradient = tape.gradient(loss, table)
    np.testing.assert_array_equal(rows, TABLE[IDS])
    assert isinstance(gradient, tf.Tensor)  # and no IndexedSlices
    one_hot = np.eye(4, dtype="float32")[IDS]
    assert_close(gradient, np.einsum("btv,btd->vd", one_hot, upstream), FEW)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_padding_row_is_looked_up_but_not_trained(dtype):
    layer = Embedding(4, 3, padding_id=3)
    layer.build()
    layer.set_weights([TABLE])
    with tf.GradientTape() as tape:
        rows = layer(tf.constant(IDS, dtype))
    gradient = tape.gradient(rows, layer.embeddings.value)
    np.testing.assert_array_equal(rows, TABLE[IDS])
    np.testing.assert_array_equal(gradient, [[1] * 3, [2] * 3, [0] * 3, [0] * 3])


def adamw_steps_in_numpy(table, ids, targets, *, steps, rate, decay):
    """AdamW (Loshchilov and Hutter, algorithm 2) on the sum of squared differences."""
    table = table.astype("float64")
    mean, square = np.zeros_like(table), np.zeros_like(table)
    for step in range(1, steps + 1):
        gradient = np.zeros_like(table)
        np.add.at(gradient, ids, 2 * (table[ids] - targets))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        table = table * (1 - rate * decay)
        corrected = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        table = table - rate * (mean / (1 - 0.9**step)) / corrected
    return table


def test_gradient_of_a_frequent_word_is_summed_in_float32():
    table = tf.Variable(tf.ones([3, 2], tf.bfloat16))
    ids = tf.constant([[1] * 1024 + [2]])
    with tf.GradientTape() as tape:
        rows = gather_with_dense_gradient(tf.convert_to_tensor(table), ids)
        loss = tf.reduce_sum(tf.cast(rows, tf.float32))
    gradient = tf.cast(tape.gradient(loss, table), tf.float32)
    np.testing.assert_array_equal(gradient, [[0, 0], [1024, 1024], [1, 1]])


@pytest.mark.parametrize(
    ("layer_class", "is_exact"), [(Embedding, True), (keras.layers.Embedding, False)]
)
def test_adamw_sums_repeated_words_before_it_squares(layer_class, is_exact):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((6, 4)).astype("float32")
    ids = np.array([[0, 2, 2, 2], [5, 2, 0, 4]])
    targets = rng.standard_normal((2, 4, 4)).astype("float32")
    layer = layer_class(6, 4)
    layer.build()
    layer.set_weights([table])
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-8)
    for _ in range(8):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(ids) - targets))
        optimizer.apply([tape.gradient(loss, layer.embeddings.value)], [layer.embeddings])
    expected = adamw_steps_in_numpy(table, ids, targets, steps=8, rate=0.01, decay=0.1)
    error = largest(layer.get_weights()[0] - expected) / (FEW * EPS * largest(expected))
    # Stock Keras squares the IndexedSlices one by one; if it ever stops, Embedding can go.
    assert error < 1 if is_exact else error > 20


def test_sinusoidal_positions_equal_pytorchs(references):
    recorded = load_file(references / "base_sinusoidal/model.safetensors")
    positions = recorded["embeddings.position_embeddings.weight"]
    assert_close(sinusoidal_positions(*positions.shape), positions, FEW)
