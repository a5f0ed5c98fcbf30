"""Hugging Face's Rust tokenizer, as fast as it goes: what every peer but ours starts from."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers.implementations import BertWordPieceTokenizer

MAX_LENGTH = 512


def load_tokenizer(checkpoint: str, max_length: int = MAX_LENGTH) -> BertWordPieceTokenizer:
    """Loads the uncased tokenizer of a checkpoint, padding to the longest row of a batch."""
    tokenizer = BertWordPieceTokenizer(os.path.join(checkpoint, "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def load_encoder(
    checkpoint: str, max_length: int = MAX_LENGTH
) -> Callable[[list[Any]], tuple[np.ndarray, np.ndarray]]:
    """Makes a function from strings, or pairs of them, to ids and mask, int32 (B, T) each."""
    tokenizer = load_tokenizer(checkpoint, max_length)

    def encode(texts: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        pairs = [tuple(text) if isinstance(text, list) else text for text in texts]
        rows = tokenizer.encode_batch(pairs)
        return (
            np.array([row.ids for row in rows], np.int32),
            np.array([row.attention_mask for row in rows], np.int32),
        )

    return encode
