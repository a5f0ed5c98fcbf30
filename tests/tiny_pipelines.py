"""Models and a tokenizer small enough to compute a pipeline's answers by hand."""

import string
from pathlib import Path

import numpy as np
from transformers import DistilBertConfig

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

SENTENCES = [
    "The river froze early this year.",
    "Nobody at the harbour remembered who had painted the blue boat.",
    "Good soup!",
    "She returned the library book eleven years late, paid in coins and borrowed it again.",
    "",
    "My brother collects maps of towns that were never built",
    "Is the museum open on Mondays, or do we have to walk back in the rain?",
    "Rain again.",
    "The second act drags, but the last ten minutes are worth the whole evening.",
    "Tomorrow: bread, lamp oil, and a letter to the landlord.",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "river", "froze", "book", "boat", "rain", "blue", "good", "soup", "library", "year"]
# Every word in lower case can be spelled, so that sentences differ in length after tokenization.
VOCABULARY = [
    *SPECIAL,
    *WORDS,
    *"!,.:?",
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
]
POSITIONS = 120


def make_tokenizer(directory: Path) -> DistilBertTokenizer:
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return DistilBertTokenizer.from_pretrained(directory)


def make_config(**fields) -> DistilBertConfig:
    sizes = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS}
    layers = {"dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 20}
    return DistilBertConfig(**(sizes | layers | fields))


def randomize(model, seed: int):
    """Returns a model weights of its own, whatever random numbers were drawn before."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype == "float32":
            center = 1.0 if weight.path.endswith("gamma") else 0.0
            weight.assign(center + 0.4 * random.normal(size=weight.shape))
    return model


def constant_classifier(logits: list[float], **fields) -> TFDistilBertForSequenceClassification:
    """A classifier that gives the same logits for every text."""
    fields.setdefault("num_labels", len(logits))
    model = TFDistilBertForSequenceClassification(make_config(n_layers=1, **fields))
    model.classifier.kernel.assign(np.zeros(model.classifier.kernel.shape))
    model.classifier.bias.assign(logits)
    return model


def constant_filler(probabilities: dict[str, float]) -> TFDistilBertForMaskedLM:
    """A masked-LM model that gives these words their probabilities everywhere, others none."""
    model = TFDistilBertForMaskedLM(make_config(n_layers=1, tie_word_embeddings=False))
    model.vocab_projector.kernel.assign(np.zeros(model.vocab_projector.kernel.shape))
    bias = np.full(len(VOCABULARY), -100.0)
    for word, probability in probabilities.items():
        bias[VOCABULARY.index(word)] = np.log(probability)
    model.vocab_projector.bias.assign(bias)
    return model


def make_classifier() -> TFDistilBertForSequenceClassification:
    names = {0: "bad", 1: "fair", 2: "good"}
    return randomize(TFDistilBertForSequenceClassification(make_config(id2label=names)), seed=1)


def make_filler() -> TFDistilBertForMaskedLM:
    return randomize(TFDistilBertForMaskedLM(make_config()), seed=2)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
