"""What the benchmarks do with their figures; test_benchmark_scripts.py runs them."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from transformers import DistilBertConfig

from benchmarks import report
from benchmarks.flops import Work, grouped_work, padded_work, peak_tflops, training_flops, true_work
from benchmarks.gpu_report import write_gpu
from benchmarks.logits import TOLERANCES, compare, largest_logit, score
from benchmarks.peers import INFERENCE, OURS_ENV, PRECISIONS, TRAINING, choose
from benchmarks.timing import Timing, fastest
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.training.multitask import MultiTaskModel

PEERS = {peer.name: peer for peer in INFERENCE}


def timing(*rounds: list[float]) -> Timing:
    made = Timing.empty()
    for times_s in rounds:
        made.add(times_s)
    return made


def test_median_of_medians_and_shortest_call():
    times = timing([3.0, 1.0, 2.0], [9.0], [4.0, 4.0, 0.5])
    assert (times.median_s, times.min_s, times.calls) == (4.0, 0.5, [3, 1, 3])
    assert fastest({"a": 2.0, "b": 1.0}) == ("b", 1.0)
    assert fastest({}) is None


def test_other_logits_are_wrong_and_int8_may_differ():
    ours = [[0.0, 1.0], [2.0, 3.0]]
    limit = 3.0 * TOLERANCES["float32"]  # relative to the largest logit of all cases
    largest = largest_logit([{"ours": [[0.0, 1e-3]]}, {"ours": ours}, {"ours": [[np.nan]]}], PEERS)
    near, off = ([[0.0, 1.0], [2.0, 3.0 + times * limit]] for times in (0.9, 1.1))
    outputs = {"ours": ours, "torch": near, "openvino": off, "onnxruntime_int8": off}
    outputs |= {"ours_bfloat16": off, "torch_bfloat16": [[0.0, 1.0], [2.0, 3.2]]}
    differences, errors = compare(outputs, PEERS, largest)
    assert 0.89 * limit < differences["torch"] < 0.91 * limit
    assert 1.09 * limit < differences["openvino"] < 1.11 * limit
    assert set(errors) == {"openvino", "torch_bfloat16"}


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"failures": {}, "cases": {"a": {"errors": {}}}}, 0),
        ({"failures": {"torch": "no"}, "cases": {"a": {"errors": {"openvino": "off"}}}}, 0),
        ({"failures": {"ours_default": "Traceback\nValueError: no"}}, 1),
        ({"failures": {"torch": "no"}, "cases": {"a": {"errors": {"ours_default": "off"}}}}, 1),
    ],
)
def test_a_failure_of_ours_is_the_runs(part: dict, code: int, capsys: pytest.CaptureFixture[str]):
    peers = {name: peer.describe() for name, peer in PEERS.items()}
    assert report.finish({"peers": peers, "models": {"base": part}}, "out") == code
    shown = capsys.readouterr().err
    assert "Written to out." in shown
    assert ("base: ours_default failed: " in shown) == bool(code)


def test_tables_and_plots_compare_with_the_fastest_peer_of_each_precision(tmp_path: Path):
    names = ["ours", "ours_bfloat16", "torch", "openvino", "openvino_bfloat16", "matmul"]
    times_s = dict(zip(names, [0.002, 0.0015, 0.006, 0.004, 0.001, 0.0005], strict=True))
    case = {
        "name": "x", "mode": "ids", "label": "1 x 8", "batches": 1, "rows": 1, "true_tokens": 8,
        "padded_tokens": 8, "logit_spread": 1.0, "max_abs_difference": {"ours": 0.0},
        "errors": {}, "flops": {"matmul": 2e8},
        "times": {name: timing([time_s]) for name, time_s in times_s.items()},
    }  # fmt: skip
    part = {"rounds": 1, "versions": {}, "failures": {"keras_hub": "Traceback\nValueError: no"}}
    part |= {"sgemm_gflops": [200.0], "cases": {"x:ids": case}}
    results = {
        "started_at": "now", "machine": {}, "settings": {}, "models": {"base": part},
        "peers": {name: PEERS[name].describe() for name in names},
    }  # fmt: skip
    report.write_inference(results, tmp_path)
    written = (tmp_path / "inference.md").read_text()
    row = "| **2.00** | 1.50 | 6.00 | 4.00 | **1.00** | 0.50 | 2.00x | 0.67x |"
    assert f"| 1 x 8 (8 of 8 tokens) {row}" in written
    assert "**keras_hub failed**: ValueError: no" in written
    assert "| 50% |" in written  # 2e8 flops in 2 ms, at 200 GFLOP/s
    assert (tmp_path / "inference_base_ids.png").stat().st_size > 5000


def test_accuracy_is_that_of_the_labels_and_changes_are_those_of_the_reference():
    reference = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    logits = np.array([[1.0, 0.5], [1.5, 1.0], [0.0, 0.5], [0.0, 3.0]])
    found = score(logits, reference, np.array([0, 0, 0, 0]))
    assert found == {"accuracy": 0.5, "changed_labels": 2, "max_abs_difference": 2.0}
    for wrong in (logits[:3], logits * np.inf):
        with pytest.raises(ValueError, match="not finite"):
            score(wrong, reference, np.array([0, 0, 0, 0]))


def test_training_is_not_measured_in_a_servers_environment():
    assert OURS_ENV["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] == "1"
    assert not any("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS" in peer.env for peer in TRAINING)


def test_unknown_peers_are_named():
    with pytest.raises(ValueError, match="No peer 'tensorrt'; there are ctranslate2"):
        choose(INFERENCE, ["ours", "tensorrt"])


def test_precisions_choose_the_default_peers():
    for precision in PRECISIONS:
        assert {peer.precision for peer in choose(INFERENCE, [], [precision])} == {precision}
    with pytest.raises(ValueError, match="No precision 'fp8'; there are bfloat16, float32, int8"):
        choose(INFERENCE, [], ["fp8"])


TINY = DistilBertConfig(
    vocab_size=11, max_position_embeddings=8, n_layers=2, dim=4, n_heads=2, hidden_dim=6
)


def test_operations_are_those_counted_by_hand():
    # Two rows of 2 and 3 tokens, two labels; a product of (n, k) and (k, m) has n * k * m pairs.
    first = 5 * (4 * 4 * 4 + 2 * 4 * 6) + 2 * 4 * (2 * 2 + 3 * 3)
    last = 5 * 2 * 4 * 4 + 2 * (2 * 4 * 4 + 2 * 4 * 6) + 2 * 4 * (2 + 3)
    head = 2 * (4 * 4 + 4 * 2)
    work = true_work(np.array([2, 3]))
    assert work == Work(rows=2, tokens=5, keys=5, pairs=13)
    # A multiplication and an addition, forward and for both gradients.
    assert training_flops(TINY, 2, work) == 6 * (first + last + head)


def test_padding_is_work_and_groups_by_length_have_less_of_it():
    lengths = np.array([8, 2, 5, 4, 1])
    assert padded_work(lengths, 10) == Work(5, 50, 50, 500)
    # 8 and 5 (above half of 8), 4 (above a quarter), 2 and 1
    assert grouped_work(lengths, 3) == Work(5, 20, 16 + 4 + 4, 128 + 16 + 8)
    assert grouped_work(lengths, 1) == Work(5, 20, 40, 320)


def test_operations_are_those_of_the_products_in_the_graph():
    classifier = TFDistilBertForSequenceClassification(TINY)
    model = MultiTaskModel({"sst2": classifier})
    model.compile(keras.optimizers.SGD(), skip_padding=False)
    rows, width = 3, 5
    inputs = {
        name: tf.TensorSpec([rows, width], tf.int32) for name in ("input_ids", "attention_mask")
    }
    targets = {name: tf.TensorSpec([rows], tf.int32) for name in ("label", "task")}
    graph = tf.function(model.compute_gradients).get_concrete_function(inputs, targets).graph
    counted = 0
    for op in graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            a, c = op.inputs[0].shape, op.outputs[0].shape
            name = "transpose_a" if op.type == "MatMul" else "adj_x"
            counted += 2 * c.num_elements() * a[-2 if op.get_attr(name) else -1]
    assert counted == training_flops(TINY, 2, padded_work(np.full(rows, 2), width))


@pytest.mark.parametrize(
    ("device", "bfloat16", "float32"),
    [
        ("NVIDIA A100-SXM4-40GB", 312, 156),
        ("NVIDIA A100 80GB PCIe", 312, 156),
        ("NVIDIA H100 80GB HBM3", 989, 495),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H100 NVL", None, None),
        ("NVIDIA H200", 989, 495),
        ("NVIDIA L4", 121, 60),
        ("NVIDIA L40", None, None),
        ("Tesla T4", None, 8.1),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("NVIDIA A10", 125, 62.5),
        ("NVIDIA A10G", None, None),
    ],
)
def test_a_cards_peak_is_its_own(device: str, bfloat16: float | None, float32: float | None):
    assert peak_tflops(device, "mixed_bfloat16") == bfloat16
    assert peak_tflops(device, "float32") == float32


def test_float32_without_tf32_has_another_peak():
    assert peak_tflops("NVIDIA A100-SXM4-40GB", "float32", tf32=False) == 19.5


def test_the_gpu_report_gives_shares_of_the_peak_and_the_gain_of_more_devices(tmp_path: Path):
    def variant(strategy: str, replicas: int, *speeds: float) -> dict[str, object]:
        run = {
            "time_s": 2.0, "first_step_s": 9.0, "mean_loss": 0.5, "replicas": replicas,
            "true_flops": 10**12 * replicas, "computed_flops": 4 * 10**12 * replicas,
            "peak_device_mib": 1234.0,
        }  # fmt: skip
        runs = [
            run | {"examples_per_s": s, "true_tokens": 40 * s, "computed_tokens": 256 * s}
            for s in speeds
        ]
        label = f"mixed_bfloat16, padded, 32 rows{', one device' if strategy == 'none' else ''}"
        return {"label": label, "dtype": "mixed_bfloat16", "strategy": strategy, "runs": runs}

    part = {
        "versions": {"a": {"tensorflow": "2.21.0"}},
        "failures": {"float32-padded-32-auto": "ended with exit code 1: out of memory"},
        "variants": {
            "mixed_bfloat16-padded-32-auto": variant("auto", 2, 150.0, 120.0, 160.0),
            "mixed_bfloat16-padded-32-none": variant("none", 1, 100.0),
        },
    }
    results = {
        "started_at": "now", "machine": {}, "settings": {}, "device": {"gpus": ["A", "A"]},
        "peak_tflops": {"mixed_bfloat16": 10.0}, "models": {"base": part},
    }  # fmt: skip
    write_gpu(results, tmp_path)
    written = (tmp_path / "gpu.md").read_text()
    # 1e12 operations in 2 s on each device, of 10e12 a second; four times as many with padding
    cells = "150.0 | 160.0 | 20.0 | 128.0 | 1 | 5.0% | 20.0% | 1234 | 9.0 | 0.500 |"
    assert f"| mixed_bfloat16, padded, 32 rows | {cells}" in written
    assert "| 2 | 100.0 | 150.0 | 1.50x | 75% |" in written
    assert "**float32-padded-32-auto failed**: ended with exit code 1: out of memory" in written
    assert (tmp_path / "gpu.png").stat().st_size > 5000
    results["peak_tflops"] = {}
    write_gpu(results, tmp_path)
    assert "| 1 | - | - | 1234 |" in (tmp_path / "gpu.md").read_text()
