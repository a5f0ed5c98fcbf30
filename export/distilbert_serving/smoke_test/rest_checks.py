"""The same over REST: what any server of an export must get right there."""

import functools
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from distilbert_serving import signatures
from distilbert_serving.smoke_test.checks import CheckFailedError, CheckSkippedError, Subject
from distilbert_serving.tf_serving.serving_config import METRICS_PATH
from distilbert_serving.version_status import AVAILABLE


def rest_checks(rest_target: str | None) -> dict[str, Callable[[Subject], str]]:
    """Returns the checks for a REST address.

    Args:
        rest_target: host:port, perhaps with `https://` before it; None skips them.

    Returns:
        Checks by name.
    """
    checks = {
        "REST status": _status,
        "REST predict": _predict,
        "REST bad request": _bad_request,
        "metrics": _metrics,
    }
    if rest_target is None:
        return dict.fromkeys(checks, _skip)
    url = rest_target if "://" in rest_target else f"http://{rest_target}"
    return {name: functools.partial(check, url=url.rstrip("/")) for name, check in checks.items()}


def _skip(subject: Subject) -> str:
    raise CheckSkippedError("no --rest_target is given")


def _status(subject: Subject, url: str) -> str:
    """The model's state is that of gRPC."""
    code, body = _ask(subject, _model_url(subject, url))
    states = [each.get("state") for each in _json(code, body).get("model_version_status", [])]
    if AVAILABLE not in states:
        raise CheckFailedError(f"no version is {AVAILABLE}: {body[:200]!r}")
    return f"{len(states)} versions"


def _predict(subject: Subject, url: str) -> str:
    """Answers are those of gRPC, in columns and in rows."""
    columns = subject.columns(subject.texts)
    want = subject.call(columns)
    code, body = _ask(subject, f"{_model_url(subject, url)}:predict", {"inputs": columns})
    outputs = _json(code, body)["outputs"]
    if len(want) == 1:  # of a single output only the values are given
        outputs = {next(iter(want)): outputs}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    code, body = _ask(subject, f"{_model_url(subject, url)}:predict", {"instances": rows})
    predictions = _json(code, body)["predictions"]
    by_row = {
        name: [row[name] if isinstance(row, dict) else row for row in predictions] for name in want
    }
    subject.compare("REST in columns and gRPC", outputs, want)
    subject.compare("REST in rows and gRPC", by_row, want)
    if signatures.LABEL in want:
        labels = [label.decode() for label in want[signatures.LABEL]]
        if by_row[signatures.LABEL] != labels:
            raise CheckFailedError(f"labels are {by_row[signatures.LABEL]}, over gRPC {labels}")
    return f"{len(rows)} rows"


def _bad_request(subject: Subject, url: str) -> str:
    """Wrong requests get the status that says whose fault it is."""
    name, model_url = subject.client.model_name, _model_url(subject, url)
    for address, request, expected in (
        (f"{model_url}:predict", {"instances": 7}, 400),
        (f"{model_url}:predict", {"inputs": {"no_such_input": ["x"]}}, 400),
        (f"{url}/v1/models/no_such_{name}:predict", {"instances": ["x"]}, 404),
        (f"{model_url}:no_such_method", {"instances": ["x"]}, 400),
    ):
        code, body = _ask(subject, address, request)
        if code != expected:
            raise CheckFailedError(
                f"{json.dumps(request)} to {address} should be {expected}, but is {code}: "
                f"{body[:200]!r}"
            )
    return "refused"


def _metrics(subject: Subject, url: str) -> str:
    """Prometheus finds its metrics."""
    code, body = _ask(subject, url + METRICS_PATH)
    if code in (400, 404):
        raise CheckSkippedError("the server has no monitoring configuration")
    if code != 200 or b"# TYPE" not in body:
        raise CheckFailedError(f"{METRICS_PATH} gave {code}: {body[:200]!r}")
    return f"{body.count(b'# TYPE')} metrics"


def _model_url(subject: Subject, url: str) -> str:
    return f"{url}/v1/models/{subject.client.model_name}"


def _ask(subject: Subject, url: str, request: Any = None) -> tuple[int, bytes]:
    """Sends a request, and returns the status and the body, also of an error."""
    data = None if request is None else json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers), timeout=subject.timeout_s
        ) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _json(code: int, body: bytes) -> Any:
    if code != 200:
        raise CheckFailedError(f"the status is {code}: {body[:200]!r}")
    return json.loads(body)
