"""The clients' connections: TLS, pings, pauses between retries, cancelled tasks.

How they live through a server that is killed is in server/test_server_restart.py.
"""

import asyncio
import threading

import certificates
import fake_serving
import grpc
import pytest
from client_kinds import KINDS, Asker
from distilbert_serving.client.async_predict_client import AsyncPredictClient
from distilbert_serving.client.channel import KEEPALIVE_S, ChannelSettings, RetryClock, Tls
from distilbert_serving.client.predict_client import PredictClient, PredictError

from distilbert_tf import cli

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    authority = certificates.make_authority(directory)
    for name in ("server.test", "client.test"):
        certificates.make_certificate(directory, name, authority)
    certificates.make_authority(directory, "stranger")
    return directory


def serve_tls(files, must_verify):
    credentials = grpc.ssl_server_credentials(
        [((files / "server.test.key").read_bytes(), (files / "server.test.crt").read_bytes())],
        (files / "authority.crt").read_bytes() if must_verify else None,
        must_verify,
    )
    server, port = fake_serving.start(fake_serving.FakeServing(), credentials=credentials)
    return server, f"127.0.0.1:{port}"


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def ask(request):
    """Asks with a client of each kind."""

    async def ask_async(target, settings):
        async with AsyncPredictClient(target, timeout_s=2.0, **settings) as client:
            return await client.regress("tea")

    def run(target, **settings):
        if request.param is AsyncPredictClient:
            return asyncio.run(ask_async(target, settings))
        with PredictClient(target, timeout_s=2.0, **settings) as client:
            return client.regress("tea")

    return run


@certificates.needs_openssl
def test_tls(files, ask):
    server, target = serve_tls(files, must_verify=False)
    roots, name = files / "authority.crt", "server.test"
    assert ask(target, tls=Tls(roots, server_name=name)) == 3.0
    for tls in (Tls(roots), Tls(files / "stranger.crt", server_name=name), None):
        with pytest.raises(PredictError) as caught:
            ask(target, tls=tls, max_attempts=1)
        assert caught.value.code == Code.UNAVAILABLE
    server.stop(0)


@certificates.needs_openssl
def test_mutual_tls(files, ask):
    server, target = serve_tls(files, must_verify=True)
    roots, name = files / "authority.crt", "server.test"
    own = {"client_key": files / "client.test.key", "client_certificate": files / "client.test.crt"}
    assert ask(target, tls=Tls(roots, server_name=name, **own)) == 3.0
    with pytest.raises(PredictError):
        ask(target, tls=Tls(roots, server_name=name), max_attempts=1)
    server.stop(0)


@certificates.needs_openssl
def test_mutual_tls_by_flags(files, capsys):
    server, target = serve_tls(files, must_verify=True)
    flags = {
        "root_certificates": files / "authority.crt",
        "server_name": "server.test",
        "client_key": files / "client.test.key",
        "client_certificate": files / "client.test.crt",
    }
    words = [f"--{flag}={value}" for flag, value in flags.items()]
    cli.main(["query", f"--port={target.split(':')[1]}", "--method=regress", *words, "tea"])
    assert capsys.readouterr().out == "3\ttea\n"
    server.stop(0)


@certificates.needs_openssl
def test_tls_files_are_checked(files, tmp_path):
    (tmp_path / "x.pem").write_text("no certificate")
    for kind in KINDS.values():
        with pytest.raises(ValueError, match="x.pem is not PEM"):
            kind(tls=Tls(tmp_path / "x.pem"))
        with pytest.raises(ValueError, match="needs both client_key and client_certificate"):
            kind(tls=Tls(client_key=files / "client.test.key"))
        with pytest.raises(FileNotFoundError, match="none.pem"):
            kind(tls=Tls("none.pem"))


def test_pings_are_as_rare_as_a_stock_server_wants():
    options = dict(ChannelSettings("host:8500", 1.0, None, 1000, KEEPALIVE_S, None, {}).options())
    assert options["grpc.keepalive_time_ms"] > 300_000
    assert "grpc.keepalive_permit_without_calls" not in options
    with pytest.raises(ValueError, match="keepalive_s must be positive"):
        PredictClient(keepalive_s=0.0)
    with pytest.raises(ValueError, match="max_message_bytes must be from 1"):
        PredictClient(max_message_bytes=2**31)


def test_attempts_end_with_the_time_and_the_count():
    attempts = RetryClock(100.0)
    pauses = [attempts.pause_s(Code.UNAVAILABLE) for _ in range(2000)]
    bounds = [min(0.1 * 2**n, 1.0) for n in range(10)] + [1.0] * 1990
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
    assert len(set(pauses[10:])) > 1900
    assert RetryClock(100.0).pause_s(Code.INTERNAL) is None
    assert RetryClock(0.01).pause_s(Code.UNAVAILABLE) is None
    limited = RetryClock(100.0, 2)
    assert limited.pause_s(Code.UNAVAILABLE) is not None
    assert limited.pause_s(Code.UNAVAILABLE) is None


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_server_that_goes_away_and_comes_back(kind, free_port):
    def start():
        return fake_serving.start(fake_serving.FakeServing(), f"127.0.0.1:{free_port}")[0]

    server = start()
    client = Asker(kind, f"127.0.0.1:{free_port}", timeout_s=30.0)
    assert client.regress("tea") == 3.0
    server.stop(0).wait()
    servers = []
    timer = threading.Timer(0.5, lambda: servers.append(start()))
    timer.start()
    assert not servers
    assert client.regress("tea") == 3.0, "a call from when nobody was there"
    timer.join()
    assert client.regress("kettle") == 6.0
    client.close()
    servers[0].stop(0)


def test_a_cancelled_task_cancels_its_requests():
    async def run():
        servicer = fake_serving.FakeServing(*[0.5] * 4)
        server, port = fake_serving.start(servicer)
        async with AsyncPredictClient(f"127.0.0.1:{port}") as client:
            await client.predict("warm")
            servicer.script = [0.5] * 4
            asked = client.predict(["tea"] * 40, batch_size=1, concurrency=3)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asked, 0.2)
            await asyncio.sleep(0.5)
            assert len(servicer.requests) == 4, "no further request after the three on their way"
            servicer.script = [0.5]
            late = asyncio.ensure_future(client.predict("late"))
            await asyncio.sleep(0.2)
        with pytest.raises(PredictError, match="CANCELLED: the client was closed"):
            await late
        server.stop(0)

    asyncio.run(run())
