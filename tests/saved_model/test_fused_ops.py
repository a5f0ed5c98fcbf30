"""What TensorFlow's graph optimizer makes of an export on a CPU."""

import collections
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from distilbert_serving.saved_model.exporter import export_saved_model
from distilbert_serving.tf_serving.environment import serving_environment
from exporting import TINY_MAX_LENGTH, make_tiny_model

CPUINFO = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""

# A process of its own, since TensorFlow reads its environment once.
COUNT = """
import collections, json, sys
import tensorflow as tf
v1 = tf.compat.v1
directory, *texts = sys.argv[1:]
session = v1.Session(graph=tf.Graph())
with session.graph.as_default():
    signature = v1.saved_model.load(session, ["serve"], directory).signature_def["serving_default"]
metadata = v1.RunMetadata()
session.run(
    signature.outputs["logits"].name,
    {signature.inputs["text"].name: texts},
    options=v1.RunOptions(output_partition_graphs=True),
    run_metadata=metadata,
)
nodes = [node for graph in metadata.partition_graphs for node in graph.node]
print(json.dumps(collections.Counter(
    "+".join([node.op, *(op.decode() for op in node.attr["fused_ops"].list.s)]) for node in nodes
)))
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's kernels are for x86"
)
@pytest.mark.parametrize(
    "compute",
    [
        "float32",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif(
                "avx512f" not in CPUINFO, reason="oneDNN has no bfloat16 for this processor"
            ),
        ),
    ],
)
def test_products_and_norms_are_one_kernel_each(compute, tmp_path):
    model, tokenizer = make_tiny_model(tmp_path / "model")
    options = {"max_length": TINY_MAX_LENGTH, "compute": compute, "verify": False}
    version = export_saved_model(model, tokenizer, tmp_path / "base", **options)
    environment = {**os.environ, **serving_environment(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", COUNT, os.fspath(version), "the film", "was good"]
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    ops = collections.Counter(json.loads(done.stdout.splitlines()[-1]))
    fused = {
        op.removeprefix("_MklNativeFusedMatMul+BiasAdd"): count
        for op, count in ops.items()
        if op.startswith("_MklNativeFusedMatMul")
    }
    # Two layers, once for few tokens and once for many. A layer has queries, keys and values; what
    # follows attention, with the residual; the feed-forward's two, the second with the residual.
    # The last layer has queries of their own, and a residual of the first tokens, which is added
    # apart. The head has two.
    assert fused.pop("+GeluExact") == 2 * 2
    assert fused.pop("+Relu") == 2
    assert fused.pop("+Add") == 2 * (2 + 1)
    assert fused.pop("") == 2 * (1 + 3 + 1)
    assert not fused
    # Products of queries and keys with scale and mask, for the groups by length as well.
    assert ops["_MklFusedBatchMatMulV2+Mul+Add"] == 2 * (1 + 3)
    # Of many tokens, but for the two of the last layer, which are of the first tokens alone.
    assert ops["_MklLayerNorm"] == 1 + 2 * (2 - 1)
    assert not any("BatchNorm" in op for op in ops)
