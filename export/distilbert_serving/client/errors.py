"""The errors of the clients."""

from typing import Any

import grpc

_Code = grpc.StatusCode


class PredictError(RuntimeError):
    """The server did not answer, or answered with an error.

        try:
            client.predict("A fine film.")
        except PredictError as error:
            if error.code != grpc.StatusCode.UNAVAILABLE: raise

    Args:
        code: The gRPC status code; INTERNAL, too, for an answer that cannot be right.
        details: The server's or gRPC's explanation.
        target: The server's address.
        model_name: The model that was asked.
    """

    def __init__(self, code: grpc.StatusCode, details: str, target: str, model_name: str) -> None:
        super().__init__(f"Model {model_name!r} at {target} gave {code.name}: {details}")
        self.code = code
        self.details = details
        self.target = target
        self.model_name = model_name


class InvalidRowsError(ValueError):
    """The server could not compute some rows; it has answered the others.

        try:
            predictions = client.predict(texts)
        except InvalidRowsError as error:
            predictions, bad = error.answers, error.rows

    Args:
        message: Names the first of the rows, and what rows must keep to.
        rows: Their numbers among the rows that the caller gave, from 0.
        answers: What the method returns with `return_invalid=True`; in a stream, for this row.
    """

    def __init__(self, message: str, rows: tuple[int, ...], answers: Any) -> None:
        super().__init__(message)
        self.rows = rows
        self.answers = answers


def explain(error: grpc.RpcError, max_message_bytes: int) -> tuple[grpc.StatusCode, str]:
    """Returns the code and details of gRPC's error, with what to change where that is known."""
    code, details = error.code(), error.details() or "no details"
    if code == _Code.RESOURCE_EXHAUSTED and "message larger than max" in details:
        # Servers with an older gRPC do not say that it is theirs.
        if "CLIENT:" in details or details.startswith("Sent"):
            advice = (
                f"the limit is the client's max_message_bytes={max_message_bytes}: raise it, or "
                "send fewer or shorter texts (batch_size)"
            )
        else:
            advice = "the limit is the server's: send fewer or shorter texts (batch_size)"
        details = f"{details}; {advice}"
    elif code == _Code.INTERNAL and "xception serializing request" in details:
        # Protocol buffers end at 2 GiB, whatever gRPC's limit.
        code = _Code.RESOURCE_EXHAUSTED
        details = f"{details} It is too large: send fewer or shorter texts (batch_size)"
    return code, details
