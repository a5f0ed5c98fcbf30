"""Running every signature of a SavedModel in a fresh process."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.inspection.endpoint_contracts import SignatureContract
from distilbert_serving.inspection.fresh_process import ReloadError
from distilbert_serving.inspection.loader_comparison import (
    RunError,
    compare_answers,
    make_inputs,
    run_signatures,
)
from distilbert_serving.inspection.reload import write_array
from distilbert_serving.signatures import TensorInfo

from distilbert_tf import cli


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Signatures of all kinds of inputs, one of which fails."""
    directory = tmp_path_factory.mktemp("saved") / "1"
    module = tf.Module()
    module.scale = tf.Variable(3.0)

    def spec(shape, dtype, name):
        return tf.TensorSpec(shape, dtype, name=name)

    def parse(inputs):
        features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("text", "text_pair")}
        parsed = tf.io.parse_example(inputs, features)
        return {"outputs": module.scale * tf.cast(tf.strings.length(parsed["text"]), tf.float32)}

    def from_ids(input_ids, attention_mask):
        tf.debugging.assert_equal(tf.shape(input_ids), tf.shape(attention_mask))
        tf.debugging.assert_equal(attention_mask, 1)
        return {"sum": tf.reduce_sum(input_ids, axis=1)}

    def fail(x):
        return {"y": tf.debugging.check_numerics(x / 0.0, "not finite")}

    def pairs(text, text_pair):
        return {"joined": tf.strings.join([text, text_pair], separator="|")}

    strings = [spec([None], tf.string, name) for name in ("text", "text_pair")]
    ids = [spec([None, None], tf.int32, name) for name in ("input_ids", "attention_mask")]
    functions = {
        "regress": (parse, [spec([None], tf.string, "inputs")]),
        "from_ids": (from_ids, ids),
        "pairs": (pairs, strings),
        "bare": (lambda x: {"y": x * 2}, [spec([], tf.float64, "x")]),
        "half": (lambda x: {"y": x * 2}, [spec([None, 2], tf.bfloat16, "x")]),
    }
    signatures = {
        name: tf.function(function, input_signature=specs)
        for name, (function, specs) in functions.items()
    }
    tf.saved_model.save(module, os.fspath(directory), signatures)
    broken = tf.function(fail, input_signature=[spec([None], tf.float32, "x")])
    tf.saved_model.save(module, os.fspath(directory.parent / "2"), {"serving_default": broken})
    return directory


def test_every_kind_of_input_is_made_and_run(saved):
    reloaded = run_signatures(saved, texts=["a", "bcd", "ünï", ""], batch_sizes=[1, 4])
    assert reloaded.tensorflow == tf.__version__
    assert reloaded.load_s.keys() == {"tf2", "session"}
    left, right = reloaded.answers.values()
    differences = compare_answers(left, right)
    assert differences == dict.fromkeys(["bare", "from_ids", "half", "pairs", "regress"], 0.0)
    one, four = left["regress"]
    assert one["outputs"].tolist() == [3.0]
    assert four["outputs"].tolist() == [3.0, 9.0, 15.0, 0.0]  # three times the bytes
    assert left["pairs"][1]["joined"].tolist() == [
        text.encode() for text in ("a|bcd", "bcd|ünï", "ünï|", "|a")
    ]
    assert left["from_ids"][1]["sum"].shape == (4,)
    assert left["half"][1]["y"].shape == (4, 2)


def test_check_export_runs_it(saved, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["check-export", "--json", "--run", os.fspath(saved.parent / "2")])
    assert caught.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert report["servable"]
    assert report["run"]["error"].startswith("signature serving_default failed: InvalidArgument")


def test_check_export_without_running_it(saved, capsys, tmp_path):
    cli.main(["check-export", os.fspath(saved), "--server=2.15.1"])
    shown = capsys.readouterr().out
    assert "signature regress (predict, regress; batched)" in shown
    assert "warning: there is no signature serving_default" in shown
    assert "warning: signature bare: x has no batch dimension first" in shown
    assert shown.endswith("TF Serving 2.15 can serve it; the first release that can: 2.12\n")
    for arguments, code, message in [
        ([], 2, "name one directory"),
        ([os.fspath(tmp_path)], 1, "is no SavedModel"),
        ([os.fspath(saved), "--server=1.15"], 1, "No server release '1.15' is known"),
    ]:
        with pytest.raises(SystemExit) as caught:
            cli.main(["check-export", *arguments])
        assert caught.value.code == code
        assert message in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded(saved, tmp_path):
    version = shutil.copytree(saved, tmp_path / "1")
    (version / "variables" / "variables.index").unlink()
    with pytest.raises(ReloadError, match="could not load it .exit status 1(?s:.*)variables"):
        run_signatures(version)
    with pytest.raises(ValueError, match="is no SavedModel"):
        run_signatures(tmp_path)


def outputs(**arrays):
    return {"s": [{name: np.array(array) for name, array in arrays.items()}]}


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (
            outputs(y=[1.0]),
            outputs(y=[1.0001]),
            r"signature s: y is \[1.0\] instead of \[1.0001\]; they differ by 1.0e-04 in row 0, "
            "allowed is 1.0e-05",
        ),
        (outputs(y=[1.0]), outputs(y=[np.nan]), "they differ by nan"),
        (outputs(y=[np.inf]), outputs(y=[1.0]), "they differ by inf"),
        (outputs(y=[1.0]), outputs(y=[[1.0]]), r"float64 \(1,\) instead of float64 \(1, 1\)"),
        (outputs(y=[1]), outputs(y=[2]), r"\[1\] instead of \[2\]"),
        (outputs(y=["a"]), outputs(y=["b"]), r"\['a'\] instead of \['b'\]"),
        (outputs(y=[1]), outputs(z=[1]), r"outputs \['y'\] instead of \['z'\]"),
        (outputs(y=[1]), {}, r"the signatures \['s'\], the other \[\]"),
        (outputs(y=[1]), {"s": "it burst"}, "signature s failed: it burst"),
    ],
)
def test_differences_are_named(left, right, message):
    with pytest.raises(RunError, match=message):
        compare_answers(left, right)


def test_differences_that_are_allowed():
    left, right = outputs(y=[1000.0, np.nan, np.inf]), outputs(y=[1000.005, np.nan, np.inf])
    assert compare_answers(left, right)["s"] == pytest.approx(0.005)
    assert compare_answers({"s": []}, {"s": []}) == {"s": 0.0}


def signature(**inputs):
    tensors = {name: TensorInfo(*contract) for name, contract in inputs.items()}
    return SignatureContract("s", tensors, {}, "predict", ["predict"], [])


def test_inputs_are_the_same_each_time():
    wanted = signature(
        x=("float", (None, 3)), n=("int64", None), flag=("bool", (2,)), ids=("int32", (None, None)),
        one=("string", ()),
    )  # fmt: skip
    first, again = (make_inputs(wanted, ["a"], 4) for _ in range(2))
    assert {name: array.shape for name, array in first.items()} == {
        "x": (4, 3), "n": (4,), "flag": (2,), "ids": (4, 6), "one": (),
    }  # fmt: skip
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    with pytest.raises(RunError, match="signature s: no variant can be made up for x"):
        make_inputs(signature(x=("variant", (None,))), ["a"], 4)
    with pytest.raises(RunError, match="signature s: no complex64 can be made up for x"):
        make_inputs(signature(x=("complex64", (None,))), ["a"], 4)
    with pytest.raises(TypeError, match="complex"):
        write_array(np.array([1j]))
