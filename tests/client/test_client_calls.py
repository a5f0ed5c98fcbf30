"""How clients of both kinds call: retries, deadlines, limits, headers, and waiting for a server."""

import time

import grpc
import pytest
from distilbert_serving.client.predict_client import PredictClient, PredictError
from distilbert_serving.protos import get_model_status_pb2

Code = grpc.StatusCode


def test_unavailable_is_retried(serve):
    client, servicer = serve(Code.UNAVAILABLE, Code.UNAVAILABLE)
    assert client.regress("tea") == 3.0
    assert len(servicer.requests) == 3


@pytest.mark.parametrize(
    "code", [Code.INTERNAL, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED]
)
def test_nothing_else_is_retried(serve, code):
    client, servicer = serve(code)
    with pytest.raises(PredictError, match="as the script says") as caught:
        client.regress("tea")
    assert caught.value.code == code
    assert len(servicer.requests) == 1


def test_attempts_can_be_limited(serve):
    client, servicer = serve(*[Code.UNAVAILABLE] * 9, max_attempts=3)
    with pytest.raises(PredictError) as caught:
        client.regress("tea")
    assert (caught.value.code, len(servicer.requests)) == (Code.UNAVAILABLE, 3)


def test_retries_end_with_the_deadline(serve):
    client, servicer = serve(*[Code.UNAVAILABLE] * 99, timeout_s=1.0)
    started_s = time.monotonic()
    with pytest.raises(PredictError) as caught:
        client.regress("tea")
    assert time.monotonic() - started_s < 1.5
    assert caught.value.code == Code.UNAVAILABLE
    assert 3 <= len(servicer.requests) <= 10


def test_a_slow_server_costs_the_deadline_and_not_more(serve):
    client, servicer = serve(3.0, timeout_s=0.3)
    started_s = time.monotonic()
    with pytest.raises(PredictError) as caught:
        client.regress("tea")
    assert 0.25 < time.monotonic() - started_s < 1.5
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert len(servicer.requests) == 1


def test_wait_until_ready_waits_for_loading(serve):
    def load(answer):
        answer.model_version_status[0].state = get_model_status_pb2.ModelVersionStatus.LOADING

    client, servicer = serve(Code.UNAVAILABLE, Code.NOT_FOUND, load)
    client.wait_until_ready(10.0)
    assert len(servicer.requests) == 4


def test_wait_until_ready_gives_up(serve, free_port):
    client, _ = serve(*[Code.NOT_FOUND] * 99)
    with pytest.raises(
        PredictError, match=r"not ready within 0.5 s; last, NOT_FOUND: as"
    ) as caught:
        client.wait_until_ready(0.5)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    client, _ = serve(Code.PERMISSION_DENIED)
    with pytest.raises(PredictError, match="PERMISSION_DENIED"):
        client.wait_until_ready(10.0)
    with (
        PredictClient(f"127.0.0.1:{free_port}") as nobody,
        pytest.raises(PredictError, match=r"not ready within 0.5 s; last, UNAVAILABLE"),
    ):
        nobody.wait_until_ready(0.5)


def test_message_limits_say_what_to_change(serve):
    client, _ = serve(max_message_bytes=3000)
    with pytest.raises(PredictError, match=r"client's max_message_bytes=3000: raise it") as caught:
        client.regress("x" * 5000)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    with pytest.raises(PredictError, match=r"client's max_message_bytes=3000: raise it, or send"):
        client.classify(["x"] * 150, batch_size=150)
    client, _ = serve(options=[("grpc.max_receive_message_length", 1000)])
    with pytest.raises(PredictError, match="the limit is the server's: send fewer") as caught:
        client.regress("x" * 5000)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED


def test_headers(serve):
    tokens = iter(["one", "two"])
    client, servicer = serve(headers=lambda: {"Authorization": f"Bearer {next(tokens)}"})
    client.regress("a")
    client.regress("a")
    assert [headers["authorization"] for headers in servicer.headers] == [
        "Bearer one",
        "Bearer two",
    ]


def test_waiting_for_a_label(serve):
    client, servicer = serve(version_label="canary")
    with pytest.raises(PredictError, match=r"not ready within 0.3 s; last, INVALID_ARGUMENT: Unr"):
        client.wait_until_ready(0.3)
    servicer.label = "canary"
    client.wait_until_ready(5.0)
    assert client.metadata().version == 7
    assert client.model_status()[0].state == "AVAILABLE"
    assert client.call({"text": ["tea"]})["label"].tolist() == [b"kurz"]


def test_a_closed_client_says_so(serve):
    client, _ = serve()
    client.close()
    with pytest.raises(ValueError, match="This client is closed"):
        client.regress("a")
