"""The state of a model's versions, as GetModelStatus reports it."""

from collections.abc import Iterable
from typing import NamedTuple

from distilbert_serving.protos import get_model_status_pb2

AVAILABLE = "AVAILABLE"

_State = get_model_status_pb2.ModelVersionStatus.State


class VersionStatus(NamedTuple):
    """The state of one version.

    Args:
        version: Its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error_message: Why it could not be loaded; "" if nothing is wrong.
        error_code: The number of the gRPC status code that goes with it; 0 if nothing is wrong.
    """

    version: int
    state: str
    error_message: str = ""
    error_code: int = 0


def read_statuses(response: get_model_status_pb2.GetModelStatusResponse) -> list[VersionStatus]:
    """Reads the answer to a GetModelStatus request."""
    return [
        VersionStatus(
            each.version,
            _State.Name(each.state),
            each.status.error_message,
            each.status.error_code,
        )
        for each in response.model_version_status
    ]


def write_statuses(
    statuses: Iterable[VersionStatus],
) -> get_model_status_pb2.GetModelStatusResponse:
    """Makes the answer to a GetModelStatus request."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        added = response.model_version_status.add(
            version=status.version, state=_State.Value(status.state)
        )
        added.status.error_code = status.error_code
        added.status.error_message = status.error_message
    return response
