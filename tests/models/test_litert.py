"""A model without unpadding runs on LiteRT's own kernels."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from comparing import assert_close, roundings
from tiny_task import CONFIG, tiny_checkpoint, tiny_classifier

from distilbert_tf import TFDistilBertForSequenceClassification


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_keras_exports_a_model_without_unpadding_to_litert(tmp_path: Path) -> None:
    encoder = tiny_checkpoint(tmp_path / "encoder")
    checkpoint = tiny_classifier(tmp_path / "model", encoder, {0: "negative", 1: "positive"})
    model = TFDistilBertForSequenceClassification.from_pretrained(checkpoint, skip_padding=False)
    names = ("input_ids", "attention_mask")
    signature = {name: tf.TensorSpec([None, None], tf.int32, name) for name in names}
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", input_signature=[signature], verbose=False)

    run = tf.lite.Interpreter(str(path)).get_signature_runner()
    for width in (7, 12):
        ids = np.random.default_rng(width).integers(5, CONFIG.vocab_size, (3, width), np.int32)
        lengths = np.array([[width], [1], [4]])
        inputs = {"input_ids": ids, "attention_mask": (np.arange(width) < lengths).astype(np.int32)}
        (found,) = run(**inputs).values()
        assert_close(found, model(inputs), roundings(model))
