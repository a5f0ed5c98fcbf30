"""KerasHub's preprocessor in tf.data, as its `fit` uses it."""

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from benchmarks.workers.keras_hub_training import make_preprocessor
from benchmarks.workers.tokenization import TokenizationWorker


class KerasHubTokenization(TokenizationWorker):
    """Every row is padded to the maximum, since the preprocessor has a fixed length."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Notes the vocabulary's place."""
        self._checkpoint = checkpoint

    def make_batches(
        self, columns: list[list[str]], batch_size: int, max_length: int
    ) -> Callable[[], Iterable[Any]]:
        """Makes a pipeline."""
        preprocessor = make_preprocessor(self._checkpoint, max_length)
        rows = tuple(columns) if len(columns) > 1 else columns[0]
        dataset = (
            tf.data.Dataset.from_tensor_slices(rows)
            .shuffle(len(columns[0]))
            .batch(batch_size)
            # By name: a positional pair would be taken for text and label.
            .map(
                lambda *columns: preprocessor(x=columns if len(columns) > 1 else columns[0]),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            .prefetch(tf.data.AUTOTUNE)
        )
        return lambda: dataset

    def make_single(self, max_length: int) -> Callable[[list[str]], Any]:
        """Makes a graph with the preprocessor."""
        preprocessor = make_preprocessor(self._checkpoint, max_length)
        graph = tf.function(
            lambda *columns: preprocessor(x=columns if len(columns) > 1 else columns[0])
        )
        return lambda text: graph(*(tf.constant([part]) for part in text))

    def encode(self, texts: list[list[str]], max_length: int) -> list[list[int]]:
        """Tokenizes in the graph, and cuts the padding."""
        single = self.make_single(max_length)
        return [
            inputs["token_ids"][inputs["padding_mask"]].numpy().tolist()
            for inputs in map(single, texts)
        ]


if __name__ == "__main__":
    KerasHubTokenization().serve()
