"""The report on a SavedModel: any that is whole, and any that is damaged."""

import json
import re
import shutil
from pathlib import Path

import pytest
import serving_models
import tensorflow as tf
from distilbert_serving.inspection.compatibility import check_saved_model
from distilbert_serving.inspection.inspection import ExportReport, Finding, inspect_export
from distilbert_serving.inspection.report_text import describe_report, format_report
from distilbert_serving.inspection.saved_model_files import CompatibilityError
from distilbert_serving.protos import attr_value_pb2, saved_model_pb2, types_pb2
from distilbert_serving.tf_serving.batching_parameters import BATCHING_FILE
from distilbert_serving.tf_serving.tfrecord import write_records
from distilbert_serving.tf_serving.warmup import WARMUP_FILE
from tensorflow_serving.apis import prediction_log_pb2

AttrValue = attr_value_pb2.AttrValue


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model with a variable, a branch and an asset."""
    directory = tmp_path_factory.mktemp("plain")
    vocabulary = directory / "words.txt"
    vocabulary.write_text("one\ntwo\n")
    module = tf.Module()
    module.weights = tf.Variable([[1.0], [2.0]])
    module.words = tf.saved_model.Asset(str(vocabulary))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def double(x):
        y = tf.cond(tf.size(x) > 4, lambda: x, lambda: 2 * x)
        return {"y": y @ module.weights}

    tf.saved_model.save(module, str(directory / "1"), {"serving_default": double})
    return directory / "1"


@pytest.fixture
def model(plain, tmp_path):
    """A copy of it to be changed."""
    return Path(shutil.copytree(plain, tmp_path / "model"))


def change(model, edit):
    """Changes a SavedModel's graph."""
    file = model / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    edit(saved_model.meta_graphs[0])
    file.write_bytes(saved_model.SerializeToString())


def add_node(model, op, /, **attributes):
    """Adds a node inside a branch."""

    def edit(meta_graph):
        (function,) = (
            f for f in meta_graph.graph_def.library.function if "cond_true" in f.signature.name
        )
        node = function.node_def.add(name="added", op=op)
        for name, value in attributes.items():
            node.attr[name].CopyFrom(value)

    change(model, edit)


def kind(name):
    return AttrValue(type=getattr(types_pb2, f"DT_{name}"))


def errors(report):
    return [finding.text for finding in report.findings if finding.severity == "error"]


def warnings(report):
    return [finding.text for finding in report.findings if finding.severity == "warning"]


def test_what_a_plain_model_holds(plain):
    report = inspect_export(plain)
    assert report.is_servable
    assert (report.server, report.first_server) == ("2.12", "2.12")
    assert (report.tensorflow, report.min_consumer) == (tf.__version__, 12)
    assert report.graph_version == tf.version.GRAPH_DEF_VERSION
    assert {"MatMul", "Mul"} <= set(report.ops)  # Mul stands in a branch
    assert report.custom_ops == report.xla_markers == []
    assert (report.num_variables, report.variable_bytes) == (1, {"float": 8})
    assert report.assets == {"words.txt": 8}
    sizes = [file.stat().st_size for file in plain.rglob("*") if file.is_file()]
    assert report.num_bytes == sum(sizes)
    assert (report.num_warmup_requests, report.batching) == (0, None)
    (signature,) = report.signatures
    assert signature.name == "serving_default"
    assert signature.inputs["x"].shape == (None, 2)
    assert signature.outputs["y"].dtype == "float"
    assert (signature.calls, signature.unbatched) == (["predict"], [])
    (note,) = report.findings
    assert note == Finding(
        "note", "TF Serving 2.12 ignores VarHandleOp.debug_name, which only names things, and "
        "logs a line",
    )  # fmt: skip
    assert inspect_export(plain, "2.15.1").findings == []


def test_as_text_and_as_json(plain):
    report = inspect_export(plain)
    text = format_report(report)
    assert "signature serving_default (predict; batched)" in text
    assert "x: float [?, 2] -> y: float [?, 1]" in text
    assert text.endswith("TF Serving 2.12 can serve it; the first release that can: 2.12")
    described = json.loads(json.dumps(describe_report(report)))
    assert described["servable"] is True
    assert described["signatures"][0]["inputs"]["x"]["shape"] == [None, 2]
    assert described["findings"][0]["severity"] == "note"


def test_other_people_s_signatures(tmp_path):
    serving_models.save(tmp_path / "1")
    report = inspect_export(tmp_path / "1")
    assert report.is_servable
    by_name = {signature.name: signature for signature in report.signatures}
    assert by_name["square"].unbatched == [
        "signature square: x has no batch dimension first",
        "signature square: y has no batch dimension first",
    ]
    assert any("square: x has no batch dimension" in text for text in warnings(report))
    assert any("op WriteFile" in text and "reads files" in text for text in warnings(report))


@pytest.mark.parametrize(
    ("op", "attributes", "first", "message"),
    [
        ("RaggedFillEmptyRows", dict(T=kind("FLOAT")), "2.13",
         r"op RaggedFillEmptyRows, at 'added' in .*cond_true.*: .* 2.13 is the first that has"),
        ("TFText>RoundRobinTrim",
         dict(T=kind("INT32"), Tsplits=kind("INT64"), N=AttrValue(i=2)), "2.20",
         "2.20 is the first that has"),
        ("Mine>Op", {}, None, "op Mine>Op, .*: a custom op, which no stock server has"),
        ("MineToo", {}, None, "op MineToo, .*: neither TensorFlow's nor TensorFlow Text's"),
        ("PyFunc", dict(token=AttrValue(s=b"f"), Tin=AttrValue(), Tout=AttrValue()), None,
         "op PyFunc, .*: Python code"),
        ("GatherNd", dict(Tparams=kind("FLOAT"), Tindices=kind("INT32"),
                          bad_indices_policy=AttrValue(s=b"IGNORE")),
         "2.17", "does not know its attribute bad_indices_policy and would ignore it; 2.17 is"),
        ("GatherNd", dict(Tparams=kind("FLOAT"), Tindices=kind("INT32"),
                          bad_indices_policy=AttrValue(s=b"")), "2.12", None),
        ("GatherNd", dict(Tparams=kind("FLOAT"), Tindices=kind("INT32"), _mine=AttrValue(i=3)),
         "2.12", None),
        ("Exp", dict(T=kind("FLOAT"), mine=AttrValue(i=3)), None, "attribute mine.*no release"),
        ("Exp", {}, None, "it lacks the attribute T, which TF Serving 2.12 wants"),
        ("AsString", dict(T=kind("STRING")), "2.13", "does not allow string for its attribute T"),
        ("MatMul", dict(T=kind("UINT8")), None, "2.12 cannot compute it on a CPU for T=uint8"),
        ("Identity", dict(T=kind("INT4")), "2.15", "does not know int4"),
        ("CudnnRNNParamsSize", dict(T=kind("FLOAT"), S=kind("INT32")), None, "on a CPU"),
    ],
)  # fmt: skip
def test_first_release_that_can_load_it(model, op, attributes, first, message):
    add_node(model, op, **attributes)
    report = inspect_export(model)
    assert report.first_server == first
    found = errors(report)
    if message is None:
        assert found == []
        return
    assert any(re.search(message, text) for text in found), found
    assert not report.is_servable
    if first:
        assert inspect_export(model, first).is_servable
        assert format_report(report).endswith(
            f"cannot serve it; the first release that can: {first}"
        )
    assert report.custom_ops == ([op] if "Mine" in op or ">" in op else [])


def test_tensorflow_text_is_served_but_not_exported(model):
    add_node(model, "FastBertNormalize")
    report = inspect_export(model)
    assert (report.custom_ops, report.first_server) == (["FastBertNormalize"], "2.12")
    notes = [finding.text for finding in report.findings if finding.severity == "note"]
    assert notes[-1].endswith("other runtimes lack: FastBertNormalize")
    with pytest.raises(CompatibilityError, match="op FastBertNormalize: TensorFlow Text's"):
        check_saved_model(model)


def test_same_faults_are_told_once(model):
    def edit(meta_graph):
        for number in range(300):
            meta_graph.graph_def.node.add(name=f"n{number}", op="SegmentMaxV2")

    change(model, edit)
    assert len([text for text in errors(inspect_export(model)) if "SegmentMaxV2" in text]) == 1


def test_graph_versions(model):
    change(model, lambda g: setattr(g.graph_def.versions, "min_consumer", 1900))
    report = inspect_export(model)
    assert report.first_server == "2.18"
    assert errors(report) == [
        "the graph asks for GraphDef version 1900 or newer, and TF Serving 2.12 has 1395"
    ]


def test_xla(model):
    def edit(meta_graph):
        meta_graph.graph_def.library.function[0].attr["_XlaMustCompile"].b = True

    change(model, edit)
    report = inspect_export(model)
    assert report.first_server is None
    assert len(report.xla_markers) == 1
    assert "marked for XLA" in errors(report)[0]


def test_signatures_of_tensorflow_1(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        examples = tf.compat.v1.placeholder(tf.string, [None])
        x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        weight = tf.compat.v1.get_variable("weight", initializer=2.0, use_resource=False)
        scores = tf.stack([x * weight, -x], axis=1)
        classes = tf.tile([["a", "b"]], [tf.size(x), 1])
        session.run(tf.compat.v1.global_variables_initializer())
        definitions = tf.compat.v1.saved_model
        builder = definitions.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": definitions.classification_signature_def(
                    examples, classes, scores
                ),
                "mean": definitions.regression_signature_def(examples, x * weight),
                "classify": definitions.predict_signature_def({"x": x}, {"scores": scores}),
            },
        )
        builder.save()
    report = inspect_export(tmp_path / "1")
    assert report.is_servable
    assert (report.num_variables, report.first_server) == (1, "2.12")
    calls = {signature.name: signature.calls for signature in report.signatures}
    assert calls == {"serving_default": ["classify"], "mean": ["regress"], "classify": ["predict"]}
    (fault,) = warnings(report)
    assert fault.startswith("signature classify: a classify call wants one input, inputs: string")
    assert "it has inputs x: float [?]; outputs scores: float [?, 2]" in fault


def test_no_saved_model(plain, tmp_path):
    with pytest.raises(CompatibilityError, match="there is no such directory"):
        inspect_export(tmp_path / "nothing")
    with pytest.raises(CompatibilityError, match=r"has no saved_model.pb\.$"):
        inspect_export(tmp_path)
    with pytest.raises(CompatibilityError, match=r"did you mean .*/1\?$"):
        inspect_export(plain.parent)
    with pytest.raises(CompatibilityError, match="it is a file"):
        inspect_export(plain / "saved_model.pb")


def test_as_text_proto(model):
    from google.protobuf import text_format

    binary = model / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    text = text_format.MessageToString(saved_model)
    before = inspect_export(model)
    binary.unlink()
    (model / "saved_model.pbtxt").write_text(text)
    assert inspect_export(model).ops == before.ops
    (model / "saved_model.pbtxt").write_text(text[:-100])
    with pytest.raises(CompatibilityError, match="damaged or cut off"):
        inspect_export(model)


@pytest.mark.parametrize("tags", [[], ["train"], ["serve", "gpu"]])
def test_tags(model, tags):
    change(model, lambda g: g.meta_info_def.ClearField("tags") or g.meta_info_def.tags.extend(tags))
    with pytest.raises(CompatibilityError, match="has the tag 'serve' and no other"):
        inspect_export(model)


def test_damage_is_a_clear_error(model):
    file = model / "saved_model.pb"
    contents = file.read_bytes()
    for size in range(0, len(contents), len(contents) // 150):
        file.write_bytes(contents[:size])
        try:
            report = inspect_export(model)
        except CompatibilityError:
            continue
        assert isinstance(report, ExportReport)  # cut between two fields
    file.write_bytes(b"version https://git-lfs\n" * 40)
    with pytest.raises(CompatibilityError):
        inspect_export(model)


def test_lost_files(model):
    shutil.rmtree(model / "assets")
    (data,) = model.glob("variables/variables.data-*")
    data.write_bytes(data.read_bytes()[:5])
    report = inspect_export(model)
    assert report.first_server is None
    lost, cut = errors(report)
    assert lost == "assets/words.txt is missing"
    assert cut.startswith("variables.data-00000-of-00001 is cut off: it has 5 bytes of ")
    data.unlink()
    assert "variables.data-00000-of-00001 is missing" in errors(inspect_export(model))
    shutil.rmtree(model / "variables")
    report = inspect_export(model)
    assert warnings(report) == ["the graph has variables, but there are no files with their values"]


def test_types_of_the_future(model):
    def edit(meta_graph):
        meta_graph.signature_def["serving_default"].inputs["x"].dtype = 77

    change(model, edit)
    add_node(model, "Identity", T=AttrValue(type=78))
    report = inspect_export(model)
    assert report.signatures[0].inputs["x"].dtype == "type 77"
    assert "TF Serving 2.12 does not know type 78" in errors(report)[0]


def test_no_signatures(model):
    change(model, lambda g: g.ClearField("signature_def"))
    assert errors(inspect_export(model)) == ["it has no signature, so no request can name one"]


def test_paths_of_a_machine(model):
    (model / "notes.txt").write_text("trained in /home/somebody/runs/7, see https://x.org/tmp/a")
    report = inspect_export(model)
    assert report.absolute_paths == ["/home/somebody/runs/7 (notes.txt)"]
    assert report.is_servable


def make_log(name):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = name
    return log.SerializeToString()


def write_warmup(model, records):
    file = model / WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    write_records(file, records)
    return file


def test_warmup_requests(model):
    file = write_warmup(model, [make_log(""), make_log("serving_default")])
    report = inspect_export(model)
    assert (report.num_warmup_requests, errors(report)) == (2, [])
    contents = file.read_bytes()
    for size in (5, 14, len(contents) - 1):
        file.write_bytes(contents[:size])
        (cut,) = errors(inspect_export(model))
        assert re.search(f"{WARMUP_FILE}: record [01], at byte .* ends within", cut)
    write_warmup(model, [make_log(""), make_log("lost")])
    (lost,) = errors(inspect_export(model))
    assert lost == f"{WARMUP_FILE}: record 1 is for the signature lost, which is not there"
    both = prediction_log_pb2.PredictionLog()
    for name in ("", "gone"):
        both.multi_inference_log.request.tasks.add().model_spec.signature_name = name
    write_warmup(model, [both.SerializeToString()])
    (lost,) = errors(inspect_export(model))
    assert lost == f"{WARMUP_FILE}: record 0 is for the signature gone, which is not there"
    write_warmup(model, [b"\xff\xff"])
    assert "record 0 is no PredictionLog" in errors(inspect_export(model))[0]
    write_warmup(model, [make_log("")] * 1001)
    assert "has 1001 records; a server refuses more than 1000" in errors(inspect_export(model))[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 8 } allowed_batch_sizes: 1 allowed_batch_sizes: 8", None),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 1 allowed_batch_sizes: 4",
         "The last of allowed_batch_sizes must be max_batch_size, 8; it is 4"),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 2", "must be positive and ascend"),
        ("max_batch_size: 8", "it should be a BatchingParameters"),
    ],
)  # fmt: skip
def test_batching_parameters(model, text, message):
    (model / BATCHING_FILE).write_text(text)
    found = errors(inspect_export(model))
    assert found == [] if message is None else message in found[0]
    if message is None:
        assert inspect_export(model).batching


def batching_findings(model, text):
    (model / BATCHING_FILE).write_text(text)
    report = inspect_export(model)
    assert errors(report) == []
    return [each.text for each in report.findings if BATCHING_FILE in each.text]


def test_old_batching_parameters_are_told_apart(model):
    splitting = "enable_large_batch_splitting { value: true }"
    sizes = "max_batch_size { value: 3 } allowed_batch_sizes: 1 allowed_batch_sizes: 3"
    (filling,) = batching_findings(model, sizes)
    assert "no batch may have 2 rows: a server fills up" in filling
    assert "leave allowed_batch_sizes out" in filling
    every = "max_batch_size { value: 2 } allowed_batch_sizes: 1 allowed_batch_sizes: 2"
    assert batching_findings(model, every) == []
    assert batching_findings(model, splitting) == []


def test_tensors_without_a_fixed_width(tmp_path):
    """As those of exports that had a mask."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "attention_mask")])
    def same(attention_mask):
        return {"wide": attention_mask}

    tf.saved_model.save(tf.Module(), str(tmp_path), {"serving_default": same})
    (merged,) = batching_findings(tmp_path, "")
    assert "whose attention_mask differ in width fail together" in merged
    padded, split = batching_findings(
        tmp_path,
        "pad_variable_length_inputs: true enable_large_batch_splitting { value: true }",
    )
    assert "pads attention_mask with its first element" in padded
    assert "wide has no fixed width" in split
