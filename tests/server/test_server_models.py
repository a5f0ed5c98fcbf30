"""The models, versions and labels that a server is told to serve, at its start and later."""

import grpc
import pytest
from distilbert_serving.server.model_config import read_settings_file
from distilbert_serving.server.versions import LoadOptions
from serving_models import publish
from tensorflow_serving.apis import get_model_status_pb2

Code = grpc.StatusCode
State = get_model_status_pb2.ModelVersionStatus

CONFIG = """
model_config_list {{
  config {{
    name: "m" base_path: "{path}" model_platform: "tensorflow"
    model_version_policy {{ {policy} }}
    {labels}
  }}
  {more}
}}
"""


def config(path, policy="all {}", labels=None, more=""):
    text = " ".join(
        f'version_labels {{ key: "{label}" value: {version} }}'
        for label, version in (labels or {}).items()
    )
    return CONFIG.format(path=path, policy=policy, labels=text, more=more)


@pytest.fixture
def three(made, tmp_path):
    for version, label in enumerate("abc", start=1):
        publish(made, label, tmp_path / "three" / str(version))
    return tmp_path / "three"


def start_config(start, tmp_path, text, **kwargs):
    file = tmp_path / "models.config"
    file.write_text(text)
    return start(models=read_settings_file(file), **kwargs)


def test_policies(start, three, tmp_path):
    running = start_config(start, tmp_path, config(three, "latest { num_versions: 2 }"))
    assert [running.label(version=v) for v in (2, 3)] == ["b", "c"]
    assert running.code(version=1) == Code.NOT_FOUND
    running.reload(config(three, "specific { versions: 1 versions: 2 }"))
    assert running.label() == "b"
    assert running.label(version=1) == "a"
    running.wait_for_state(3, State.END)
    running.reload(config(three, "all {}"))
    assert [running.label(version=v) for v in (1, 2, 3)] == ["a", "b", "c"]


def test_labels(start, three, tmp_path):
    labels = {"stable": 1, "canary": 3}
    running = start_config(start, tmp_path, config(three, labels=labels))
    assert running.label(label="stable") == "a"
    assert running.label(label="canary") == "c"
    assert running.code(label="none") == Code.INVALID_ARGUMENT
    running.reload(config(three, "specific { versions: 2 versions: 3 }", {"stable": 2}))
    assert running.label(label="stable") == "b"
    assert running.code(label="canary") == Code.INVALID_ARGUMENT


def test_labels_only_of_versions_that_answer(start, three, tmp_path):
    wrong = config(three, "specific { versions: 1 }", {"stable": 2})
    with pytest.raises(ValueError, match=r"label stable to version 2 of model m, .* not curren"):
        start_config(start, tmp_path, wrong)
    running = start_config(start, tmp_path, wrong, allow_version_labels_for_unavailable_models=True)
    assert running.code(label="stable") == Code.NOT_FOUND
    running = start_config(start, tmp_path, config(three, labels={"stable": 1}))
    with pytest.raises(grpc.RpcError) as caught:
        running.reload(wrong)
    assert caught.value.code() == Code.FAILED_PRECONDITION
    # All is as it was.
    assert running.label(label="stable") == "a"
    assert running.label() == "c"


def test_models_come_and_go(made, start, three, tmp_path):
    publish(made, "b", tmp_path / "other" / "7")
    more = f'config {{ name: "n" base_path: "{tmp_path}/other" model_platform: "tensorflow" }}'
    running = start_config(start, tmp_path, config(three))
    assert running.code(name="n") == Code.NOT_FOUND
    running.reload(config(three, more=more))
    assert [running.label(), running.label(name="n"), running.label(name="n", version=7)] == [
        "c",
        "b",
        "b",
    ]
    running.reload(config(tmp_path / "other"))
    assert running.label() == "b"
    assert running.code(name="n") == Code.NOT_FOUND


def test_a_config_that_cannot_be_served_changes_nothing(start, three, tmp_path):
    running = start_config(start, tmp_path, config(three))
    for text, code in [
        (config(tmp_path / "nowhere"), Code.NOT_FOUND),
        (config(three, "specific { versions: 9 }"), Code.NOT_FOUND),
        (config(three, "specific {}"), Code.INVALID_ARGUMENT),
        ("", Code.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            running.reload(text)
        assert caught.value.code() == code, text
        assert running.label() == "c"


def test_what_was_loaded_for_a_config_that_cannot_be_served_goes_again(start, three, tmp_path):
    # Nobody looks at the base path later: the failed change itself has to be undone.
    first = config(three, "specific { versions: 1 }")
    running = start_config(start, tmp_path, first, loading=LoadOptions(poll_wait_s=-1.0))
    nowhere = 'config { name: "n" base_path: "/nowhere" model_platform: "tensorflow" }'
    for text in (config(three, more=nowhere), config(three, labels={"stable": 9})):
        with pytest.raises(grpc.RpcError):
            running.reload(text)
        assert running.label() == "a"
        assert running.code(version=3) == Code.NOT_FOUND
