"""Merging requests, without gRPC and TensorFlow: a function in the graph's place."""

import threading

import grpc
import numpy as np
import pytest
from distilbert_serving.server import merging, status
from distilbert_serving.server.batching import Batcher
from distilbert_serving.server.batching_options import BatchingOptions
from distilbert_serving.server.direct_runner import DirectRunner
from waiting import wait_until

Code = grpc.StatusCode


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
        if signature_name == "wide":  # as wide as the largest value
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


def split_by(rows, **options):
    """Options of requests that are split into runs of so many rows."""
    splitting = {"max_execution_batch_size": rows, "enable_large_batch_splitting": True}
    return {"max_batch_size": 100, "max_enqueued_batches": 30, **splitting, **options}


def submit(batcher, x, name="f", is_batched=True, **kwargs):
    return batcher.submit(name, {"x": np.asarray(x)}, is_batched=is_batched, **kwargs)


def keep_busy(batcher, graph):
    """Submits a first request, which occupies the worker until `graph.go_on` is set."""
    graph.go_on.clear()
    graph.started.clear()
    first = submit(batcher, [100])
    assert graph.started.wait(10)
    return first


def results(graph, requests):
    graph.go_on.set()
    return [request.result(10)["y"].tolist() for request in requests]


def errors(graph, requests):
    graph.go_on.set()
    return [(r.exception(10).code, r.exception(10).message) for r in requests]


# What is merged.


def test_requests_that_meet_are_merged_and_split(make_batcher, graph):
    batcher = make_batcher()
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1, 2, 3], [], [4], [5, 6], [])]
    assert results(graph, requests) == [[200], [2, 4, 6], [], [8], [10, 12], []]
    assert graph.runs == [("f", [100]), ("f", [1, 2, 3, 4, 5, 6])]


def test_an_idle_worker_runs_a_request_at_once_an_empty_one_as_well(make_batcher, graph):
    batcher = make_batcher()
    for x in ([1], [], [2, 3]):
        assert results(graph, [submit(batcher, x)]) == [[2 * value for value in x]]
    assert [x for _, x in graph.runs] == [[1], [], [2, 3]]


def test_signatures_take_turns_and_are_never_merged(make_batcher, graph):
    batcher = make_batcher(max_batch_size=2)
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, [i], name) for i, name in enumerate(["f"] * 4 + ["g"] * 3)]
    assert results(graph, requests) == [[200], *([2 * i] for i in range(7))]
    assert graph.runs[1:] == [("f", [0, 1]), ("g", [4, 5]), ("f", [2, 3]), ("g", [6])]


def test_what_has_no_rows_runs_alone(make_batcher, graph):
    batcher = make_batcher()
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x, name="scalar", is_batched=False) for x in (9, 10)]
    assert results(graph, requests) == [[200], 18, 20]
    assert graph.runs[1:] == [("scalar", 9), ("scalar", 10)]


def test_without_splitting_a_request_is_in_one_run(make_batcher, graph):
    batcher = make_batcher(max_batch_size=3)
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1, 2], [3, 4], [5], [6])]
    assert results(graph, requests) == [[200], [2, 4], [6, 8], [10], [12]]
    # The batch of [1, 2] is closed by what doesn't fit in.
    assert [x for _, x in graph.runs[1:]] == [[1, 2], [3, 4, 5], [6]]


def test_with_splitting_a_request_fills_up_a_batch_and_goes_on_in_the_next(make_batcher, graph):
    batcher = make_batcher(**split_by(4))
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1], range(2, 10), [10, 11], [12, 13])]
    answers = [[2], list(range(4, 20, 2)), [20, 22], [24, 26]]
    assert results(graph, requests) == [[200], *answers]
    assert [x for _, x in graph.runs[1:]] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13]]


def test_several_threads_run_at_the_same_time(make_batcher, graph):
    batcher = make_batcher(**split_by(2, num_threads=3))
    requests = [submit(batcher, range(5)), submit(batcher, [7], name="g")]
    wait_until(lambda: len(graph.runs) >= 3)
    assert results(graph, requests) == [[0, 2, 4, 6, 8], [14]]


# What fails.


def test_a_batch_that_fails_fails_for_everybody_in_it(make_batcher, graph):
    batcher = make_batcher(max_batch_size=3)
    first = keep_busy(batcher, graph)
    requests = [submit(batcher, x) for x in ([1], [-1], [2], [3], [4, 5], [-2])]
    assert errors(graph, requests[:3]) == [(Code.INVALID_ARGUMENT, "no -1")] * 3
    assert results(graph, [first, *requests[3:5]]) == [[200], [6], [8, 10]]
    assert errors(graph, requests[5:]) == [(Code.INTERNAL, "ZeroDivisionError: by -2")]
    assert [x for _, x in graph.runs[1:]] == [[1, -1, 2], [3, 4, 5], [-2]]


def test_a_piece_that_fails_fails_its_request_and_who_shares_its_run(make_batcher, graph):
    batcher = make_batcher(**split_by(2))
    keep_busy(batcher, graph)
    requests = [submit(batcher, x) for x in ([1, 2, 3], [-1, 4], [5, 6])]
    assert errors(graph, requests[:2]) == [(Code.INVALID_ARGUMENT, "no -1")] * 2
    assert results(graph, requests[2:]) == [[10, 12]]
    # What is left of a request that has failed isn't run: 4.
    assert [x for _, x in graph.runs[1:]] == [[1, 2], [3, -1], [5], [6]]


def test_outputs_without_a_row_for_each_example(make_batcher, graph):
    request = submit(make_batcher(), [1, 1], name="distinct")
    ((code, message),) = errors(graph, [request])
    assert code == Code.FAILED_PRECONDITION
    assert "y has shape (1,) for 2 rows" in message


def test_pieces_whose_outputs_do_not_fit_together(make_batcher, graph):
    batcher = make_batcher(**split_by(2))
    ((code, message),) = errors(graph, [submit(batcher, [1, 2, 1], name="wide")])
    assert code == Code.INTERNAL
    assert "TF Serving would have died here" in message
    assert "output y has the shapes [(1, 1), (2, 2)]" in message
    assert results(graph, [submit(batcher, [1, 2], name="wide")]) == [[[1, 1], [2, 2]]]


def test_batches_are_filled_up_to_allowed_sizes(make_batcher, graph):
    batcher = make_batcher(max_batch_size=8, allowed_batch_sizes=(1, 8))
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1], [], [2, 3])]
    assert results(graph, requests) == [[200], [2], [], [4, 6]]
    # With the first row of the last request.
    assert [x for _, x in graph.runs] == [[100], [1, 2, 3, 2, 2, 2, 2, 2]]


def test_a_batch_cannot_be_filled_up_with_a_row_of_a_request_that_has_none(make_batcher, graph):
    batcher = make_batcher(max_batch_size=4, allowed_batch_sizes=(1, 3, 4))
    requests = [keep_busy(batcher, graph), *(submit(batcher, x) for x in ([1, 2, 3], []))]
    assert results(graph, requests) == [[200], [2, 4, 6], []]
    keep_busy(batcher, graph)
    requests = [submit(batcher, [1, 2]), submit(batcher, [])]
    for code, message in errors(graph, requests):
        assert code == Code.INTERNAL
        assert "TF Serving would have died here (Check failed: limit <= dim0_size)" in message
        assert "a batch of 2 rows is filled up to 3" in message


# Arrays of different shapes.


def merge(*arrays, pads=True, size=0):
    size = size or sum(map(len, arrays))
    return merging.merge([{"x": array} for array in arrays], size, pads=pads)["x"]


def test_tensors_are_padded_with_their_own_first_element():
    arrays = [np.int32([[7, 8], [9, 5]]), np.zeros((0, 5), np.int32), np.int32([[1, 2, 3]])]
    padded = [[7, 8, 7, 7, 7], [9, 5, 7, 7, 7], [1, 2, 3, 1, 1]]
    merged = merge(*arrays)
    assert (merged.dtype, merged.tolist()) == (np.int32, padded)
    assert merge(*arrays, size=5).tolist() == [*padded, [1, 2, 3, 1, 1], [1, 2, 3, 1, 1]]
    assert merge(np.float32([[[5], [6]]]), np.float32([[[1, 2]]])).tolist() == [
        [[5, 5], [6, 5]],
        [[1, 2], [1, 1]],
    ]
    strings = np.array([[b"a\0"]], object), np.array([[b"b", b"c"]], object)
    assert merge(*strings).tolist() == [[b"a\0", b"a\0"], [b"b", b"c"]]


def test_what_has_no_element_to_pad_with():
    with pytest.raises(status.RequestError, match="^Got empty tensor in batch of non-e") as caught:
        merge(np.ones((1, 2)), np.ones((3, 0)))
    assert caught.value.code == Code.INVALID_ARGUMENT
    # No elements, but none missing, either.
    assert merge(np.ones((2, 0, 3)), np.ones((1, 0, 4))).shape == (3, 0, 4)


def test_different_shapes_fail_without_padding():
    with pytest.raises(status.RequestError, match="^Tensors with name 'x' from differ") as caught:
        merge(np.ones((1, 2)), np.ones((0, 3)), pads=False)
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert merge(np.ones((1, 2)), np.ones((0, 2)), pads=False).tolist() == [[1, 1]]


@pytest.mark.parametrize("pads", [False, True])
def test_requests_of_a_signature_are_merged_whatever_their_shapes(make_batcher, graph, pads):
    batcher = make_batcher(pad_variable_length_inputs=pads)
    keep_busy(batcher, graph)
    requests = [submit(batcher, x, name="ids") for x in ([[1]], [[2, 3]])]
    if pads:
        assert results(graph, requests) == [[[2, 2]], [[4, 6]]]
    else:
        assert [code for code, _ in errors(graph, requests)] == [Code.FAILED_PRECONDITION] * 2


# Who leaves, who comes when it is full, and the end.


def test_requests_nobody_waits_for_are_not_run(make_batcher, graph):
    batcher = make_batcher(**split_by(4))
    first = keep_busy(batcher, graph)
    left = submit(batcher, [1], is_active=lambda: False)
    stayed = submit(batcher, [2])
    large = submit(batcher, range(100), is_active=lambda: len(graph.runs) < 3)
    assert results(graph, [first, stayed]) == [[200], [4]]
    for request in (left, large):
        assert request.exception(10).code == Code.CANCELLED
    assert [x for _, x in graph.runs[1:]] == [[2, 0, 1], [2, 3, 4, 5]]


def test_a_full_queue_turns_requests_away(make_batcher, graph):
    batcher = make_batcher(max_batch_size=2, max_enqueued_batches=2)
    requests = [keep_busy(batcher, graph), *(submit(batcher, [i]) for i in range(3))]
    with pytest.raises(
        status.RequestError, match="full; 2 batches wait, .* makes 1 more"
    ) as caught:
        submit(batcher, [3, 4])
    assert caught.value.code == Code.UNAVAILABLE
    # There is still room in the last batch, and in the queues of other signatures.
    requests += [submit(batcher, [5]), submit(batcher, [6], name="g")]
    assert results(graph, requests) == [[200], [0], [2], [4], [10], [12]]
    assert results(graph, [submit(batcher, [7])]) == [[14]]


def test_limits_of_rows_and_bytes(make_batcher, graph):
    batcher = make_batcher(**split_by(2, max_batch_size=4, max_queue_bytes=64))
    first = keep_busy(batcher, graph)
    with pytest.raises(status.RequestError, match="Task size 5 is larger than .* size 4") as caught:
        submit(batcher, range(5))
    assert caught.value.code == Code.INVALID_ARGUMENT
    waiting = submit(batcher, range(4))
    with pytest.raises(status.RequestError, match="need 40 bytes, .* already 32") as caught:
        submit(batcher, np.zeros([1, 5]))
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    assert results(graph, [first, waiting]) == [[200], [0, 2, 4, 6]]
    # What has left the queue is no longer counted.
    assert results(graph, [submit(batcher, range(4))]) == [[0, 2, 4, 6]]


def test_what_metrics_are_told(graph):
    rows, lengths = [], []
    options = BatchingOptions(**split_by(2))
    batcher = Batcher(graph, options, on_run=lambda n, _: rows.append(n), on_queue=lengths.append)
    requests = [keep_busy(batcher, graph), submit(batcher, [1, 2, 3]), submit(batcher, [4])]
    assert results(graph, requests) == [[200], [2, 4, 6], [8]]
    batcher.close()
    assert rows == [1, 2, 2]
    assert lengths == [1, 0, 1, 2, 1, 0]


def test_closing_ends_the_current_run_and_turns_the_rest_away(make_batcher, graph):
    batcher = make_batcher()
    first = keep_busy(batcher, graph)
    waiting = submit(batcher, [1])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert waiting.exception(10).code == Code.UNAVAILABLE
    assert results(graph, [first]) == [[200]]
    closing.join(10)
    with pytest.raises(status.RequestError, match="shutting down"):
        submit(batcher, [2])


def test_unbatched_requests_run_by_themselves(graph):
    graph.go_on.set()
    runner = DirectRunner(graph)
    assert submit(runner, range(100)).result()["y"].tolist() == list(range(0, 200, 2))
    assert submit(runner, [-1]).exception().code == Code.INVALID_ARGUMENT
    left = submit(runner, [1], is_active=lambda: False)
    assert left.exception().code == Code.CANCELLED
    assert len(graph.runs) == 2
    runner.close()


@pytest.mark.parametrize(
    "options",
    [{"max_batch_size": 0}, {"max_enqueued_batches": 0}, {"allowed_batch_sizes": (1, 8)}],
)
def test_senseless_options_are_errors(options):
    with pytest.raises(ValueError, match=r"at least|ascend to"):
        BatchingOptions(**options)
