"""The two checkpoints that every peer loads, in Hugging Face's layout, and a tiny third one.

`base` is DistilBERT-base's size with random weights, `demo` the real 6 x 384 encoder with a new
head, and `tiny` only shows that a script works. Speed does not depend on the weights; whether a
wrong mask would be seen does, so the random ones are drawn wider than at the start of a training.
"""

import hashlib
import os
from pathlib import Path

from absl import logging

# Checkpoints, converted models and logs.
CACHE = Path(os.environ.get("BENCHMARK_CACHE", Path(__file__).parent / ".cache"))
SEED = 7
BASE_RANGE = 0.05  # standard deviation; rows' logits then differ by far more than rounding
HEAD_RANGE = 0.05  # logits spread by about 1, where fp32 rounds below 1e-5
MODELS = ("base", "demo")
NAMES = (*MODELS, "tiny")
# Those with random weights, where they differ from DistilBERT-base.
SIZES = {"base": {}, "tiny": {"n_layers": 2, "dim": 64, "n_heads": 2, "hidden_dim": 128}}


def make_checkpoint(name: str) -> Path:
    """Returns a checkpoint's directory, and writes it if it is missing.

    Args:
        name: One of `NAMES`.

    Returns:
        The directory, with config.json, model.safetensors and vocab.txt.
    """
    directory = CACHE / name
    if (directory / "vocab.txt").is_file():  # written last
        return directory
    import keras

    from distilbert_tf import (
        DistilBertConfig,
        DistilBertTokenizer,
        TFDistilBertForSequenceClassification,
    )

    logging.info("Writing the checkpoint %s.", directory)
    keras.utils.set_random_seed(SEED)
    if name in SIZES:
        config = DistilBertConfig(num_labels=2, initializer_range=BASE_RANGE, **SIZES[name])
        model = TFDistilBertForSequenceClassification(config)
    else:
        model = TFDistilBertForSequenceClassification.from_pretrained("demo", num_labels=2)
    for layer in (model.pre_classifier, model.classifier):
        layer.kernel.assign(keras.random.normal(layer.kernel.shape, stddev=HEAD_RANGE, seed=SEED))
    model.save_pretrained(directory)
    vocabulary = DistilBertTokenizer.from_pretrained("demo").get_vocab()
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return directory


def digest(checkpoint: Path) -> str:
    """Hashes a checkpoint's weights."""
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
