"""gRPC's health service, and the end of a server."""

import threading

import grpc
import pytest
import serving_models
from distilbert_serving.server import ModelServer, model_server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import make_request
from tensorflow_serving.apis import prediction_service_pb2_grpc
from waiting import wait_until

Health = health_pb2.HealthCheckResponse


def check(channel, service=""):
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status


@pytest.mark.parametrize(
    "service", ["", model_server.PREDICTION_SERVICE, model_server.MODEL_SERVICE]
)
def test_it_says_that_it_serves(channel, service):
    assert check(channel, service) == Health.SERVING


def test_it_can_be_turned_off(base_path):
    with (
        ModelServer(base_path, "m", port=0, enable_health_service=False) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        check(channel)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_it_says_first_that_it_stops_and_then_finishes_what_is_open(base_path, tmp_path):
    gate = tmp_path / "gate"
    server = ModelServer(base_path, "m", port=0).start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        assert next(watched).status == Health.SERVING
        request = make_request({"text": ["x"], "gate": [str(gate)]}, signature=serving_models.CALLS)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        held = stub.Predict.future(request, timeout=60)
        try:
            wait_until(gate.with_suffix(".started").exists)
            stopping = threading.Thread(target=server.stop, args=(30.0,))
            stopping.start()
            assert next(watched).status == Health.NOT_SERVING
            watched.cancel()
            assert not held.done()
        finally:
            gate.touch()
        assert list(held.result().outputs["echo"].string_val) == [b"x"]
        stopping.join(30)
        assert not stopping.is_alive()
