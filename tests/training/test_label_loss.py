import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, assert_close
from tiny_task import tiny_checkpoint, tiny_data

from distilbert_tf.training.finetuning import finetune
from distilbert_tf.training.label_loss import LabelLoss, find_class_weights
from distilbert_tf.training.options import FinetuneOptions

NAMES = ("billing", "network", "other")
LABELS = np.array([0, 2, 2, 1, 2, 0, 2, 2], np.int32)  # 2, 1 and 5 rows


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.99])
def test_smoothing_is_that_of_keras(smoothing: float) -> None:
    logits = np.random.default_rng(3).normal(0, 4, (8, 3)).astype("float32")
    keras_loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    expected = keras_loss(keras.ops.one_hot(LABELS, 3), logits)
    assert_close(LabelLoss(smoothing)(tf.constant(LABELS), tf.constant(logits)), expected, FEW)


def test_weights_are_factors_of_the_losses_and_of_their_gradients() -> None:
    logits = tf.Variable(np.random.default_rng(4).normal(0, 4, (8, 3)), dtype=tf.float32)
    factors = (3.0, 0.5, 1.0)
    found = []
    for loss in (LabelLoss(0.2), LabelLoss(0.2, factors)):
        with tf.GradientTape() as tape:
            losses = loss(tf.constant(LABELS), logits)
        found.append((losses.numpy(), tape.gradient(losses, logits).numpy()))
    by_row = np.take(factors, LABELS)
    assert_close(found[1][0], found[0][0] * by_row, FEW)
    assert_close(found[1][1], found[0][1] * by_row[:, np.newaxis], FEW)


def test_balanced_weights_give_each_label_the_same_sum() -> None:
    weights = find_class_weights("balanced", NAMES, LABELS, "tickets")
    assert weights == (8 / 6, 8 / 3, 8 / 15)
    with pytest.raises(ValueError, match="tickets's training data has no row with the label 'oth"):
        find_class_weights("balanced", NAMES, LABELS[[0, 3]], "tickets")


def test_weights_by_label_are_one_where_nothing_is_said() -> None:
    options = FinetuneOptions(class_weight={"network": 4, "other": 0.5})
    assert options.class_weight == '{"network": 4, "other": 0.5}'
    assert find_class_weights(options.class_weight, NAMES, LABELS, "tickets") == (1.0, 4.0, 0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "even",
            "must be balanced, or a JSON object of weights by label, such as {'billing': 2.0}",
        ),
        ("[1, 2, 3]", "must be balanced, or a JSON object"),
        ("{}", "must be balanced, or a JSON object"),
        ('{"Other": 2}', "names the label 'Other'; tickets has billing, network, other."),
        ('{"other": 0}', "The class_weight of 'other' must be above 0; got 0."),
        ('{"other": "2"}', "The class_weight of 'other' must be above 0; got '2'."),
    ],
)
def test_other_weights_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message.replace("{'billing'", '{"billing"'))):
        find_class_weights(setting, NAMES, LABELS, "tickets")


def test_a_label_with_hardly_any_weight_is_not_learnt(tmp_path: Path) -> None:
    encoder, data = tiny_checkpoint(tmp_path / "encoder"), tiny_data(tmp_path / "data")
    result = finetune(
        "sst2", encoder, data, tmp_path / "out", epochs=2, batch_size=8, learning_rate=1e-2,
        max_length=12, class_weight={"positive": 1e-4}, label_smoothing_factor=0.1,
    )  # fmt: skip
    confusion = np.array(result.scores["sst2"]["validation"].confusion)
    assert confusion[:, 1].sum() == 0 < confusion[1, 0]
    settings = json.loads((result.output_dir / "run.json").read_text())["options"]
    assert settings["class_weight"] == '{"positive": 0.0001}'


def test_weights_by_label_are_for_one_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="For several tasks, class_weight can only be balanced"):
        finetune("sst2,qqp", "demo", "demo", tmp_path / "out", class_weight={"positive": 2.0})
