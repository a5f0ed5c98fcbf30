"""`distilbert-tf serve` as a process of its own, for tests that load, kill or restart it."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import psutil

REPOSITORY = pathlib.Path(__file__).parents[1]


def free_port() -> int:
    """Finds a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A server on ports of its own, which stay the same when it is started again.

    Args:
        *flags: Flags of `distilbert-tf serve`, but for the ports.
        has_rest: Whether it has a REST port.

    Attributes:
        errors: What it has written to standard error, once it has ended.
    """

    def __init__(self, *flags: str, has_rest: bool = False) -> None:
        self.port = free_port()
        self.rest_port = free_port() if has_rest else 0
        self.errors = ""
        self._command = [
            *(sys.executable, "-m", "distilbert_tf.cli", "serve", *flags),
            *(f"--port={self.port}", f"--rest_api_port={self.rest_port}"),
        ]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed at the end)
        self.start()

    def start(self) -> None:
        """Starts it, or starts it again."""
        path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'export'}"
        environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(self._command, env=environment, stderr=self._log)

    def wait_until_ready(self, *model_names: str, timeout_s: float = 120.0) -> None:
        """Waits until it answers for all these models."""
        from distilbert_serving.client.predict_client import PredictClient

        for name in model_names:
            with PredictClient(f"127.0.0.1:{self.port}", model_name=name) as client:
                client.wait_until_ready(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def memory_bytes(self) -> int:
        """Returns the memory that it occupies."""
        return psutil.Process(self._process.pid).memory_info().rss

    def end(self) -> int:
        """Asks it to end, and returns its exit status."""
        self._process.terminate()
        return self._process.wait(60)

    def kill(self) -> None:
        """Ends it without a chance to say goodbye."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._log.seek(0)
        self.errors = self._log.read()
        self._log.close()
