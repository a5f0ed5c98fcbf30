"""The one exception that carries a gRPC status from the server's inside to its caller."""

import grpc

# TF Serving cuts its messages here, too; gRPC clients drop answers with more than 8 KB of headers.
MAX_STATUS_BYTES = 1024

_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        code: The gRPC status code of the answer.
        message: What is wrong, for the client's user; longer than 1 KB, it is cut.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = _cut(message)


def invalid(message: str) -> RequestError:
    """Makes the error for a request that is wrong in itself."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> RequestError:
    """Makes the error for a model or version that is not here."""
    return RequestError(grpc.StatusCode.NOT_FOUND, message)


def unavailable(message: str) -> RequestError:
    """Makes the error for a request that may be sent again: later, or to another server."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, message)


def abandoned() -> RequestError:
    """Makes the error that ends a request without computing its answer: nobody waits for it."""
    return RequestError(grpc.StatusCode.CANCELLED, "The client stopped waiting")


def internal(error: Exception) -> RequestError:
    """Makes the error for a mistake of the server's own."""
    return RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def code_by_number(number: int) -> grpc.StatusCode:
    """Gives the status code of a number; TensorFlow and gRPC number them alike."""
    return _CODES_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def _cut(message: str) -> str:
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= MAX_STATUS_BYTES:
        return encoded.decode()
    return encoded[: MAX_STATUS_BYTES - 3].decode("utf-8", "ignore") + "..."
