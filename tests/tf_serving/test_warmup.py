"""Warm-up requests: what is in them, that the server's own readers take them, damaged files."""

import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.protos import meta_graph_pb2, types_pb2
from distilbert_serving.tensors import to_array
from distilbert_serving.tf_serving.tfrecord import CorruptFileError, read_records, write_records
from distilbert_serving.tf_serving.warmup import (
    MAX_RECORDS,
    WARMUP_FILE,
    make_warmup,
    read_warmup,
    write_warmup,
)
from tensorflow_serving.apis import prediction_log_pb2

INTEGERS = {"input_ids", "num_tokens"}


def signature(inputs: str, outputs: str, integer=types_pb2.DT_INT32):
    proto = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for name in inputs.split():
        proto.inputs[name].dtype = integer if name in INTEGERS else types_pb2.DT_STRING
    for name in outputs.split():
        proto.outputs[name].SetInParent()
    return proto


SIGNATURES = {
    "serving_default": signature("text", "label label_id probabilities logits"),
    "mnli": signature("text text_pair", "label probabilities logits"),
    "classify": signature("inputs", "classes scores"),
    "regress": signature("inputs", "outputs"),
    "fill_mask": signature("text", "tokens token_ids scores"),
    "from_ids": signature("input_ids num_tokens", "label logits"),
    "from_wide_ids": signature("input_ids num_tokens", "label", types_pb2.DT_INT64),
    "images": signature("pixels", "label"),
    "examples": signature("inputs", "label"),
}


def texts_of(log, name="text"):
    return [text.decode() for text in to_array(log.predict_log.request.inputs[name])]


def test_one_request_for_each_size_and_a_lone_row_short_and_long():
    logs = make_warmup(SIGNATURES, ["serving_default"], [1, 2, 4, 6], model_name="m")
    assert [len(texts_of(log)) for log in logs] == [1, 1, 2, 4, 6]
    for log in logs:
        assert log.predict_log.request.model_spec.signature_name == "serving_default"
        assert log.predict_log.request.model_spec.name == "m"
        assert set(log.predict_log.request.inputs) == {"text"}
    lengths = [[len(text.split()) for text in texts_of(log)] for log in logs]
    # Few tokens are up to 80; one text alone is on either side of that.
    assert max(lengths[0]) < 12
    assert min(lengths[1]) > 50
    assert all(short < 12 < 50 < long for short, long in [lengths[2], lengths[3][2:]])


def test_output_filters_that_clients_use():
    logs = make_warmup(SIGNATURES, ["mnli", "mnli:label", "mnli:logits+label"], [2])
    filters = [list(log.predict_log.request.output_filter) for log in logs]
    assert filters == [[], ["label"], ["logits", "label"]]
    assert {log.predict_log.request.model_spec.signature_name for log in logs} == {"mnli"}


def test_pairs_let_short_meet_long():
    (log,) = make_warmup(SIGNATURES, ["mnli"], [4])
    firsts, seconds = texts_of(log), texts_of(log, "text_pair")
    assert all(
        (len(first) < 80) != (len(second) < 80)
        for first, second in zip(firsts, seconds, strict=True)
    )


def test_classify_and_regress_get_examples_with_both_texts():
    logs = make_warmup(SIGNATURES, ["classify", "regress"], [2])
    assert [log.WhichOneof("log_type") for log in logs] == ["classify_log", "regress_log"]
    for log, name in zip(logs, ["classify", "regress"], strict=True):
        request = getattr(log, log.WhichOneof("log_type")).request
        assert request.model_spec.signature_name == name
        examples = request.input.example_list.examples
        assert len(examples) == 2
        for example in examples:
            features = example.features.feature
            assert set(features) == {"text", "text_pair"}
            assert len(features["text"].bytes_list.value) == 1


def test_masked_language_models_get_a_mask_in_every_text():
    for log in make_warmup(SIGNATURES, ["fill_mask"], [1, 8]):
        assert all(text.count("[MASK]") == 1 for text in texts_of(log))


@pytest.mark.parametrize(("name", "dtype"), [("from_ids", np.int32), ("from_wide_ids", np.int64)])
def test_ids_are_of_the_signatures_type_and_fit_into_the_model(name, dtype):
    short, long, both = make_warmup(SIGNATURES, [name], [1, 2], max_length=12)
    ids, counts = (to_array(both.predict_log.request.inputs[key]) for key in sorted(INTEGERS))
    assert ids.dtype == counts.dtype == dtype
    np.testing.assert_array_equal(counts, [8, 12])
    np.testing.assert_array_equal(ids, [[1, 2, 3, 4] * 2 + [0] * 4, [1, 2, 3, 4] * 3])
    for log, length in ((short, 8), (long, 12)):
        assert to_array(log.predict_log.request.inputs["input_ids"]).shape == (1, length)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no signature 'nothing' to warm up, but .*serving_default"),
        ("serving_default:labels", "'serving_default:labels' cannot .* has the outputs label, "),
        ("classify:scores", "only calls of Predict filter them"),
        ("images", r"for signature 'images', which takes \['pixels'\]"),
        ("examples", r"'examples' takes tf.Examples, but .*\['label'\]"),
    ],
)
def test_what_cannot_be_made_up(name, message):
    with pytest.raises(ValueError, match=message):
        make_warmup(SIGNATURES, [name], [1])


def test_more_than_a_server_takes(tmp_path):
    sizes = range(2, MAX_RECORDS + 2)
    assert len(make_warmup(SIGNATURES, ["from_ids"], sizes[:200])) == 200
    with pytest.raises(
        ValueError, match="1001 warm-up requests; a server refuses .* more than 1000"
    ):
        make_warmup(SIGNATURES, ["from_ids"], [2] * (MAX_RECORDS + 1))
    log = make_warmup(SIGNATURES, ["from_ids"], [2])[0]
    with pytest.raises(ValueError, match="1001"):
        write_warmup(tmp_path, [log] * (MAX_RECORDS + 1))
    path = write_warmup(tmp_path, [log] * MAX_RECORDS)
    assert len(read_warmup(path)) == MAX_RECORDS
    write_records(path, [log.SerializeToString()] * (MAX_RECORDS + 1))
    with pytest.raises(CorruptFileError, match="1001 records"):
        read_warmup(path)


def test_tensorflow_reads_what_was_written_and_the_other_way_round(tmp_path):
    logs = make_warmup(SIGNATURES, ["serving_default", "classify"], [1, 2, 4])
    path = write_warmup(tmp_path, logs)
    assert path == tmp_path / WARMUP_FILE == tmp_path / "assets.extra/tf_serving_warmup_requests"
    raw = [record.numpy() for record in tf.data.TFRecordDataset([str(path)])]
    assert [prediction_log_pb2.PredictionLog.FromString(record) for record in raw] == logs
    assert read_warmup(path) == logs
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in (b"", b"\x00" * 70, "größer".encode()):
            writer.write(record)
    assert read_records(tmp_path / "theirs") == [b"", b"\x00" * 70, "größer".encode()]


def test_damaged_files(tmp_path):
    path = write_warmup(tmp_path, make_warmup(SIGNATURES, ["serving_default"], [1]))
    good = path.read_bytes()
    first = 12 + int.from_bytes(good[:8], "little") + 4
    for contents, message in [
        (b"model_config_list {}", "record 0, at byte 0: the checksum of its length is wrong"),
        (good[:5], "record 0, at byte 0: the file ends within the record's header"),
        (good[:-1], rf"record 1, at byte {first}: the file ends within the record"),
        (good[: first + 3], rf"record 1, at byte {first}: the file ends within the record's head"),
        (good[:40] + b"?" + good[41:], "record 0, at byte 0: its checksum is wrong"),
        (good[:first] + b"?" + good[first + 1 :], rf"record 1, at byte {first}: the checksum of"),
    ]:
        path.write_bytes(contents)
        with pytest.raises(CorruptFileError, match=message):
            read_warmup(path)
    path.write_bytes(b"")
    assert read_warmup(path) == []
    with pytest.raises(FileNotFoundError):
        read_warmup(tmp_path / "nowhere")


def test_whole_records_that_are_no_requests(tmp_path):
    for record, message in [
        (b"\xff\xff", "record 0 is no PredictionLog"),
        (prediction_log_pb2.PredictionLog().SerializeToString(), "record 0 is no request .* None"),
        (
            prediction_log_pb2.PredictionLog(
                session_run_log=prediction_log_pb2.SessionRunLog()
            ).SerializeToString(),
            "log_type is session_run_log, not one",
        ),
    ]:
        write_records(tmp_path / "file", [record])
        with pytest.raises(CorruptFileError, match=message):
            read_warmup(tmp_path / "file")
