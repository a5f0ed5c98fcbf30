"""The distiller, against the same losses computed from all logits at once."""

import functools
import math
from typing import Any

import comparing
import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.data.masking import NOT_MASKED
from distilbert_tf.distillation.batches import BATCH_MASKED, BATCH_TOKENS, LABELS
from distilbert_tf.distillation.distiller import Distiller
from distilbert_tf.distillation.losses import LossWeights
from distilbert_tf.distillation.student import every_second_layer, make_student
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import export_tensors

VOCAB, ROWS, WIDTH = 50, 8, 12
CONFIG = DistilBertConfig(
    vocab_size=VOCAB, dim=16, n_layers=4, n_heads=2, hidden_dim=32, max_position_embeddings=WIDTH,
    initializer_range=0.3, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
Batch = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def make_teacher(**fields: Any) -> TFDistilBertForMaskedLM:
    keras.utils.set_random_seed(1)
    teacher = TFDistilBertForMaskedLM(DistilBertConfig(**{**CONFIG.to_dict(), **fields}))
    random = np.random.default_rng(1)
    for weight in teacher.trainable_weights:  # biases and LayerNorm are not 0 and 1
        weight.assign_add(random.normal(0, 0.1, weight.shape))
    return teacher


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = np.random.default_rng(2)
    lengths = random.integers(4, WIDTH + 1, ROWS)
    mask = (np.arange(WIDTH) < lengths[:, None]).astype(np.int32)
    ids = random.integers(5, VOCAB, (ROWS, WIDTH)).astype(np.int32) * mask
    labels = np.where((random.random(ids.shape) < 0.3) & (mask == 1), ids, NOT_MASKED)
    counts = {BATCH_TOKENS: mask.sum(), BATCH_MASKED: (labels != NOT_MASKED).sum()}
    return {"input_ids": np.where(labels == NOT_MASKED, ids, 4), "attention_mask": mask}, {
        LABELS: labels.astype(np.int32),
        **{name: np.full(ROWS, count, np.float32) for name, count in counts.items()},
    }


def expected_losses(
    student: TFDistilBertForMaskedLM,
    teacher: TFDistilBertForMaskedLM,
    batch: Batch,
    temperature: float,
    at_masked: bool,
) -> dict[str, tf.Tensor]:
    """Computes every loss in the way of the paper, from padded models and all logits."""
    inputs, targets = batch
    own, theirs = (
        model(inputs, output_hidden_states=True, training=False) for model in (student, teacher)
    )
    is_token, labels = inputs["attention_mask"] == 1, targets[LABELS]
    is_masked = labels != NOT_MASKED
    scored = is_masked if at_masked else is_token
    p, q = (
        tf.nn.softmax(tf.boolean_mask(out.logits, scored) / temperature) for out in (theirs, own)
    )
    soft = tf.reduce_sum(p * (tf.math.log(p) - tf.math.log(q)), -1) * temperature**2
    entropy = keras.losses.sparse_categorical_crossentropy(
        labels[is_masked], tf.boolean_mask(own.logits, is_masked), from_logits=True
    )
    a, b = (tf.boolean_mask(out.hidden_states[-1], is_token) for out in (own, theirs))
    cosine = 1 + keras.losses.cosine_similarity(a, b)
    mse = tf.reduce_sum(tf.boolean_mask(own.logits - theirs.logits, scored) ** 2, axis=-1)
    found = {"soft_targets": soft, "masked_lm": entropy, "cosine": cosine, "logits_mse": mse}
    return {name: tf.reduce_mean(values) for name, values in found.items()}


@pytest.mark.parametrize("soft_targets_at", ["all", "masked"])
@pytest.mark.parametrize("skip_padding", [True, False], ids=["unpadded", "padded"])
@pytest.mark.parametrize(
    "weights",
    [
        LossWeights(),
        LossWeights(0.0, 1.0, 3.0),
        LossWeights(2.0, 0.0, 0.0, 0.1),
        LossWeights(0.0, 0.0, 1.0),
    ],
)
def test_losses_and_gradients(
    batch: Batch, weights: LossWeights, soft_targets_at: Any, skip_padding: bool
) -> None:
    teacher = make_teacher()
    student = make_student(teacher, [0, 3])
    distiller = Distiller(
        student, teacher, weights, temperature=3.0, soft_targets_at=soft_targets_at, chunk_size=7
    )
    distiller.compile(keras.optimizers.SGD(), skip_padding=skip_padding)
    at_masked = soft_targets_at == "masked"
    with tf.GradientTape() as tape:
        losses = expected_losses(student, teacher, batch, 3.0, at_masked)
        total = tf.add_n(
            [w * losses[name] for name, w in zip(weights._fields, weights, strict=True)]
        )
    expected = tape.gradient(total, student.trainable_weights)
    gradients, found, _ = tf.function(distiller.compute_gradients)(*batch)
    count = comparing.roundings(CONFIG, comparing.WITH_GRADIENTS)
    comparing.assert_close(found, np.full(ROWS, total), count)
    size = max(comparing.largest(g) for g in expected if g is not None)
    assert len(gradients) == len(student.trainable_weights)
    for ours, theirs, weight in zip(gradients, expected, student.trainable_weights, strict=True):
        theirs = np.zeros(weight.shape) if theirs is None else tf.convert_to_tensor(theirs)
        ours = np.zeros(weight.shape) if ours is None else tf.convert_to_tensor(ours)
        comparing.assert_close(ours, theirs, count, size=size, err_msg=weight.path)


def test_logs_are_means_over_positions(batch: Batch) -> None:
    """Evaluated in batches with different numbers of tokens, and a filler without any."""
    teacher = make_teacher()
    student = make_student(teacher)
    distiller = Distiller(student, teacher, LossWeights(5.0, 2.0, 0.0))
    distiller.compile()
    inputs, targets = batch
    dataset = tf.data.Dataset.from_tensor_slices(batch)
    empty = tf.nest.map_structure(np.zeros_like, batch)
    empty[1][LABELS][:] = NOT_MASKED
    dataset = dataset.concatenate(tf.data.Dataset.from_tensor_slices(empty)).batch(4)
    logs = distiller.evaluate(dataset, verbose=0, return_dict=True)
    expected = expected_losses(student, teacher, batch, 2.0, at_masked=True)
    is_masked = targets[LABELS] != NOT_MASKED
    best = [np.argmax(model(inputs), -1)[is_masked] for model in (student, teacher)]
    count = comparing.roundings(CONFIG)
    assert logs == comparing.near(
        {
            "loss": 5 * float(expected["soft_targets"]) + 2 * float(expected["masked_lm"]),
            "masked_lm": float(expected["masked_lm"]),
            "soft_targets": float(expected["soft_targets"]),
            "cosine": float(expected["cosine"]),
            "agreement": float(np.mean(best[0] == best[1])),
            "perplexity": math.exp(float(expected["masked_lm"])),
        },
        count,
    )
    assert 0 < logs["agreement"] < 1


def test_a_narrower_student_learns_a_projection_that_is_not_saved(batch: Batch) -> None:
    teacher = make_teacher(dim=24)
    keras.utils.set_random_seed(2)
    student = TFDistilBertForMaskedLM(CONFIG)
    distiller = Distiller(student, teacher)
    distiller.compile(keras.optimizers.Adam(1e-2))
    before = distiller.projection.get_weights()[0].copy()
    dataset = tf.data.Dataset.from_tensors(batch).repeat(30)
    history = distiller.fit(dataset.repeat(), steps_per_epoch=30, epochs=3, verbose=0).history
    assert np.abs(distiller.projection.get_weights()[0] - before).max() > 1e-3
    for name in ("soft_targets", "masked_lm", "cosine"):
        assert history[name][-1] < 0.8 * history[name][0], name
    assert "projection" not in " ".join(export_tensors(student))
    assert [v.path for v in distiller.variable_groups()["projection"]] != []


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_in_parts_or_compiled_is_the_same(batch: Batch, jit_compile: bool) -> None:
    teacher = make_teacher()
    states = []
    for parts, jit in ((1, False), (4, jit_compile)):
        student = make_student(teacher)
        distiller = Distiller(student, teacher, soft_targets_at="all")
        distiller.compile(
            keras.optimizers.SGD(0.1), gradient_accumulation_steps=parts, jit_compile=jit
        )
        dataset = tf.data.Dataset.from_tensors(batch).apply(
            tf.data.experimental.assert_cardinality(1)
        )
        logs = distiller.fit(dataset, verbose=0).history
        states.append((export_tensors(student), logs))
    (one, logs_one), (other, logs_other) = states
    count = comparing.roundings(CONFIG, comparing.WITH_GRADIENTS)
    for name, tensor in one.items():
        comparing.assert_close(other[name], tensor, count, size=1.0, err_msg=name)
    assert logs_other["perplexity"] == comparing.near(logs_one["perplexity"], count)


def largest_with_words(function: Any, *arguments: Any) -> float:
    """Returns the size of the largest tensor with a dimension of all words; inf if unknown."""
    graph = (
        tf.function(function).get_concrete_function(*arguments).graph.as_graph_def(add_shapes=True)
    )
    nodes = [*graph.node, *[node for inner in graph.library.function for node in inner.node_def]]
    shapes = [
        [dimension.size for dimension in shape.dim]
        for node in nodes
        for shape in node.attr["_output_shapes"].list.shape
    ]
    return max(math.inf if -1 in shape else math.prod(shape) for shape in shapes if VOCAB in shape)


@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_a_batch_are_never_in_memory(batch: Batch, training: bool) -> None:
    """A table of words is the largest tensor, unless a chunk is larger."""
    teacher, sizes = make_teacher(), {}
    for chunk_size in (7, ROWS * WIDTH):
        distiller = Distiller(
            make_student(teacher), teacher, soft_targets_at="all", chunk_size=chunk_size
        )
        distiller.compile(keras.optimizers.SGD(), skip_padding=False)
        compute = distiller.compute_gradients
        if not training:
            compute = functools.partial(distiller.compute_losses, training=False)
        sizes[chunk_size] = largest_with_words(compute, *batch)
    assert sizes == {7: VOCAB * CONFIG.dim, ROWS * WIDTH: VOCAB * ROWS * WIDTH}


def test_a_teacher_may_hold_bfloat16_weights(batch: Batch) -> None:
    """Roundings are independent: their sum grows with the root of their number."""
    teacher = make_teacher()
    narrow = make_student(teacher, range(4), dtype="bfloat16")
    assert {w.dtype for w in narrow.trainable_weights if len(w.shape) == 2} == {"bfloat16"}
    wide_logits, logits = (model(batch[0]).numpy() for model in (teacher, narrow))
    rounding = comparing.roundings(CONFIG) ** 0.5 * float(ml_dtypes.finfo("bfloat16").eps)
    error = np.linalg.norm(logits - wide_logits) / np.linalg.norm(wide_logits)
    assert 1e-4 < error < rounding
    student = make_student(teacher, [0, 3])
    results = []
    for one in (teacher, narrow):
        distiller = Distiller(student, one)
        distiller.compile(keras.optimizers.SGD())
        gradients, *_ = distiller.compute_gradients(*batch)
        results.append(np.concatenate([np.ravel(gradient) for gradient in gradients]))
    assert np.linalg.norm(results[1] - results[0]) < rounding * np.linalg.norm(results[0])
    assert {g.dtype for g in gradients} == {tf.float32}


def test_students_are_made_of_layers_of_their_teacher() -> None:
    teacher = make_teacher()
    tensors = export_tensors(teacher)
    assert every_second_layer(12) == (0, 2, 4, 6, 8, 10)
    for layers in ((0, 2), (3, 1, 1)):
        taken = export_tensors(make_student(teacher, layers))
        assert len({name.split(".")[3] for name in taken if "layer." in name}) == len(layers)
        for name, tensor in taken.items():
            parts = name.split(".")
            if "layer" in parts:
                parts[3] = str(layers[int(parts[3])])
            np.testing.assert_array_equal(tensor, tensors[".".join(parts)])
    fresh = export_tensors(make_student(teacher, random_weights=True))
    assert (fresh["vocab_transform.weight"] != tensors["vocab_transform.weight"]).any()
    for layers, message in (
        ([], r"are \[\]"),
        ([4], r"are \[4\]; the teacher has the layers 0 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            make_student(teacher, layers)


def test_what_cannot_be_distilled_is_refused() -> None:
    teacher, other = make_teacher(), make_teacher(vocab_size=60)
    student = make_student(teacher)
    with pytest.raises(ValueError, match="vocabulary of 50 words, the teacher of 60"):
        Distiller(student, other)
    with pytest.raises(ValueError, match="soft_targets has weight 5.0 and needs a teacher"):
        Distiller(student, None, LossWeights())
    with pytest.raises(ValueError, match="one must be above 0"):
        Distiller(student, teacher, LossWeights(0.0, 0.0, 0.0))
