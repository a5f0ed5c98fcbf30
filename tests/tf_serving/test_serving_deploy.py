"""The files that run TF Serving elsewhere agree with the server, each other, and the code.

There is no container runtime here: what docker and Kubernetes make of them is not tested.
"""

import functools
import http.server
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from absl import flags
from distilbert_serving.protos import model_server_config_pb2
from distilbert_serving.tf_serving import serving_config, serving_files
from distilbert_serving.tf_serving.batching_parameters import (
    batching_parameters,
    read_batching_parameters,
)
from distilbert_serving.tf_serving.config_protos import BatchingParameters, MonitoringConfig
from distilbert_serving.tf_serving.environment import serving_environment
from google.protobuf import text_format
from processes import finish

from distilbert_tf.cli import main
from distilbert_tf.commands import COMMANDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "export/distilbert_serving/tf_serving/deploy"

# tensorflow_model_server's flags of every release from 2.12 on (model_servers/main.cc).
SERVER_FLAGS = """
allow_version_labels_for_unavailable_models batching_parameters_file enable_batching
enable_model_warmup enable_per_model_batching_parameters enable_profiler
enable_signature_method_name_check file_system_poll_wait_seconds flush_filesystem_caches
grpc_channel_arguments grpc_max_threads grpc_socket_path load_retry_interval_micros
max_num_load_retries model_base_path model_config_file model_config_file_poll_wait_seconds
model_name monitoring_config_file num_load_threads num_request_iterations_for_warmup
num_unload_threads per_process_gpu_memory_fraction platform_config_file port
remove_unused_fields_from_bundle_metagraph rest_api_enable_cors_support rest_api_num_threads
rest_api_port rest_api_timeout_in_ms saved_model_tags ssl_config_file
tensorflow_inter_op_parallelism tensorflow_intra_op_parallelism tensorflow_session_config_file
tensorflow_session_parallelism thread_pool_factory_config_file version xla_cpu_compilation_enabled
""".split()

MESSAGES = {
    "models.config": model_server_config_pb2.ModelServerConfig,
    "batching_params.pbtxt": BatchingParameters,
    "monitoring.config": MonitoringConfig,
}


def documents(name: str) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / name).read_text())}


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return documents("kubernetes.yaml")


@pytest.fixture(scope="module")
def pod(objects: dict[str, Any]) -> dict[str, Any]:
    return objects["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only


@pytest.fixture(scope="module")
def predictor() -> dict[str, Any]:
    return documents("kserve.yaml")["InferenceService"]["spec"]["predictor"]


@functools.cache
def instructions() -> dict[str, list[str]]:
    """The Dockerfile's instructions by keyword, lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line:
            keyword, _, rest = line.partition(" ")
            found.setdefault(keyword, []).append(re.sub(" +", " ", rest))
    return found


def server_flags(arguments: list[str]) -> dict[str, str]:
    return dict(re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in arguments)


@pytest.fixture(scope="module")
def image_flags() -> dict[str, str]:
    (entry_point,) = instructions()["ENTRYPOINT"]
    program, *arguments = json.loads(entry_point)
    assert program == "tensorflow_model_server"
    return server_flags(arguments)


@pytest.fixture(scope="module")
def image_environment() -> dict[str, str]:
    words = " ".join(instructions()["ENV"]).split()
    return dict(word.split("=", 1) for word in words)


def test_every_release_has_the_flags(
    image_flags: dict[str, str], container: dict[str, Any], predictor: dict[str, Any]
) -> None:
    for used in (
        image_flags,
        server_flags(container["args"]),
        server_flags(predictor["model"]["args"]),
    ):
        assert used.keys() <= set(SERVER_FLAGS)
        for name, value in used.items():
            if name.startswith("enable_"):
                assert value == "true"


def test_the_image_copies_what_is_there_to_where_the_flags_look(
    image_flags: dict[str, str],
) -> None:
    copied = {}
    for line in instructions()["COPY"]:
        if not line.startswith("--from"):
            *names, target = line.split()
            for name in names:
                assert (DEPLOY / name).is_file()
                copied[target + name if target.endswith("/") else target] = name
    files = [value for name, value in image_flags.items() if name.endswith("_file")]
    assert {copied[path] for path in files} == set(MESSAGES)
    (check,) = instructions()["HEALTHCHECK"]
    assert copied[re.search(r"bash (\S+)", check)[1]] == "ready.sh"


def test_all_name_one_release_of_the_server(predictor: dict[str, Any]) -> None:
    (tag,) = (each for each in instructions()["ARG"] if each.startswith("TAG="))
    release = tag.removeprefix("TAG=")
    assert predictor["model"]["runtimeVersion"] == release
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    tags = {name: service["build"]["args"]["TAG"] for name, service in services.items()}
    assert tags == {"cpu": release, "gpu": f"{release}-gpu"}
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"^TAG \?= (.+)$", makefile, re.MULTILINE) == [release]
    for text in (makefile, (DEPLOY / "Dockerfile").read_text()):
        assert re.findall(r"TAG=(\S+-gpu)", text) == [f"{release}-gpu"]


@pytest.mark.parametrize("name", MESSAGES)
def test_the_files_are_those_that_serving_config_writes(tmp_path: Path, name: str) -> None:
    (tmp_path / "base" / "1").mkdir(parents=True)
    serving_files.write_server_files(tmp_path, tmp_path / "base")
    assert (DEPLOY / name).read_text() == (tmp_path / name).read_text()


def test_files_for_another_model(tmp_path: Path, objects: dict[str, Any]) -> None:
    output = tmp_path / "out"
    (tmp_path / "base" / "7").mkdir(parents=True)
    main(["serving-config", f"--model_base_path={tmp_path / 'base'}", f"--output={output}",
          "--docker", "--kubernetes", "--model_name=film", "--served_path=/data/distilbert/films",
          "--labels=stable:7", "--max_latency_ms=2"])  # fmt: skip
    assert {path.name for path in output.iterdir()} - {"tf_serving.protoset"} == {
        path.name for path in DEPLOY.iterdir()
    }

    def renamed(text: str) -> str:
        kept = {"/models/distilbert": "/data/DISTILBERT/films", "distilbert-tf": "DISTILBERT-tf"}
        for name, replacement in kept.items():
            text = text.replace(name, replacement)
        return text.replace("distilbert", "film").replace("DISTILBERT", "distilbert")

    for name in ("Dockerfile", "compose.yaml", "ready.sh", "kserve.yaml"):
        assert (output / name).read_text() == renamed((DEPLOY / name).read_text())
    assert os.access(output / "ready.sh", os.X_OK)
    text = (output / "kubernetes.yaml").read_text()
    written = {each["kind"]: each for each in yaml.safe_load_all(text)}
    assert written.pop("ConfigMap")["data"] == {
        name: (output / name).read_text() for name in MESSAGES
    }
    expected = json.loads(renamed(json.dumps(objects)))
    assert written == {kind: each for kind, each in expected.items() if kind != "ConfigMap"}
    parameters = read_batching_parameters(output / "batching_params.pbtxt")
    assert parameters.num_batch_threads.value == 4
    assert parameters.batch_timeout_micros.value == 2000


def test_names_that_no_object_can_have_are_refused(tmp_path: Path) -> None:
    (tmp_path / "base" / "7").mkdir(parents=True)
    for name in ("My_Model", "1a", "a-", "x" * 43):
        with pytest.raises(ValueError, match="choose a model_name of at most 42 lower-case"):
            serving_files.write_server_files(
                tmp_path / "out", tmp_path / "base", model_name=name, kubernetes=True
            )
    assert not (tmp_path / "out").exists()


def test_kubernetes_has_the_same_models_and_batches(
    objects: dict[str, Any], container: dict[str, Any]
) -> None:
    written = objects["ConfigMap"]["data"]
    parsed = {
        name: text_format.Parse(written[name], message()) for name, message in MESSAGES.items()
    }
    assert parsed["models.config"] == serving_config.read_model_config(DEPLOY / "models.config")
    threads = int(container["resources"]["requests"]["cpu"])
    assert parsed["batching_params.pbtxt"] == batching_parameters(threads=threads)
    assert parsed["monitoring.config"] == serving_config.monitoring_config()
    assert written.keys() == MESSAGES.keys()


def test_all_have_the_environment_of_the_env_file(
    image_environment: dict[str, str], container: dict[str, Any], predictor: dict[str, Any]
) -> None:
    expected = serving_environment()
    assert {k: v for k, v in image_environment.items() if k != "MODEL_NAME"} == expected
    for variables in (container["env"], predictor["model"]["env"]):
        assert {each["name"]: each["value"] for each in variables} == expected
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        assert serving_environment().keys() <= {
            line.split("=")[0] for line in (DEPLOY / service["env_file"]).read_text().splitlines()
        }


def test_ports_agree(
    image_flags: dict[str, str], objects: dict[str, Any], container: dict[str, Any]
) -> None:
    ports = {"grpc": int(image_flags["port"]), "http": int(image_flags["rest_api_port"])}
    assert ports == {"grpc": 8500, "http": 8501}
    assert instructions()["EXPOSE"] == [f"{ports['grpc']} {ports['http']}"]
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == ports
    for each in objects["Service"]["spec"]["ports"]:
        assert each["port"] == ports[each["targetPort"]]
    assert container["startupProbe"]["tcpSocket"]["port"] in ports
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        assert service["ports"] == [f"{port}:{port}" for port in ports.values()]
    annotations = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["http"])


def test_probes_ask_for_the_model_and_metrics_that_are_configured(
    objects: dict[str, Any],
    container: dict[str, Any],
    image_environment: dict[str, str],
    image_flags: dict[str, str],
) -> None:
    (model,) = serving_config.read_model_config(DEPLOY / "models.config").model_config_list.config
    assert image_environment["MODEL_NAME"] == model.name
    command = container["readinessProbe"]["exec"]["command"]
    assert command == [
        "bash",
        "/usr/local/bin/ready.sh",
        image_flags["rest_api_port"],
        model.name,
    ]
    (check,) = instructions()["HEALTHCHECK"]
    assert check.endswith(f'{" ".join(command[:3])} "$MODEL_NAME"')
    path = serving_config.monitoring_config().prometheus_config.path
    assert container["livenessProbe"]["httpGet"] == {"port": "http", "path": path}
    annotations = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == path


def test_models_are_mounted_where_the_config_looks(
    objects: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    (model,) = serving_config.read_model_config(DEPLOY / "models.config").model_config_list.config
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert all(each["readOnly"] for each in mounts.values())
    volumes = {each["name"]: each for each in pod["volumes"]}
    claim = volumes[mounts[model.base_path]["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    config = volumes[mounts["/etc/tf_serving"]["name"]]["configMap"]["name"]
    assert config == objects["ConfigMap"]["metadata"]["name"]
    assert instructions()["COPY"][-1] == f"--from=models . {model.base_path}"
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        (volume,) = service["volumes"]
        assert volume.endswith(f"}}:{model.base_path}:ro")


def test_selectors_and_the_autoscaler_mean_the_deployment(objects: dict[str, Any]) -> None:
    deployment = objects["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]  # two owners of one number would fight
    assert scaler["minReplicas"] >= 2
    (metric,) = scaler["metrics"]
    assert (
        metric["resource"]["name"]
        in deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    )


def test_threads_are_as_many_as_the_processors_asked_for(
    container: dict[str, Any], predictor: dict[str, Any]
) -> None:
    for each in (container, predictor["model"]):
        flags = server_flags(each["args"])
        for name in ("intra", "inter"):
            assert (
                flags[f"tensorflow_{name}_op_parallelism"] == each["resources"]["requests"]["cpu"]
            )


def test_calls_that_fill_the_queue_have_a_thread_each(image_flags: dict[str, str]) -> None:
    """Otherwise gRPC turns calls away before batches are full."""
    parameters = read_batching_parameters(DEPLOY / "batching_params.pbtxt")
    assert int(image_flags["grpc_max_threads"]) >= 4 * parameters.max_execution_batch_size.value


def test_a_pod_ends_between_the_pause_and_the_last_signal(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    assert pod["shareProcessNamespace"] is True  # else SIGTERM is ignored
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert 10 <= int(seconds) < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("state", "code"), [("AVAILABLE", 0), ("LOADING", 1), ("END", 1), (None, 1)]
)
def test_ready_reads_the_state(state: str | None, code: int) -> None:
    class Status(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {
                    "model_version_status": [
                        {"version": "1", "state": "END", "status": {"error_code": "OK"}},
                        {"version": "2", "state": state},
                    ]
                },
                indent=1,
            )
            self.send_response(200 if state and self.path == "/v1/models/film" else 404)
            self.end_headers()
            self.wfile.write((body if state else '{"error": "Could not find"}').encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Status) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        ready = ["bash", str(DEPLOY / "ready.sh"), port, "film"]
        finish(subprocess.Popen(ready), code)
        server.shutdown()
    finish(subprocess.Popen(ready, stderr=subprocess.DEVNULL), 1)


def test_make_explains_its_targets_and_they_call_what_there_is() -> None:
    def make(*words: str) -> str:
        command = ["make", "--no-print-directory", *words]
        return finish(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))[0]

    explained = set(re.findall(r"^make ([\w-]+)", make("help"), re.MULTILINE))
    targets = ("serve", "smoke", "serving-config", "docker-image", "docker-serve")
    assert set(targets) <= explained
    called = "".join(make("--dry-run", name, "MODEL=models", "REST=h:1") for name in targets)
    for command in ("serve", "serving-config"):
        words = re.search(rf"distilbert-tf {command} ((?:.*\\\n)*.*)\n", called)[1].split()
        values = flags.FlagValues()
        COMMANDS[command].define(values)
        arguments = [word for word in words if word != "\\"]
        assert values([command, *arguments]) == [command]
    assert "--target=127.0.0.1:8500 --model_name=distilbert \\\n\t--rest_target=h:1" in called
    assert f"{ROOT / 'models'}:/models/distilbert:ro" in called
