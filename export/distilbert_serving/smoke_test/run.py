"""A smoke test of a server, stock TF Serving or the local one, at any address.

    python -m distilbert_serving.smoke_test --target=host:8500 --model_name=distilbert

It waits until the model is ready, asks for what must hold for every export (see `checks`),
prints a table of what it found with times, and exits with 0 if nothing failed, 1 otherwise. What
the model or the server does not have is skipped. It needs neither TensorFlow nor the model.
"""

import sys
import time
from collections.abc import Callable

import grpc
from absl import flags

from distilbert_serving.client.predict_client import PredictClient, PredictError, Tls
from distilbert_serving.client.tls_flags import define_tls, make_tls
from distilbert_serving.smoke_test.checks import (
    CHECKS,
    CheckFailedError,
    CheckSkippedError,
    Subject,
)
from distilbert_serving.smoke_test.rest_checks import rest_checks

OK, SKIPPED, FAILED = "ok", "skipped", "FAILED"


def _run(check: Callable[[Subject], str], subject: Subject) -> tuple[str, str]:
    try:
        return OK, check(subject)
    except CheckSkippedError as skipped:
        return SKIPPED, str(skipped)
    except CheckFailedError as failure:
        return FAILED, str(failure)
    except PredictError as error:
        if error.code == grpc.StatusCode.UNIMPLEMENTED:
            return SKIPPED, "UNIMPLEMENTED by this server"
        return FAILED, f"{error.code.name}: {error.details}"
    except Exception as error:  # an answer that is no answer: the other checks still say something
        return FAILED, f"{type(error).__name__}: {error}"


def smoke_test(
    target: str,
    model_name: str,
    *,
    rest_target: str | None = None,
    wait_s: float = 60.0,
    timeout_s: float = 30.0,
    batch_size: int = 100,
    tolerance: float = 1e-3,
    tls: Tls | None = None,
    report: Callable[[str], object] = sys.stdout.write,
) -> bool:
    """Tests a server, and reports.

    Args:
        target: Its gRPC address.
        model_name: The model's name.
        rest_target: Its REST address; None leaves REST out.
        wait_s: How long to wait for the model, in seconds.
        timeout_s: The deadline of each call, in seconds.
        batch_size: Rows in the largest request: no more than the server's `max_batch_size`.
        tolerance: By how much two answers to one text may differ.
        tls: Makes the connection secure; None: it is not.
        report: Takes the lines of the report.

    Returns:
        Whether nothing failed.
    """
    states = []
    with PredictClient(target, model_name, timeout_s=timeout_s, tls=tls) as client:
        subject = Subject(client, timeout_s, batch_size, tolerance)

        def ready(_: Subject) -> str:
            client.wait_until_ready(wait_s)
            return target

        checks = {"ready": ready, **CHECKS, **rest_checks(rest_target)}
        for name, check in checks.items():
            start_s = time.monotonic()
            state, note = _run(check, subject)
            took_ms = 1000 * (time.monotonic() - start_s)
            report(f"{state:<8} {name:<17} {took_ms:8.1f} ms  {note}\n")
            states.append(state)
            if states == [FAILED]:
                break  # nobody is there
    counts = [f"{states.count(state)} {state}" for state in (OK, SKIPPED, FAILED)]
    report(", ".join(counts) + "\n")
    return FAILED not in states


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the command line."""
    flags.DEFINE_string("target", "127.0.0.1:8500", "gRPC address", flag_values=values)
    flags.DEFINE_string("rest_target", None, "REST address; none: no REST", flag_values=values)
    flags.DEFINE_string("model_name", "distilbert", "name of the served model", flag_values=values)
    flags.DEFINE_float("wait_s", 60.0, "how long to wait for the model", 0.0, flag_values=values)
    flags.DEFINE_float("timeout_s", 30.0, "deadline of each call", 0.001, flag_values=values)
    flags.DEFINE_integer("batch_size", 100, "most rows in a request", 1, flag_values=values)
    flags.DEFINE_float(
        "tolerance", 1e-3, "how far answers to one text may differ", 0.0, flag_values=values
    )
    define_tls(values)


def main(values: flags.FlagValues) -> int:
    """Runs the command line.

    Args:
        values: The parsed flags.

    Returns:
        The exit status.
    """
    passed = smoke_test(
        values.target,
        values.model_name,
        rest_target=values.rest_target,
        wait_s=values.wait_s,
        timeout_s=values.timeout_s,
        batch_size=values.batch_size,
        tolerance=values.tolerance,
        tls=make_tls(values),
    )
    return 0 if passed else 1
