"""The client in an environment that has no TensorFlow, and what it takes for its messages there."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import make_protoset
from distilbert_serving import protos, protoset
from distilbert_serving.server import ModelServer
from processes import finish

EXPORT = Path(protoset.__file__).parents[1]
# As the serving guide names them, with what they need themselves.
REQUIREMENTS = ("grpcio", "protobuf", "numpy", "ml-dtypes", "typing-extensions")
CODE = """
import importlib.util, sys
from distilbert_serving import PredictClient

for name in ("tensorflow", "tensorflow_serving", "keras", "transformers", "distilbert_tf", "absl"):
    assert importlib.util.find_spec(name) is None, name
with PredictClient(sys.argv[1], "m", timeout_s=20.0) as client:
    client.wait_until_ready()
    outputs = client.call({"text": [b"abc", b""]})
    print([label.decode() for label in outputs["label"]], client.model_status()[0].state)
"""


def test_a_client_asks_a_server(server: ModelServer, tmp_path: Path) -> None:
    for name in REQUIREMENTS:
        for file in importlib.metadata.files(name) or ():
            if (top := file.parts[0]) != ".." and not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(file.locate().parents[len(file.parts) - 1] / top)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", CODE, f"127.0.0.1:{server.port}"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{EXPORT}:{tmp_path}"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    (said,) = finish(process, timeout_s=60.0)[0].splitlines()
    assert said == "['short', 'short'] AVAILABLE"


def test_the_descriptor_set_is_what_is_installed() -> None:
    assert make_protoset.main(["--check"]) == 0, "Run `python tests/make_protoset.py`."


def test_its_messages_are_those_of_generated_modules() -> None:
    """The same classes even: protobuf has one for each message of a process."""
    modules, count = protoset.load_modules(), 0
    for name in protos.__all__:
        generated = vars(getattr(protos, name))
        own = vars(modules[name])
        values = {key for key, value in generated.items() if isinstance(value, int | type)}
        for key in values - {"ModelServiceServicer", "PredictionServiceServicer"}:
            if key.endswith("Stub"):
                assert key in own
            elif not key.startswith("_") and key not in ("ModelService", "PredictionService"):
                assert own[key] is generated[key] or own[key] == generated[key], (name, key)
                count += 1
    assert count > 100
