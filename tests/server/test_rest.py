"""The REST server on real sockets: good clients, slow ones, broken ones and vanished ones."""

import contextlib
import http.client
import json
import socket
import threading
import time
from concurrent import futures

import pytest
from distilbert_serving.server import rest
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.rest import RestServer
from rest_core import FakeCore
from waiting import wait_until

PREDICT = "/v1/models/m:predict"


@pytest.fixture
def core():
    return FakeCore()


@pytest.fixture
def start(core):
    """Starts servers, and stops them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(RestServer(core, Metrics(), port=0, **options))
        core.go_on.set()


@pytest.fixture
def server(start):
    return start(monitoring_path="/metrics")


@contextlib.contextmanager
def connect(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        yield connection


def request_bytes(texts, path=PREDICT, headers=""):
    body = json.dumps({"instances": texts}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read_answer(connection, method="POST"):
    """Reads one answer: its code, headers and JSON."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    body = response.read()
    return response.status, response.headers, json.loads(body) if body else None


def ask(connection, texts):
    connection.sendall(request_bytes(texts))
    code, _, answer = read_answer(connection)
    assert code == 200, answer
    return [row["length"] for row in answer["predictions"]]


def is_closed(connection):
    """Says whether the server has closed a connection, waiting for that if need be."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def assert_alive(server):
    with connect(server) as connection:
        assert ask(connection, ["abc", ""]) == [3, 0]


def open_connections(server):
    return len(server._listener.connections._waiting_since)


# Good clients.


def test_a_connection_serves_many_requests(server):
    with connect(server) as connection:
        for i in range(50):
            assert ask(connection, ["x" * i]) == [i]
        assert open_connections(server) == 1


def test_the_standard_library_client(server):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(client):
        client.request("POST", PREDICT, json.dumps({"instances": ["déjà"]}))
        response = client.getresponse()
        assert response.getheader("Content-Type") == "application/json"
        assert json.loads(response.read())["predictions"][0]["length"] == 6
        client.request("GET", "/v1/models/m")
        assert b"AVAILABLE" in client.getresponse().read()
        client.request("GET", "/metrics")
        assert b'request_count{model_name="m",status="OK"} 1.0' in client.getresponse().read()


def test_requests_in_one_packet_are_answered_in_order(server):
    with connect(server) as connection:
        connection.sendall(request_bytes(["a"]) + request_bytes(["bb"]) + request_bytes(["ccc"]))
        reader = connection.makefile("rb")
        lengths = []
        for _ in range(3):
            while (line := reader.readline()) != b"\r\n":
                if line.startswith(b"Content-Length"):
                    size = int(line.split()[1])
            lengths.append(json.loads(reader.read(size))["predictions"][0]["length"])
        assert lengths == [1, 2, 3]


def test_ten_megabytes_in_and_out(server):
    text = "naïve " * 1_500_000
    with connect(server) as connection:
        connection.sendall(request_bytes([text]))
        code, _, answer = read_answer(connection)
        assert (code, answer["predictions"][0]["length"]) == (200, 10_500_000)
        assert len(answer["predictions"][0]["text_bytes"]["b64"]) == 14_000_000
        assert ask(connection, ["a"]) == [1]


def test_a_request_in_pieces(server):
    data = request_bytes(["pieces"])
    with connect(server) as connection:
        for i in range(0, len(data), 7):
            connection.sendall(data[i : i + 7])
            time.sleep(0.001)
        assert read_answer(connection)[0] == 200


def test_many_clients_at_once(server):
    def work(i):
        with connect(server) as connection:
            return [ask(connection, ["x" * i, "y"]) for _ in range(10)]

    with futures.ThreadPoolExecutor(64) as pool:
        for i, answers in enumerate(pool.map(work, range(64))):
            assert answers == [[i, 1]] * 10
    wait_until(lambda: open_connections(server) == 0)


def test_http_1_0_and_connection_close_end_the_connection(server):
    for data in (
        request_bytes(["a"], headers="Connection: close\r\n"),
        request_bytes(["a"]).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with connect(server) as connection:
            connection.sendall(data)
            code, headers, _ = read_answer(connection)
            assert (code, headers["Connection"]) == (200, "close")
            assert is_closed(connection)


def test_a_body_is_asked_for_when_the_client_expects_so(server):
    data = request_bytes(["abc"], headers="Expect: 100-continue\r\n")
    head, body = data.split(b"\r\n\r\n")
    with connect(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection)[0] == 200


# Requests that are wrong.


def test_errors_leave_the_connection_open(server):
    with connect(server) as connection:
        for data, code in [
            (request_bytes([1]), 400),
            (request_bytes(["boom"]), 500),
            (request_bytes(["a"], "/v1/models/x:predict"), 404),
            (request_bytes(["a"], "/nowhere"), 400),
            (b'POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 5\r\n\r\n["\xff"]', 400),
            (b"DELETE /v1/models/m HTTP/1.1\r\n\r\n", 400),
        ]:
            connection.sendall(data)
            found, _, answer = read_answer(connection)
            assert (found, list(answer)) == (code, ["error"])
        assert ask(connection, ["still here"]) == [10]


def test_head_gets_no_body(server):
    with connect(server) as connection:
        connection.sendall(b"HEAD /v1/models/m HTTP/1.1\r\n\r\n")
        assert read_answer(connection, "HEAD")[0] == 400
        assert ask(connection, ["a"]) == [1]


@pytest.mark.parametrize(
    ("head", "code", "gist"),
    [
        ("POST {p} HTTP/1.1\r\n\r\n", 411, "Content-Length is required"),
        ("POST {p} HTTP/1.1\r\nno field\r\nContent-Length: 0\r\n\r\n", 400, "is no field"),
        ("GET {p} HTTP/1.1\r\n\xff: x\r\nContent-Length: 9\r\n\r\n", 400, "is no field"),
        ("POST {p} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411, "chunked"),
        ("POST {p} HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400, "not one number"),
        ("POST {p} HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "not one number"),
        ("POST {p} HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "one number"),
        ("POST {p} HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413, "limit of 1000"),
        ("POST {p} HTTP/1.1\r\nContent-Length: " + "9" * 400 + "\r\n\r\n", 413, "limit of 1000"),
        (
            "POST {p} HTTP/1.1\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n",
            413,
            "limit of 1000",
        ),
        (
            "POST {p} HTTP/1.1\r\nContent-Length: 1\r\nContent-Encoding: gzip\r\n\r\nx",
            415,
            "gzip",
        ),
        ("GARBAGE\r\n\r\n", 400, "Bad request syntax"),
        ("GET / HTTP/9.1\r\n\r\n", 505, "Invalid HTTP version"),
        ("GET / SMTP/1.1\r\n\r\n", 400, "Bad request version"),
        ("BREW / HTTP/1.1\r\n\r\n", 501, "Unsupported method"),
        ("GET /" + "x" * 70_000 + " HTTP/1.1\r\n\r\n", 414, ""),
        ("GET / HTTP/1.1\r\n" + "A: b\r\n" * 200 + "\r\n", 431, ""),
        ("GET / HTTP/1.1\r\nA: " + "x" * 70_000 + "\r\n\r\n", 431, ""),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, ""),
    ],
)
def test_what_is_refused_unread_gets_a_reason_and_an_end(start, head, code, gist):
    server = start(max_body_bytes=1000)
    with connect(server) as connection:
        connection.sendall(head.replace("{p}", PREDICT).encode("latin-1"))
        found, headers, answer = read_answer(connection)
        assert (found, headers["Connection"]) == (code, "close")
        assert gist in answer["error"]
        assert is_closed(connection)
    assert_alive(server)


def test_a_large_body_that_is_refused_does_not_hide_the_reason(start):
    server = start(max_body_bytes=1000)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(client):
        client.request("POST", PREDICT, b"x" * 10_000_000)
        response = client.getresponse()
        assert response.status == 413
        assert "10000000 bytes" in json.loads(response.read())["error"]


# Slow and vanished clients.


@pytest.fixture
def impatient(monkeypatch, start):
    for name, seconds in [("_IDLE_S", 0.3), ("_HEADER_S", 0.3), ("_TRANSFER_S", 0.3)]:
        monkeypatch.setattr(rest, name, seconds)
    return start()


@pytest.mark.parametrize("cut", [0, 1, 20, 90, -1], ids=["none", "byte", "line", "head", "body"])
def test_a_client_that_stops_in_a_request_is_hung_up_on(impatient, cut):
    start_s = time.monotonic()
    with connect(impatient) as connection:
        connection.sendall(request_bytes(["a" * 100])[:cut])
        assert is_closed(connection)
    assert time.monotonic() - start_s < 4.0
    wait_until(lambda: open_connections(impatient) == 0)
    assert_alive(impatient)


def test_a_byte_now_and_then_does_not_stretch_the_time(impatient):
    data = request_bytes(["a" * 1000])
    start_s = time.monotonic()
    with connect(impatient) as connection, contextlib.suppress(ConnectionError):
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
            time.sleep(0.02)
            assert time.monotonic() - start_s < 10.0
    assert_alive(impatient)


def test_a_client_that_does_not_read_its_answer_is_hung_up_on(monkeypatch, impatient):
    monkeypatch.setattr(rest, "_LEAST_BYTES_PER_S", 1e9)
    with connect(impatient) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request_bytes(["x" * 20_000_000]))
        wait_until(lambda: open_connections(impatient) == 0)
    assert_alive(impatient)


def test_half_a_request_and_gone(server):
    data = request_bytes(["a" * 100])
    for cut in (1, 20, len(data) - 1):
        with connect(server) as connection:
            connection.sendall(data[:cut])
    with connect(server) as connection:  # with a reset
        connection.sendall(data[:50])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: open_connections(server) == 0)
    assert_alive(server)


@pytest.mark.skipif(not hasattr(rest.select, "POLLRDHUP"), reason="only Linux says so")
def test_nothing_is_run_for_a_client_that_has_gone(server, core):
    with connect(server) as connection:
        connection.sendall(request_bytes(["wait"]))
        assert core.started.wait(20)
    assert core.saw_leave.wait(20)
    assert_alive(server)


def test_a_client_gone_when_its_answer_is_ready(server, core, monkeypatch):
    monkeypatch.setattr(rest, "_CLOSED", 0)
    with connect(server) as connection:
        connection.sendall(request_bytes(["wait", "x" * 5_000_000]))
        assert core.started.wait(20)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    core.go_on.set()
    wait_until(lambda: open_connections(server) == 0)
    assert_alive(server)


def test_idle_connections_make_room_for_new_ones(start):
    server = start(max_connections=4)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in idle:
            connection.sendall(b"POST")  # half a request does not keep a place, either
        wait_until(lambda: open_connections(server) == 3)
        time.sleep(0.05)
        good = stack.enter_context(connect(server))
        for _ in range(10):
            assert_alive(server)
            assert ask(good, ["a"]) == [1]
        assert open_connections(server) <= 4
        assert is_closed(idle[0])


def test_when_all_are_at_work_a_new_client_gets_503(start, core):
    server = start(max_connections=2)
    with connect(server) as one, connect(server) as other:
        one.sendall(request_bytes(["wait"]))
        other.sendall(request_bytes(["wait"]))
        places = server._listener.connections._waiting_since
        wait_until(lambda: list(places.values()) == [None, None])
        with connect(server) as late:
            code, headers, answer = read_answer(late)
        assert (code, headers["Connection"]) == (503, "close")
        assert answer == {"error": "All connections of this server are busy"}
        core.go_on.set()
        assert [read_answer(connection)[0] for connection in (one, other)] == [200, 200]


# Start and stop.


def test_stop_finishes_requests_and_hangs_up_on_the_idle(start, core):
    server = start()
    with connect(server) as busy, connect(server) as idle:
        assert ask(idle, ["a"]) == [1]
        busy.sendall(request_bytes(["wait"]))
        assert core.started.wait(20)
        stopping = threading.Thread(target=server.stop, args=(20.0,))
        stopping.start()
        assert is_closed(idle)
        assert stopping.is_alive()
        core.go_on.set()
        code, headers, _ = read_answer(busy)
        assert (code, headers["Connection"]) == (200, "close")
        stopping.join(20)
        assert not stopping.is_alive()
    with pytest.raises(ConnectionRefusedError), connect(server):
        pass


def test_stop_cuts_off_what_takes_too_long(start, core):
    server = start()
    with connect(server) as busy:
        busy.sendall(request_bytes(["wait"]))
        assert core.started.wait(20)
        start_s = time.monotonic()
        server.stop(0.2)
        assert time.monotonic() - start_s < 5.0
        assert is_closed(busy)
    server.stop()  # again: nothing to do


def test_a_port_that_is_taken(server, core):
    with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{server.port}"):
        RestServer(core, Metrics(), port=server.port).start()


def test_a_port_is_free_again_after_a_stop(core):
    with RestServer(core, Metrics(), port=0) as server:
        assert_alive(server)
    with RestServer(core, Metrics(), port=server.port) as again:
        assert_alive(again)
