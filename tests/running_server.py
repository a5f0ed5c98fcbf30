"""A server in this process whose versions and models change, and questions to it."""

import grpc
import pytest
from distilbert_serving.tf_serving.config_protos import BatchingParameters
from serving_models import call, states_of
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from waiting import wait_until

# Of servers that look for versions all the time.
OPTIONS = {
    "port": 0,
    "poll_wait_s": 0.02,
    "max_num_load_retries": 1,
    "load_retry_interval_s": 0.1,
}


def one_thread(**parameters):
    """Batching such that requests wait while one runs."""
    return BatchingParameters(num_batch_threads={"value": 1}, **parameters)


class Running:
    """A server under test, and stubs for it."""

    def __init__(self, server):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def label(self, **spec):
        return call(self.predictions, {"text": ["x"]}, **spec)["label"].tolist()[0].decode()

    def code(self, **spec):
        with pytest.raises(grpc.RpcError) as caught:
            self.label(**spec)
        return caught.value.code()

    def states(self):
        return states_of(self.models)

    def wait_for_state(self, version, state):
        wait_until(lambda: self.states().get(version, (None,))[0] == state)
