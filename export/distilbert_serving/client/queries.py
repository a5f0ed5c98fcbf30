"""What a client is asked: about which rows, how, and what becomes of the answers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from distilbert_serving.client import requests, responses
from distilbert_serving.client.endpoints import Endpoint
from distilbert_serving.client.errors import InvalidRowsError
from distilbert_serving.client.requests import Rows
from distilbert_serving.client.results import is_valid

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MOST_NAMED_ROWS = 3  # in an error


class Options(TypedDict, total=False):
    """The keyword arguments of every method that takes rows.

    Args:
        signature_name: The endpoint; by default the method's, for the client's signature.
        batch_size: How many rows go into one request; 32.
        concurrency: How many requests may be on their way; 1.
        timeout_s: The deadline of each request, in seconds; by default the client's.
        return_invalid: Whether to return rows that cannot be computed, with NaN, "" and -1 (see
            `results.is_valid`), instead of raising an `InvalidRowsError`.
    """

    signature_name: str | None
    batch_size: int
    concurrency: int
    timeout_s: float | None
    return_invalid: bool


class Query:
    """One use of a client's method: about which rows, in what parts, and with which answers."""

    def __init__(
        self,
        client_signature: str,
        endpoint: Endpoint,
        rows: Rows | Iterable[Any],
        **options: "Unpack[Options]",
    ) -> None:
        self.endpoint = endpoint
        self.rows = rows
        self.signature_name = options.pop("signature_name", None) or endpoint.signature_for(
            client_signature
        )
        self.batch_size = options.pop("batch_size", 32)
        self.concurrency = options.pop("concurrency", 1)
        self.timeout_s = options.pop("timeout_s", None)
        self.return_invalid = options.pop("return_invalid", False)
        if options:
            raise TypeError(
                f"There are no options {list(options)}, but {[*Options.__annotations__]}"
            )
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def batches(self) -> Iterator[Rows]:
        """Splits the rows into what goes into one request each."""
        if isinstance(self.rows, Rows):
            return self.rows.batches(self.batch_size)
        return requests.batch_stream(self.rows, self.batch_size)

    def join(self, parts: Sequence[tuple[Rows, Any]]) -> Any:
        """Joins the answers to all batches; raises an InvalidRowsError if some rows have none."""
        assert isinstance(self.rows, Rows)
        joined = responses.join([answer for _, answer in parts])
        result = responses.first_row(joined) if self.rows.is_single else joined
        if not self.return_invalid and not (valid := responses.valid_rows(joined)).all():
            raise self._error(self.rows, np.flatnonzero(~valid).tolist(), result)
        return result

    def each(self, batch: Rows, part: Any) -> Iterator[Any]:
        """Yields a batch's answers one by one, as far as rows could be computed."""
        for index, answer in enumerate(part):
            if not self.return_invalid and not is_valid(answer):
                raise self._error(batch, [index], answer)
            yield answer

    def _error(self, rows: Rows, invalid: list[int], result: Any) -> InvalidRowsError:
        named = ", ".join(map(rows.describe, invalid[:_MOST_NAMED_ROWS]))
        if (others := len(invalid) - _MOST_NAMED_ROWS) > 0:
            named += f" and {others} more"
        return InvalidRowsError(
            f"The server cannot compute {named}: {self.endpoint.limits}",
            tuple(rows.start + index for index in invalid),
            result,
        )
