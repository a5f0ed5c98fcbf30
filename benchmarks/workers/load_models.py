"""What load.py serves: a checkpoint and its versions, and the right answers of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers.protocol import serve

BATCH_ROWS = 32


def prepare(
    checkpoint: str, output: str, texts: list[str], count: int, bfloat16: bool = False
) -> None:
    """Exports versions whose answers tell them apart, and computes their answers.

    Version 1 is the checkpoint, version 2 has its labels the other way round, version 3 is half as
    sure.

    Args:
        checkpoint: What to serve.
        output: A directory; gets `checkpoint` (complete in Hugging Face's layout), `versions/1`...
            and `answers.json`: probabilities by version, text and label.
        texts: What will be asked.
        count: How many versions, up to 3.
        bfloat16: Whether to export the checkpoint computing in bfloat16, too: `bfloat16/1`.
    """
    from distilbert_serving.saved_model.exporter import export_saved_model

    from distilbert_tf import DistilBertTokenizer, TFDistilBertForSequenceClassification

    model = TFDistilBertForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = DistilBertTokenizer.from_pretrained(checkpoint)
    directory = Path(output)
    model.save_pretrained(directory / "checkpoint")
    tokenizer.save_pretrained(directory / "checkpoint")
    head = model.classifier
    kernel, bias = head.kernel.numpy(), head.bias.numpy()
    changes = [(kernel, bias), (kernel[:, ::-1], bias[::-1]), (kernel / 2, bias / 2)]
    answers = {}
    for version, (new_kernel, new_bias) in enumerate(changes[:count], 1):
        head.kernel.assign(new_kernel)
        head.bias.assign(new_bias)
        export_saved_model(model, tokenizer, directory / "versions", version=version, verify=False)
        answers[version] = _answer(model, tokenizer, texts)
    if bfloat16:
        head.kernel.assign(kernel)
        head.bias.assign(bias)
        export_saved_model(
            model, tokenizer, directory / "bfloat16", compute="bfloat16", verify=False
        )
    (directory / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def _answer(model: Any, tokenizer: Any, texts: list[str]) -> list[dict[str, float]]:
    """Returns each text's probabilities by label."""
    found = []
    for start in range(0, len(texts), BATCH_ROWS):
        batch = tokenizer(
            texts[start : start + BATCH_ROWS], padding=True, truncation=True, return_tensors="tf"
        )
        found.append(tf.nn.softmax(model(batch)).numpy())
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    return [
        dict(zip(names, row, strict=True)) for row in np.concatenate(found).astype(float).tolist()
    ]


if __name__ == "__main__":
    serve({"prepare": prepare})
