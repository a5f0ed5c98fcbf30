"""What the benchmarks do with their figures; the measuring itself is no test."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.inference import TOLERANCE, compare
from benchmarks.peers import INFERENCE, OURS_ENV, TRAINING, choose
from benchmarks.timing import Timing, fastest

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
    off = [[0.0, 1.0], [2.0, 3.0 + 3 * TOLERANCE]]
    outputs = {"ours": ours, "torch": ours, "openvino": off, "onnxruntime_int8": off}
    differences, errors = compare(outputs, PEERS)
    assert differences["torch"] == 0
    assert differences["openvino"] == pytest.approx(3 * TOLERANCE)
    assert list(errors) == ["openvino"]


def test_the_table_and_the_plot_compare_with_the_fastest_fp32_peer(tmp_path: Path):
    names = ["ours", "torch", "openvino", "onnxruntime_int8", "matmul"]
    times_s = dict(zip(names, [0.002, 0.006, 0.004, 0.001, 0.0005], strict=True))
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
    assert "| 1 x 8 (8 of 8 tokens) | **2.00** | 6.00 | 4.00 | 1.00 | 0.50 | 2.00x |" in written
    assert "**keras_hub failed**: ValueError: no" in written
    assert "| 50% |" in written  # 2e8 flops in 2 ms, at 200 GFLOP/s
    assert (tmp_path / "inference_base_ids.png").stat().st_size > 5000


def test_training_is_not_measured_in_a_servers_environment():
    assert OURS_ENV["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] == "1"
    assert not any("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS" in peer.env for peer in TRAINING)


def test_unknown_peers_are_named():
    with pytest.raises(ValueError, match="No peer 'tensorrt'; there are ctranslate2"):
        choose(INFERENCE, ["ours", "tensorrt"])
