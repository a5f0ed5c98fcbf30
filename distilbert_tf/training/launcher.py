"""Starts several workers on one machine; if one dies, restarts all from the last state.

Needs no TensorFlow itself. On several machines a cluster manager does this: `deploy/tfjob.yaml`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from distilbert_tf.training.stop_signals import handling_stop_signals

TF_CONFIG = "TF_CONFIG"
# The exit code of a worker that lost another one. To Kubernetes' training operator, all codes from
# 128 on are reasons to start it again; that of SIGUSR1 is free for such uses.
LOST_WORKER = 128 + signal.SIGUSR1
POLL_S = 0.2
GRACE_S = 300.0  # from the signal to stop to being killed: an evaluation may be under way


def launch(
    arguments: Sequence[str], num_workers: int, log_dir: Path, *, max_restarts: int = 10
) -> int:
    """Runs `distilbert-tf` in several processes until the run has ended.

    The first worker, the chief, writes to this process' output; each other one to a log file. If a
    worker is killed, the others cannot continue: all are ended, and restarted with the same
    arguments. A worker that ends with an error of its own ends the run.

    Args:
        arguments: The command line after the program's name.
        num_workers: How many processes.
        log_dir: Where the logs of all but the first go: `worker-1.log` and so on.
        max_restarts: How often all may be restarted.

    Returns:
        The exit code of the run.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    for restarts_left in reversed(range(max_restarts + 1)):
        with _started(arguments, num_workers, log_dir) as workers, _forwarding(workers) as received:
            code = _wait(workers)
        if code == 0 or received or not _may_restart(code):
            break
        logging.warning(
            "A worker was killed or lost (%s). %s",
            _describe(code),
            f"All {num_workers} are restarted from the last state."
            if restarts_left
            else f"Giving up after {max_restarts} restarts.",
        )
    return code if code >= 0 else 128 - code  # as a shell says it


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits until all have ended well, or one has not; returns the exit code that tells most."""
    while True:
        codes = [worker.poll() for worker in workers]
        if all(code == 0 for code in codes):
            return 0
        bad = [code for code in codes if code]
        if bad:
            # Those that lost a partner fail too, perhaps a moment earlier than it is missed here.
            time.sleep(POLL_S)
            bad = [code for worker in workers if (code := worker.poll())]
            return min(bad)  # a killing (below 0) tells more than an error, and that than its loss
        time.sleep(POLL_S)


def _may_restart(code: int) -> bool:
    """Whether an exit code tells of a signal, of TensorFlow's own abort, or of a lost worker."""
    return code < 0 or code == LOST_WORKER


def _describe(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def command_line(*words: str) -> list[str]:
    """Returns what starts `distilbert-tf` in a process of its own, with this interpreter.

    Not `-m`, which would import from the working directory first: a file of the user's there may
    have the name of any package.

    Args:
        *words: The subcommand and its flags.
    """
    start = "import sys; sys.path[:] = filter(None, sys.path); import distilbert_tf.cli as cli"
    return [sys.executable, "-c", f"{start}; cli.main()", *words]


@contextlib.contextmanager
def _started(
    arguments: Sequence[str], num_workers: int, log_dir: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts the workers; at the end none is left."""
    addresses = [f"localhost:{port}" for port in free_ports(num_workers)]
    command = command_line(*arguments, "--strategy=multi_worker")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as files:
        for index in range(num_workers):
            task = {"type": "worker", "index": index}
            environment = {
                # Workers that each start a thread per core would get into each other's way.
                "TF_NUM_INTRAOP_THREADS": str(max(1, (cores or 1) // num_workers)),
                **os.environ,
                TF_CONFIG: json.dumps({"cluster": {"worker": addresses}, "task": task}),
            }
            log = None
            if index > 0:
                log = files.enter_context((log_dir / f"worker-{index}.log").open("ab"))
            workers.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )
        try:
            yield workers
        finally:
            _end(workers)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what is still running; a worker that waits for a dead one hears no SIGTERM."""
    running = [worker for worker in workers if worker.poll() is None]
    for worker in running:
        worker.kill()
    for worker in running:
        worker.wait()


@contextlib.contextmanager
def _forwarding(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Passes on what tells the process to stop, so that the workers save; yields what came."""
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
        received.append(number)
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number if len(received) == 1 else signal.SIGKILL)

    with handling_stop_signals(forward):
        yield received
        deadline_s = time.monotonic() + GRACE_S
        while received and any(worker.poll() is None for worker in workers):
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)


def free_ports(count: int) -> list[int]:
    """Finds ports of this machine that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
