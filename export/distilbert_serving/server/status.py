"""The exception that carries a gRPC status from wherever a request fails to its client."""

import functools

import grpc

# TF Serving cuts its messages here, too; gRPC clients drop answers with more than 8 KB of headers.
MAX_STATUS_BYTES = 1024


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        code: The gRPC status code of the answer.
        message: What is wrong, for the client's user; cut after 1 KB.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        encoded = message.encode("utf-8", "replace")
        if len(encoded) > MAX_STATUS_BYTES:
            encoded = encoded[: MAX_STATUS_BYTES - 3] + b"..."
        self.message = encoded.decode("utf-8", "ignore")


# A request is wrong in itself; is for what is not here; does not suit the model; may come again.
invalid = functools.partial(RequestError, grpc.StatusCode.INVALID_ARGUMENT)
not_found = functools.partial(RequestError, grpc.StatusCode.NOT_FOUND)
failed_precondition = functools.partial(RequestError, grpc.StatusCode.FAILED_PRECONDITION)
unavailable = functools.partial(RequestError, grpc.StatusCode.UNAVAILABLE)


def internal(error: Exception) -> RequestError:
    """Returns the error for a mistake of the server's own."""
    return RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
