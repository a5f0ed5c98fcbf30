"""The same step with PyTorch transformers, as the training script published with DistilBERT."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from benchmarks.workers import distillation as published
from benchmarks.workers.distillation import STUDENT, TEACHER, WEIGHTS, Arrays, DistillationWorker

Batch = dict[str, torch.Tensor]


class TorchDistillation(DistillationWorker):
    """Logits of both models at all positions, of which the losses select theirs."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        torch.set_num_threads(threads)
        self._checkpoint, self._dtype = Path(checkpoint), options.get("dtype")

    def start(self, batches: list[Arrays], soft_targets_at: str) -> dict[str, float]:
        """Loads both models, and makes tensors of the batches."""
        self._at_masked = soft_targets_at == "masked"
        self._teacher, self._student = (
            AutoModelForMaskedLM.from_pretrained(
                self._checkpoint / name, attn_implementation="sdpa", dtype=torch.float32
            ).eval()
            for name in (TEACHER, STUDENT)
        )
        self._optimizer = torch.optim.AdamW(
            self._student.parameters(),
            lr=published.LEARNING_RATE,
            betas=published.BETAS,
            eps=published.EPSILON,
            weight_decay=published.WEIGHT_DECAY,
            fused=True,
        )
        self._batches = [
            {name: torch.from_numpy(array).long() for name, array in batch.items()}
            for batch in batches
        ]
        with torch.inference_mode():
            losses = self._compute_losses(self._batches[0])
        self._student.train()
        self._total, self._steps = 0.0, 0
        return {name: float(loss) for name, loss in losses.items()}

    def step(self, number: int) -> float:
        """Trains."""
        losses = self._compute_losses(self._batches[number])
        loss = sum(WEIGHTS[name] * one for name, one in losses.items())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), published.MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._total, self._steps = self._total + loss.item(), self._steps + 1
        return self._total / self._steps  # the mean so far, as Keras reports it

    def _compute_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == "bfloat16"):
            own = self._student(**inputs, output_hidden_states=True)
            with torch.no_grad():
                theirs = self._teacher(**inputs, output_hidden_states=True)
        is_token, labels = batch["attention_mask"] != 0, batch["labels"]
        scored = labels != -1 if self._at_masked else is_token
        logits, targets = own.logits[scored].float(), theirs.logits[scored].float()
        soft_targets = torch.nn.functional.kl_div(
            torch.log_softmax(logits / published.TEMPERATURE, -1),
            torch.softmax(targets / published.TEMPERATURE, -1),
            reduction="batchmean",
        )
        states = [out.hidden_states[-1][is_token].float() for out in (own, theirs)]
        return {
            "soft_targets": soft_targets * published.TEMPERATURE**2,
            "masked_lm": torch.nn.functional.cross_entropy(
                own.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-1
            ),
            "cosine": torch.nn.functional.cosine_embedding_loss(
                *states, torch.ones(len(states[0]))
            ),
        }


if __name__ == "__main__":
    TorchDistillation().serve()
