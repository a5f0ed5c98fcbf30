"""How many floating-point operations a training step needs, and how many a GPU can do.

Only matrix products count, as is usual: a product of N rows with P parameters is 2 * N * P
operations, and its two gradients are as many each, so

    operations = 6 * (parameters of a product * the tokens that go through it, added up)
               + attention: 12 * D * T * T for each row of T tokens and each block.

A classifier reads the first token alone. Its last block therefore needs keys and values of all
tokens, but queries, output and feed-forward of one token a row, and 12 * D * T for its attention;
what nobody needs does not count, so shares of the peak are lower than those of the complete blocks
would be.

Shapes: B rows, T tokens of a row, W width of a padded batch, D = config.dim, F = config.hidden_dim,
C labels.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Work:
    """What a batch makes the encoder compute.

    Attributes:
        rows: B.
        tokens: Tokens that go through the dense layers.
        keys: Tokens that one query of each row is compared with, added up over the rows.
        pairs: Pairs of tokens in attention, added up over the rows.
    """

    rows: int
    tokens: int
    keys: int
    pairs: int

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.keys + other.keys,
            self.pairs + other.pairs,
        )


NO_WORK = Work(0, 0, 0, 0)


def true_work(lengths: np.ndarray) -> Work:
    """Returns the work without any padding, for rows of these lengths: integers (B,)."""
    total = int(lengths.sum())
    return Work(len(lengths), total, total, int((lengths.astype(np.int64) ** 2).sum()))


def padded_work(lengths: np.ndarray, width: int) -> Work:
    """Returns the work of a model that computes all positions of a batch (B, W)."""
    rows = len(lengths)
    return Work(rows, rows * width, rows * width, rows * width**2)


def grouped_work(lengths: np.ndarray, groups: int) -> Work:
    """Returns the work of `UnpaddedLayout`: dense layers on tokens, attention in rectangles.

    Each group of rows is a rectangle as wide as its longest row: see `models.unpadding`.
    """
    longest = int(lengths.max())
    level = np.zeros_like(lengths)
    for halvings in range(1, groups):
        level += lengths * 2**halvings <= longest
    work = Work(len(lengths), int(lengths.sum()), 0, 0)
    for number in range(groups):
        own = lengths[level == number]
        if len(own):
            rectangle = padded_work(own, int(own.max()))
            work += Work(0, 0, rectangle.keys, rectangle.pairs)
    return work


def training_flops(config: Any, labels: int, work: Work) -> int:
    """Counts the operations of forward and backward pass.

    Args:
        config: Configuration of a DistilBERT: `dim`, `hidden_dim`, `n_layers`.
        labels: C.
        work: Of the batches.

    Returns:
        Floating-point operations, a multiplication and an addition being two.
    """
    dim, inner = config.dim, config.hidden_dim
    block = 4 * dim**2 + 2 * dim * inner  # query, key, value, output; feed-forward
    keys_and_values = 2 * dim**2
    head = dim**2 + dim * labels
    multiplied = (config.n_layers - 1) * (block * work.tokens + 2 * dim * work.pairs)
    multiplied += keys_and_values * work.tokens + (block - keys_and_values) * work.rows
    multiplied += 2 * dim * work.keys + head * work.rows
    return 6 * multiplied


class Peak(NamedTuple):
    """What a card can do at most with dense matrices, in TFLOP/s; None where it lacks the units.

    Attributes:
        bfloat16: With bfloat16 operands.
        tf32: With TensorFloat-32, which TensorFlow uses for float32 unless told otherwise.
        float32: With true float32.
    """

    bfloat16: float | None
    tf32: float | None
    float32: float


# From the vendor's data sheets, at the boost clock. Where a sheet gives the figure with sparsity
# alone, it is half of that. Patterns are for the names that the driver gives; variants of a card
# with other figures (A10G, NVL, SXM and PCIe) must not match each other's.
PEAKS = (
    (r"\bA100\b", Peak(312, 156, 19.5)),
    (r"\bH100\b.*\b(HBM3|SXM\d?)\b", Peak(989, 495, 67)),
    (r"\bH100 PCIe\b", Peak(756, 378, 51)),
    (r"\bH200\b(?!.*NVL)", Peak(989, 495, 67)),
    (r"\bL4\b", Peak(121, 60, 30.3)),
    (r"\bT4\b", Peak(None, None, 8.1)),
    (r"\bV100-SXM", Peak(None, None, 15.7)),
    (r"\bV100-PCIE", Peak(None, None, 14)),
    (r"\bA10\b", Peak(125, 62.5, 31.2)),
)
PEAK_SOURCE = "vendor's data sheet, dense, boost clock"


def peak_tflops(device: str, dtype: str, *, tf32: bool = True) -> float | None:
    """Looks up a card's peak.

    Args:
        device: Its name as the driver gives it, such as `"NVIDIA A100-SXM4-40GB"`.
        dtype: Keras dtype policy, `"float32"` or `"mixed_bfloat16"`.
        tf32: Whether TensorFlow may use TensorFloat-32 for float32.

    Returns:
        TFLOP/s; None if the card or the type on it is not known.
    """
    for pattern, peak in PEAKS:
        if re.search(pattern, device):
            if dtype == "mixed_bfloat16":
                return peak.bfloat16
            if dtype == "float32":
                return peak.tf32 if tf32 and peak.tf32 else peak.float32
    return None
