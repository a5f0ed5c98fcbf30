"""Weight quantization: the values that come back, by every loader, and the size on disk.

Shapes: R rows, C columns.
"""

import contextlib
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.sample_sentences import SENTENCES
from distilbert_serving.saved_model.exporter import EXPORT_RECORD, export_saved_model
from distilbert_serving.saved_model.weight_quantization import (
    WEIGHTS,
    fake_quantize,
    fake_quantized,
    saved_quantized,
)
from distilbert_serving.tf_serving.warmup import EXTRA_ASSETS
from exporting import TINY_MAX_LENGTH, make_tiny_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

SMALLER = [weights for weights in WEIGHTS if weights != "fp32"]
FLOAT32 = np.finfo(np.float32)
SHAPE = (70, 64)  # the smallest that is quantized has 4096 elements
OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)

matrices = arrays.arrays(
    np.float32,
    SHAPE,
    elements=st.floats(-65504, 65504, width=32, allow_subnormal=True),
    fill=st.floats(-1, 1, width=32),
)


def random_matrix(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(matrices)
@example(np.full(SHAPE, 65504, np.float32))
@example(np.full(SHAPE, FLOAT32.tiny, np.float32))
@example(np.full(SHAPE, FLOAT32.smallest_subnormal, np.float32))
@example(np.full(SHAPE, -6e-8, np.float32))  # the smallest float16 is 6e-8
def test_fp16_rounds_to_nearest(array):
    np.testing.assert_array_equal(fake_quantize(array, "fp16"), array.astype(np.float16))


@settings(max_examples=60, deadline=None)
@given(matrices, st.floats(-126, 111))
@example(random_matrix(), 0.0)
@example(np.zeros(SHAPE, np.float32), 0.0)
@example(np.ones(SHAPE, np.float32), -149.0)
@example(np.ones(SHAPE, np.float32), 127.0)
def test_int8_is_within_half_a_step(array, exponent):
    array = array * np.float32(2.0**exponent)  # (R, C)
    result = fake_quantize(array, "int8")
    assert result.dtype == np.float32
    maxima = [np.abs(array).max(axis=axis, keepdims=True) for axis in (0, 1)]
    # Half a step, and what rounding the scale to 8 bits adds: half of 1/256.
    worst = [
        np.abs(result - array.astype(float)) - each.astype(float) / 127 / 2 * 1.004
        for each in maxima
    ]
    assert min(each.max() for each in worst) <= 2.0**-100  # smaller rows become zeros
    assert np.isfinite(result).all()
    np.testing.assert_array_equal(fake_quantize(result, "int8"), result)


def test_int8_values_are_exact_products():
    """A product with more than 24 bits could come back otherwise on another machine."""
    array = random_matrix()
    result = fake_quantize(array, "int8").astype(float)
    scales = []
    for row in result:
        steps = np.unique(np.abs(row[row != 0]))
        scales.append(np.abs(row).max() / 127)
        np.testing.assert_array_equal(np.rint(steps / scales[-1]) * scales[-1], steps)
    mantissas = np.frexp(scales)[0] * 256
    np.testing.assert_array_equal(mantissas, np.rint(mantissas))


@pytest.mark.parametrize("transposed", [False, True])
def test_int8_shares_a_scale_where_it_loses_least(transposed):
    array = random_matrix() * np.logspace(-3, 3, 64, dtype=np.float32)  # (R, C): scale by column
    array = array.T if transposed else array
    error = np.abs(fake_quantize(array, "int8") - array).max(axis=1 if transposed else 0)  # (C,)
    np.testing.assert_array_less(error, 0.01 * np.logspace(-3, 3, 64))


def test_zeros_stay_zeros():
    array = random_matrix()
    array[3], array[:, 5] = 0, 0
    for weights in SMALLER:
        result = fake_quantize(array, weights)
        assert not result[3].any()
        assert not result[:, 5].any()
        assert result[4].any()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    "array", [random_matrix(shape=(63, 65)), np.ones(SHAPE, np.int32), np.ones(SHAPE, np.float16)]
)
def test_small_ones_and_other_types_stay(array, weights):
    assert fake_quantize(array, weights) is array


def test_a_vector_is_stored_as_fp16():
    array = random_matrix(shape=(5000,))
    np.testing.assert_array_equal(fake_quantize(array, "int8"), array.astype(np.float16))


@pytest.mark.parametrize(
    ("weights", "value", "message"),
    [
        ("fp16", np.nan, "largest of these weights is nan, but fp16 holds up to 65504"),
        ("fp16", -65536, "largest of these weights is 65536, but fp16 holds up to 65504"),
        ("int8", np.nan, "largest of these weights is nan, but int8 holds up to 3.3"),
        ("int8", -np.inf, "largest of these weights is inf, but int8"),
        ("int8", FLOAT32.max, "largest of these weights is 3.40282e.38, but int8"),
        ("fp8", 0, "weights must be one of fp32, fp16, int8; got 'fp8'"),
    ],
)
def test_what_cannot_be_quantized_is_refused(weights, value, message):
    array = random_matrix()
    array[69, 1] = value
    module, variable = tf.Module(), tf.Variable(array, name="encoder/kernel")
    for enter in (
        lambda: fake_quantize(array, weights),
        lambda: fake_quantized([variable], weights).__enter__(),
        lambda: saved_quantized(module, [variable], weights).__enter__(),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            enter()
    assert "encoder/kernel:0: " in str(caught.value)
    np.testing.assert_array_equal(variable.numpy(), array)


def test_fake_quantized():
    before = [random_matrix(1), random_matrix(2, (10,))]
    variables = [tf.Variable(each) for each in before]
    with contextlib.suppress(KeyError), fake_quantized(variables, "int8"):
        for variable, array in zip(variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), fake_quantize(array, "int8"))
        raise KeyError
    for variable, array in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), array)


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Two classifiers that share an encoder, and their tokenizer."""
    models, encoder = {}, None
    for seed, task in enumerate(("first", "second")):
        models[task], tokenizer = make_tiny_model(
            tmp_path_factory.mktemp("model"),
            seed=seed,
            fields={"dim": 66, "hidden_dim": 80, "initializer_range": 0.2},
            encoder=encoder,
        )
        encoder = models[task].distilbert
    return models, tokenizer


@pytest.fixture(scope="module")
def saved(classifiers, tmp_path_factory):
    """SavedModels of both classifiers, without the tokenizer, for each of WEIGHTS."""
    models, _ = classifiers
    module = tf.Module()
    module.weights = [weight.value for weight in find_weights(models)]
    specs = [tf.TensorSpec([None, None], tf.int32, name) for name in ("ids", "mask")]
    signatures = {}
    for task, model in models.items():

        def classify(ids, mask, model=model):
            inputs = {"input_ids": ids, "attention_mask": mask}
            return {"logits": model(inputs, training=False)}

        signatures[task] = tf.function(classify, autograph=False).get_concrete_function(*specs)
    directories = {}
    for weights in WEIGHTS:
        directories[weights] = tmp_path_factory.mktemp(weights)
        with saved_quantized(module, module.weights, weights):
            tf.saved_model.save(module, os.fspath(directories[weights]), signatures, OPTIONS)
    return directories


def find_weights(models):
    """Lists the weights of models, those that they share once."""
    weights = {id(weight): weight for model in models.values() for weight in model.weights}
    return [weight for weight in weights.values() if not weight.path.endswith("/step")]


def load_tf2(directory):
    return [variable.numpy() for variable in tf.saved_model.load(directory).weights]


def load_session(directory):
    """Loads as TF Serving does; returns every variable that holds something."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, [tf.saved_model.SERVING], directory)
        handles = [op.outputs[0] for op in graph.get_operations() if op.type == "VarHandleOp"]
        filled = session.run([tf.raw_ops.VarIsInitializedOp(resource=each) for each in handles])
        reads = [
            tf.raw_ops.ReadVariableOp(resource=handle, dtype=handle.op.get_attr("dtype"))
            for handle, is_filled in zip(handles, filled, strict=True)
            if is_filled
        ]
        return session.run(reads)


def sort_arrays(arrays):
    return sorted((array.shape, array.dtype.str, array.tobytes()) for array in arrays)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_comes_back_to_the_bit(classifiers, saved, weights):
    arrays = [weight.numpy() for weight in find_weights(classifiers[0])]
    quantized = [fake_quantize(array, weights) for array in arrays]
    assert sum(a is not b for a, b in zip(quantized, arrays, strict=True)) >= 9 * (
        weights != "fp32"
    )
    for load in (load_tf2, load_session):
        assert sort_arrays(load(os.fspath(saved[weights]))) == sort_arrays(quantized), load


def test_file_is_smaller(classifiers, saved):
    elements = [weight.numpy().size for weight in find_weights(classifiers[0])]
    large = sum(size for size in elements if size >= 4096)
    small = sum(elements) - large
    sizes = {}
    for weights, version in saved.items():
        (data,) = (version / "variables").glob("*.data-*")
        sizes[weights] = data.stat().st_size
    record = 20_000  # of the names
    for weights, num_bytes in {"fp32": 4, "fp16": 2, "int8": 1.1}.items():
        expected = large * num_bytes + small * 4
        assert expected * 0.9 < sizes[weights] < expected + record, weights


@pytest.mark.parametrize("weights", SMALLER)
def test_can_be_saved_again(saved, weights, tmp_path):
    loaded = tf.saved_model.load(os.fspath(saved[weights]))
    tf.saved_model.save(loaded, os.fspath(tmp_path / "again"), loaded.signatures, OPTIONS)
    again = tf.saved_model.load(os.fspath(tmp_path / "again"))
    for first, second in zip(loaded.weights, again.weights, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    ids = tf.constant(np.random.default_rng(4).integers(1, 100, (5, 20)), tf.int32)
    for task in ("first", "second"):
        want, got = (
            each.signatures[task](ids=ids, mask=tf.ones_like(ids))["logits"].numpy()
            for each in (loaded, again)
        )
        np.testing.assert_array_equal(want, got)
        assert np.ptp(want, axis=0).max() > 0.1  # or it would prove little


def test_answers_as_the_rounded_model(classifiers, tmp_path):
    """Verification compares both loaders with the model in memory, quantized alike."""
    version = export_saved_model(*classifiers, tmp_path, max_length=TINY_MAX_LENGTH, weights="int8")
    record = json.loads((version / EXTRA_ASSETS / EXPORT_RECORD).read_text(encoding="utf-8"))
    assert record["weights"] == "int8"
    assert record["max_difference"] < 0.01 * record["rounding_difference"]
    # And the record says how far that is from the model as it was.
    loaded = tf.saved_model.load(os.fspath(version))
    models, tokenizer = classifiers
    texts = list(SENTENCES)
    encoding = tokenizer(
        texts, truncation=True, max_length=TINY_MAX_LENGTH, padding=True, return_tensors="tf"
    )
    exact = next(iter(models.values()))(encoding, training=False).numpy()
    answer = loaded.signatures["serving_default"](text=tf.constant(texts))["logits"].numpy()
    assert record["rounding_difference"] == pytest.approx(np.abs(answer - exact).max(), rel=1e-2)
    assert record["rounding_difference"] > 1e-3


def test_leaves_the_model_as_it_was(tmp_path):
    module = tf.Module()
    array = random_matrix()
    module.kernel = variable = tf.Variable(array)
    attributes = set(vars(variable)), set(vars(module))
    with contextlib.suppress(KeyError), saved_quantized(module, [variable], "fp16"):
        assert (set(vars(variable)), set(vars(module))) != attributes
        raise KeyError
    assert (set(vars(variable)), set(vars(module))) == attributes
    tf.saved_model.save(module, os.fspath(tmp_path / "fp32"))
    loaded = tf.saved_model.load(os.fspath(tmp_path / "fp32"))
    np.testing.assert_array_equal(loaded.kernel.numpy(), array)
