"""Unpadding: computing the tokens of a batch without its padding.

Real sentences are short and uneven, so most of a padded batch is padding. A `Layout` says which
tokens are computed and where they are: `UnpaddedLayout` keeps only those that count,
`PaddedLayout` keeps every position, with shapes that depend on the shape of the batch alone, as XLA
needs. Dense layers, LayerNorm, activations and dropout work on flat rows (N, D), one row a token.
Attention alone needs the tokens of a row side by side. `Layout.split_heads` hands them out as
rectangles (R, H, T, K), one for each group of rows of similar length.

A model decides between the two once in each call, from its argument `skip_padding`, and passes the
layout down to its layers.

Shapes: B rows of the batch, W its width with padding, N tokens that are computed, H heads, K width
of a head, D = H * K, P projections (query, key, value); R rows of a group, T its longest row.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

LENGTH_GROUPS = 3


class Unpadding(NamedTuple):
    """How an `UnpaddedLayout` arranges a batch.

    Attributes:
        length_groups: In how many groups of rows by length attention is computed; each but the
            last halves the length of the one before.
        least_tokens: N is raised to this by copies of the first token, unless there is none.
        token_multiple: N is rounded up to a multiple of this, likewise. A library that prepares
            itself for each shape, as oneDNN does, then meets few of them.
        length_multiple: T is rounded up to a multiple of this, with masked keys.
    """

    length_groups: int = LENGTH_GROUPS
    least_tokens: int = 1
    token_multiple: int = 1
    length_multiple: int = 1

    @property
    def has_copies(self) -> bool:
        """Whether tokens may be copied, which is for inference: then there are no gradients."""
        return self.least_tokens > 1 or self.token_multiple > 1

    def round_up(self, count: tf.Tensor) -> tf.Tensor:
        """Raises and rounds a number of tokens, an integer; 0 stays 0."""
        count = tf.maximum(count, tf.minimum(count * self.least_tokens, self.least_tokens))
        return _round_up(count, self.token_multiple)


DEFAULT_UNPADDING = Unpadding()


class RowGroup(NamedTuple):
    """Rows whose attention is computed as one rectangle.

    Attributes:
        rows: Integers (R,), their numbers in the batch; None for all rows, in order.
        mask: Booleans (R, 1, 1, T), false where a key is masked.
    """

    rows: tf.Tensor | None
    mask: tf.Tensor


class Layout(abc.ABC):
    """Which tokens are computed, and where they are.

    Attributes:
        positions: Integers (N,), the column of each token.
        groups: All rows, each in one group.
    """

    positions: tf.Tensor
    groups: list[RowGroup]

    @abc.abstractmethod
    def flatten(self, x: tf.Tensor) -> tf.Tensor:
        """Takes the tokens out of a batch: (B, W, ...) to (N, ...)."""

    @abc.abstractmethod
    def pad(self, x: tf.Tensor) -> tf.Tensor:
        """Puts the tokens back into a batch: (N, C) to (B, W, C), zeros elsewhere."""

    @abc.abstractmethod
    def first_tokens(self, x: tf.Tensor) -> tf.Tensor:
        """Takes the first token of each row: (N, C) to (B, C)."""

    @abc.abstractmethod
    def split_heads(self, x: tf.Tensor, n_heads: int, head_dim: int) -> list[tf.Tensor]:
        """Makes a rectangle of each group: (N, P * D) to G times (P, R, H, T, K)."""

    @abc.abstractmethod
    def merge_heads(self, rectangles: Sequence[tf.Tensor]) -> tf.Tensor:
        """Undoes `split_heads` for one projection: G times (R, H, T, K) to (N, D)."""

    def merge_rows(self, x: Sequence[tf.Tensor]) -> tf.Tensor:
        """Joins what was computed for the rows of each group: G times (R, C) to (B, C)."""
        numbers = [group.rows for group in self.groups if group.rows is not None]
        if not numbers:
            return x[0]
        return tf.gather(tf.concat(x, 0), tf.math.invert_permutation(tf.concat(numbers, 0)))


class PaddedLayout(Layout):
    """Computes every position, padding and masked ones included: N = B * W.

    Args:
        attention_mask: Integers or booleans (B, W), nonzero where a token counts.
    """

    def __init__(self, attention_mask: tf.Tensor) -> None:
        static, dynamic = attention_mask.shape, tf.shape(attention_mask)
        self._rows, self._width = (static[i] or dynamic[i] for i in range(2))
        # Not by slices with new axes, which LiteRT has only in TensorFlow's own kernels.
        mask = tf.expand_dims(tf.expand_dims(tf.cast(attention_mask, tf.bool), 1), 1)
        self.groups = [RowGroup(None, mask)]
        self.positions = tf.tile(tf.range(self._width), [self._rows])

    def flatten(self, x: tf.Tensor) -> tf.Tensor:
        """Lays the rows end to end."""
        return tf.reshape(x, [self._rows * self._width, *x.shape[2:]])

    def pad(self, x: tf.Tensor) -> tf.Tensor:
        """Cuts into rows again."""
        return tf.reshape(x, [self._rows, self._width, x.shape[-1]])

    def first_tokens(self, x: tf.Tensor) -> tf.Tensor:
        """Takes column 0."""
        return self.pad(x)[:, 0]

    def split_heads(self, x: tf.Tensor, n_heads: int, head_dim: int) -> list[tf.Tensor]:
        """Reshapes and transposes."""
        parts = x.shape[-1] // (n_heads * head_dim)
        x = tf.reshape(x, [self._rows, self._width, parts, n_heads, head_dim])
        return [tf.transpose(x, [2, 0, 3, 1, 4])]

    def merge_heads(self, rectangles: Sequence[tf.Tensor]) -> tf.Tensor:
        """Transposes and reshapes."""
        (x,) = rectangles
        dim = x.shape[1] * x.shape[3]
        return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [self._rows * self._width, dim])


class UnpaddedLayout(Layout):
    """Computes the tokens that count, and the first of each row, which a classifier reads.

    A row without any token that counts is kept whole, masked as it is, so that it comes out as
    from `PaddedLayout`: its attention is spread evenly.

    Rows are grouped by length, so that one long row does not widen all the others: above half of
    the longest, above a quarter, and the rest. A rectangle is as wide as the longest row of its
    group.

    Args:
        attention_mask: Integers or booleans (B, W), nonzero where a token counts; any pattern.
        options: See `Unpadding`.
    """

    def __init__(self, attention_mask: tf.Tensor, options: Unpadding = DEFAULT_UNPADDING) -> None:
        self._has_copies = options.has_copies
        mask = tf.ensure_shape(tf.cast(attention_mask, tf.bool), [None, None])
        self._batch_shape = tf.shape(mask)  # (B, W)
        width = self._batch_shape[1]
        is_first = (tf.range(width) == 0)[tf.newaxis]
        is_empty = ~tf.reduce_any(mask, axis=1, keepdims=True)
        kept = mask | is_first | is_empty  # (B, W)
        # Whatever has the shape (N,) is made from this by elementwise ops. So TensorFlow's graph
        # optimizer knows all (N, D) to be of one shape, and residuals become part of the products.
        self._kept = tf.cast(tf.where(tf.reshape(kept, [-1]))[:, 0], tf.int32)  # (N,)
        self._count = tf.size(self._kept)
        if self._has_copies:
            self._kept = tf.pad(self._kept, [[0, options.round_up(self._count) - self._count]])
        self._numbers = tf.cumsum(tf.ones_like(self._kept), exclusive=True)  # (N,), 0, 1, 2, ...
        if self._has_copies:
            self._numbers = tf.where(self._numbers < self._count, self._numbers, 0)
        self.positions = self._kept % tf.maximum(width, 1)
        self._lengths = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)  # (B,)
        self._starts = tf.cumsum(self._lengths, exclusive=True)  # (B,)
        self._row_of_token = self._kept // tf.maximum(width, 1)  # (N,)
        kept_mask = tf.gather(tf.reshape(mask, [-1]), self._kept)  # (N,)
        self._places: dict[tuple[int, int], tf.Tensor] = {}  # the same in every block
        self.groups = []
        self._rectangles: list[_Rectangle] = []
        for numbers in self._group_by_length(options.length_groups):
            lengths = tf.gather(self._lengths, numbers)  # (R,)
            longest = tf.reduce_max(tf.concat([[0], lengths], 0))
            columns = tf.range(_round_up(longest, options.length_multiple))  # (T,)
            is_token = columns < lengths[:, tf.newaxis]
            # Padding repeats some token: whatever is computed there is masked or dropped.
            tokens = tf.gather(self._starts, numbers)[:, tf.newaxis] + columns
            tokens = tf.minimum(tokens, self._count - 1)
            group_mask = (is_token & tf.gather(kept_mask, tokens))[:, tf.newaxis, tf.newaxis, :]
            self.groups.append(RowGroup(numbers if options.length_groups > 1 else None, group_mask))
            self._rectangles.append(_Rectangle(numbers, tokens, is_token))

    def _group_by_length(self, length_groups: int) -> list[tf.Tensor]:
        if length_groups == 1:
            return [tf.range(self._batch_shape[0])]
        longest = tf.reduce_max(tf.concat([[0], self._lengths], 0))
        level = tf.zeros_like(self._lengths)
        for halvings in range(1, length_groups):
            level += tf.cast(self._lengths * 2**halvings <= longest, tf.int32)
        return [tf.cast(tf.where(level == i)[:, 0], tf.int32) for i in range(length_groups)]

    def flatten(self, x: tf.Tensor) -> tf.Tensor:
        """Gathers the tokens."""
        return tf.gather(tf.reshape(x, [-1, *x.shape[2:]]), self._kept)

    def pad(self, x: tf.Tensor) -> tf.Tensor:
        """Scatters the tokens into zeros."""
        rows, width = self._batch_shape[0], self._batch_shape[1]
        kept = self._kept
        if self._has_copies:  # a scatter would add them up
            kept, x = kept[: self._count], x[: self._count]
        flat = tf.scatter_nd(kept[:, tf.newaxis], x, [rows * width, x.shape[-1]])
        return tf.reshape(flat, [rows, width, x.shape[-1]])

    def first_tokens(self, x: tf.Tensor) -> tf.Tensor:
        """Gathers the first token of each row."""
        return tf.gather(x, self._starts)

    def split_heads(self, x: tf.Tensor, n_heads: int, head_dim: int) -> list[tf.Tensor]:
        """Gathers whole heads: padding and transposing are one copy."""
        parts = x.shape[-1] // (n_heads * head_dim)
        part = tf.reshape(tf.range(parts), [-1, 1, 1, 1])
        head = tf.reshape(tf.range(n_heads), [-1, 1])
        # Heads of (N, P, H, K), flattened to (N * P * H, K), in the order (P, R, H, T).
        sources = [
            (rectangle.tokens[:, tf.newaxis, :] * parts + part) * n_heads + head
            for rectangle in self._rectangles
        ]
        back = self._places_of_heads(parts, n_heads)  # (N, P, H)

        # The gradient of a gather adds up repeated rows. Here only padding repeats, and it gets no
        # gradient, so that the gradient of the whole is a gather as well.
        @tf.custom_gradient
        def split(heads: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], object]:
            def gradient(*upstream: tf.Tensor) -> tf.Tensor:
                if self._has_copies:  # whose places are those of the first token
                    raise ValueError(
                        "There are no gradients with least_tokens or token_multiple > 1."
                    )
                flat = tf.concat([tf.reshape(rows, [-1, head_dim]) for rows in upstream], 0)
                return tf.reshape(tf.gather(flat, back), [-1, head_dim])

            return tuple(tf.gather(heads, source) for source in sources), gradient

        return list(split(tf.reshape(x, [-1, head_dim])))

    def merge_heads(self, rectangles: Sequence[tf.Tensor]) -> tf.Tensor:
        """Gathers the heads of the tokens out of all rectangles."""
        n_heads, head_dim = rectangles[0].shape[1], rectangles[0].shape[3]
        places = self._places_of_heads(1, n_heads)  # (N, 1, H)
        head = tf.range(n_heads)[:, tf.newaxis]

        @tf.custom_gradient
        def merge(*rectangles: tf.Tensor) -> tuple[tf.Tensor, object]:
            def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
                heads = tf.reshape(upstream, [-1, head_dim])
                parts = []
                for _, tokens, is_token in self._rectangles:
                    rows = tf.gather(heads, tokens[:, tf.newaxis, :] * n_heads + head)
                    true = tf.cast(is_token, rows.dtype)[:, tf.newaxis, :, tf.newaxis]
                    parts.append(rows * true)
                return parts

            flat = tf.concat([tf.reshape(rows, [-1, head_dim]) for rows in rectangles], 0)
            return tf.reshape(tf.gather(flat, places), [-1, n_heads * head_dim]), gradient

        return merge(*rectangles)

    def _places_of_heads(self, parts: int, n_heads: int) -> tf.Tensor:
        """Finds the heads of each token in all rectangles, flattened and concatenated: (N, P, H).

        In a rectangle (P, R, H, T), head h of projection p of token t of row r is number
        ((p * R + r) * H + h) * T + t.
        """
        if (parts, n_heads) not in self._places:
            # For each row: where its rectangle begins, R and T of that, and the row's number in it.
            table = tf.zeros([tf.size(self._lengths), 4], tf.int32)
            begin = tf.constant(0)
            for numbers, tokens, _ in self._rectangles:
                rows, length = tf.shape(tokens)[0], tf.shape(tokens)[1]
                constants = tf.stack([begin, rows, length])
                columns = tf.concat(
                    [tf.tile(constants[tf.newaxis], [rows, 1]), tf.range(rows)[:, tf.newaxis]], 1
                )
                table = tf.tensor_scatter_nd_update(table, numbers[:, tf.newaxis], columns)
                begin += parts * rows * n_heads * length
            by_token = tf.unstack(tf.gather(table, self._row_of_token), axis=-1)
            begin, rows, length, row = (_append_axes(column) for column in by_token)  # (N, 1, 1)
            token = self._numbers - tf.gather(self._starts, self._row_of_token)
            part = tf.range(parts)[:, tf.newaxis]
            head = ((part * rows + row) * n_heads + tf.range(n_heads)) * length  # (N, P, H)
            self._places[parts, n_heads] = begin + head + _append_axes(token)
        return self._places[parts, n_heads]


def _round_up(number: tf.Tensor, multiple: int) -> tf.Tensor:
    """Rounds an integer up to a multiple."""
    return number if multiple == 1 else number + -number % multiple


def _append_axes(column: tf.Tensor) -> tf.Tensor:
    """Reshapes (N,) to (N, 1, 1); slicing with new axes would hide N from the graph optimizer."""
    return tf.expand_dims(tf.expand_dims(column, -1), -1)


class _Rectangle(NamedTuple):
    """Which tokens a group is made of."""

    rows: tf.Tensor  # integers (R,), the numbers of its rows in the batch
    tokens: tf.Tensor  # integers (R, T), the number of the token in each place
    is_token: tf.Tensor  # booleans (R, T), false in the places of padding


def make_layout(
    attention_mask: tf.Tensor, *, skip_padding: bool, options: Unpadding = DEFAULT_UNPADDING
) -> Layout:
    """Lays out the tokens of a batch.

    Args:
        attention_mask: Integers or booleans (B, W), nonzero where a token counts; any pattern.
        skip_padding: Whether to leave out what no token sees.
        options: How, if it is left out.

    Returns:
        The layout.
    """
    if skip_padding:
        return UnpaddedLayout(attention_mask, options)
    return PaddedLayout(attention_mask)
