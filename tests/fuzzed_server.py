"""Sends random requests to a server over several connections, and judges what it answers."""

import collections
import contextlib
import http.client
import json
import time
from concurrent import futures

import grpc
import tensorflow as tf
from comparing import assert_close
from exporting import TINY_ROUNDINGS
from fuzzing import KEYS, PREDICTION_SERVICE, Call, calls
from fuzzing_rest import HttpCall, http_calls
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_models import make_request
from tensorflow_serving.apis import predict_pb2
from tiny_exports import INPUTS

CONNECTIONS = 6
TIMEOUT_S = 30.0
AT_ONCE = 8
RIGHT_AT_ONCE = 2

# What may come back. INTERNAL, UNKNOWN and 500 are mistakes of the server; DEADLINE_EXCEEDED means
# that it hangs; UNAVAILABLE and RESOURCE_EXHAUSTED that so few requests are too many.
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
HTTP_CODES = {200, 400, 404}

# The one mistake that hurts others, as in TF Serving: ids without columns cannot be padded to the
# shape of those they are merged with.
SHARED_ERROR = "Got empty tensor in batch of non-empty tensors."


class FuzzedServer:
    """A server under test.

    Args:
        port: Its gRPC port.
        rest_port: Its REST port.

    Attributes:
        counts: How many requests there were, by method and status.
        slowest_s: How long the slowest took, in seconds.
    """

    def __init__(self, port: int, rest_port: int) -> None:
        # Without this option, all channels would share a connection.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_metadata_size", 2**20),
        ]
        self._channels = [
            grpc.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(CONNECTIONS)
        ]
        self._rest_port = rest_port
        self._pool = futures.ThreadPoolExecutor(AT_ONCE + RIGHT_AT_ONCE)
        self._sent = 0
        self.counts: collections.Counter[tuple[str, str | int]] = collections.Counter()
        self.slowest_s = 0.0
        self._right = {key: self._ask(key) for key in INPUTS}

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._pool.shutdown()

    def send_random_requests(self, count: int) -> None:
        """Sends random requests, and right ones among them; fails at the first bad answer."""
        examples = -(-count // AT_ONCE)

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.data(), KEYS)
        def check(data, key):
            # Many to the signature of the right ones, so that the server merges them.
            some = st.one_of(calls(st.just(key)), calls(st.just(key)), calls(), http_calls(INPUTS))
            asked = data.draw(st.lists(some, min_size=AT_ONCE, max_size=AT_ONCE))
            self._check(asked, key)

        check()

    def _check(self, asked, key):
        right = [self._pool.submit(self._ask, key) for _ in range(RIGHT_AT_ONCE)]
        sent = [self._pool.submit(self._send, each) for each in asked]
        for call, future in zip(asked, sent, strict=True):
            kind, outcome, problem = future.result(2 * TIMEOUT_S)
            self.counts[kind, outcome] += 1
            assert problem is None, (problem, call)
        for future in right:
            assert_equal(future.result(2 * TIMEOUT_S), self._right[key])

    def _ask(self, key):
        """Asks what has a right answer, again if somebody else's mistake was in the way."""
        name, signature = key
        data = make_request(INPUTS[key], name=name, signature=signature).SerializeToString()
        answer = None
        while answer is None:
            call = self._next_channel().unary_unary(PREDICTION_SERVICE + "Predict")
            try:
                answer = call(data, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                if signature != "from_ids" or error.details() != SHARED_ERROR:
                    raise
                self.counts["right, again", "INVALID_ARGUMENT"] += 1
        response = predict_pb2.PredictResponse.FromString(answer)
        return {output: tf.make_ndarray(proto) for output, proto in response.outputs.items()}

    def _next_channel(self):
        self._sent += 1
        return self._channels[self._sent % CONNECTIONS]

    def _send(self, call):
        """Sends a call; gives what to count it as, and what is wrong with the answer."""
        started_s = time.monotonic()
        send = self._send_http if isinstance(call, HttpCall) else self._send_call
        outcome = send(call)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
        return outcome

    def _send_call(self, call: Call):
        kind = call.method.rpartition("/")[2]
        try:
            self._next_channel().unary_unary(call.method)(call.data, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details()
            is_bad = code not in CODES or not details or len(details.encode()) > 1024
            return kind, code, f"{code}: {details}" if is_bad else None
        return kind, "OK", None

    def _send_http(self, call: HttpCall):
        connection = http.client.HTTPConnection("127.0.0.1", self._rest_port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request(*call)
            response = connection.getresponse()
            body = response.read()
        is_bad = response.status not in HTTP_CODES or (
            (response.status == 200) == ("error" in json.loads(body))
        )
        return "REST", response.status, repr(body[:2000]) if is_bad else None


def assert_equal(answer, want):
    """Checks an answer that shares its batch with others."""
    assert answer.keys() == want.keys()
    for name, array in want.items():
        if array.dtype == object:
            assert answer[name].tolist() == array.tolist()
        else:
            assert_close(answer[name], array, TINY_ROUNDINGS, size=1.0)
