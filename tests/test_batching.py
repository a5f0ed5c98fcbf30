"""Merging requests, without gRPC and TensorFlow: a function in the graph's place."""

import threading

import grpc
import numpy as np
import pytest
from waiting import wait_until

from export.server import status
from export.server.batching import Batcher
from export.server.batching_options import BatchingOptions
from export.server.direct_runner import DirectRunner


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
        if signature_name == "padded":  # to the largest value, as tokens to the longest row
            return {"y": np.repeat(inputs["x"][:, None], inputs["x"].max(), axis=1)}
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


def test_pieces_whose_outputs_do_not_fit_together(make_batcher, graph):
    graph.go_on.set()
    batcher = make_batcher(max_batch_size=2)
    error = submit(batcher, [1, 2, 1], name="padded").exception(10)
    assert error.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "pieces of at most 2 rows, as it has 3, and output y is not equally" in error.message
    assert results(graph, [submit(batcher, [1, 2], name="padded")]) == [[[1, 1], [2, 2]]]


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


def test_a_large_request_lets_others_in_between(make_batcher, graph):
    batcher = make_batcher(max_batch_size=2)
    requests = [keep_busy(batcher, graph), submit(batcher, range(6)), submit(batcher, [7])]
    assert results(graph, requests) == [[200], [0, 2, 4, 6, 8, 10], [14]]
    assert [x for _, x in graph.runs[1:]] == [[0, 1], [7], [2, 3], [4, 5]]


def test_what_is_left_of_a_large_request_shares_its_run(make_batcher, graph):
    batcher = make_batcher(max_batch_size=4)
    requests = [keep_busy(batcher, graph), submit(batcher, range(6))]
    requests += [submit(batcher, [x]) for x in (7, 8)]
    assert results(graph, requests) == [[200], [0, 2, 4, 6, 8, 10], [14], [16]]
    assert [x for _, x in graph.runs[1:]] == [[0, 1, 2, 3], [7, 8, 4, 5]]


def test_long_texts_run_alone(make_batcher):
    runs = []

    def graph(name, inputs):
        runs.append(len(inputs["x"]))
        if len(runs) == 1:
            assert go_on.wait(10)
        return {"y": inputs["x"]}

    go_on = threading.Event()
    batcher = Batcher(graph, BatchingOptions())
    texts = [[b"first"], [b"short"], [b"long" * 2**18], [b"also short"]]
    requests = [submit(batcher, np.array(text, object)) for text in texts[:1]]
    wait_until(lambda: runs)
    requests += [submit(batcher, np.array(text, object)) for text in texts[1:]]
    go_on.set()
    assert [request.result(10)["y"].tolist() for request in requests] == texts
    assert runs == [1, 2, 1]
    batcher.close()


def test_batches_are_filled_up_to_allowed_sizes(make_batcher, graph):
    batcher = make_batcher(max_batch_size=8, allowed_batch_sizes=(2, 8))
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1], [2, 3], [])]
    assert results(graph, requests) == [[200], [2], [4, 6], []]
    assert [x for _, x in graph.runs] == [[100, 100], [1, 2, 3, 1, 1, 1, 1, 1]]
    # A run without rows has none to repeat.
    assert results(graph, [submit(batcher, [])]) == [[]]


def test_several_threads_run_at_the_same_time(make_batcher, graph):
    batcher = make_batcher(num_threads=2)
    requests = [submit(batcher, [1]), submit(batcher, [2], name="g")]
    wait_until(lambda: len(graph.runs) >= 2)
    assert results(graph, requests) == [[2], [4]]


def test_one_bad_request_among_many_costs_few_runs(make_batcher, graph):
    batcher = make_batcher()
    first = keep_busy(batcher, graph)
    bad = submit(batcher, [-1])
    good = [submit(batcher, [x]) for x in range(31)]
    assert results(graph, [first, *good]) == [[200], *([2 * x] for x in range(31))]
    assert bad.exception(10).code == grpc.StatusCode.INVALID_ARGUMENT
    assert len(graph.runs) <= 2 + 2 * 5


def test_limits_of_rows_and_bytes(make_batcher, graph):
    batcher = make_batcher(max_request_rows=4, max_queue_rows=5, max_queue_bytes=64)
    first = keep_busy(batcher, graph)
    with pytest.raises(status.RequestError, match="Task size 5 is larger than .* size 4") as caught:
        submit(batcher, range(5))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    waiting = submit(batcher, range(4))
    with pytest.raises(status.RequestError, match="1 requests with 4 rows wait") as caught:
        submit(batcher, [1, 2])
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(status.RequestError, match="need 800 bytes") as caught:
        submit(batcher, np.zeros([1, 100]))
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert results(graph, [first, waiting]) == [[200], [0, 2, 4, 6]]
    # What has left the queue is no longer counted.
    assert results(graph, [submit(batcher, range(4))]) == [[0, 2, 4, 6]]


def test_unbatched_requests_run_by_themselves(graph):
    graph.go_on.set()
    runner = DirectRunner(graph)
    assert submit(runner, range(100)).result()["y"].tolist() == list(range(0, 200, 2))
    assert submit(runner, [-1]).exception().code == grpc.StatusCode.INVALID_ARGUMENT
    left = submit(runner, [1], is_active=lambda: False)
    assert left.exception().code == grpc.StatusCode.CANCELLED
    assert len(graph.runs) == 2
    runner.close()


@pytest.mark.parametrize(
    "options", [{"max_batch_size": 0}, {"max_queue_length": 0}, {"batch_timeout_s": -1.0}]
)
def test_senseless_options_are_errors(options):
    with pytest.raises(ValueError, match="at least"):
        BatchingOptions(**options)
