"""The files that run a training elsewhere say what the command line understands."""

import re
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import yaml
from absl import flags

import distilbert_tf
from distilbert_tf import DataError
from distilbert_tf.cli import main
from distilbert_tf.commands import COMMANDS
from distilbert_tf.training import finetuning as training
from distilbert_tf.training.interruption import InterruptedRunError
from distilbert_tf.training.launcher import LOST_WORKER, TF_CONFIG

DEPLOY = Path(distilbert_tf.__file__).parent / "deploy"
ROOT = DEPLOY.parent.parent


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    loaded = yaml.safe_load_all((DEPLOY / "tfjob.yaml").read_text())
    return {document["kind"]: document for document in loaded}


@pytest.fixture(scope="module")
def worker(documents: dict[str, Any]) -> dict[str, Any]:
    replicas = documents["TFJob"]["spec"]["tfReplicaSpecs"]
    assert list(replicas) == ["Worker"]  # worker 0 is the chief
    return replicas["Worker"]


def test_the_job_calls_finetune_with_flags_that_it_has(worker: dict[str, Any]) -> None:
    (container,) = worker["template"]["spec"]["containers"]
    command, *arguments = container["args"]
    values = flags.FlagValues()
    COMMANDS[command].define(values)
    names = [re.fullmatch(r"--(\w+)=.+", argument)[1] for argument in arguments]
    assert set(names) <= set(values)
    assert values(["distilbert-tf", *arguments]) == ["distilbert-tf"]  # the values are good too
    assert (command, values.strategy) == ("finetune", "multi_worker")
    gpus = worker["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert values.batch_size % gpus == 0


def test_an_interrupted_job_goes_on_where_all_workers_can_read_its_state(
    documents: dict[str, Any], worker: dict[str, Any]
) -> None:
    assert worker["restartPolicy"] == "ExitCode"
    assert worker["replicas"] > 1  # the operator sets no TF_CONFIG for one
    pod = worker["template"]["spec"]
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow"
    places = {
        mount["mountPath"]: volumes[mount["name"]].get("persistentVolumeClaim", {}).get("claimName")
        for mount in container["volumeMounts"]
    }
    assert places["/volume"] == claim["metadata"]["name"]
    paths = [argument.partition("=")[2] for argument in container["args"] if "=/" in argument]
    assert len(paths) == 3
    assert all(path.startswith("/volume/") for path in paths)


def test_a_worker_that_lost_another_is_started_again_and_other_errors_end_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_with(error: Exception) -> int:
        def fail(*args: object, **options: object) -> None:
            raise error

        monkeypatch.setattr(training, "finetune", fail)
        with pytest.raises(SystemExit) as caught:
            main(["finetune", "--task=sst2"])
        return int(caught.value.code)

    lost = tf.errors.UnavailableError(None, None, "failed to connect")
    assert fail_with(lost) == 1  # alone, there is no other worker
    monkeypatch.setenv(TF_CONFIG, "{}")
    assert fail_with(lost) == LOST_WORKER >= 128
    assert "resumes from the last saved state" in capsys.readouterr().err
    assert fail_with(InterruptedRunError("stopped", 15)) == 143
    assert fail_with(tf.errors.InvalidArgumentError(None, None, "wrong")) == 1
    assert fail_with(DataError("row 3 has no label")) == 1


def test_the_image_copies_what_is_there_and_starts_the_command_line() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert copied
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    assert 'ENTRYPOINT ["tini", "--", "distilbert-tf"]' in lines
