"""Steps of the model for several tasks, against the same worked out by hand."""

from collections.abc import Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, WITH_GRADIENTS, assert_close, largest, near, roundings
from sklearn.metrics import f1_score
from transformers import DistilBertConfig

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.training.batches import LABEL, TASK, TEACHER_LOGITS
from distilbert_tf.training.multitask import MultiTaskModel
from distilbert_tf.training.soft_targets import SoftTargets

LABELS = {"tone": 2, "kind": 4}
WIDTH = 7

Classifiers = dict[str, TFDistilBertForSequenceClassification]


def make_classifiers(labels: dict[str, int] = LABELS) -> Classifiers:
    """Makes classifiers on one encoder, each time the same, without dropout."""
    keras.utils.set_random_seed(11)
    made: Classifiers = {}
    for name, count in labels.items():
        config = DistilBertConfig(
            vocab_size=30, dim=8, n_layers=1, n_heads=2, hidden_dim=12, num_labels=count,
            max_position_embeddings=12, initializer_range=0.3, dropout=0.0, attention_dropout=0.0,
            seq_classif_dropout=0.0,
        )  # fmt: skip
        first = next(iter(made.values()), None)
        encoder = None if first is None else first.distilbert
        made[name] = TFDistilBertForSequenceClassification(config, encoder=encoder)
    return made


def batch(size: int = 8, seed: int = 0, tasks: Sequence[int] | None = None) -> tuple[dict, dict]:
    """Draws rows of uneven lengths; in every batch of two tasks some label is 3."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, WIDTH + 1, size)
    lengths[0] = WIDTH
    mask = (np.arange(WIDTH) < lengths[:, None]).astype("int32")
    task = np.array(random.integers(0, 2, size) if tasks is None else tasks, "int32")
    task[:2] = task[:2] if tasks is not None else (0, 1)
    label = np.where(task == 0, random.integers(0, 2, size), random.integers(0, 4, size))
    label[1] = 3 if task[1] == 1 else label[1]
    ids = random.integers(1, 30, (size, WIDTH)).astype("int32") * mask
    return {"input_ids": ids, "attention_mask": mask}, {LABEL: label.astype("int32"), TASK: task}


def dataset(batches: Sequence[tuple]) -> tf.data.Dataset:
    stacked = keras.tree.map_structure(lambda *arrays: np.stack(arrays), *batches)
    return tf.data.Dataset.from_tensor_slices(stacked)


def losses_by_hand(classifiers: Classifiers, inputs: dict, targets: dict) -> tf.Tensor:
    """Asks each classifier about its own rows alone, one by one."""
    found = []
    for i, (task, label) in enumerate(zip(targets[TASK], targets[LABEL], strict=True)):
        row = {name: array[i : i + 1] for name, array in inputs.items()}
        logits = list(classifiers.values())[task](row, training=False)
        found.append(-tf.nn.log_softmax(logits)[0, int(label)])
    return tf.stack(found)


def fit(model: MultiTaskModel, batches: Sequence[tuple], **options: object) -> dict[str, float]:
    data = dataset(batches)
    history = model.fit(data, shuffle=False, verbose=0, **options).history
    return {name: values[-1] for name, values in history.items()}


def weights(model: keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.trainable_weights]


def assert_same_training(ours: keras.Model, theirs: keras.Model, steps: int) -> None:
    """Compares how far so many steps have moved two models of `make_classifiers`."""
    count = roundings(ours.distilbert, WITH_GRADIENTS * steps)
    starts = weights(MultiTaskModel(make_classifiers()))
    ways = [end - start for start, end in zip(starts, weights(theirs), strict=False)]
    size = max(map(largest, ways))
    assert size > 0.05
    for start, end, way in zip(starts, weights(ours), ways, strict=False):
        assert_close(end - start, way, count, size=size)


def moved(tasks: Sequence[int] | None = None) -> tuple[MultiTaskModel, list, float]:
    """Takes a step of plain gradient descent with rate 1: weights move by their gradients."""
    model = MultiTaskModel(make_classifiers())
    before = weights(model)
    model.compile(keras.optimizers.SGD(1.0))
    loss = fit(model, [batch(tasks=tasks)])["loss"]
    return model, [old - new for old, new in zip(before, weights(model), strict=True)], loss


def test_gradients_and_loss_are_those_worked_out_by_hand() -> None:
    """The label 3 exists for one task only, and harms the other's head in no way."""
    inputs, targets = batch()
    assert 3 in targets[LABEL]
    model, gradients, loss = moved()
    classifiers = make_classifiers()
    variables = [weight.value for weight in MultiTaskModel(classifiers).trainable_weights]
    with tf.GradientTape() as tape:
        expected = tf.reduce_mean(losses_by_hand(classifiers, inputs, targets))
    assert loss == near(float(expected), roundings(model.distilbert), size=1.0)
    by_hand = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(expected, variables)]
    count, size = roundings(model.distilbert, WITH_GRADIENTS), max(map(largest, by_hand))
    assert size > 0.1  # the weights that these are taken from round no more than they do
    for gradient, one_by_hand in zip(gradients, by_hand, strict=True):
        assert_close(gradient, one_by_hand, count, size=size)


def teach(one: tuple[dict, dict], seed: int = 5) -> tuple[dict, dict]:
    """Adds a teacher's logits to a batch: zeros beyond the labels of a row's task."""
    inputs, targets = one
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (len(targets[TASK]), 4)).astype("float32")
    logits[targets[TASK] == 0, 2:] = 0.0
    return inputs, targets | {TEACHER_LOGITS: logits}


def test_a_teacher_is_heard_about_the_rows_of_its_task() -> None:
    inputs, targets = teach(batch())
    soft_targets = SoftTargets(alpha=0.7, temperature=3.0)
    model = MultiTaskModel(make_classifiers(), soft_targets=soft_targets)
    before = weights(model)
    model.compile(keras.optimizers.SGD(1.0))
    results = fit(model, [(inputs, targets)])
    gradients = [old - new for old, new in zip(before, weights(model), strict=True)]

    classifiers = make_classifiers()
    variables = [weight.value for weight in MultiTaskModel(classifiers).trainable_weights]
    losses, agreements = [], {name: [] for name in classifiers}
    with tf.GradientTape() as tape:
        entropies = losses_by_hand(classifiers, inputs, targets)
        for i, task in enumerate(targets[TASK]):
            name, count = list(LABELS.items())[task]
            logits = classifiers[name]({key: array[i : i + 1] for key, array in inputs.items()})[0]
            p = tf.nn.softmax(targets[TEACHER_LOGITS][i, :count] / 3)
            log_ratio = tf.math.log(p) - tf.nn.log_softmax(logits / 3)
            losses.append(0.7 * 9 * tf.reduce_sum(p * log_ratio) + 0.3 * entropies[i])
            agreements[name].append(int(np.argmax(p) == np.argmax(logits)))
        expected = tf.reduce_mean(losses)
    assert results["loss"] == near(float(expected), roundings(model.distilbert), size=1.0)
    for name, found in agreements.items():
        assert results[f"{name}_agreement"] == near(np.mean(found), FEW)
    by_hand = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(expected, variables)]
    count, size = roundings(model.distilbert, WITH_GRADIENTS), max(map(largest, by_hand))
    for gradient, one_by_hand in zip(gradients, by_hand, strict=True):
        assert_close(gradient, one_by_hand, count, size=size)


def test_an_evaluation_with_a_teacher_has_the_loss_of_the_labels() -> None:
    classifiers = make_classifiers()
    model = MultiTaskModel(classifiers, soft_targets=SoftTargets(alpha=1.0))
    model.compile()
    inputs, targets = teach(batch())
    counts = np.float32(np.arange(8) != 3)
    data = dataset([(inputs, targets, counts)])
    found = model.evaluate(data, verbose=0, return_dict=True)
    losses = losses_by_hand(classifiers, inputs, targets).numpy()
    assert found["loss"] == near(losses[counts == 1].mean(), roundings(model.distilbert))
    for number, (name, classifier) in enumerate(classifiers.items()):
        own = (counts == 1) & (targets[TASK] == number)
        logits = classifier({key: array[own] for key, array in inputs.items()}).numpy()
        same = logits.argmax(1) == targets[TEACHER_LOGITS][own, : LABELS[name]].argmax(1)
        assert found[f"{name}_agreement"] == near(same.mean(), FEW)


def test_a_head_without_rows_of_its_own_stays_as_it_is() -> None:
    model, gradients, _ = moved(tasks=[0] * 8)
    by_variable = {
        id(weight): gradient
        for weight, gradient in zip(model.trainable_weights, gradients, strict=True)
    }

    def of_head(name: str) -> list[float]:
        head = model.classifiers[name]
        parts = head.pre_classifier.trainable_weights + head.classifier.trainable_weights
        return [float(np.abs(by_variable[id(weight)]).max()) for weight in parts]

    assert of_head("kind") == [0.0] * 4
    assert min(of_head("tone")) > 0.0


STEPS = [teach(batch(8, seed)) for seed in range(3)]


def train(**options: object) -> tuple[MultiTaskModel, dict[str, float]]:
    metrics = {"kind": ("accuracy", "macro_f1")}
    model = MultiTaskModel(make_classifiers(), metrics, SoftTargets())
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), **options)
    return model, fit(model, STEPS, epochs=2)


@pytest.fixture(scope="module")
def usual() -> tuple[MultiTaskModel, dict[str, float]]:
    return train()


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 4},
        {"jit_compile": True, "gradient_accumulation_steps": 4},
        {"steps_per_execution": 3, "gradient_accumulation_steps": 2},
        {"run_eagerly": True},
    ],
    ids=lambda options: ", ".join(options),
)
def test_ways_to_compute_a_step_agree(
    usual: tuple[MultiTaskModel, dict[str, float]], options: dict
) -> None:
    model, results = train(**options)
    assert_same_training(model, usual[0], steps=2 * len(STEPS))
    assert results == near(usual[1], roundings(model.distilbert, 2 * len(STEPS)), size=1.0)


def test_one_task_is_what_keras_makes_of_the_classifier() -> None:
    one = {"tone": 2}
    batches = [batch(8, seed, tasks=[0] * 8) for seed in range(4)]
    model = MultiTaskModel(make_classifiers(one))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    results = fit(model, batches, epochs=2)

    plain = make_classifiers(one)["tone"]
    plain.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    data = dataset([(inputs, targets[LABEL]) for inputs, targets in batches])
    history = plain.fit(data, shuffle=False, verbose=0, epochs=2).history
    assert_same_training(model.classifiers["tone"], plain, steps=8)
    found = {name: history[name][-1] for name in ("loss", "accuracy")}
    assert results == near(found, roundings(plain, 8), size=1.0)


class Watch(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bool]] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.seen.append((batch, bool(logs)))


def test_skipped_steps_are_counted_and_not_computed() -> None:
    batches = [batch(8, seed) for seed in range(4)]
    whole = MultiTaskModel(make_classifiers())
    whole.compile(keras.optimizers.SGD(0.1))
    fit(whole, [*batches[2:], *batches])

    model, watch = MultiTaskModel(make_classifiers()), Watch()
    model.compile(keras.optimizers.SGD(0.1), steps_per_execution=2)
    model.skip_steps(2)
    data = dataset([*batches[2:], *batches]).repeat()
    model.fit(data, epochs=2, steps_per_epoch=4, shuffle=False, verbose=0, callbacks=[watch])
    assert_same_training(model, whole, steps=6)
    assert int(model.optimizer.iterations) == 6
    assert watch.seen == [(1, False), (3, True), (1, True), (3, True)]


def test_evaluation_scores_each_task_on_its_own_rows_that_count() -> None:
    classifiers = make_classifiers()
    model = MultiTaskModel(classifiers, {"tone": ("accuracy", "f1")})
    model.compile()
    batches = [(*batch(8, seed), np.float32(np.arange(8) < 8 - 3 * seed)) for seed in range(3)]
    found = model.evaluate(dataset(batches), verbose=0, return_dict=True)
    assert set(found) == {
        "loss", "tone_loss", "tone_accuracy", "tone_f1", "kind_loss", "kind_accuracy",
    }  # fmt: skip

    inputs, targets, counts = (
        keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        for parts in zip(*batches, strict=True)
    )
    losses = losses_by_hand(classifiers, inputs, targets).numpy()
    count = roundings(model.distilbert)
    assert found["loss"] == near(losses[counts == 1].mean(), count)
    for number, (name, classifier) in enumerate(classifiers.items()):
        own = (counts == 1) & (targets[TASK] == number)
        logits = classifier({key: array[own] for key, array in inputs.items()})
        predicted = logits.numpy().argmax(axis=1)
        right = predicted == targets[LABEL][own]
        assert found[f"{name}_loss"] == near(losses[own].mean(), count)
        assert found[f"{name}_accuracy"] == near(right.mean(), FEW)
        if name == "tone":
            f1 = f1_score(targets[LABEL][own], predicted, zero_division=0)
            assert found["tone_f1"] == near(f1, FEW)


def test_scores_of_one_task_bear_no_name() -> None:
    model = MultiTaskModel(make_classifiers({"tone": 2}), {"tone": ("f1", "accuracy")})
    model.compile()
    data = dataset([batch(4, tasks=[0] * 4)])
    assert set(model.evaluate(data, verbose=0, return_dict=True)) == {"loss", "f1", "accuracy"}


def test_logits_are_those_of_the_classifiers() -> None:
    classifiers, (inputs, _) = make_classifiers(), batch()
    logits = MultiTaskModel(classifiers)(inputs)
    assert list(logits) == ["tone", "kind"]
    for name, classifier in classifiers.items():
        assert_close(logits[name], classifier(inputs), roundings(classifier))


def test_classifiers_must_share_their_encoder() -> None:
    apart = {name: make_classifiers({name: count})[name] for name, count in LABELS.items()}
    with pytest.raises(ValueError, match="one and the same `encoder`"):
        MultiTaskModel(apart)
