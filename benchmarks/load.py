"""Loads servers with concurrent clients, ours and the peers', in interleaved rounds.

    python -m benchmarks.load --data=DIR --model=CHECKPOINT
    python -m benchmarks.load --scenario=versions --seconds=120 --data=DIR --model=CHECKPOINT
    python -m benchmarks.load --scenario=kill --seconds=60 --data=DIR --model=CHECKPOINT

Each client sends one real sentence after another, and waits for the answer. The scenarios are ours
alone: versions 2 and 3 are published under load, or the server is killed and started again.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import load_report, report
from benchmarks.cases import validation_texts
from benchmarks.checkpoints import CACHE, make_checkpoint
from benchmarks.harness import Progress, Worker, WorkerError, say, shuffled
from benchmarks.load_figures import Records, fates, outage, per_second, spans, summarize
from benchmarks.load_servers import Server
from benchmarks.machine import threads_available
from benchmarks.peers import LOAD, OURS_ENV, Peer, choose

FLAGS = flags.FLAGS
flags.DEFINE_enum("scenario", "load", ["load", "versions", "kill"], "what happens")
flags.DEFINE_string("data", "demo", "directory with sst2/ in GLUE's layout, or 'demo'")
flags.DEFINE_string("model", None, "checkpoint: a directory; the demo encoder if not given")
flags.DEFINE_integer("clients", 64, "clients at the same time", lower_bound=1)
flags.DEFINE_float("seconds", 60.0, "how long a turn measures", lower_bound=1.0)
flags.DEFINE_float("warmup_s", 3.0, "how long a turn asks before", lower_bound=0.0)
flags.DEFINE_integer("rounds", 10, "turns of each server", lower_bound=1)
flags.DEFINE_list("servers", [], "names in peers.py; all if empty")
flags.DEFINE_integer("threads", None, "cores of each server; the usable ones if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

TIMEOUT_S = 30.0  # of a call
KILL_TIMEOUTS_S = (2.0, 30.0)  # of every other client: shorter than the outage, and longer
DOWN_S = 3.0
GENERATOR = Peer("generator", "load generator", "load_generator", None)
MAKER = Peer("exports", "exports", "load_models", None, OURS_ENV)


class Stage:
    """What is served and asked: models, texts and their right answers, in a directory.

    Args:
        directory: Where to make all of it.
        peers: Who takes part.
        count: How many versions ours has; only the first is published.
    """

    def __init__(self, directory: Path, peers: list[Peer], count: int) -> None:
        self.prepared, self.base_path = directory / "prepared", directory / "served"
        self._records = directory / "records.npz"
        self._inputs = directory / "inputs.json"
        self.threads = FLAGS.threads or threads_available()
        texts = list(validation_texts("sst2", FLAGS.data)[0])
        checkpoint = Path(FLAGS.model).expanduser() if FLAGS.model else make_checkpoint("demo")
        say(f"exporting {count} version(s) of {checkpoint.name}")
        _ask_once(
            MAKER, checkpoint=str(checkpoint), output=str(self.prepared), texts=texts, count=count
        )
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

    def publish(self, version: int) -> None:
        """Lets the server find a version, all at once."""
        os.rename(self.prepared / "versions" / str(version), self.base_path / str(version))

    def serve(self, peer: Peer) -> Server:
        """Starts a server, and waits until it is ready."""
        log = CACHE / "logs" / f"load_{peer.name}.log"
        try:
            server = Server(peer, self.prepared, self.base_path, self.threads, log)
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
        self, server: Server, kind: str, timeouts_s: tuple[float, ...], watch: bool = True
    ) -> tuple[Records, dict[str, Any]]:
        """Lets the clients loose on a server.

        Args:
            server: Whom to ask.
            kind: How; see `workers/load_generator.py`.
            timeouts_s: The clients' deadlines.
            watch: Whether to read the process' memory: no if it will be killed.

        Returns:
            The calls, and what the generator says of itself.
        """
        worker = Worker(GENERATOR, CACHE / "logs" / "load_generator.log")
        try:
            result = worker.ask(
                "run",
                FLAGS.warmup_s + FLAGS.seconds + max(timeouts_s) + 120,
                path=str(self._records),
                inputs=str(self._inputs),
                kind=kind,
                port=server.port,
                server_pid=server.pid if watch else None,
                clients=FLAGS.clients,
                timeouts_s=timeouts_s,
                seconds=FLAGS.seconds,
                warmup_s=FLAGS.warmup_s,
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
def staged(peers: list[Peer], count: int = 1) -> Iterator[Stage]:
    """Makes a stage, and clears it away."""
    with tempfile.TemporaryDirectory() as directory:
        yield Stage(Path(directory), peers, count)


def compare(peers: list[Peer], results: dict[str, Any]) -> None:
    """Loads all servers, one at a time, in an order that changes from round to round.

    They stay alive between their turns, so that memory tells of the whole time.
    """
    part: dict[str, Any] = {"rounds": 0, "versions": {}, "failures": {}, "turns": {}}
    results["models"]["load"] = part
    with staged(peers) as stage, contextlib.ExitStack() as running:
        servers: dict[str, Server] = {}
        for peer in peers:
            say(f"starting {peer.name}")
            try:
                servers[peer.name] = stage.serve(peer)
                running.callback(servers[peer.name].stop)
                part["versions"][peer.name] = servers[peer.name].versions()
                part["turns"][peer.name] = []
            except WorkerError as error:
                _fail(part, peer.name, error)
        progress = Progress(FLAGS.rounds * len(servers))
        for number in range(FLAGS.rounds):
            for name in shuffled([n for n in servers if n not in part["failures"]], number):
                kind = "grpc" if servers[name].peer.is_ours else "http"
                try:
                    records, said = stage.ask(servers[name], kind, (TIMEOUT_S,))
                    turn = summarize(records, FLAGS.seconds, said["generator_cpu_s"], said["hung"])
                except WorkerError as error:
                    _fail(part, name, error)
                    continue
                part["turns"][name].append(turn | {"examples": said["errors"]})
                report.write_json(results, Path(FLAGS.output) / "load.json")
                progress.step(f"round {number + 1}: {_describe(name, turn)}")
            part["rounds"] = number + 1
            load_report.write_load(results, Path(FLAGS.output))


def _fail(part: dict[str, Any], name: str, error: Exception) -> None:
    part["failures"][name] = str(error)
    say(f"FAILED {name}: {error}")


def _describe(name: str, turn: dict[str, Any]) -> str:
    times = f"p50 {turn['p50_ms']:.1f} ms, p99 {turn['p99_ms']:.1f} ms" if "p50_ms" in turn else ""
    return (
        f"{name}: {turn['requests_per_s']:.0f}/s, {times}, errors {turn['errors']}, "
        f"wrong {turn['wrong']}"
    )


def change_versions(results: dict[str, Any]) -> None:
    """Publishes versions 2 and 3 under load."""
    peers = choose(LOAD, [report.OURS])
    with staged(peers, 3) as stage:
        server = stage.serve(peers[0])
        try:
            with futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(stage.ask, server, "grpc", (TIMEOUT_S,))
                published = []
                time.sleep(FLAGS.warmup_s)
                for version in (2, 3):
                    time.sleep(FLAGS.seconds / 3)
                    stage.publish(version)
                    published.append({"version": version, "at": time.time()})
                    say(f"published version {version}")
                records, said = asked.result()
        finally:
            server.stop()
    for event in published:
        event["at_s"] = event.pop("at") - said["started_at"]
    turn = summarize(records, FLAGS.seconds, said["generator_cpu_s"], said["hung"])
    results["models"]["versions"] = {
        "versions": {report.OURS: server.versions()},
        "turn": turn,
        "examples": said["errors"],
        "published": published,
        "spans": spans(records),
        "seconds": per_second(records, FLAGS.seconds),
    }
    load_report.write_versions(results, Path(FLAGS.output))
    say(_describe("ours", turn))


def kill(results: dict[str, Any]) -> None:
    """Kills the server under load, and starts it again."""
    peers = choose(LOAD, [report.OURS])
    with staged(peers) as stage:
        server = stage.serve(peers[0])
        try:
            with futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(stage.ask, server, "package", KILL_TIMEOUTS_S, False)
                time.sleep(FLAGS.warmup_s + FLAGS.seconds / 3)
                killed = time.time()
                server.kill()
                say("killed the server")
                time.sleep(DOWN_S)
                restarted = time.time()
                server.start()
                ready = server.wait_until_ready()
                say(f"started again: ready after {ready - restarted:.1f} s")
                records, said = asked.result()
        finally:
            server.stop()
    killed_s, restarted_s = (at - said["started_at"] for at in (killed, restarted))
    results["models"]["kill"] = {
        "versions": {report.OURS: server.versions()},
        "fates": fates(records),
        "outage": outage(records, killed_s, restarted_s) | {"ready_s": ready - said["started_at"]},
        "hung": said["hung"],
        "wrong": int((records.outcome == "wrong").sum()),
        "examples": said["errors"],
        "seconds": per_second(records, FLAGS.seconds),
    }
    load_report.write_kill(results, Path(FLAGS.output))


def main(argv: list[str]) -> None:
    """Measures and reports."""
    del argv
    peers = choose(LOAD, FLAGS.servers if FLAGS.scenario == "load" else [report.OURS])
    settings = {
        "model": Path(FLAGS.model).name if FLAGS.model else "demo",
        "data": "demo" if FLAGS.data == "demo" else "SST-2's validation sentences",
        "clients": FLAGS.clients,
        "seconds of a turn": FLAGS.seconds,
        "threads": FLAGS.threads or threads_available(),
    }
    results = report.start(peers, settings)
    if FLAGS.scenario == "load":
        results["settings"]["rounds"] = FLAGS.rounds
        compare(peers, results)
    elif FLAGS.scenario == "versions":
        change_versions(results)
    else:
        kill(results)
    say(f"Written to {FLAGS.output}.")


if __name__ == "__main__":
    app.run(main)
