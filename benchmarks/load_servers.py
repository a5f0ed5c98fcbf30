"""The servers of load.py: processes that listen on a port, and can be killed and come back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.environments import python_of
from benchmarks.harness import ROOT, WorkerError
from benchmarks.peers import SERVED_FROM, Peer

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
LIST_PACKAGES = (
    "import json; from benchmarks.workers.protocol import versions; print(json.dumps(versions()))"
)


class Server:
    """A server's process. It listens once it has loaded its model, so a connection means ready.

    Args:
        peer: Whom to start, of `peers.LOAD`.
        prepared: What `workers/load_models.py` wrote, with ONNX Runtime's `model.onnx`.
        base_path: The versions for ours, and in folders those of `SERVED_FROM`.
        threads: Cores to use.
        log: File for what it prints.

    Attributes:
        port: Where it listens; the same again after a restart.
    """

    def __init__(
        self, peer: Peer, prepared: Path, base_path: Path, threads: int, log: Path
    ) -> None:
        self.peer, self.port = peer, _free_port()
        self._log = log
        if peer.is_ours:
            self._command = [sys.executable, "-m", "distilbert_tf.cli", "serve"]
            served = base_path / SERVED_FROM.get(peer.name, "")
            flags: dict[str, object] = {"model_base_path": served}
        else:
            self._command = [python_of(peer.venv), "-m", f"benchmarks.workers.{peer.worker}"]
            flags = {"checkpoint": prepared / "checkpoint", "artefacts": prepared}
            # One run on all cores at a time is slower, batched or not; a peer may say otherwise.
            flags |= {"threads": 1, "runs": threads}
        flags |= {"port": self.port, **peer.options}
        self._command += [f"--{name}={value}" for name, value in flags.items()]
        self._process: subprocess.Popen[bytes] | None = None

    def versions(self) -> dict[str, str]:
        """Lists the packages that it runs with."""
        command = [self._command[0], "-c", LIST_PACKAGES]
        return json.loads(subprocess.check_output(command, cwd=ROOT))

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process; it is not ready yet."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **self.peer.env}
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def wait_until_ready(self) -> float:
        """Waits until it answers.

        Returns:
            The time on the clock when it did.

        Raises:
            WorkerError: It ended, or takes too long.
        """
        assert self._process is not None
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s:
            if self._process.poll() is not None:
                lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
                raise WorkerError(
                    f"ended with exit code {self._process.returncode}: {' | '.join(lines[-3:])}"
                )
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                return time.time()
            except OSError:
                time.sleep(POLL_S)
        raise WorkerError(f"not ready within {START_TIMEOUT_S:.0f} s")

    def kill(self) -> None:
        """Kills the process, with no chance to say goodbye."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ends the process in peace, if it runs."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
