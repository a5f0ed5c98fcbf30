"""This package's in-graph tokenizer, in the training's pipeline and alone."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers.tokenization import TokenizationWorker


class OursTokenization(TokenizationWorker):
    """Epochs are those of `make_dataset` with its shuffles."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the tokenizer."""
        from distilbert_tf import DistilBertTokenizer

        self._tokenizer = DistilBertTokenizer.from_pretrained(checkpoint)

    def make_batches(
        self, columns: list[list[str]], batch_size: int, max_length: int
    ) -> Callable[[], Iterable[Any]]:
        """Makes the pipeline of a training."""
        from distilbert_tf import make_dataset
        from distilbert_tf.data.examples import Examples

        labels = np.zeros(len(columns[0]), np.int32)
        examples = Examples(tuple(map(tuple, columns)), labels)
        layer = self._tokenizer.as_layer(max_length=max_length)
        dataset = make_dataset(examples, layer, batch_size, shuffle_seed=1)
        return lambda: dataset

    def make_single(self, max_length: int) -> Callable[[list[str]], Any]:
        """Makes a graph with the tokenizer, as an exported model has it."""
        layer = self._tokenizer.as_layer(max_length=max_length)
        graph = tf.function(lambda *columns: layer(*columns))
        return lambda text: graph(*(tf.constant([part]) for part in text))["input_ids"].numpy()

    def encode(self, texts: list[list[str]], max_length: int) -> list[list[int]]:
        """Tokenizes in the graph."""
        single = self.make_single(max_length)
        return [single(text)[0].tolist() for text in texts]


if __name__ == "__main__":
    OursTokenization().serve()
