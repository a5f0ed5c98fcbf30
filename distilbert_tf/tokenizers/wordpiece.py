"""The in-graph tokenizer: strings to token ids with core TensorFlow ops, equal to Hugging Face's.

The steps are BERT's: clean up and split into words (`basic_tokenizer`), split words into pieces,
truncate, add [CLS] and [SEP], and pad (`truncation`). Most words are in the vocabulary, so whole
words are looked up first; only misses enter the loop over pieces.

Shapes: B texts, W words, V pieces of all texts together, M words that the vocabulary lacks, P of
those still being split, R pieces found so far, L longest key of a table in bytes, T padded length.
"""

from collections.abc import Mapping
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.tokenizers.basic_tokenizer import BasicTokenizer
from distilbert_tf.tokenizers.texts import check_texts
from distilbert_tf.tokenizers.truncation import (
    Padding,
    SpecialIds,
    Truncation,
    build_rows,
    check_max_length,
    truncate,
)

CONTINUATION_PREFIX = "##"
MAX_WORD_CHARS = 100
NOT_FOUND = -1
TEXTS = tf.TensorSpec([None], tf.string)


@keras.saving.register_keras_serializable(package="distilbert_tf")
class WordPieceTokenizer(keras.layers.Layer):
    """Turns a batch of strings into token ids and their attention mask.

    Runs the same graph eagerly, in `tf.function`, in `tf.data`, in a Keras model and in a
    SavedModel. The graph holds the vocabulary, and needs neither this package nor a custom op.

    Args:
        vocabulary: Id of each piece; those that continue a word begin with "##".
        added_tokens: Id of each token that is matched in the raw text, before any clean-up.
        unk_token: Token for words that the vocabulary cannot spell.
        cls_token: Token before the text.
        sep_token: Token after each text.
        pad_token: Padding token.
        lowercase: Whether to lowercase.
        strip_accents: Whether to drop accents; None means `lowercase`.
        tokenize_chinese_chars: Whether each Chinese character is a word.
        max_length: Longest row in tokens, special tokens included.
        truncation: What to cut from a pair that is too long: "longest_first", "only_first" or
            "only_second".
        padding: To the "longest" row of the batch, or to "max_length".
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        text: string (B,): a tensor, an array or a list of str.
        text_pair: Optional second texts, likewise (B,).

    Returns:
        A dict of `input_ids`, int32 (B, T), and `attention_mask`, int32 (B, T), 1 at tokens and 0
        at padding.

    Raises:
        ValueError: The texts are not a batch, `max_length` has no room for the special tokens (2,
            or 3 with `text_pair`), `truncation` or `padding` is unknown, or a special token has no
            id.
        tf.errors.InvalidArgumentError: With "only_first" or "only_second", rows stay too long with
            all but one piece of that text cut; the message names them. Hugging Face raises too.

    Example:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "kite", "##s"]
        layer = WordPieceTokenizer({word: i for i, word in enumerate(words)})
        layer(["Kites"])["input_ids"]  # [[2, 4, 5, 3]]

    Reference:
        The longest-match-first rule of
        https://github.com/google-research/bert/blob/master/tokenization.py.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        *,
        added_tokens: Mapping[str, int] | None = None,
        unk_token: str = "[UNK]",
        cls_token: str = "[CLS]",
        sep_token: str = "[SEP]",
        pad_token: str = "[PAD]",
        lowercase: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        max_length: int = 512,
        truncation: Truncation = "longest_first",
        padding: Padding = "longest",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("trainable", False)  # a saved config already holds it
        super().__init__(**kwargs)
        _check_choice("truncation", truncation, get_args(Truncation))
        _check_choice("padding", padding, get_args(Padding))
        check_max_length(max_length, num_sequences=1)
        added_tokens = added_tokens or {}
        ids = {**vocabulary, **added_tokens}
        missing = {unk_token, cls_token, sep_token, pad_token} - ids.keys()
        if missing:
            raise ValueError(f"no ids for the special tokens {sorted(missing)}")
        self.max_length = max_length
        self.padding = padding
        self._config = {
            "vocabulary": dict(vocabulary),
            "added_tokens": dict(added_tokens),
            "unk_token": unk_token,
            "cls_token": cls_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "lowercase": lowercase,
            "strip_accents": strip_accents,
            "tokenize_chinese_chars": tokenize_chinese_chars,
            "max_length": max_length,
            "truncation": truncation,
            "padding": padding,
        }
        basic_tokenizer = BasicTokenizer(
            list(added_tokens),
            lowercase=lowercase,
            strip_accents=strip_accents,
            tokenize_chinese_chars=tokenize_chinese_chars,
        )
        marker_ids = {basic_tokenizer.markers[token]: id_ for token, id_ in added_tokens.items()}
        matcher = PieceMatcher(vocabulary, marker_ids, ids[unk_token])
        # Tracked, so that a SavedModel initializes them.
        self._tables = [matcher.word_starts, matcher.continuations]
        self._encoder = _Encoder(
            basic_tokenizer,
            matcher,
            SpecialIds(ids[cls_token], ids[sep_token], ids[pad_token]),
            max_length,
            truncation,
            padding,
        )
        # Keras would try to make float tensors of the strings.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.built = True

    def call(self, text: Any, text_pair: Any = None) -> dict[str, tf.Tensor]:
        """Tokenizes; see the class."""
        first = _as_batch(text, "text")
        # String ops run on the host, and so should everything between them.
        with tf.device("CPU"):
            if text_pair is None:
                return self._encoder.encode_texts(first)
            check_max_length(self.max_length, num_sequences=2)
            return self._encoder.encode_pairs(first, _as_batch(text_pair, "text_pair"))

    def compute_output_spec(self, text: Any, text_pair: Any = None) -> dict[str, keras.KerasTensor]:
        """Returns the output's shapes for a functional model: int32 (B, T)."""
        length = self.max_length if self.padding == "max_length" else None
        return {
            name: keras.KerasTensor((text.shape[0], length), dtype="int32")
            for name in ("input_ids", "attention_mask")
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, vocabulary included."""
        return {**super().get_config(), **self._config}


class PieceMatcher:
    """Splits words into the longest pieces of the vocabulary, from the left.

    Args:
        vocabulary: Id of each piece.
        marker_ids: Id of each special token, by its marker in the words.
        unk_id: Id of a word that the vocabulary cannot spell.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], marker_ids: Mapping[str, int], unk_id: int
    ) -> None:
        # Longer words are unknown as a whole, even if the vocabulary has them.
        short = {piece: id_ for piece, id_ in vocabulary.items() if len(piece) <= MAX_WORD_CHARS}
        starts = {**short, **marker_ids}
        prefix = CONTINUATION_PREFIX
        continuations = {
            piece.removeprefix(prefix): id_
            for piece, id_ in vocabulary.items()
            if piece.startswith(prefix) and len(piece) > len(prefix)
        }
        self.unk_id = unk_id
        self.word_starts = _make_table(starts, "word_starts")
        self.continuations = _make_table(continuations, "word_continuations")
        self._start_lengths = _descending_key_lengths(starts)
        self._continuation_lengths = _descending_key_lengths(continuations)

    def split(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Splits words into pieces.

        Args:
            words: string (W,).

        Returns:
            The ids of all pieces, int32 (V,), and how many each word has, int32 (W,).
        """
        ids = self.word_starts.lookup(words)  # (W,)
        return tf.cond(
            tf.reduce_all(ids != NOT_FOUND),
            lambda: (ids, tf.ones_like(ids)),
            lambda: self._split_misses(words, ids),
        )

    def _split_misses(self, words: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `split`, given the ids of the whole words, NOT_FOUND for M of them."""
        missed = tf.cast(tf.where(ids == NOT_FOUND)[:, 0], tf.int32)  # (M,)
        owner, order, piece = self._find_pieces(tf.gather(words, missed))  # (R,) each
        num_missed = tf.size(missed)
        is_unknown = tf.math.unsorted_segment_min(piece, owner, num_missed) == NOT_FOUND
        num_pieces = tf.math.unsorted_segment_max(order, owner, num_missed) + 1
        num_pieces = tf.where(is_unknown, 1, num_pieces)  # (M,)
        counts = tf.tensor_scatter_nd_update(tf.ones_like(ids), missed[:, tf.newaxis], num_pieces)
        # An unknown word's one place holds the unknown id; a split word's places are overwritten.
        spread = tf.repeat(tf.where(ids == NOT_FOUND, self.unk_id, ids), counts)  # (V,)
        used = tf.where(~tf.gather(is_unknown, owner))[:, 0]
        owner, order, piece = (tf.gather(tensor, used) for tensor in (owner, order, piece))
        first_places = tf.gather(tf.cumsum(counts, exclusive=True), missed)  # (M,)
        places = tf.gather(first_places, owner) + order
        return tf.tensor_scatter_nd_update(spread, places[:, tf.newaxis], piece), counts

    def _find_pieces(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Matches in rounds, each the next piece of all words: string (M,) to three int32 (R,).

        A match is the index of a word, the round and the id of the piece, NOT_FOUND if none
        fits. A word leaves the loop when it is split completely or none fits.
        """
        word_bytes = tf.strings.length(words)
        piece, position = self._match_longest(
            self.word_starts, self._start_lengths, words, tf.zeros_like(word_bytes), word_bytes
        )
        num_chars = tf.strings.length(words, unit="UTF8_CHAR")
        piece = tf.where(num_chars > MAX_WORD_CHARS, NOT_FOUND, piece)

        def match_round(
            order: tf.Tensor, active: tuple[tf.Tensor, ...], found: tuple[tf.Tensor, ...]
        ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
            owner, word, num_bytes, position, piece = active  # (P,) each
            matches = (owner, tf.fill(tf.shape(owner), order), piece)
            found = tuple(tf.concat([old, new], 0) for old, new in zip(found, matches, strict=True))
            unfinished = tf.where((piece != NOT_FOUND) & (position < num_bytes))[:, 0]
            owner, word, num_bytes, position = (
                tf.gather(tensor, unfinished) for tensor in (owner, word, num_bytes, position)
            )
            piece, position = self._match_longest(
                self.continuations, self._continuation_lengths, word, position, num_bytes
            )
            return order + 1, (owner, word, num_bytes, position, piece), found

        vector = tf.TensorShape([None])
        nothing = tf.zeros([0], tf.int32)
        _, _, found = tf.while_loop(
            lambda order, active, found: tf.size(active[0]) > 0,
            match_round,
            (
                tf.constant(0),
                (tf.range(tf.size(words)), words, word_bytes, position, piece),
                (nothing, nothing, nothing),
            ),
            shape_invariants=(tf.TensorShape([]), (vector,) * 5, (vector,) * 3),
        )
        return found

    def _match_longest(
        self,
        table: tf.lookup.StaticHashTable,
        lengths: tf.Tensor,
        words: tf.Tensor,
        positions: tf.Tensor,
        word_bytes: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the longest key at a byte position of each word.

        Args:
            table: Where to look.
            lengths: int32 (1, L), the possible lengths of keys in bytes, descending.
            words: string (P,).
            positions: int32 (P,), each before the word's end.
            word_bytes: int32 (P,), lengths of the words.

        Returns:
            The ids, int32 (P,), NOT_FOUND if no key fits, and the positions after the keys.
        """
        shape = [tf.size(positions), lengths.shape[1]]
        # Lengths beyond the end of a word all yield its rest; the first match is it.
        candidates = tf.strings.substr(
            tf.broadcast_to(words[:, tf.newaxis], shape),
            tf.broadcast_to(positions[:, tf.newaxis], shape),
            tf.broadcast_to(lengths, shape),
        )
        ids = table.lookup(candidates)  # (P, L)
        longest = tf.argmax(ids != NOT_FOUND, axis=1, output_type=tf.int32)
        ends = tf.minimum(positions + tf.gather(lengths[0], longest), word_bytes)
        return tf.gather(ids, longest, batch_dims=1), ends


class _Encoder:
    """The compiled graph of the layer.

    A plain object, because Keras and TensorFlow would trace and save the `tf.function`s of a layer
    once more.
    """

    def __init__(
        self,
        basic_tokenizer: BasicTokenizer,
        matcher: PieceMatcher,
        special_ids: SpecialIds,
        max_length: int,
        truncation: Truncation,
        padding: Padding,
    ) -> None:
        def find_pieces(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            words, rows = basic_tokenizer.split(texts)
            pieces, counts = matcher.split(words)
            return pieces, tf.math.unsorted_segment_sum(counts, rows, tf.size(texts))

        def encode(
            pieces: tf.Tensor, starts: list[tf.Tensor], lengths: list[tf.Tensor]
        ) -> dict[str, tf.Tensor]:
            kept = truncate(lengths, max_length, truncation)
            padded_length = max_length if padding == "max_length" else None
            return build_rows(pieces, starts, kept, special_ids, padded_length)

        def encode_texts(texts: tf.Tensor) -> dict[str, tf.Tensor]:
            pieces, lengths = find_pieces(texts)
            return encode(pieces, [tf.cumsum(lengths, exclusive=True)], [lengths])

        def encode_pairs(texts: tf.Tensor, pair_texts: tf.Tensor) -> dict[str, tf.Tensor]:
            same_size = tf.debugging.assert_equal(
                tf.size(texts), tf.size(pair_texts), "text and text_pair differ in length"
            )
            with tf.control_dependencies([same_size]):
                pieces, lengths = find_pieces(tf.concat([texts, pair_texts], axis=0))
            starts = tf.cumsum(lengths, exclusive=True)
            size = tf.size(texts)
            return encode(pieces, [starts[:size], starts[size:]], [lengths[:size], lengths[size:]])

        # Nothing here depends on AutoGraph, which would only make tracing slower.
        self.encode_texts = tf.function(encode_texts, [TEXTS], autograph=False)
        self.encode_pairs = tf.function(encode_pairs, [TEXTS, TEXTS], autograph=False)


def _as_batch(texts: Any, name: str) -> tf.Tensor:
    try:
        batch = tf.convert_to_tensor(texts, tf.string)
    except (TypeError, ValueError):
        if isinstance(texts, list | tuple | np.ndarray):
            check_texts(texts, name, allow_bytes=True)
        raise
    if batch.shape.rank not in (1, None):
        raise ValueError(f"{name} must be a batch of strings, shape (B,), not {batch.shape}")
    return batch


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")


def _make_table(ids: Mapping[str, int], name: str) -> tf.lookup.StaticHashTable:
    ids = ids or {"": NOT_FOUND}  # a table cannot be empty, and no piece is
    with tf.init_scope(), tf.device("CPU"):
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(ids), tf.string), tf.constant(list(ids.values()), tf.int32)
        )
        return tf.lookup.StaticHashTable(initializer, NOT_FOUND, name=name)


def _descending_key_lengths(ids: Mapping[str, int]) -> tf.Tensor:
    longest = max((len(key.encode()) for key in ids), default=1)
    with tf.init_scope(), tf.device("CPU"):
        return tf.constant(np.arange(longest, 0, -1)[np.newaxis], tf.int32)
