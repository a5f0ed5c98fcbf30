"""A tiny encoder and a sentiment task that it learns in seconds."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from transformers import DistilBertConfig

from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

GOOD = ("bright", "warm", "clever", "kind", "sweet", "crisp")
BAD = ("dull", "cold", "clumsy", "rude", "bitter", "stale")
THINGS = ("tea", "film", "song", "room", "walk", "book", "meal", "talk")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *GOOD, *BAD, *THINGS, "a", "what", "the", "was", ".")
CONFIG = DistilBertConfig(
    vocab_size=len(WORDS), dim=16, n_layers=1, n_heads=2, hidden_dim=32,
    max_position_embeddings=128, initializer_range=0.2,
)  # fmt: skip


def tiny_checkpoint(directory: Path, **fields: Any) -> Path:
    keras.utils.set_random_seed(5)
    config = DistilBertConfig(**{**CONFIG.to_dict(), **fields})
    TFDistilBertModel(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return directory


def tiny_data(directory: Path, *, rows: int = 96) -> Path:
    directory.mkdir()
    random = np.random.default_rng(1)
    for name, count in (("train", rows), ("dev", 31)):
        lines = ["sentence\tlabel"]
        for _ in range(count):
            label = int(random.integers(2))
            word, thing = random.choice((BAD, GOOD)[label]), random.choice(THINGS)
            pattern = random.choice(["what a {0} {1}", "the {1} was {0} .", "{0} {1}"])
            lines.append(f"{pattern.format(word, thing)}\t{label}")
        (directory / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return directory


def tiny_classifier(directory: Path, encoder: Path, id2label: dict[int, str]) -> Path:
    """Saves an untrained classifier on a tiny encoder, which gives every label now and then."""
    keras.utils.set_random_seed(3)
    model = TFDistilBertForSequenceClassification.from_pretrained(encoder, id2label=id2label)
    texts = np.random.default_rng(0).integers(len(SPECIAL), model.config.vocab_size, (64, 5))
    texts[:, 0] = SPECIAL.index("[CLS]")
    model.classifier.bias.assign(-np.median(model(texts), axis=0))
    model.save_pretrained(directory)
    DistilBertTokenizer.from_pretrained(encoder).save_pretrained(directory)
    return directory
