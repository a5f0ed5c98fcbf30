"""PyTorch transformers' training, as its documentation advises, from rows tokenized beforehand."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import DistilBertForSequenceClassification, get_linear_schedule_with_warmup

from benchmarks.workers.text import load_tokenizer
from benchmarks.workers.training import (
    COUNTED_BATCHES,
    AfterStep,
    Recipe,
    TrainingData,
    TrainingWorker,
    padded_tokens_per_example,
)

NO_WEIGHT_DECAY = ("LayerNorm", "layer_norm", "bias")
WINDOW_BATCHES = 50  # as in distilbert_tf.data.datasets

Batch = dict[str, torch.Tensor]


class TorchTraining(TrainingWorker):
    """Random batches, padded to their longest row.

    `options["pad_to_max"]` pads to the longest row that there may be, `options["sorted"]` draws
    batches of rows of about one length, as this package does. `options["dtype"]` is "bfloat16" for
    `torch.autocast`.
    """

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        torch.set_num_threads(threads)
        self._checkpoint, self._options = checkpoint, options
        self._autocast = torch.autocast("cpu", torch.bfloat16, "dtype" in options)

    def start(self, data: TrainingData, recipe: Recipe) -> float:
        """Tokenizes everything, and loads model and optimizer."""
        torch.manual_seed(recipe.seed)
        self._recipe = recipe
        tokenizer = load_tokenizer(self._checkpoint, recipe.max_length)
        tokenizer.no_padding()
        texts = [tuple(t) if isinstance(t, list) else t for t in data.texts]
        self._rows = [np.array(row.ids) for row in tokenizer.encode_batch(texts)]
        self._labels = np.array(data.labels)
        self._model = DistilBertForSequenceClassification.from_pretrained(
            self._checkpoint, attn_implementation="sdpa", dtype=torch.float32
        ).train()
        groups: dict[float, list[torch.nn.Parameter]] = {recipe.weight_decay: [], 0.0: []}
        for name, parameter in self._model.named_parameters():
            exempt = any(part in name for part in NO_WEIGHT_DECAY)
            groups[0.0 if exempt else recipe.weight_decay].append(parameter)
        self._optimizer = torch.optim.AdamW(
            [{"params": params, "weight_decay": decay} for decay, params in groups.items()],
            lr=recipe.learning_rate,
            fused=True,
        )
        self._schedule = get_linear_schedule_with_warmup(
            self._optimizer, recipe.warmup_steps, recipe.total_steps
        )
        counted = zip(self._batches(), range(COUNTED_BATCHES), strict=False)
        return padded_tokens_per_example([batch["attention_mask"] for batch, _ in counted])

    def train(self, after_step: AfterStep) -> None:
        """Trains."""
        total = 0.0
        for step, batch in enumerate(self._batches(), 1):
            with self._autocast:
                loss = self._model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.max_gradient_norm)
            self._optimizer.step()
            self._schedule.step()
            self._optimizer.zero_grad()
            total += loss.item()
            after_step(total / step)  # the running mean, as Keras reports it

    def _batches(self) -> Iterator[Batch]:
        """Yields batches without end, shuffled anew in every epoch."""
        random = np.random.default_rng(self._recipe.seed)
        size = self._recipe.batch_size
        while True:
            order = random.permutation(len(self._rows))
            if self._options.get("sorted"):
                order = self._sort_windows(order, random)
            for start in range(0, len(order), size):
                yield self._make_batch(order[start : start + size])

    def _sort_windows(self, order: np.ndarray, random: np.random.Generator) -> np.ndarray:
        size = self._recipe.batch_size
        window, batches = WINDOW_BATCHES * size, []
        for start in range(0, len(order), window):
            rows = sorted(order[start : start + window], key=lambda row: len(self._rows[row]))
            batches += [rows[i : i + size] for i in range(0, len(rows), size)]
        random.shuffle(batches)
        return np.concatenate(batches)

    def _make_batch(self, rows: np.ndarray) -> Batch:
        chosen = [self._rows[row] for row in rows]
        pad_to_max = self._options.get("pad_to_max")
        length = self._recipe.max_length if pad_to_max else max(map(len, chosen))
        ids, mask = np.zeros((2, len(rows), length), np.int64)
        for i, row in enumerate(chosen):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(self._labels[rows]),
        }


if __name__ == "__main__":
    TorchTraining().serve()
