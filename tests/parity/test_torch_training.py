"""Eight steps of AdamW without dropout, from the same weights, here and in PyTorch."""

from pathlib import Path

import keras
import numpy as np
import pytest
import transformers

from distilbert_tf.checkpoint import export_tensors
from distilbert_tf.heads import TFDistilBertForMaskedLM, TFDistilBertForSequenceClassification

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
pytestmark = pytest.mark.parity

from make_references import make_inputs, make_model  # noqa: E402  (imports torch)

# Threads wait for each other longer than such small matrices take.
torch.set_num_threads(1)

STEPS = 8
OFF = dict(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
CLASSES = {
    TFDistilBertForSequenceClassification: transformers.DistilBertForSequenceClassification,
    TFDistilBertForMaskedLM: transformers.DistilBertForMaskedLM,
}


def train_here(model: keras.Model, batches: list[dict], rate: float) -> list[float]:
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, epsilon=1e-8),
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, eps=1e-8)
    losses = []
    model.train()
    for batch in batches:
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


def compare(ours: type, directory: Path, *, rows: int, length: int, rate: float, capsys) -> None:
    model = ours.from_pretrained(directory, **OFF)
    reference = CLASSES[ours].from_pretrained(directory, **OFF)
    batches = make_batches(reference.config, rows, length)
    initial = export_tensors(model)
    losses = train_here(model, batches, rate)
    expected = train_in_torch(reference, batches, rate)
    trained = export_tensors(model)
    # The gradient for keys' bias is 0 but for rounding, which Adam blows up to whole steps.
    names = [name for name, _ in reference.named_parameters() if not name.endswith("k_lin.bias")]
    step = norm(reference.get_parameter(n).detach().numpy() - initial[n] for n in names)
    apart = norm(reference.get_parameter(n).detach().numpy() - trained[n] for n in names)
    difference = np.abs(np.subtract(losses, expected)).max()
    with capsys.disabled():
        print(f"\n{ours.__name__} {directory.name}: losses {expected[0]:.4f} -> {expected[-1]:.4f}")
        print(f"  largest difference of a loss {difference:.1e}")
        print(f"  weights: distance from PyTorch's / way from the first {apart / step:.1e}")
    assert difference < 1e-4
    assert np.ptp(expected) > 0.01  # the steps do something
    # Adam steps by the sign of a gradient that is all rounding, so some weights do differ.
    assert apart / step < 0.05


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
