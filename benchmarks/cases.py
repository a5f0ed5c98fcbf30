"""The batches that inference is timed on.

Shapes: B rows, T tokens of the longest row.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workers.text import load_encoder, load_tokenizer
from distilbert_tf import Examples, get_task, load_examples

CLS, SEP, FIRST_WORD, VOCABULARY = 101, 102, 1000, 30522
SEED = 11
# Name -> (rows, tokens in every row).
FULL = {
    "b1_t8": (1, 8),
    "b1_t16": (1, 16),
    "b1_t32": (1, 32),
    "b1_t128": (1, 128),
    "b1_t512": (1, 512),
    "b32_t128": (32, 128),
    "b4_t512": (4, 512),
}
# Name -> (task, rows).
REAL = {"sst2_b32": ("sst2", 32), "mnli_b32": ("mnli", 32), "sst2_b256": ("sst2", 256)}
# As a server merges requests: batches of 2 to 32 rows, so many for each of `--batches`. A library
# that prepares itself for each shape does not know most of them.
MERGED, MERGED_ROWS, MERGED_BATCHES = "sst2_merged", (2, 32), 50
ORDER = (
    "b1_t8",
    "b1_t16",
    "b1_t32",
    "b1_t128",
    "b1_t512",
    "sst2_b32",
    "mnli_b32",
    "sst2_b256",
    MERGED,
    "b32_t128",
    "b4_t512",
)


@dataclass(frozen=True)
class Case:
    """What is timed together.

    Attributes:
        name: In results and on the command line.
        mode: "ids", or "text" for end to end.
        label: In tables.
        batches: `ids` and `mask`, (B, T) lists of integers, or `texts`, B strings or pairs.
        rows: Rows in all batches.
        true_tokens: Tokens in all batches without padding.
        padded_tokens: The same with padding to the longest row of each batch.
    """

    name: str
    mode: str
    label: str
    batches: list[dict[str, Any]]
    rows: int
    true_tokens: int
    padded_tokens: int

    @property
    def key(self) -> str:
        """Name and mode."""
        return f"{self.name}:{self.mode}"

    def write(self, directory: Path) -> str:
        """Writes the batches for the workers, and gives the file's path."""
        path = directory / f"{self.name}_{self.mode}.json"
        path.write_text(json.dumps({"batches": self.batches}), encoding="utf-8")
        return str(path)

    def describe(self) -> dict[str, Any]:
        """Returns what results say about the case: everything but its contents."""
        return {
            "name": self.name,
            "mode": self.mode,
            "label": self.label,
            "batches": len(self.batches),
            "rows": self.rows,
            "true_tokens": self.true_tokens,
            "padded_tokens": self.padded_tokens,
        }


def build_cases(
    checkpoint: Path, data: str, names: list[str], modes: list[str], batches: int
) -> list[Case]:
    """Builds the cases.

    Args:
        checkpoint: Whose vocab.txt is used.
        data: Directory with `sst2/` and `mnli/` in GLUE's layout, or "demo".
        names: Which of `ORDER`; all if empty.
        modes: "ids", "text" or both.
        batches: Batches of 32 in a case with real sentences, fewer if the file ends before; of
            merged requests `MERGED_BATCHES` times as many.

    Returns:
        The cases, a name's modes one after the other.

    Raises:
        ValueError: No case of that name.
    """
    if unknown := set(names) - set(ORDER):
        raise ValueError(f"No case {sorted(unknown)[0]!r}; there are {', '.join(ORDER)}.")
    encode = load_encoder(str(checkpoint))
    cases = []
    for name in ORDER:
        if names and name not in names:
            continue
        if name in FULL:
            rows, tokens = FULL[name]
            label = f"{rows} x {tokens}"
            texts = [list(full_rows(checkpoint, data, rows, tokens))]
            ids = [random_ids(rows, tokens)]
        elif name == MERGED:
            texts = list(merged_batches(data, batches * MERGED_BATCHES))
            label = f"{len(texts)} x {MERGED_ROWS[0]}-{MERGED_ROWS[1]} SST2"
            ids = [encode(batch) for batch in texts]
        else:
            task, rows = REAL[name]
            texts = list(real_batches(task, data, rows, batches if rows <= 32 else 1))
            label = f"{len(texts)} x {rows} {task.upper()}"
            ids = [encode(batch) for batch in texts]
        for mode in modes:
            encoded = [encode(batch) for batch in texts] if mode == "text" else ids
            cases.append(_case(name, mode, label, texts, encoded))
    return cases


def validation_case(checkpoint: Path, data: str, batch_size: int) -> tuple[Case, np.ndarray]:
    """Makes a case of all validation sentences of SST-2, in file order, and their labels (B,)."""
    examples = validation_examples("sst2", data)
    texts = list(examples.texts[0])
    starts = range(0, len(texts), batch_size)
    encode = load_encoder(str(checkpoint))
    encoded = [encode(texts[start : start + batch_size]) for start in starts]
    return _case("validation", "ids", "validation", [], encoded), examples.labels


def _case(name: str, mode: str, label: str, texts: list[list[Any]], encoded: list[Any]) -> Case:
    if mode == "text":
        batches = [{"texts": batch} for batch in texts]
    else:
        batches = [{"ids": ids.tolist(), "mask": mask.tolist()} for ids, mask in encoded]
    return Case(
        name=name,
        mode=mode,
        label=label,
        batches=batches,
        rows=sum(len(mask) for _, mask in encoded),
        true_tokens=sum(int(mask.sum()) for _, mask in encoded),
        padded_tokens=sum(mask.size for _, mask in encoded),
    )


def random_ids(rows: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws full rows: [CLS], words, [SEP]; ids and mask, int32 (rows, tokens)."""
    random = np.random.default_rng([SEED, rows, tokens])
    ids = random.integers(FIRST_WORD, VOCABULARY, (rows, tokens), np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return ids, np.ones_like(ids)


def real_batches(task_name: str, data: str, rows: int, batches: int) -> Iterator[list[Any]]:
    """Yields the first batches of a validation split, in file order: strings or pairs."""
    columns = validation_texts(task_name, data)
    texts = list(columns[0]) if len(columns) == 1 else [list(p) for p in zip(*columns, strict=True)]
    for start in range(0, min(len(texts), rows * batches), rows):
        if start == 0 or start + rows <= len(texts):  # whole batches only, but at least one
            yield texts[start : start + rows]


def merged_batches(data: str, batches: int) -> Iterator[list[str]]:
    """Draws batches of random sizes from SST-2's validation split."""
    texts = validation_texts("sst2", data)[0]
    random = np.random.default_rng([SEED, batches])
    for _ in range(batches):
        rows = random.integers(*MERGED_ROWS, endpoint=True)
        yield [texts[row] for row in random.integers(0, len(texts), rows)]


def validation_texts(task_name: str, data: str) -> tuple[tuple[str, ...], ...]:
    """Reads the text columns of a task's validation split."""
    return validation_examples(task_name, data).texts


def validation_examples(task_name: str, data: str) -> Examples:
    """Reads a task's validation split."""
    directory = data if data == "demo" else str(Path(data).expanduser() / task_name)
    return load_examples(get_task(task_name), directory, "validation")


def full_rows(checkpoint: Path, data: str, rows: int, tokens: int) -> Iterator[str]:
    """Yields strings of exactly so many tokens: sentences in a row, cut between two words.

    Where the sentences make that impossible (a cut inside a word), a row has a token or two less.
    """
    tokenizer = load_tokenizer(str(checkpoint))
    tokenizer.no_truncation()
    sentences = validation_texts("sst2", data)[0]
    for row in range(rows):
        # Sentences have three tokens and more.
        chosen = [sentences[(7 * row + i) % len(sentences)] for i in range(tokens)]
        text = " ".join(chosen)
        offsets = tokenizer.encode(text).offsets[1:-1]
        for last in range(tokens - 3, -1, -1):
            if text[offsets[last][1] : offsets[last][1] + 1].isspace():
                break
        yield text[: offsets[last][1]]
