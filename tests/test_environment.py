import os
import subprocess
import sys

from export.environment import ENV_FILE, serving_environment, set_serving_environment


def test_the_file_is_one_that_docker_reads():
    for line in ENV_FILE.read_text().splitlines():
        assert not line or line.startswith("#") or line.split("=")[0].isidentifier()
    assert serving_environment() == {
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1",
    }


def test_what_is_set_already_stays():
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0", "HOME": "/somewhere"}
    set_serving_environment(environment)
    assert environment == {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1",
        "HOME": "/somewhere",
    }


SERVE = """
import os, sys
from distilbert_tf.cli import main
import distilbert_tf.commands  # absl's flags, and no TensorFlow yet
assert "tensorflow" not in sys.modules
try:
    main(["serve", "--model_base_path=nowhere"])
except SystemExit:
    print(os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"], "tensorflow" in sys.modules)
"""


def test_the_local_server_sets_it_before_tensorflow_starts():
    environment = {k: v for k, v in os.environ.items() if k not in serving_environment()}
    result = subprocess.run(
        [sys.executable, "-c", SERVE], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == "1 True"


def test_training_does_not_have_it():
    """A process that trains with packed weights would go on with the old ones."""
    code = "import os, distilbert_tf, export.saved_model, export.client, export.server\n"
    code += "assert not any(name.startswith('TF_ONEDNN') for name in os.environ)"
    environment = {k: v for k, v in os.environ.items() if k not in serving_environment()}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
