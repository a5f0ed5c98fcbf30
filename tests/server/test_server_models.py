"""The models, versions and labels that a server is told to serve."""

import grpc
import pytest
from distilbert_serving.tf_serving.serving_config import read_model_config
from serving_models import publish

Code = grpc.StatusCode

MODEL = """
config {{
  name: "{name}" base_path: "{path}" model_platform: "tensorflow"
  model_version_policy {{ {policy} }}
  {labels}
}}
"""


def describe(path, policy="all {}", labels=None, name="m"):
    text = " ".join(
        f'version_labels {{ key: "{label}" value: {version} }}'
        for label, version in (labels or {}).items()
    )
    return MODEL.format(name=name, path=path, policy=policy, labels=text)


@pytest.fixture
def three(made, tmp_path):
    for version, label in enumerate("abc", start=1):
        publish(made, label, tmp_path / "three" / str(version))
    return tmp_path / "three"


@pytest.fixture
def start_config(start, tmp_path):
    def start_models(*models, **settings):
        file = tmp_path / "models.config"
        file.write_text(f"model_config_list {{ {' '.join(models)} }}")
        return start(models=read_model_config(file), **settings)

    return start_models


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {3: "c"}),
        ("latest { num_versions: 2 }", {2: "b", 3: "c"}),
        ("specific { versions: 1 versions: 2 }", {1: "a", 2: "b"}),
        ("all {}", {1: "a", 2: "b", 3: "c"}),
    ],
)
def test_policies(start_config, three, policy, served):
    running = start_config(describe(three, policy))
    assert running.label() == served[max(served)]
    for version in (1, 2, 3):
        if version in served:
            assert running.label(version=version) == served[version]
        else:
            assert running.code(version=version) == Code.NOT_FOUND


def test_labels(start_config, three):
    running = start_config(describe(three, labels={"stable": 1, "canary": 3}))
    assert running.label(label="stable") == "a"
    assert running.label(label="canary") == "c"
    assert running.code(label="none") == Code.INVALID_ARGUMENT


def test_labels_only_of_versions_that_answer(start_config, three):
    wrong = describe(three, "specific { versions: 1 }", {"stable": 2})
    with pytest.raises(ValueError, match=r"Model m has labels on versions .*not available.*\[2\]"):
        start_config(wrong)
    running = start_config(wrong, allow_version_labels_for_unavailable_models=True)
    assert running.code(label="stable") == Code.NOT_FOUND


def test_several_models(made, start_config, three, tmp_path):
    publish(made, "b", tmp_path / "other" / "7")
    running = start_config(describe(three), describe(tmp_path / "other", name="n"))
    assert running.label() == "c"
    assert running.label(name="n") == running.label(name="n", version=7) == "b"
    assert running.code(name="n", version=3) == Code.NOT_FOUND


def test_one_model_that_cannot_be_served_is_an_error(start_config, three):
    for other in (
        describe("/nowhere", name="n"),
        describe(three, "specific { versions: 9 }", name="n"),
    ):
        with pytest.raises(
            FileNotFoundError, match=r"nowhere|No wanted version of model n.*: 1, 2, 3"
        ):
            start_config(describe(three), other)
