"""The REST API over HTTP: paths, codes and contents, and clients of every kind."""

import contextlib
import http.client
import json
import threading
import time
from concurrent import futures

import pytest
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.rest import RestServer
from fake_handler import SIGNATURES, FakeHandler
from fuzzing_rest import http_calls
from hypothesis import given, settings
from waiting import wait_until

PREDICT = "/v1/models/m:predict"
METRICS = "/metrics"


@pytest.fixture(scope="module")
def handler():
    return FakeHandler()


@pytest.fixture(scope="module")
def server(handler):
    with RestServer(handler, Metrics(), port=0) as running:
        yield running


@pytest.fixture
def client(server):
    with contextlib.closing(connect(server)) as connection:
        yield connection


@pytest.fixture
def slow_handler():
    return FakeHandler()


@pytest.fixture
def start(slow_handler):
    """Starts servers of the slow handler, and stops them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            RestServer(slow_handler, Metrics(), port=0, **settings)
        )
        slow_handler.go_on.set()


def connect(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.connect()
    return connection


def ask(connection, method, path, document=None, code=200):
    """Asks for JSON."""
    connection.request(method, path, None if document is None else json.dumps(document))
    return read_json(connection.getresponse(), code)


def read_json(response, code=200):
    body = response.read()
    assert response.status == code, body
    assert response.getheader("Content-Type") == "application/json"
    return json.loads(body)


def ask_length(connection, text):
    return ask(connection, "POST", PREDICT, {"instances": [text]})["predictions"][0]["length"]


def send_wait(server):
    """Sends a request that waits."""
    connection = connect(server)
    connection.request("POST", PREDICT, json.dumps({"instances": ["wait"]}))
    return connection


def get_status(server):
    with contextlib.closing(connect(server)) as connection:
        connection.request("GET", "/v1/models/m")
        return connection.getresponse().status


def is_closed(connection):
    """Returns whether the server has closed a connection, waiting for that if need be."""
    try:
        return connection.sock is None or connection.sock.recv(1) == b""
    except ConnectionError:
        return True


# The API.


def test_predict_in_rows_and_columns(client):
    rows = [{"length": 5, "text_bytes": {"b64": "w6nDqWE="}}]
    assert ask(client, "POST", PREDICT, {"instances": ["ééa"]}) == {"predictions": rows}
    columns = {"length": [3], "text_bytes": [{"b64": "YWJj"}]}
    assert ask(client, "POST", PREDICT, {"inputs": ["abc"]}) == {"outputs": columns}
    pairs = [{"text": "ab", "text_pair": "c"}, {"text": "", "text_pair": "dé"}]
    answer = ask(client, "POST", PREDICT, {"signature_name": "pairs", "instances": pairs})
    assert [row["second"] for row in answer["predictions"]] == ["c", "dé"]
    ids = {"signature_name": "ids", "instances": [[1, 2], [3, 4]]}
    assert ask(client, "POST", PREDICT, ids) == {"predictions": [3, 7]}


def test_numbers_that_json_lacks_are_written_as_tf_serving_does(client):
    numbers = [float("nan"), float("-inf"), 1.5]
    client.request("POST", PREDICT, json.dumps({"signature_name": "square", "inputs": numbers}))
    assert client.getresponse().read() == b'{"outputs": [NaN, Infinity, 2.25]}'


def test_classify_and_regress(client, handler):
    document = {"signature_name": "of_texts", "examples": [{"text": "abc"}, {"text": ["d"]}]}
    client.request("POST", "/v1/models/m:classify", json.dumps(document))
    expected = b'{"results": [[["short", 0.25], ["abc", NaN]], [["short", 0.25], ["d", NaN]]]}'
    assert client.getresponse().read() == expected
    assert handler.requests[-1].model_spec.signature_name == "of_texts"
    shared = {"examples": [{}, {"text": "a"}], "context": {"text": "four"}}
    answer = ask(client, "POST", "/v1/models/m/versions/3:regress", shared)
    assert answer == {"results": [4.0, 1.0]}


@pytest.mark.parametrize(
    ("target", "version", "label"),
    [
        ("/v1/models/m:predict", None, ""),
        ("/v1/models/m/versions/3:predict", 3, ""),
        ("/v1/models/%6d/labels/st%61ble:predict", None, "stable"),
        ("/V1/Models/m:PREDICT?x=1", None, ""),
    ],
)
def test_paths_name_model_version_and_label(client, handler, target, version, label):
    ask(client, "POST", target, {"instances": ["a"]})
    spec = handler.requests[-1].model_spec
    assert (spec.name, spec.version_label) == ("m", label)
    assert (spec.version.value if spec.HasField("version") else None) == version


@pytest.mark.parametrize("part", ["", "/versions/3", "/labels/ignored"])
def test_status(client, part):
    ok = {"error_code": "OK", "error_message": ""}
    version = {"version": "3", "state": "AVAILABLE", "status": ok}
    assert ask(client, "GET", f"/v1/models/m{part}") == {"model_version_status": [version]}


def test_metadata(client):
    answer = ask(client, "GET", "/v1/models/m/labels/stable/metadata")
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == SIGNATURES.keys()
    assert signatures["ids"]["inputs"]["ids"]["dtype"] == "DT_INT32"
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signatures["ids"]["inputs"]["ids"]["tensor_shape"] == shape


@pytest.mark.parametrize(
    ("method", "target", "document", "code", "gist"),
    [
        ("POST", PREDICT, {}, 400, "Give either"),
        ("POST", PREDICT, {"instances": ["boom"]}, 500, "RuntimeError: the graph is on fire"),
        ("POST", "/v1/models/x:predict", {"instances": ["a"]}, 404, "not found"),
        ("POST", "/v1/models/m/versions/4:predict", {"instances": ["a"]}, 404, "not found"),
        ("POST", f"/v1/models/m/versions/{2**63}:predict", {}, 400, f"{2**63} is too large"),
        ("POST", f"/v1/models/m/versions/{'9' * 5000}:predict", {}, 400, "is too large"),
        ("POST", "/v1/models/m/labels/x:predict", {"instances": ["a"]}, 400, "version label: x"),
        ("POST", PREDICT, {"inputs": 1, "signature_name": "no"}, 400, '"no" not found'),
        ("POST", PREDICT, {"inputs": 1, "signature_name": "no_inputs"}, 400, "there are ids, pai"),
        ("POST", PREDICT, {"inputs": 1, "signature_name": None}, 400, "'signature_name' should"),
        ("POST", PREDICT, {"inputs": 1, "signature_name": "\ud800"}, 400, "'signature_name' sh"),
        ("POST", "/v1/models/m:classify", {}, 400, "'examples' should be a list"),
        ("GET", "/v1/models/x", None, 404, "not found"),
        ("GET", "/v1/models/x/metadata", None, 404, "not found"),
        *(
            ("POST", target, {}, 400, f"Malformed request: POST {target}")
            for target in ("/v1/models/m:explain", "/v1/models/m/versions/x:predict", "/")
        ),
        *(
            ("GET", target, None, 400, f"Malformed request: GET {target}")
            for target in (PREDICT, "/v1/models", "/v1/models/m/", METRICS)
        ),
        *((method, PREDICT, {}, 400, "Malformed request") for method in ("PUT", "DELETE")),
    ],
)
def test_errors_leave_the_connection_open(client, method, target, document, code, gist):
    answer = ask(client, method, target, document, code)
    assert list(answer) == ["error"]
    assert gist in answer["error"]
    assert ask_length(client, "still here") == 10


@pytest.mark.parametrize(
    ("code", "http_code"),
    [
        ("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504),
        ("NOT_FOUND", 404), ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403),
        ("RESOURCE_EXHAUSTED", 429), ("FAILED_PRECONDITION", 400), ("ABORTED", 409),
        ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501), ("INTERNAL", 500), ("UNAVAILABLE", 503),
        ("DATA_LOSS", 500), ("UNAUTHENTICATED", 401),
    ],
)  # fmt: skip
def test_http_codes_are_tf_servings(client, code, http_code):
    answer = ask(client, "POST", PREDICT, {"instances": [f"{code} of the model"]}, http_code)
    assert answer == {"error": "why\n\x00 ?"}


def test_requests_are_counted(start):
    with contextlib.closing(connect(start(monitoring_path=METRICS))) as client:
        ask(client, "POST", PREDICT, {"instances": ["a"]})
        ask(client, "POST", "/v1/models/m:Predict", {"instances": [1]}, 400)
        client.request("GET", METRICS)
        response = client.getresponse()
        page = response.read().decode()
    assert response.getheader("Content-Type").startswith("text/plain; version=")
    count = ":tensorflow:serving:request_count_total"
    assert f'{count}{{model_name="m",status="OK"}} 1.0\n' in page
    assert f'{count}{{model_name="m",status="INVALID_ARGUMENT"}} 1.0\n' in page
    latency = ":tensorflow:serving:request_latency_count"
    assert f'{latency}{{API="predict",entrypoint="REST",model_name="m"}} 1.0\n' in page


def test_random_requests_get_answers_or_are_refused():
    signatures = {("m", name): proto.inputs for name, proto in SIGNATURES.items()}
    with RestServer(FakeHandler(), Metrics(), port=0) as server:
        connection = connect(server)

        @settings(max_examples=500, deadline=None)
        @given(http_calls(signatures))
        def check(call):
            connection.request(*call)
            response = connection.getresponse()
            document = json.loads(response.read())
            assert response.status in (200, 400, 404), document
            assert (response.status == 200) == ("error" not in document)

        check()
        connection.close()


# Clients of every kind.


def test_many_clients_at_once(server):
    def work(i):
        with contextlib.closing(connect(server)) as connection:
            return [ask_length(connection, "x" * i) for _ in range(10)]

    with futures.ThreadPoolExecutor(64) as pool:
        for i, answers in enumerate(pool.map(work, range(64))):
            assert answers == [i] * 10


def test_ten_megabytes_in_and_out(client):
    text = "naïve " * 1_500_000
    answer = ask(client, "POST", PREDICT, {"instances": [text]})["predictions"][0]
    assert answer["length"] == 10_500_000
    assert len(answer["text_bytes"]["b64"]) == 14_000_000


def test_a_request_in_chunks(client):
    body = b'{"instances": ["pieces"]}'
    client.request("POST", PREDICT, iter([body[:5], body[5:]]), encode_chunked=True)
    assert read_json(client.getresponse())["predictions"][0]["length"] == 6


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large(start, is_chunked):
    server = start(max_body_bytes=1000)
    body = b" " * 10_000_000
    with contextlib.closing(connect(server)) as client:
        client.request("POST", PREDICT, iter([body]) if is_chunked else body)
        answer = read_json(client.getresponse(), 413)
    assert answer == {"error": "The body has more than 1000 bytes"}
    with contextlib.closing(connect(server)) as client:
        assert ask_length(client, "a") == 1


def test_nothing_is_run_for_a_client_that_has_gone(start, slow_handler):
    leaver = send_wait(start())
    assert slow_handler.started.acquire(timeout=20)
    leaver.close()
    assert slow_handler.saw_leave.wait(20)


def test_beyond_the_limit_of_connections_clients_get_503(start, slow_handler):
    server = start(max_connections=3)
    waiting = [send_wait(server) for _ in range(2)]
    assert all(slow_handler.started.acquire(timeout=20) for _ in waiting)
    assert get_status(server) == 503
    slow_handler.go_on.set()
    for connection in waiting:
        assert read_json(connection.getresponse())["predictions"][0]["length"] == 4
        connection.close()
    wait_until(lambda: get_status(server) == 200)


# Start and stop.


def test_stop_finishes_requests_and_hangs_up_on_the_idle(start, slow_handler):
    server = start()
    busy, idle = send_wait(server), connect(server)
    assert slow_handler.started.acquire(timeout=20)
    assert ask_length(idle, "a") == 1
    stopping = threading.Thread(target=server.stop, args=(20.0,))
    stopping.start()
    assert is_closed(idle)
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    assert stopping.is_alive()
    slow_handler.go_on.set()
    assert read_json(busy.getresponse())["predictions"][0]["length"] == 4
    assert is_closed(busy)
    stopping.join(20)
    assert not stopping.is_alive()


def test_stop_cuts_off_what_takes_too_long(start, slow_handler):
    server = start()
    busy, half = send_wait(server), connect(server)
    assert slow_handler.started.acquire(timeout=20)
    half.sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 9\r\n\r\n".encode())
    start_s = time.monotonic()
    server.stop(0.2)
    assert time.monotonic() - start_s < 5.0
    answer = read_json(busy.getresponse(), 503)
    assert answer == {"error": "The server is shutting down"}
    assert slow_handler.saw_leave.wait(20)
    server.stop()  # again: nothing to do
    with RestServer(slow_handler, Metrics(), port=server.port) as again:
        assert get_status(again) == 200


def test_a_port_that_is_taken(server, handler):
    with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{server.port}"):
        RestServer(handler, Metrics(), port=server.port).start()
