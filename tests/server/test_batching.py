"""Merging requests, without gRPC and TensorFlow: a function in the graph's place."""

import threading

import grpc
import numpy as np
import pytest
from batching_rules import ServerDiesError, run_batches
from distilbert_serving.server import status
from distilbert_serving.server.batching import Batcher, merge_inputs
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.tf_serving.config_protos import BatchingParameters
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_until

Code = grpc.StatusCode
FILLED = [[], [1, 3, 6], [6]]


class Graph:
    """Doubles its input and notes how it was run; a run lasts until `go_on` is set."""

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
def metrics():
    return Metrics()


@pytest.fixture
def make_batcher(graph, metrics):
    batchers = []

    def make(**parameters):
        batchers.append(Batcher(graph, make_parameters(**parameters), "m", metrics))
        return batchers[-1]

    yield make
    graph.go_on.set()
    for batcher in batchers:
        batcher.close()


def make_parameters(num_batch_threads=1, pads=False, allowed_batch_sizes=(), **numbers):
    values = {name: {"value": value} for name, value in numbers.items()}
    return BatchingParameters(
        num_batch_threads={"value": num_batch_threads},
        pad_variable_length_inputs=pads,
        allowed_batch_sizes=allowed_batch_sizes,
        **values,
    )


def split_by(rows, **parameters):
    """Parameters of requests that are split into runs of so many rows."""
    splitting = {"max_execution_batch_size": rows, "enable_large_batch_splitting": True}
    return {"max_batch_size": 100, "max_enqueued_batches": 30, **splitting, **parameters}


def submit(batcher, x, name="f", is_batched=True, is_active=lambda: True):
    return batcher.submit(name, {"x": np.asarray(x)}, is_batched=is_batched, is_active=is_active)


def keep_busy(batcher, graph):
    """Submits a first request, which occupies the worker until `graph.go_on` is set."""
    graph.go_on.clear()
    graph.started.clear()
    first = submit(batcher, [100], name="first")
    assert graph.started.wait(10)
    return first


def results(graph, requests):
    graph.go_on.set()
    return [wait()["y"].tolist() for wait in requests]


def error_of(wait):
    with pytest.raises(status.RequestError) as caught:
        wait()
    return caught.value.code, caught.value.message


# What is merged.


@st.composite
def waiting_requests(draw):
    """Inputs of requests that wait together: ids with columns that differ, or not."""
    columns = draw(st.sampled_from([[1], [1, 1, 2, 3], [0, 1]]))
    shapes = st.tuples(st.sampled_from([0, 1, 1, 2, 3, 8, 13]), st.sampled_from(columns))
    return [
        np.arange(1 + 100 * i, 1 + 100 * i + rows * wide, dtype=np.int32).reshape(rows, wide)
        for i, (rows, wide) in enumerate(draw(st.lists(shapes, min_size=1, max_size=6)))
    ]


@settings(max_examples=150, deadline=None)
@given(waiting_requests(), st.booleans(), st.sampled_from(FILLED), st.booleans())
def test_batches_are_those_of_tf_serving(arrays, pads, allowed, is_wide):
    """Sizes, padding, filling up and errors follow the rules that tests/batching_rules.py has."""
    graph, sizes, expected_sizes = Graph(), [], []

    def run(inputs, noted):
        noted.append(len(inputs["x"]))
        return {"y": inputs["x"] if is_wide else inputs["x"].sum(axis=1)}  # as wide as its batch

    batcher = Batcher(
        lambda name, inputs: graph(name, inputs) if name == "first" else run(inputs, sizes),
        make_parameters(**split_by(6, pads=pads, allowed_batch_sizes=allowed)),
        "m",
        Metrics(),
    )
    keep_busy(batcher, graph)
    waiting = [submit(batcher, array) for array in arrays]
    graph.go_on.set()
    outcomes = [outcome_of(wait) for wait in waiting]
    batcher.close()
    codes = {outcome for outcome in outcomes if isinstance(outcome, Code)}
    try:
        expected = run_batches(
            lambda inputs: run(inputs, expected_sizes),
            [{"x": array} for array in arrays],
            max_rows=6,
            allowed_sizes=allowed,
            pads=pads,
        )
    except ServerDiesError:
        assert Code.INTERNAL in codes
    except ValueError:
        assert codes & {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION}
    else:
        assert sizes == expected_sizes
        for outcome, outputs in zip(outcomes, expected, strict=True):
            np.testing.assert_array_equal(outcome["y"], outputs["y"])


def outcome_of(wait):
    try:
        return wait()
    except status.RequestError as error:
        return error.code


def test_an_idle_worker_runs_a_request_at_once_an_empty_one_as_well(make_batcher, graph):
    batcher = make_batcher()
    for x in ([1], [], [2, 3]):
        assert results(graph, [submit(batcher, x)]) == [[2 * value for value in x]]
    assert [x for _, x in graph.runs] == [[1], [], [2, 3]]


def test_signatures_take_turns_and_are_never_merged(make_batcher, graph):
    batcher = make_batcher(max_batch_size=2)
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, [i], name) for i, name in enumerate(["f"] * 4 + ["g"] * 3)]
    requests += [submit(batcher, x, "scalar", is_batched=False) for x in (9, 10)]
    assert results(graph, requests) == [[200], *([2 * i] for i in range(7)), 18, 20]
    runs = [("f", [0, 1]), ("g", [4, 5]), ("scalar", 9), ("f", [2, 3]), ("g", [6]), ("scalar", 10)]
    assert graph.runs[1:] == runs


def test_without_splitting_a_request_is_in_one_run(make_batcher, graph):
    batcher = make_batcher(max_batch_size=3)
    requests = [keep_busy(batcher, graph)]
    requests += [submit(batcher, x) for x in ([1, 2], [3, 4], [5], [6])]
    assert results(graph, requests) == [[200], [2, 4], [6, 8], [10], [12]]
    # The batch of [1, 2] is closed by what doesn't fit in.
    assert [x for _, x in graph.runs[1:]] == [[1, 2], [3, 4, 5], [6]]


def test_several_threads_run_at_the_same_time(make_batcher, graph):
    batcher = make_batcher(**split_by(2, num_batch_threads=3))
    requests = [submit(batcher, range(5)), submit(batcher, [7], name="g")]
    wait_until(lambda: len(graph.runs) >= 3)
    assert results(graph, requests) == [[0, 2, 4, 6, 8], [14]]


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ([[[5], [6]]], [[[1, 2]]], [[[5, 5], [6, 5]], [[1, 2], [1, 1]]]),
        ([[b"a\0"]], [[b"b", b"c"]], [[b"a\0", b"a\0"], [b"b", b"c"]]),
    ],
    ids=["three dimensions", "strings"],
)
def test_tensors_are_padded_with_their_own_first_element(first, second, merged):
    parts = [{"x": np.array(array, object)} for array in (first, second)]
    assert merge_inputs(parts, 2, pads=True)["x"].tolist() == merged


# What fails.


def test_a_batch_that_fails_fails_for_everybody_in_it(make_batcher, graph):
    batcher = make_batcher(max_batch_size=3)
    first = keep_busy(batcher, graph)
    requests = [submit(batcher, x) for x in ([1], [-1], [2], [3], [4, 5], [-2])]
    assert results(graph, [first, *requests[3:5]]) == [[200], [6], [8, 10]]
    assert [error_of(wait) for wait in requests[:3]] == [(Code.INVALID_ARGUMENT, "no -1")] * 3
    assert error_of(requests[5]) == (Code.INTERNAL, "ZeroDivisionError: by -2")


def test_a_piece_that_fails_fails_its_request_and_who_shares_its_run(make_batcher, graph):
    batcher = make_batcher(**split_by(2))
    keep_busy(batcher, graph)
    requests = [submit(batcher, x) for x in ([1, 2, 3], [-1, 4], [5, 6])]
    assert results(graph, requests[2:]) == [[10, 12]]
    assert [error_of(wait) for wait in requests[:2]] == [(Code.INVALID_ARGUMENT, "no -1")] * 2


def test_outputs_without_a_row_for_each_example(make_batcher, graph):
    graph.go_on.set()
    code, message = error_of(submit(make_batcher(), [1, 1], name="distinct"))
    assert code == Code.FAILED_PRECONDITION
    assert "y has shape (1,) for 2 rows" in message


# Who leaves, who comes when it is full, and the end.


def test_requests_nobody_waits_for_are_not_run(make_batcher, graph):
    batcher = make_batcher(**split_by(4))
    first = keep_busy(batcher, graph)
    left = submit(batcher, [1], is_active=lambda: False)
    stayed = submit(batcher, [2])
    large = submit(batcher, range(100), is_active=lambda: len(graph.runs) < 3)
    assert results(graph, [first, stayed]) == [[200], [4]]
    for request in (left, large):
        assert error_of(request)[0] == Code.CANCELLED
    assert [x for _, x in graph.runs[1:]] == [[2, 0, 1], [2, 3, 4, 5]]


def test_a_full_queue_and_a_large_request_are_turned_away(make_batcher, graph):
    batcher = make_batcher(max_batch_size=2, max_enqueued_batches=2)
    requests = [keep_busy(batcher, graph), *(submit(batcher, [i]) for i in range(3))]
    code, message = error_of(lambda: submit(batcher, [3, 4]))
    assert code == Code.UNAVAILABLE
    assert "full; 2 batches wait, and this makes 1 more" in message
    code, message = error_of(lambda: submit(batcher, range(3)))
    assert code == Code.INVALID_ARGUMENT
    assert "Task size 3 is larger than maximum input batch size 2" in message
    # There is still room in the last batch, and in the queues of other signatures.
    requests += [submit(batcher, [5]), submit(batcher, [6], name="g")]
    assert results(graph, requests) == [[200], [0], [2], [4], [10], [12]]
    assert results(graph, [submit(batcher, [7])]) == [[14]]


def test_what_metrics_are_told(make_batcher, graph, metrics):
    batcher = make_batcher(**split_by(2))
    requests = [keep_busy(batcher, graph), submit(batcher, [1, 2, 3]), submit(batcher, [4])]
    assert b'queue_length{model_name="m"} 3.0' in metrics.render()  # in pieces
    assert results(graph, requests) == [[200], [2, 4, 6], [8]]
    page = metrics.render()
    assert b'queue_length{model_name="m"} 0.0' in page
    assert b'processed_batch_size_sum{model_name="m"} 5.0' in page
    assert b'processed_batch_size_count{model_name="m"} 3.0' in page


def test_closing_ends_the_current_run_and_turns_the_rest_away(make_batcher, graph):
    batcher = make_batcher()
    first = keep_busy(batcher, graph)
    waiting = submit(batcher, [1])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert error_of(waiting)[0] == Code.UNAVAILABLE
    assert results(graph, [first]) == [[200]]
    closing.join(10)
    assert error_of(lambda: submit(batcher, [2]))[0] == Code.UNAVAILABLE
