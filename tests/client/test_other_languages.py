"""The clients in other languages, and what they are made from."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distilbert_serving import PredictClient
from distilbert_serving.protoset import PROTOSET
from distilbert_serving.server import ModelServer
from exporting import TINY_MAX_LENGTH, make_tiny_model
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from processes import finish

CLIENTS = Path(__file__).parents[2] / "export" / "clients"
SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}
TEXTS = ("the film was never boring", "", "très bien")


@pytest.fixture(scope="module")
def pool() -> descriptor_pool.DescriptorPool:
    """What a reader makes of the descriptor set, in which each file follows those it imports."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(PROTOSET.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    from distilbert_serving.saved_model.exporter import export_saved_model

    directory = tmp_path_factory.mktemp("served")
    model, tokenizer = make_tiny_model(directory / "model")
    options = {"max_length": TINY_MAX_LENGTH, "verify": False}
    export_saved_model(model, tokenizer, directory / "export", **options)
    with ModelServer(directory / "export", "tiny", port=0) as running:
        yield running


def test_the_descriptor_set_has_every_method_of_both_services(
    pool: descriptor_pool.DescriptorPool,
) -> None:
    methods = {
        method.full_name: method.input_type.name
        for service in ("PredictionService", "ModelService")
        for method in pool.FindServiceByName(f"tensorflow.serving.{service}").methods
    }
    assert methods == {
        "tensorflow.serving.PredictionService.Classify": "ClassificationRequest",
        "tensorflow.serving.PredictionService.Regress": "RegressionRequest",
        "tensorflow.serving.PredictionService.Predict": "PredictRequest",
        "tensorflow.serving.PredictionService.MultiInference": "MultiInferenceRequest",
        "tensorflow.serving.PredictionService.GetModelMetadata": "GetModelMetadataRequest",
        "tensorflow.serving.ModelService.GetModelStatus": "GetModelStatusRequest",
        "tensorflow.serving.ModelService.HandleReloadConfigRequest": "ReloadConfigRequest",
    }


def read_proto(code: str) -> Iterator[tuple[str, str]]:
    """Yields each field of a .proto file's messages and each value of its enums, with its message.

    Fields are written in one way: type, name, number.
    """
    scopes = []
    for line in code.splitlines():
        if opened := re.match(r" *(\w+) (\w+) \{$", line):
            scopes.append(opened.groups())
        elif line.strip() == "}":
            scopes.pop()
        elif line.startswith("  ") and " = " in line:
            message = ".".join(name for kind, name in scopes if kind != "oneof")
            yield message, " ".join(line.rstrip(";").split())


def write_field(field: FieldDescriptor) -> str:
    """Writes a field of the real API in the same way."""

    def type_of(field: FieldDescriptor) -> str:
        refers_to = field.message_type or field.enum_type
        return refers_to.name if refers_to else SCALARS[field.type]

    kind = type_of(field)
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = (type_of(part) for part in field.message_type.fields)
        kind = f"map<{key}, {value}>"
    elif field.is_repeated:
        kind = f"repeated {kind}"
    return f"{kind} {field.name} = {field.number}"


def test_the_clients_messages_are_those_of_the_api(pool: descriptor_pool.DescriptorPool) -> None:
    """Name, number and type of each field, and whether it is repeated."""
    predict = pool.FindMethodByName("tensorflow.serving.PredictionService.Predict")
    assert [predict.input_type.name, predict.output_type.name] == [
        "PredictRequest",
        "PredictResponse",
    ]
    expected = {
        f"{value.name} = {value.number}"
        for value in pool.FindEnumTypeByName("tensorflow.DataType").values
    }
    for package, *names in (
        ("tensorflow.serving", "PredictRequest", "PredictResponse", "ModelSpec"),
        ("tensorflow", "TensorProto", "TensorShapeProto", "TensorShapeProto.Dim"),
        ("google.protobuf", "Int64Value"),
    ):
        for name in names:
            fields = pool.FindMessageTypeByName(f"{package}.{name}").fields
            expected |= {f"{name}: {write_field(field)}" for field in fields}
    written = list(read_proto((CLIENTS / "predict.proto").read_text()))
    found = {text if name == "DataType" else f"{name}: {text}" for name, text in written}
    assert "TensorProto: repeated bytes string_val = 8" in found
    assert "DT_STRING = 7" in found
    assert found - expected == set()


def test_the_node_client_answers_as_ours_does(server: ModelServer) -> None:
    modules = CLIENTS / "node" / "node_modules"
    if not (shutil.which("node") and modules.is_dir()):
        pytest.skip("needs Node and its packages: `make clients`")
    target = f"127.0.0.1:{server.port}"
    script = CLIENTS / "node" / "predict.js"
    process = subprocess.Popen(
        ["node", script, target, "tiny", *TEXTS], stdout=subprocess.PIPE, text=True
    )
    answers = [json.loads(line) for line in finish(process, timeout_s=60.0)[0].splitlines()]
    with PredictClient(target, "tiny") as client:
        expected = client.predict(TEXTS)
    assert [answer["label"] for answer in answers] == expected.labels
    found = np.array([answer["probabilities"] for answer in answers], np.float32)
    np.testing.assert_array_equal(found, expected.probabilities)
