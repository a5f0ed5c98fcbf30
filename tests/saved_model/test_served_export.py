"""A real export with its serving files: its warm-up runs, and its server passes the smoke test."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving import signatures
from distilbert_serving.inspection.saved_model_files import read_meta_graph
from distilbert_serving.saved_model.exporter import export_saved_model
from distilbert_serving.server import ModelServer
from distilbert_serving.smoke_test.run import smoke_test
from distilbert_serving.tensors import to_array
from distilbert_serving.tf_serving.batching_parameters import batching_parameters
from distilbert_serving.tf_serving.serving_files import write_serving_files
from distilbert_serving.tf_serving.warmup import read_warmup
from exporting import LABELS, TINY_MAX_LENGTH, make_tiny_model
from processes import finish


def export(directory, pair):
    model, tokenizer = make_tiny_model(directory / "model")
    return export_saved_model(
        model,
        tokenizer,
        directory / "base",
        max_length=TINY_MAX_LENGTH,
        pair=pair,
        verify=False,
    )


def arrays_of(log):
    """What a server feeds into the graph, and the signature."""
    kind = log.WhichOneof("log_type")
    request = getattr(log, kind).request
    if kind == "predict_log":
        inputs = {name: to_array(proto) for name, proto in request.inputs.items()}
    else:
        examples = [each.SerializeToString() for each in request.input.example_list.examples]
        inputs = {signatures.EXAMPLES: np.array(examples, object)}
    return request.model_spec.signature_name, inputs


@pytest.mark.slow
def test_every_signature_runs_its_warm_up(tmp_path):
    version = export(tmp_path, pair=True)
    signature_defs = {
        name: proto
        for name, proto in read_meta_graph(version).signature_def.items()
        if not name.startswith("__")
    }
    assert len(signature_defs) >= 7
    _, path = write_serving_files(
        version, signature_defs, signature_defs, batching_parameters(2), max_length=TINY_MAX_LENGTH
    )
    loaded = tf.saved_model.load(str(version))
    rows = {}
    for log in read_warmup(path):
        name, inputs = arrays_of(log)
        outputs = loaded.signatures[name](**{key: tf.constant(a) for key, a in inputs.items()})
        size = len(next(iter(inputs.values())))
        assert {len(output) for output in outputs.values()} == {size}
        rows.setdefault(name, []).append(size)
    assert rows == {name: [1, 1, 2] for name in signature_defs}


@pytest.mark.slow
def test_its_server_passes_the_smoke_test(tmp_path):
    version = export(tmp_path, pair=False)
    lines = []
    with ModelServer(version.parent, "tiny", port=0) as server:
        passed = smoke_test(f"127.0.0.1:{server.port}", "tiny", report=lines.append)
    report = "".join(lines)
    assert passed, report
    (one_text,) = [line for line in lines if " one text " in line]
    assert any(repr(label) in one_text for label in LABELS)
    for name in ("token ids", "odd texts", "other signatures"):
        assert f"ok       {name} " in report, report


SESSION = """
import sys
import numpy as np
import tensorflow as tf
session = tf.compat.v1.Session(graph=tf.Graph())
with session.graph.as_default():
    meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], sys.argv[1])
signature = meta_graph.signature_def["serving_default"]
fetches = {name: info.name for name, info in signature.outputs.items()}
for texts in (["good"], ["the film was good"] * 30):
    session.run(fetches, {signature.inputs["text"].name: np.array(texts, object)})
tf.saved_model.load(sys.argv[1])
"""


def test_loading_logs_nothing_for_each_op(tmp_path):
    """The optimizer complains of ops whose rank it does not know, the loader of gradients."""
    version = export(tmp_path, pair=False)
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION, str(version)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, log = finish(process, timeout_s=120.0)
    assert "PredictCost" not in log
    assert "gradient" not in log
