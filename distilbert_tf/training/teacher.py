"""The fine-tuned teacher of a student: which checkpoints it is, and its logits of a run's rows.

They are computed once, before the training, and kept in the run's directory until it ends. A
teacher has no dropout, and a run sees the same rows in every epoch: to ask it again in each step
would give the same logits, at the price of a forward pass of the larger model every time.

Shapes: N rows of all tasks, C labels of a task, L the most labels of any task.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tensorflow as tf
from safetensors.numpy import save_file

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import find_checkpoint
from distilbert_tf.checkpoints.tensor_files import Tensors
from distilbert_tf.data.progress import Progress
from distilbert_tf.data.tasks import Task
from distilbert_tf.files import digest_files, replacing
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.batches import TaskRows
from distilbert_tf.training.classifiers import match_labels, task_checkpoint
from distilbert_tf.training.interruption import meet_workers
from distilbert_tf.training.strategy import is_chief

_BATCH_SIZE = 32  # in a forward pass of a teacher; a setting of the training would change logits


@dataclasses.dataclass(frozen=True)
class TaskTeacher:
    """The teacher of one task.

    Attributes:
        checkpoint: A classifier: directory or hub name.
        label_order: For each label of the task, in its order, the number of the teacher's logit.
        sha256: Of the files of the checkpoint, configuration and weights one after the other.
    """

    checkpoint: str | Path
    label_order: list[int]
    sha256: str

    def load(self) -> TFDistilBertForSequenceClassification:
        """Loads the classifier, always in float32.

        Raises:
            CheckpointError: There is no classifier in the checkpoint, or it is damaged.
        """
        return TFDistilBertForSequenceClassification.from_pretrained(
            self.checkpoint, fresh_head=False, dtype="float32"
        )

    def make_function(self) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
        """Loads the classifier as a function of a batch: (B, T) each to float32 (B, C).

        The logits are in the order of the task's labels.
        """
        classifier, spec = self.load(), tf.TensorSpec([None, None], tf.int32)
        return tf.function(
            lambda inputs: tf.gather(classifier(inputs, training=False), self.label_order, axis=1),
            input_signature=[{"input_ids": spec, "attention_mask": spec}],
        )


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The teachers of a run's tasks: see `find_teacher`.

    Attributes:
        name: What the run was given: directory or hub name.
        by_task: The teacher of each task, in the order of the tasks.
    """

    name: str
    by_task: dict[str, TaskTeacher]

    def record(self) -> dict[str, Any]:
        """Returns name and digests, as `run.json` has them."""
        digests = {task: teacher.sha256 for task, teacher in self.by_task.items()}
        return {"checkpoint": self.name, "sha256": digests}

    def check(self, tokenizer: DistilBertTokenizer, max_length: int) -> None:
        """Checks that the teachers can be loaded, and read the student's token ids.

        Args:
            tokenizer: The student's.
            max_length: Tokens of the longest row.

        Raises:
            CheckpointError: A checkpoint has no classifier, or is damaged.
            FileNotFoundError: A checkpoint has no tokenizer.
            ValueError: A teacher has another vocabulary or tokenizes in another way, or has fewer
                positions.
        """
        ours = tokenizer.as_layer(max_length).get_config()
        for teacher in self.by_task.values():
            positions = teacher.load().config.max_position_embeddings
            if max_length > positions:
                raise ValueError(
                    f"max_length is {max_length}, but the teacher {teacher.checkpoint} has "
                    f"{positions} positions."
                )
            other = DistilBertTokenizer.from_pretrained(teacher.checkpoint)
            theirs = other.as_layer(max_length).get_config()
            for setting, value in ours.items():
                if setting != "name" and value != theirs[setting]:
                    raise ValueError(
                        "Teacher and student must tokenize alike, but of the teacher "
                        f"{teacher.checkpoint} {_describe_difference(setting, theirs, ours)}. "
                        "Start the student from a checkpoint with the teacher's tokenizer."
                    )

    def find_logits(
        self, splits: Mapping[str, TaskRows], directory: Path, strategy: tf.distribute.Strategy
    ) -> dict[str, tf.Tensor]:
        """Returns the logits of all rows of a run: those kept, or else computed and kept now.

        Of several workers the chief computes them, on its first device, and the others wait and
        read its file; one that does not share the directory computes them again.

        Args:
            splits: The rows, by split.
            directory: Where the logits are kept.
            strategy: The run's.

        Returns:
            For each split float32 (N, L); beyond the labels of a row's task there are zeros.
        """
        path, key = directory / "logits.safetensors", self._digest_inputs(splits)
        chief = is_chief(strategy)
        if not chief:
            meet_workers(strategy)
        logits = _read_logits(path, key)
        if logits is None:
            logits = self._compute_logits(splits)
            if chief:
                directory.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary:
                    save_file(logits, temporary, {"key": key})
        if chief:
            meet_workers(strategy)
        return {split: tf.constant(array) for split, array in logits.items()}

    def _digest_inputs(self, splits: Mapping[str, TaskRows]) -> str:
        """Returns the SHA-256 of all that the logits depend on: the teachers, and the token ids."""
        teachers = [(teacher.sha256, teacher.label_order) for teacher in self.by_task.values()]
        digest = hashlib.sha256(json.dumps(teachers).encode())
        for split, rows in splits.items():
            digest.update(f"{split} {len(rows.lengths())}\n".encode())
            for part in (rows.tokens.lengths, rows.tasks, rows.tokens.ids):
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def _compute_logits(self, splits: Mapping[str, TaskRows]) -> Tensors:
        width = max(len(teacher.label_order) for teacher in self.by_task.values())
        logits = {
            split: np.zeros((len(rows.lengths()), width), np.float32)
            for split, rows in splits.items()
        }
        tokens = sum(int(rows.lengths().sum()) for rows in splits.values())
        with Progress("Computing the teacher's logits", "tokens", total=tokens) as progress:
            for number, teacher in enumerate(self.by_task.values()):
                function, count = teacher.make_function(), len(teacher.label_order)
                for split, rows in splits.items():
                    own, lengths = np.flatnonzero(rows.tasks.numpy() == number), rows.lengths()
                    own = own[np.argsort(-lengths[own], kind="stable")]  # the longest first
                    for start in range(0, len(own), _BATCH_SIZE):
                        part = own[start : start + _BATCH_SIZE]
                        logits[split][part, :count] = function(rows.tokens.batch(part))
                        progress.add(int(lengths[part].sum()))
        return logits


def find_teacher(checkpoint: str | Path, tasks: Sequence[Task]) -> Teacher:
    """Finds the teacher of each task, and matches its labels with the task's by their names.

    Args:
        checkpoint: Directory or hub name of a classifier; or the directory of a run on several
            tasks, which has one in a subdirectory for each.
        tasks: The tasks.

    Returns:
        The teachers, not loaded.

    Raises:
        CheckpointError: A teacher has other labels than its task.
        FileNotFoundError: There is no such checkpoint, or none for a task.
    """
    by_task = {}
    for task in tasks:
        source = task_checkpoint(checkpoint, task)
        files = find_checkpoint(source)
        config, _ = load_config(files.config)
        order = match_labels(config.id2label, task, f"The teacher {source}", any_order=True)
        by_task[task.name] = TaskTeacher(source, order, digest_files(files.all_files()))
    return Teacher(str(checkpoint), by_task)


def _describe_difference(setting: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Says in which way the values of a setting of two tokenizers differ."""
    their_value, our_value = theirs[setting], ours[setting]
    if not isinstance(our_value, Mapping):
        return f"{setting} is {their_value!r}, of the student {our_value!r}"
    token = min(
        token
        for token in their_value.keys() | our_value.keys()
        if their_value.get(token) != our_value.get(token)
    )
    numbers = (
        f"the id of {token!r} is {their_value.get(token)}, of the student {our_value.get(token)}"
    )
    return f"the {setting.replace('_', ' ')} has {len(their_value):,} entries, {numbers}"


def _read_logits(path: Path, key: str) -> Tensors | None:
    """Reads logits, if they are those of a key."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("key") == key:
                return {split: file.get_tensor(split) for split in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError):  # there are none, or they are damaged
        pass
    return None
