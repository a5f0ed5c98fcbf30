"""Numbers of the models live against transformers on PyTorch.

PyTorch in float64 tells the truth: our error must keep within the bound of comparing.py, or, where
random weights make a model enlarge every rounding, within a small multiple of PyTorch's own error
in float32. Prints a table: `pytest tests/parity/test_torch_models.py`.
"""

import copy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import transformers
from comparing import FEW, TIMES_THE_REFERENCES_ERROR, assert_close, by_size
from recorded import largest_differences, run

from distilbert_tf.checkpoints import hub
from distilbert_tf.models.activations import ACTIVATIONS
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
pytestmark = pytest.mark.parity

from make_references import (  # noqa: E402  (imports torch)
    WEIGHTED_ACTIVATIONS,
    make_inputs,
    make_model,
    run_torch,
)

# Threads wait for each other longer than such small matrices take.
torch.set_num_threads(1)

CLASSES = {
    TFDistilBertModel: transformers.DistilBertModel,
    TFDistilBertForSequenceClassification: transformers.DistilBertForSequenceClassification,
    TFDistilBertForMaskedLM: transformers.DistilBertForMaskedLM,
}
CONFIGS = 48
# Of about the size that keeps the variance from layer to layer: larger weights only enlarge
# the rounding of both sides.
WEIGHTS = dict(gain=1.0, embedding_stddev=0.3)
REAL_LENGTHS = [1, 2, 3, 7, 16, 33, 64, 127, 200, 256, 384, 511, 512]


@pytest.fixture(scope="module")
def table(request):
    """Largest differences, as multiples of their bounds, by (what, kind); printed in the end."""
    rows: dict[tuple[str, str], list[float]] = defaultdict(list)
    yield rows
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n\n{'largest difference / bound':48} {'of':>15} {'runs':>5} {'max':>9}")
        for (name, kind), values in rows.items():
            print(f"{name:48} {kind:>15} {len(values):5} {max(values):9.3f}")


def note(table, name: str, differences: dict[str, float]) -> dict[str, float]:
    for kind, value in differences.items():
        table[name, kind].append(value)
    return differences


def assert_as_exact(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Compares two sides' errors, each a multiple of its bound."""
    assert {
        kind: (error, theirs[kind])
        for kind, error in ours.items()
        if error > max(1.0, TIMES_THE_REFERENCES_ERROR * theirs[kind])
    } == {}


def in_float64(reference: torch.nn.Module) -> torch.nn.Module:
    """Copies a model; against what it computes both sides have rounding errors."""
    return copy.deepcopy(reference).double()


def random_fields(rng: np.random.Generator, number: int) -> dict:
    heads = int(rng.integers(1, 7))
    return dict(
        vocab_size=int(rng.integers(20, 90)),
        dim=heads * int(rng.integers(1, 6)) * 2,
        n_layers=int(rng.integers(1, 5)),
        n_heads=heads,
        hidden_dim=int(rng.integers(5, 70)),
        max_position_embeddings=int(rng.integers(20, 90)),
        activation=sorted(ACTIVATIONS)[number % len(ACTIVATIONS)],
        sinusoidal_pos_embds=bool(rng.random() < 0.3),
        tie_word_embeddings=bool(rng.random() < 0.5),
        pad_token_id=int(rng.integers(0, 20)),
        num_labels=int(rng.integers(2, 6)),
    )


@pytest.mark.parametrize("number", range(CONFIGS))
def test_random_configuration(number, tmp_path, table):
    rng = np.random.default_rng(number)
    ours, theirs = list(CLASSES.items())[number % 3]
    fields = random_fields(rng, number)
    reference = make_model(theirs, fields, seed=number, **WEIGHTS)
    reference.save_pretrained(tmp_path / "theirs")
    model = ours.from_pretrained(tmp_path / "theirs")
    length = int(rng.integers(1, fields["max_position_embeddings"] + 1))
    inputs = make_inputs(reference.config, rows=5, length=length, seed=number)
    inputs["words"][0, 0] = 3  # at least one word to predict
    expected = run_torch(reference, inputs)
    results = run(model, inputs)
    note(table, "random configurations", largest_differences(results, expected, model))
    exact = run_torch(in_float64(reference), inputs)
    error = largest_differences(results, exact, model)
    reference_error = largest_differences(expected, exact, model)
    note(table, "random configurations, from float64", error)
    note(table, "random configurations, PyTorch from float64", reference_error)
    assert_as_exact(error, reference_error)

    model.save_pretrained(tmp_path / "ours")
    opened = open_in_torch(theirs, tmp_path / "ours")
    again = largest_differences(run_torch(opened, inputs), exact, model)
    note(table, "random configurations, saved here, in PyTorch", again)
    assert_as_exact(again, reference_error)


def open_in_torch(cls: type, directory: Path, **options):
    model, loading = cls.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True, **options
    )
    for problem, names in loading.items():
        assert not names, f"{problem}: {names}"
    return model.eval()


def test_every_length_from_1_to_512(table, tmp_path):
    fields = dict(vocab_size=97, dim=24, n_layers=2, n_heads=3, hidden_dim=40)
    reference = make_model(transformers.DistilBertForMaskedLM, fields, 7, **WEIGHTS)
    reference.save_pretrained(tmp_path)
    model = TFDistilBertForMaskedLM.from_pretrained(tmp_path)
    assert model.config.max_position_embeddings == 512
    spec = tf.TensorSpec([None, None], tf.int64)  # one graph for all lengths
    graph = tf.function(
        lambda ids, mask: model(
            {"input_ids": ids, "attention_mask": mask}, output_hidden_states=True
        ),
        input_signature=[spec, spec],
    )
    exact_reference = in_float64(reference)
    for length in range(1, 513):
        inputs = make_inputs(reference.config, rows=5, length=length, seed=length)
        rows = slice(length % 4, length % 4 + 2)  # by turns of every pattern of masks
        ids, mask = inputs["input_ids"][rows], inputs["attention_mask"][rows]
        exact = outputs_in_torch(exact_reference, ids, mask)
        sides = named_outputs(graph(ids, mask)), outputs_in_torch(reference, ids, mask)
        ours, theirs = (largest_differences(side, exact, model) for side in sides)
        note(table, "every length from 1 to 512", ours)
        assert_as_exact(ours, theirs)


def outputs_in_torch(model: torch.nn.Module, ids: np.ndarray, mask: np.ndarray) -> dict:
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            output_hidden_states=True,
        )
    return named_outputs(output)


def named_outputs(output) -> dict[str, np.ndarray]:
    arrays = {f"hidden_states.{i}": x.numpy() for i, x in enumerate(output.hidden_states)}
    return arrays | ({"logits": output.logits.numpy()} if hasattr(output, "logits") else {})


@pytest.fixture(scope="module")
def real_encoder(demo):
    reference = transformers.BertModel.from_pretrained(
        hub.demo_directory(), attn_implementation="eager"
    )
    return TFDistilBertModel.from_pretrained(demo), reference.eval()


@pytest.mark.parametrize("length", REAL_LENGTHS)
def test_real_encoder(length, real_encoder, table):
    model, reference = real_encoder
    inputs = make_inputs(reference.config, rows=4, length=length, seed=length)
    named = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    results = named_outputs(model(named, output_hidden_states=True))
    expected, exact = (
        outputs_in_torch(cls, *named.values()) for cls in (reference, in_float64(reference))
    )
    note(table, "6 x 384 encoder", largest_differences(results, expected, model))
    ours = largest_differences(results, exact, model)
    note(table, "6 x 384 encoder, from float64", ours)
    theirs = largest_differences(expected, exact, model)
    note(table, "6 x 384 encoder, PyTorch from float64", theirs)
    assert max(ours.values()) < 1
    for state, array in exact.items():
        error, reference_error = (root_mean_square(x[state] - array) for x in (results, expected))
        assert error <= TIMES_THE_REFERENCES_ERROR * reference_error, state


def root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def test_real_encoder_saved_here_opened_in_torch_with_gradients(real_encoder, table, tmp_path):
    model, _ = real_encoder
    model.save_pretrained(tmp_path)
    opened = open_in_torch(transformers.DistilBertModel, tmp_path)
    for length in (5, 64):
        inputs = make_inputs(opened.config, rows=4, length=length, seed=length)
        exact = run_torch(in_float64(opened), inputs)
        name = "6 x 384 encoder, saved here, in PyTorch"
        ours = note(table, name, largest_differences(run(model, inputs), exact, model))
        assert max(ours.values()) < 1


@pytest.mark.parametrize(("ours", "theirs"), CLASSES.items())
def test_sharded_by_torch(ours, theirs, tmp_path, table):
    reference = make_model(theirs, dict(dim=24, n_heads=3, n_layers=2, vocab_size=50), seed=5)
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    for name, slot_value in torch_names(ours.from_pretrained(tmp_path)).items():
        np.testing.assert_array_equal(slot_value, reference.state_dict()[name].numpy(), name)


def torch_names(model) -> dict[str, np.ndarray]:
    from distilbert_tf.models.weight_names import export_tensors

    return export_tensors(model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("ours", "theirs"), CLASSES.items())
def test_half_precision_files_of_either_side(ours, theirs, dtype, tmp_path):
    reference = make_model(theirs, dict(dim=12, n_heads=3, n_layers=2, vocab_size=50), seed=6)
    exact = {name: weight.numpy().copy() for name, weight in reference.state_dict().items()}
    reference.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs")
    model = ours.from_pretrained(tmp_path / "theirs")
    rounded = {name: weight.float().numpy() for name, weight in reference.state_dict().items()}
    for name, array in torch_names(model).items():
        np.testing.assert_array_equal(array, rounded[name], name)
    assert any(np.any(rounded[name] != exact[name]) for name in rounded)

    model.save_pretrained(tmp_path / "ours", dtype=dtype)
    opened = open_in_torch(theirs, tmp_path / "ours")
    assert opened.dtype == getattr(torch, dtype)  # as the configuration says
    for name, weight in opened.state_dict().items():
        np.testing.assert_array_equal(weight.float().numpy(), rounded[name], name)


def test_labels_survive_both_ways(tmp_path):
    cls = transformers.DistilBertForSequenceClassification
    labels = {0: "schlecht", 1: "gut", 2: "weder noch"}
    reference = make_model(cls, dict(dim=12, n_heads=3, n_layers=1, id2label=labels), seed=6)
    reference.save_pretrained(tmp_path / "theirs")
    model = TFDistilBertForSequenceClassification.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    config = open_in_torch(cls, tmp_path / "ours").config
    assert config.id2label == labels
    assert config.label2id == {"schlecht": 0, "gut": 1, "weder noch": 2}
    assert config.architectures == ["DistilBertForSequenceClassification"]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation(name):
    x = np.concatenate([np.linspace(-30, 30, 20_001), [-1e4, 0, 1e4]]).astype("float32")
    exact = transformers.activations.get_activation(name)(torch.tensor(x).double()).numpy()
    for part in by_size(x):
        assert_close(ACTIVATIONS[name](tf.constant(x[part])), exact[part], FEW)


def test_all_activations_without_weights_are_there():
    names = transformers.activations.ACT2CLS.keys() - WEIGHTED_ACTIVATIONS
    assert names == ACTIVATIONS.keys()
