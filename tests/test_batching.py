"""Merging requests, without gRPC and TensorFlow: a function in the graph's place."""

import threading

import grpc
import numpy as np
import pytest

from export.server import status
from export.server.batching import Batcher, BatchingOptions


class Graph:
    """Doubles its input and notes how it was run; the first run lasts until `go_on` is set."""

    def __init__(self):
        self.runs = []
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, signature_name, inputs):
        self.runs.append((signature_name, inputs["x"].tolist()))
        self.started.set()
        assert self.go_on.wait(10)
        if -1 in inputs["x"]:
            raise status.invalid("no -1")
        if -2 in inputs["x"]:
            raise ZeroDivisionError("by -2")
        if signature_name == "distinct":
            return {"y": np.unique(inputs["x"])}
        return {"y": 2 * inputs["x"]}


@pytest.fixture
def graph():
    return Graph()


@pytest.fixture
def make_batcher(graph):
    batchers = []

    def make(**options):
        batchers.append(Batcher(graph, BatchingOptions(**options)))
        return batchers[-1]

    yield make
    graph.go_on.set()
    for batcher in batchers:
        batcher.close()


def submit(batcher, x, name="f", is_batched=True, **kwargs):
    return batcher.submit(name, {"x": np.asarray(x)}, is_batched=is_batched, **kwargs)


def keep_busy(batcher, graph):
    """Submits a first request, which occupies the worker until `graph.go_on` is set."""
    first = submit(batcher, [100])
    assert graph.started.wait(10)
    return first


def results(graph, requests):
    graph.go_on.set()
    return [request.result(10)["y"].tolist() for request in requests]


def test_requests_that_meet_are_merged_and_split(make_batcher, graph):
    batcher = make_batcher(max_batch_size=8)
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1, 2, 3], [], [4], [5, 6])]
    assert results(graph, requests) == [[200], [2, 4, 6], [], [8], [10, 12]]
    assert graph.runs == [("f", [100]), ("f", [1, 2, 3, 4, 5, 6])]


def test_an_idle_worker_does_not_wait_for_company(make_batcher, graph):
    graph.go_on.set()
    batcher = make_batcher(batch_timeout_s=60.0)
    for x in range(3):
        assert submit(batcher, [x]).result(10)["y"].tolist() == [2 * x]


def test_a_request_that_found_the_worker_busy_waits_for_company(make_batcher, graph):
    batcher = make_batcher(max_batch_size=2, batch_timeout_s=60.0)
    first = keep_busy(batcher, graph)
    second = submit(batcher, [1])
    graph.go_on.set()
    first.result(10)
    assert results(graph, [second, submit(batcher, [2])]) == [[2], [4]]
    assert graph.runs[1:] == [("f", [1, 2])]


def test_no_request_waits_longer_than_the_timeout(make_batcher, graph):
    batcher = make_batcher(batch_timeout_s=0.05)
    assert results(graph, [keep_busy(batcher, graph), submit(batcher, [1])]) == [[200], [2]]


def test_only_what_fits_is_merged(make_batcher, graph):
    batcher = make_batcher(max_batch_size=3)
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1, 2], [3, 4], [5])]
    requests += [submit(batcher, [6], name="g"), submit(batcher, [[7, 8]])]
    requests += [submit(batcher, 9, is_batched=False), submit(batcher, 10, is_batched=False)]
    answers = [[200], [2, 4], [6, 8], [10], [12], [[14, 16]], 18, 20]
    assert results(graph, requests) == answers
    runs = [("f", [1, 2, 5]), ("f", [3, 4]), ("g", [6]), ("f", [[7, 8]]), ("f", 9), ("f", 10)]
    assert graph.runs[1:] == runs


def test_signatures_are_never_merged(make_batcher, graph):
    batcher = make_batcher()
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, [i], name=name) for i, name in enumerate(["sst2", "qqp"] * 3)]
    assert results(graph, requests) == [[200], [0], [2], [4], [6], [8], [10]]
    assert graph.runs[1:] == [("sst2", [0, 2, 4]), ("qqp", [1, 3, 5])]


def test_large_requests_run_in_slices(make_batcher, graph):
    batcher = make_batcher(max_batch_size=4)
    assert results(graph, [submit(batcher, range(10))]) == [list(range(0, 20, 2))]
    assert [len(x) for _, x in graph.runs] == [4, 4, 2]


def test_a_failing_request_hurts_no_other(make_batcher, graph):
    batcher = make_batcher()
    keep_busy(batcher, graph)
    good, bad, broken, last = (submit(batcher, x) for x in ([1], [2, -1], [-2], [3]))
    assert results(graph, [good, last]) == [[2], [6]]
    assert bad.exception(10).code == grpc.StatusCode.INVALID_ARGUMENT
    assert broken.exception(10).code == grpc.StatusCode.INTERNAL
    assert broken.exception(10).message == "ZeroDivisionError: by -2"


def test_outputs_without_a_row_for_each_example(make_batcher, graph):
    batcher = make_batcher(max_batch_size=4)
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x, name="distinct") for x in ([1, 1], [2, 1])]
    # Merged they could not be split again: the answer is as if they had come alone.
    assert results(graph, requests) == [[200], [1], [1, 2]]
    large = submit(batcher, [1, 1, 1, 1, 2], name="distinct").exception(10)
    assert large.code == grpc.StatusCode.FAILED_PRECONDITION


def test_requests_nobody_waits_for_are_not_run(make_batcher, graph):
    batcher = make_batcher()
    first = keep_busy(batcher, graph)
    left = submit(batcher, [1], is_active=lambda: False)
    stayed = submit(batcher, [2])
    assert results(graph, [first, stayed]) == [[200], [4]]
    assert left.exception(10).code == grpc.StatusCode.CANCELLED
    assert graph.runs[1:] == [("f", [2])]


def test_a_large_request_that_nobody_waits_for_any_more_is_not_run_to_its_end(make_batcher, graph):
    graph.go_on.set()
    batcher = make_batcher(max_batch_size=4)
    large = submit(batcher, range(100), is_active=lambda: len(graph.runs) < 2)
    assert large.exception(10).code == grpc.StatusCode.CANCELLED
    assert len(graph.runs) == 2


def test_a_full_queue_turns_requests_away(make_batcher, graph):
    batcher = make_batcher(max_queue_length=2)
    requests = [keep_busy(batcher, graph), submit(batcher, [1]), submit(batcher, [2])]
    with pytest.raises(status.RequestError, match=r"queue .* is full") as caught:
        submit(batcher, [3])
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert results(graph, requests) == [[200], [2], [4]]
    assert results(graph, [submit(batcher, [4])]) == [[8]]


def test_closing_ends_the_current_run_and_turns_the_rest_away(make_batcher, graph):
    batcher = make_batcher()
    first = keep_busy(batcher, graph)
    waiting = submit(batcher, [1])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert waiting.exception(10).code == grpc.StatusCode.UNAVAILABLE
    assert results(graph, [first]) == [[200]]
    closing.join(10)
    with pytest.raises(status.RequestError, match="shutting down"):
        submit(batcher, [2])


@pytest.mark.parametrize(
    "options", [{"max_batch_size": 0}, {"max_queue_length": 0}, {"batch_timeout_s": -1.0}]
)
def test_senseless_options_are_errors(options):
    with pytest.raises(ValueError, match="at least"):
        BatchingOptions(**options)
