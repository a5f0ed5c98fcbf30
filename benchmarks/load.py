"""Loads servers with concurrent clients, ours and the peers', in interleaved rounds.

    python -m benchmarks.load --data=DIR --model=CHECKPOINT
    python -m benchmarks.load --scenario=versions --seconds=120 --data=DIR --model=CHECKPOINT
    python -m benchmarks.load --scenario=kill --seconds=60 --data=DIR --model=CHECKPOINT

Each client sends one real sentence after another, and waits for the answer. The scenarios are ours
alone: versions 2 and 3 are published under load, or the server is killed and started again.
"""

import contextlib
import time
from concurrent import futures
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import load_report, report
from benchmarks.harness import Progress, WorkerError, say, shuffled
from benchmarks.load_figures import fates, outage, per_second, spans, summarize
from benchmarks.load_servers import Server
from benchmarks.load_stage import Asking, Stage, staged
from benchmarks.machine import threads_available
from benchmarks.peers import LOAD, Peer, choose

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


def _staged(peers: list[Peer], count: int = 1) -> contextlib.AbstractContextManager[Stage]:
    return staged(peers, count, model=FLAGS.model, data=FLAGS.data, threads=_threads())


def _asking() -> Asking:
    return Asking(FLAGS.clients, FLAGS.seconds, FLAGS.warmup_s)


def _threads() -> int:
    return FLAGS.threads or threads_available()


def compare(peers: list[Peer], results: dict[str, Any]) -> None:
    """Loads all servers, one at a time, in an order that changes from round to round.

    They stay alive between their turns, so that memory tells of the whole time.
    """
    part: dict[str, Any] = {"rounds": 0, "versions": {}, "failures": {}, "turns": {}}
    results["models"]["load"] = part
    with _staged(peers) as stage, contextlib.ExitStack() as running:
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
                    records, said = stage.ask(servers[name], kind, (TIMEOUT_S,), _asking())
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
    with _staged(peers, 3) as stage:
        server = stage.serve(peers[0])
        try:
            with futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(stage.ask, server, "grpc", (TIMEOUT_S,), _asking())
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
    with _staged(peers) as stage:
        server = stage.serve(peers[0])
        try:
            with futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(
                    stage.ask, server, "package", KILL_TIMEOUTS_S, _asking(), watch=False
                )
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
        "threads": _threads(),
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
