import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, assert_close
from transformers import DistilBertConfig

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.training.optimizer import (
    NO_WEIGHT_DECAY,
    NOT_FINITE,
    AdamW,
    WarmupSchedule,
    create_optimizer,
    layer_rate_factors,
)

# Our updates take 1 - 0.999 in float32, whose last digits are then a thousand times as large
# against what is left; Keras in Python. That is the one thing in which they differ by more.
ONE_MINUS_BETA = 1000


def test_schedule_rises_then_falls_to_zero() -> None:
    schedule = WarmupSchedule(2.0, total_steps=10, warmup_steps=4)
    rates = [float(schedule(step)) for step in range(12)]
    expected = [0.5, 1.0, 1.5, 2.0, 2.0, 5 / 3, 4 / 3, 1.0, 2 / 3, 1 / 3, 0.0, 0.0]
    assert_close(rates, expected, FEW)


@pytest.mark.parametrize(
    ("kind", "falling"),
    [
        ("cosine", [1.0, 0.75, 0.25, 0.0, 0.0]),  # (1 + cos(n * pi / 3)) / 2
        ("constant_with_warmup", [1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_other_schedules_rise_alike(kind: str, falling: list[float]) -> None:
    schedule = WarmupSchedule(2.0, total_steps=5, warmup_steps=2, kind=kind)
    rates = [float(schedule(step)) for step in range(7)]
    assert_close(rates, [1.0, 2.0, *(2 * share for share in falling)], FEW)


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="one of linear, cosine, constant_with_warmup; got 'step'"):
        create_optimizer(1e-3, total_steps=5, lr_scheduler_type="step")


def test_schedule_without_warmup_starts_at_the_peak() -> None:
    assert float(WarmupSchedule(3.0, total_steps=6)(0)) == 3.0


def test_schedule_survives_keras_config() -> None:
    schedule = WarmupSchedule(1e-3, total_steps=7, warmup_steps=2)
    again = WarmupSchedule.from_config(schedule.get_config())
    assert [float(again(i)) for i in range(7)] == [float(schedule(i)) for i in range(7)]


@pytest.mark.parametrize(("warmup", "total"), [(-1, 5), (5, 5), (0, 0)])
def test_impossible_schedules_are_refused(warmup: int, total: int) -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmupSchedule(1.0, total, warmup)


@pytest.mark.parametrize(
    ("steps", "kind", "is_said"),
    [(4, "linear", False), (5, "linear", True), (5, "cosine", True),
     (5, "constant_with_warmup", False)],
)  # fmt: skip
def test_steps_without_a_rate_are_said(steps: int, kind: str, is_said: bool, caplog) -> None:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(create_optimizer(0.1, total_steps=4, lr_scheduler_type=kind), "mse")
    model.fit(np.ones((steps, 1)), np.zeros((steps, 1)), batch_size=1, verbose=0)
    said = "5 steps were taken, but the learning rate is 0 after 4, the total_steps" in caplog.text
    assert said == is_said


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        create_optimizer(1e-3, total_steps=0)


def variables() -> list[keras.Variable]:
    names = ("out_lin/kernel", "out_lin/bias", "LayerNorm/gamma", "sa_layer_norm/gamma")
    made = []
    for i, path in enumerate(names):
        layer, name = path.split("/")
        with keras.name_scope(layer):
            made.append(keras.Variable(np.array([1.0, -2.0], "float32") * (i + 1), name=name))
    return made


def weights_of_two(n_layers: int) -> list[keras.Variable]:
    """Makes a classifier; returns its weights, all of which are 2."""
    config = DistilBertConfig(vocab_size=7, dim=4, n_layers=n_layers, n_heads=1, hidden_dim=4)
    weights = TFDistilBertForSequenceClassification(config).trainable_variables
    for weight in weights:
        weight.assign(np.full(weight.shape, 2.0))
    return weights


def test_only_kernels_decay() -> None:
    """With zero gradients AdamW moves a weight by its decay alone: -rate * decay * weight."""
    weights = variables()
    before = [weight.numpy() for weight in weights]
    optimizer = create_optimizer(0.1, total_steps=10, warmup_ratio=0.0, weight_decay=0.5)
    optimizer.apply([tf.zeros_like(weight) for weight in before], weights)
    assert_close(weights[0].numpy(), before[0] * (1 - 0.1 * 0.5), FEW)
    for weight, old in zip(weights[1:], before[1:], strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


def test_what_decays_in_a_real_model() -> None:
    """The exclusion goes by the names that Keras gives to variables."""
    weights = weights_of_two(n_layers=1)
    optimizer = create_optimizer(0.1, total_steps=10, warmup_ratio=0.0, weight_decay=0.5)
    optimizer.apply([tf.zeros(weight.shape) for weight in weights], weights)
    moved = {weight.path for weight in weights if not np.all(weight.numpy() == 2.0)}
    assert moved == {
        weight.path for weight in weights if weight.path.endswith(("/kernel", "/embeddings"))
    }
    assert len(moved) == 2 + 4 + 2


def test_lower_layers_learn_at_lower_rates() -> None:
    """Adam's first step is the rate, whatever the gradient; decay is scaled alike."""
    weights = weights_of_two(n_layers=2)
    optimizer = create_optimizer(
        0.1, total_steps=10, warmup_ratio=0.0, weight_decay=0.5, max_gradient_norm=None,
        rate_factors=layer_rate_factors(0.5, n_layers=2),
    )  # fmt: skip
    optimizer.apply([tf.ones(weight.shape) for weight in weights], weights)
    factors = {"embeddings/": 0.125, "layer_0/": 0.25, "layer_1/": 0.5, "classifier/": 1.0}
    seen = set()
    for weight in weights:
        (part,) = (part for part in factors if part in weight.path)
        rate = 0.1 * factors[part]
        decays = weight.path.endswith(("/kernel", "/embeddings"))
        expected = 2.0 * (1 - 0.5 * rate * decays) - rate
        assert_close(weight.numpy(), np.full(weight.shape, expected), ONE_MINUS_BETA)
        seen.add(part)
    assert seen == set(factors)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.rate_factors == optimizer.rate_factors


def test_gradients_are_clipped_by_their_global_norm() -> None:
    """Adam's second moment after one step is (1 - 0.999) * gradient ** 2."""
    weights = variables()[:2]
    optimizer = create_optimizer(0.1, total_steps=10)
    optimizer.apply([tf.constant([30.0, 0.0]), tf.constant([0.0, 40.0])], weights)
    moments = [v.numpy() for v in optimizer.variables if "velocity" in v.path]
    assert_close(moments[0], [0.001 * 0.6**2, 0], ONE_MINUS_BETA)
    assert_close(moments[1], [0, 0.001 * 0.8**2], ONE_MINUS_BETA)


def train_both(
    make_options: dict, jit_compile: bool, gradients: list[list[np.ndarray]]
) -> list[list[np.ndarray]]:
    """Applies the same gradients with this AdamW and with Keras' own."""
    results = []
    for cls in (AdamW, keras.optimizers.AdamW):
        weights = variables()
        own = {"jit_compile": jit_compile} if cls is AdamW else {}
        optimizer = cls(WarmupSchedule(0.05, total_steps=9, warmup_steps=3), **make_options, **own)
        optimizer.exclude_from_weight_decay(var_names=list(NO_WEIGHT_DECAY))
        apply = tf.function(lambda *step: optimizer.apply(step, weights))  # noqa: B023
        for step in gradients:
            apply(*map(tf.constant, step))
        results.append([np.array(v) for v in [*weights, *optimizer.variables]])
    return results


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1, "global_clipnorm": 1.0},
        {"weight_decay": 0.1, "epsilon": 1e-2, "beta_1": 0.5, "beta_2": 0.7},
        {"weight_decay": 0.0, "clipnorm": 0.5},
        {"weight_decay": 0.1, "amsgrad": True, "clipvalue": 0.3},
        {"weight_decay": 0.1, "gradient_accumulation_steps": 2, "global_clipnorm": 1.0},
        {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.5},
    ],
    ids=lambda options: ", ".join(options),
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_are_those_of_keras_adamw(jit_compile: bool, options: dict) -> None:
    random = np.random.default_rng(0)
    scales = [1e-3, 1.0, 30.0, 0.0, 1.0, 1.0]
    gradients = [
        [scale * random.standard_normal(2).astype("float32") for _ in range(4)] for scale in scales
    ]
    ours, theirs = train_both(options, jit_compile, gradients)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, ONE_MINUS_BETA)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_slices_of_one_row_are_added_up(jit_compile: bool) -> None:
    """Two slices of 0.5 count as one of 1, in the norm, here 2, and in the second moment, too."""
    weight = keras.Variable(np.ones((4, 2), "float32"))
    values = tf.constant([[1.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    gradient = tf.IndexedSlices(values, tf.constant([1, 3, 3]), tf.constant([4, 2]))
    optimizer = AdamW(0.1, weight_decay=0.0, global_clipnorm=0.5, jit_compile=jit_compile)
    optimizer.apply([gradient], [weight])
    assert_close(weight.numpy(), [[1, 1], [0.9, 0.9], [1, 1], [0.9, 0.9]], ONE_MINUS_BETA)
    (second,) = (v.numpy() for v in optimizer.variables if "velocity" in v.path)
    assert_close(second, np.array([[0, 0], [1, 1]] * 2) * 0.001 * 0.25**2, ONE_MINUS_BETA)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_weights_of_any_type_take_steps(dtype: str, amsgrad: bool, jit_compile: bool) -> None:
    """Gradients of 1 take steps of the rate; in bfloat16, 0.999 would be 1."""
    weight = keras.Variable(np.ones(2), dtype=dtype)
    optimizer = AdamW(
        0.125, weight_decay=0.0, epsilon=0.0, amsgrad=amsgrad, jit_compile=jit_compile
    )
    apply = tf.function(lambda: optimizer.apply([tf.ones(2, dtype)], [weight]))
    for _ in range(3):
        apply()
    expected = np.full(2, 1 - 3 * 0.125, weight.numpy().dtype)
    count = ONE_MINUS_BETA if dtype == "float64" else FEW  # smaller types compute in float32
    assert_close(weight.numpy(), expected, count, size=1.0, dtype=dtype)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_decay_smaller_than_the_rounding_of_one_is_not_lost(jit_compile: bool) -> None:
    old = np.random.default_rng(0).normal(0, 0.02, 100_000).astype("float32")
    weight = keras.Variable(old)
    AdamW(2e-5, weight_decay=0.01, jit_compile=jit_compile).apply([np.zeros_like(old)], [weight])
    change = (old - weight.numpy()).astype("float64")
    # Each number is rounded to half a percent of itself here; they are not all rounded one way.
    assert np.abs(change).sum() == pytest.approx(2e-7 * np.abs(old).sum(), rel=0.05)


def test_the_optimizer_survives_keras_config() -> None:
    optimizer = create_optimizer(1e-3, total_steps=7)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is AdamW
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("in_graph", [False, True])
def test_gradients_that_are_not_finite_change_nothing(bad: float, in_graph: bool) -> None:
    """Two numbers of 3e38 are finite, but their norm is not."""
    weights = variables()
    optimizer = create_optimizer(0.1, total_steps=10, warmup_ratio=0.0, weight_decay=0.5)
    apply = tf.function(lambda *step: optimizer.apply(step, weights))
    if not in_graph:
        tf.config.run_functions_eagerly(True)
    try:
        apply(*[tf.constant([0.1, -0.2])] * 4)
        before = [np.array(v) for v in [*weights, *optimizer.variables]]
        with pytest.raises(tf.errors.InvalidArgumentError, match=NOT_FINITE):
            apply(*[tf.constant([0.1, -0.2])] * 3, tf.constant([bad, bad]))
    finally:
        tf.config.run_functions_eagerly(False)
    for variable, old in zip([*weights, *optimizer.variables], before, strict=True):
        if variable is not optimizer.iterations:
            np.testing.assert_array_equal(np.array(variable), old, err_msg=variable.path)
