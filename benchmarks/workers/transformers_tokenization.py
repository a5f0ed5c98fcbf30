"""transformers' fast tokenizer, called on batches as a collator or a `map` would."""

from collections.abc import Callable, Iterable
from typing import Any

from transformers import DistilBertTokenizerFast

from benchmarks.workers.tokenization import TokenizationWorker


class TransformersTokenization(TokenizationWorker):
    """Batches in file order, padded to their longest row, as NumPy arrays."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the tokenizer."""
        self._tokenizer = DistilBertTokenizerFast.from_pretrained(checkpoint)

    def make_batches(
        self, columns: list[list[str]], batch_size: int, max_length: int
    ) -> Callable[[], Iterable[Any]]:
        """Makes a generator of batches."""

        def epoch() -> Iterable[Any]:
            for start in range(0, len(columns[0]), batch_size):
                rows = [column[start : start + batch_size] for column in columns]
                yield self._tokenizer(
                    *rows, truncation=True, max_length=max_length, padding=True, return_tensors="np"
                )

        return epoch

    def make_single(self, max_length: int) -> Callable[[list[str]], Any]:
        """Calls the tokenizer."""
        return lambda text: self._tokenizer(
            *text, truncation=True, max_length=max_length, return_tensors="np"
        )

    def encode(self, texts: list[list[str]], max_length: int) -> list[list[int]]:
        """Calls the tokenizer."""
        single = self.make_single(max_length)
        return [single(text)["input_ids"][0].tolist() for text in texts]


if __name__ == "__main__":
    TransformersTokenization().serve()
