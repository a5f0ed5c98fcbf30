"""What load.py's servers serve and its clients ask: models, sentences, right answers."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distilbert_serving.tf_serving.batching_parameters import BATCHING_FILE, batching_parameters
from distilbert_serving.tf_serving.config_files import write_config

from benchmarks.cases import validation_texts
from benchmarks.checkpoints import CACHE, make_checkpoint
from benchmarks.harness import Worker, WorkerError, say
from benchmarks.load_figures import Records
from benchmarks.load_servers import Server
from benchmarks.peers import OURS_BFLOAT16, OURS_ENV, OURS_FILLED, SERVED_FROM, Peer

FILLED_SIZES = (1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 28, 32)
# Of a probability. Roundings of float32 change it by some 1e-6. Those of bfloat16 changed logits
# of SST-2's classifiers by up to 0.07, and a probability changes by half of that at most.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}
GENERATOR = Peer("generator", "load generator", "load_generator", None)
MAKER = Peer("exports", "exports", "load_models", None, OURS_ENV)


@dataclass(frozen=True)
class Asking:
    """How much is asked.

    Attributes:
        clients: How many ask at the same time.
        seconds: How long it is measured.
        warmup_s: How long they ask before.
    """

    clients: int
    seconds: float
    warmup_s: float


class Stage:
    """What is served and asked: models, texts and their right answers, in a directory.

    Args:
        directory: Where to make all of it.
        peers: Who takes part.
        count: How many versions ours has; only the first is published.
        model: A checkpoint; None for the demo encoder.
        data: Directory with sst2/, or "demo".
        threads: Cores of each server.
    """

    def __init__(
        self,
        directory: Path,
        peers: list[Peer],
        count: int,
        *,
        model: str | None,
        data: str,
        threads: int,
    ) -> None:
        self.prepared, self.base_path = directory / "prepared", directory / "served"
        self._records = directory / "records.npz"
        self._inputs = directory / "inputs.json"
        self._threads = threads
        texts = list(validation_texts("sst2", data)[0])
        checkpoint = Path(model).expanduser() if model else make_checkpoint("demo")
        say(f"exporting {count} version(s) of {checkpoint.name}")
        names = {peer.name for peer in peers}
        _ask_once(
            MAKER, checkpoint=str(checkpoint), output=str(self.prepared), texts=texts, count=count,
            bfloat16=OURS_BFLOAT16 in names,
        )  # fmt: skip
        converters = {peer.prepares: peer for peer in peers if peer.prepares}
        for name, peer in converters.items():
            say(f"converting for {name}")
            converter = Peer(name, name, name, peer.venv)
            _ask_once(
                converter, checkpoint=str(self.prepared / "checkpoint"),
                artefacts=str(self.prepared), options={},
            )  # fmt: skip
        answers = json.loads((self.prepared / "answers.json").read_text(encoding="utf-8"))
        self._inputs.write_text(json.dumps({"texts": texts, "answers": answers}), encoding="utf-8")
        self.base_path.mkdir()
        self.publish(1)
        if OURS_BFLOAT16 in names:
            folder = SERVED_FROM[OURS_BFLOAT16]
            os.rename(self.prepared / folder, self.base_path / folder)
        if OURS_FILLED in names:
            filled = self.base_path / SERVED_FROM[OURS_FILLED] / "1"
            shutil.copytree(self.base_path / "1", filled, copy_function=os.link)
            parameters = batching_parameters(allowed_batch_sizes=FILLED_SIZES)
            write_config(filled / BATCHING_FILE, parameters)

    def publish(self, version: int) -> None:
        """Lets the server find a version, all at once."""
        os.rename(self.prepared / "versions" / str(version), self.base_path / str(version))

    def serve(self, peer: Peer) -> Server:
        """Starts a server, and waits until it is ready."""
        log = CACHE / "logs" / f"load_{peer.name}.log"
        try:
            server = Server(peer, self.prepared, self.base_path, self._threads, log)
        except RuntimeError as error:
            raise WorkerError(str(error)) from error
        try:
            server.start()
            server.wait_until_ready()
        except BaseException:
            server.stop()
            raise
        return server

    def ask(
        self,
        server: Server,
        kind: str,
        timeouts_s: tuple[float, ...],
        asking: Asking,
        *,
        watch: bool = True,
    ) -> tuple[Records, dict[str, Any]]:
        """Lets the clients loose on a server.

        Args:
            server: Whom to ask.
            kind: How; see `workers/load_generator.py`.
            timeouts_s: The clients' deadlines.
            asking: How much.
            watch: Whether to read the process' memory: no if it will be killed.

        Returns:
            The calls, and what the generator says of itself.
        """
        worker = Worker(GENERATOR, CACHE / "logs" / "load_generator.log")
        try:
            result = worker.ask(
                "run",
                asking.warmup_s + asking.seconds + max(timeouts_s) + 120,
                path=str(self._records),
                inputs=str(self._inputs),
                kind=kind,
                port=server.port,
                server_pid=server.pid if watch else None,
                timeouts_s=timeouts_s,
                tolerance=TOLERANCES[server.peer.precision],
                **asdict(asking),
            )
        finally:
            worker.stop()
        return Records.read(self._records), result


def _ask_once(peer: Peer, **arguments: Any) -> Any:
    worker = Worker(peer, CACHE / "logs" / f"load_{peer.name}.log")
    try:
        return worker.ask("prepare", **arguments)
    finally:
        worker.stop()


@contextlib.contextmanager
def staged(peers: list[Peer], count: int, **options: Any) -> Iterator[Stage]:
    """Makes a stage, and clears it away; see `Stage`."""
    with tempfile.TemporaryDirectory() as directory:
        yield Stage(Path(directory), peers, count, **options)
