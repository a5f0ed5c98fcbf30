"""Eight steps of AdamW without dropout, from the same weights, here and in PyTorch."""

import copy
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import transformers
from comparing import EPS, TIMES_THE_REFERENCES_ERROR, WITH_GRADIENTS, largest, roundings

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import export_tensors

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
pytestmark = pytest.mark.parity

from make_references import make_inputs, make_model  # noqa: E402  (imports torch)

# Threads wait for each other longer than such small matrices take.
torch.set_num_threads(1)

STEPS = 8
# Adam divides a gradient by its own size: one that is all rounding would become a whole step.
EPSILON = 1e-8
OFF = dict(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
CLASSES = {
    TFDistilBertForSequenceClassification: transformers.DistilBertForSequenceClassification,
    TFDistilBertForMaskedLM: transformers.DistilBertForMaskedLM,
}


def train_here(model: keras.Model, batches: list[dict], rate: float) -> list[float]:
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, epsilon=EPSILON),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100),
        jit_compile=False,
    )
    losses = []
    for batch in batches:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        history = model.fit(inputs, targets(model.config, batch), batch_size=99, verbose=0)
        losses += history.history["loss"]
    return losses


def train_in_torch(model: torch.nn.Module, batches: list[dict], rate: float) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    losses = []
    model.train()
    for step, batch in enumerate(batches, 1):
        # Keras adds its epsilon before the correction of the second moment's bias, PyTorch after.
        optimizer.param_groups[0]["eps"] = EPSILON / (1 - 0.999**step) ** 0.5
        inputs = {name: torch.tensor(batch[name]) for name in ("input_ids", "attention_mask")}
        logits = model(**inputs).logits
        labels = torch.tensor(targets(model.config, batch)).flatten()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def targets(config, batch: dict) -> np.ndarray:
    return batch["words" if "MaskedLM" in config.architectures[0] else "labels"]


def make_batches(config, rows: int, length: int) -> list[dict]:
    batches = [make_inputs(config, rows=rows, length=length, seed=seed) for seed in range(STEPS)]
    for batch in batches:
        batch["attention_mask"][:, 0] = 1  # no empty rows
        padding = batch["attention_mask"] == 0
        batch["input_ids"][padding] = config.pad_token_id
        batch["words"][padding] = -100
    return batches


class Trained(NamedTuple):
    """Losses of the steps, and the weights after them."""

    losses: list[float]
    weights: dict[str, np.ndarray]

    def apart(self, other: "Trained", names: list[str]) -> float:
        """Measures how far two trainings are apart, in weights."""
        return norm(self.weights[name] - other.weights[name] for name in names)


def train_copy_in_torch(model: torch.nn.Module, batches: list[dict], rate: float) -> Trained:
    model = copy.deepcopy(model)
    losses = train_in_torch(model, batches, rate)
    named = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    return Trained(losses, named)


def compare(ours: type, directory: Path, *, rows: int, length: int, rate: float, capsys) -> None:
    """Compares both sides with PyTorch in float64: see test_torch_models.py."""
    model = ours.from_pretrained(directory, **OFF)
    reference = CLASSES[ours].from_pretrained(directory, **OFF)
    batches = make_batches(reference.config, rows, length)
    initial = Trained([], export_tensors(model))
    found = Trained(train_here(model, batches, rate), export_tensors(model))
    theirs = train_copy_in_torch(reference, batches, rate)
    exact = train_copy_in_torch(reference.double(), batches, rate)

    # The gradient for keys' bias is 0 but for rounding, which Adam blows up to whole steps.
    names = [name for name in exact.weights if not name.endswith("k_lin.bias")]
    way = exact.apart(initial, names)
    in_losses = [largest(np.subtract(run.losses, exact.losses)) for run in (found, theirs)]
    in_weights = [run.apart(exact, names) / way for run in (found, theirs)]
    with capsys.disabled():
        print(
            f"\n{ours.__name__} {directory.name}: {exact.losses[0]:.4f} to {exact.losses[-1]:.4f}"
        )
        print("  largest error of a loss: {:.1e} here, {:.1e} in PyTorch".format(*in_losses))
        print("  weights, error / way: {:.1e} here, {:.1e} in PyTorch".format(*in_weights))
    assert np.ptp(exact.losses) > 0.01  # the steps do something
    bound = EPS * roundings(model, WITH_GRADIENTS * STEPS)
    for error, reference_error in (in_losses, in_weights):
        assert reference_error < 0.01  # otherwise anything would be as good as PyTorch
        assert error <= max(bound, TIMES_THE_REFERENCES_ERROR * reference_error)


def norm(arrays) -> float:
    return sum(float(np.sum(np.square(array, dtype="float64"))) for array in arrays) ** 0.5


@pytest.mark.parametrize(
    ("ours", "tie"),
    [
        (TFDistilBertForSequenceClassification, True),
        (TFDistilBertForMaskedLM, True),
        (TFDistilBertForMaskedLM, False),
    ],
)
def test_tiny_model(ours, tie, tmp_path, capsys):
    fields = dict(vocab_size=40, dim=24, n_layers=2, n_heads=3, hidden_dim=40, num_labels=3)
    fields |= dict(max_position_embeddings=20, tie_word_embeddings=tie)
    directory = tmp_path / ("tied" if tie else "untied")
    make_model(CLASSES[ours], fields, seed=3, embedding_stddev=0.3).save_pretrained(directory)
    compare(ours, directory, rows=8, length=13, rate=1e-3, capsys=capsys)


def test_real_encoder(demo, tmp_path, capsys):
    keras.utils.set_random_seed(0)
    directory = tmp_path / "6x384"
    ours = TFDistilBertForSequenceClassification
    ours.from_pretrained(demo, num_labels=3).save_pretrained(directory)
    compare(ours, directory, rows=8, length=24, rate=5e-5, capsys=capsys)
