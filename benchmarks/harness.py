"""The parent's side: worker processes, asked in turn, round after round."""

import json
import os
import random
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from benchmarks.checkpoints import CACHE, digest
from benchmarks.environments import fingerprint, python_of
from benchmarks.peers import Peer

FLAGS = flags.FLAGS
flags.DEFINE_boolean(
    "install", True, "make the environments that peers lack; else those peers are left out"
)

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 900.0
Item = TypeVar("Item")


class WorkerError(RuntimeError):
    """A peer that could not be set up, or that failed a request."""


class Worker:
    """A peer's process, which answers requests one at a time.

    Args:
        peer: Whom to start.
        log: File for what it prints.

    Raises:
        WorkerError: Its environment cannot be made.
    """

    def __init__(self, peer: Peer, log: Path) -> None:
        self.peer, self._log = peer, log
        try:
            python = python_of(peer.venv, make=FLAGS.install)
        except RuntimeError as error:
            raise WorkerError(str(error)) from error
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **peer.env}
        with log.open("a", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.workers.{peer.worker}"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    def ask(self, do: str, timeout_s: float = TIMEOUT_S, **arguments: Any) -> Any:
        """Sends a request and waits for the reply.

        Args:
            do: What to do.
            timeout_s: Seconds after which the worker counts as hung.
            **arguments: The request's other fields.

        Returns:
            The reply's result.

        Raises:
            WorkerError: The request failed, or the process ended or hangs; says why.
        """
        assert self._process.stdin is not None
        request = json.dumps({"do": do, **arguments}) + "\n"
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(self._explain_end()) from error
        line = self._read_line(timeout_s)
        if not line:
            raise WorkerError(self._explain_end())
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["result"]

    def stop(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.stdin.close()  # type: ignore[union-attr]
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read_line(self, timeout_s: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self._process.kill()
                raise WorkerError(f"no answer within {timeout_s:.0f} s")
        return stdout.readline()

    def _explain_end(self) -> str:
        code = self._process.wait(timeout=20)
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"ended with exit code {code}: {' | '.join(lines[-3:])}"


class Crew:
    """The workers of one checkpoint; one that fails is left out from then on.

    Args:
        peers: Who takes part.
        checkpoint: The directory that all load from.
        threads: Threads that each computes with.

    Attributes:
        workers: The running ones, by peer name.
        failures: Why the others do not run, by peer name.
        versions: Packages of each, by peer name.
    """

    def __init__(self, peers: Sequence[Peer], checkpoint: Path, threads: int) -> None:
        self.workers: dict[str, Worker] = {}
        self.failures: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._checkpoint, self._threads = checkpoint, threads
        self._prepared: set[str] = set()
        for peer in peers:
            say(f"{checkpoint.name}: setting up {peer.name}")
            try:
                self._prepare(peer)
                worker = Worker(peer, self._log(peer))
                self.workers[peer.name] = worker
                self.versions[peer.name] = worker.ask("load", threads=threads, **self._places(peer))
            except WorkerError as error:
                self.fail(peer.name, error)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.workers.values():
            worker.stop()

    def fail(self, name: str, error: Exception) -> None:
        """Leaves a peer out from now on."""
        self.failures[name] = str(error)
        say(f"FAILED {name}: {error}")
        if worker := self.workers.pop(name, None):
            worker.stop()

    def ask_each(self, do: str, timeout_s: float = TIMEOUT_S, **arguments: Any) -> dict[str, Any]:
        """Asks all workers the same, one after the other, and leaves out those that fail."""
        results = {}
        for name, worker in list(self.workers.items()):
            try:
                results[name] = worker.ask(do, timeout_s, **arguments)
            except WorkerError as error:
                self.fail(name, error)
        return results

    def _places(self, peer: Peer) -> dict[str, Any]:
        artefacts = CACHE / "artefacts" / self._checkpoint.name / (peer.prepares or "none")
        artefacts.mkdir(parents=True, exist_ok=True)
        return {
            "checkpoint": str(self._checkpoint),
            "artefacts": str(artefacts),
            "options": peer.options,
        }

    def _log(self, peer: Peer) -> Path:
        return CACHE / "logs" / f"{self._checkpoint.name}_{peer.worker}_{peer.name}.log"

    def _prepare(self, peer: Peer) -> None:
        """Lets a process of its own convert the checkpoint, unless an earlier run did."""
        if not peer.prepares or peer.prepares in self._prepared:
            return
        places = self._places(peer)
        artefacts = Path(places["artefacts"])
        stamp = artefacts / "made_from"
        made_from = f"{digest(self._checkpoint)} {fingerprint(peer.venv)}"
        if not stamp.is_file() or stamp.read_text() != made_from:
            remove_contents(artefacts)
            worker = Worker(peer, self._log(peer))
            try:
                worker.ask("prepare", **places)
            finally:
                worker.stop()
            stamp.write_text(made_from)
        self._prepared.add(peer.prepares)


def remove_contents(directory: Path) -> None:
    """Empties a directory."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def shuffled(items: Sequence[Item], *seed: object) -> list[Item]:
    """Returns items in an order that depends on the seed alone, so that nobody is always first."""
    order = list(items)
    random.Random(repr(seed)).shuffle(order)
    return order


def say(text: str) -> None:
    """Prints progress, at once even into a pipe."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class Progress:
    """Says how far a run is, and how long the rest will take.

    Args:
        total: Number of steps; they need not take equally long, as long as rounds do.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._start_s = total, 0, time.monotonic()

    def step(self, text: str) -> None:
        """Counts a step that is done."""
        self._done += 1
        elapsed_s = time.monotonic() - self._start_s
        left_s = elapsed_s / self._done * (self._total - self._done)
        say(f"[{self._done}/{self._total}, about {left_s / 60:.1f} min left] {text}")
