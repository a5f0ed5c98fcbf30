"""Files that run a server in containers: those in `deploy`, for a model of another name.

There they are written for a model called distilbert, and tested for consistency.
"""

import os
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from distilbert_serving.tf_serving.config_files import ConfigError
from distilbert_tf.files import replacing

TEMPLATES = Path(__file__).with_name("deploy")
DOCKER_FILES = ("Dockerfile", "compose.yaml", "ready.sh")
KUBERNETES_FILES = ("kubernetes.yaml", "kserve.yaml")
POD_PROCESSORS = 4  # what a pod of kubernetes.yaml asks for

# Kubernetes' names of objects, with room for what is appended to the model's.
_OBJECT_NAME = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")
_TEMPLATE_NAME = re.compile(r"distilbert(?!-tf)")  # which is this package's command
_CONFIG_DATA = re.compile(r"(?<=\ndata:\n).*?(?=---\n)", re.DOTALL)


def check_object_name(model_name: str) -> None:
    """Checks that images, and Kubernetes' objects, can be called after a model.

    Raises:
        ConfigError: They cannot.
    """
    if not _OBJECT_NAME.fullmatch(model_name):
        raise ConfigError(
            f"Images and Kubernetes' objects are called after the model, and cannot be called "
            f"{model_name!r}: choose a model_name of at most 42 lower-case letters, digits and "
            "hyphens that starts with a letter."
        )


def write_docker_files(directory: Path, model_name: str, served_path: str) -> list[Path]:
    """Writes a Dockerfile, a compose file, and what they use besides a server's configuration.

    Args:
        directory: Where the server's configuration is.
        model_name: The model's name on the server.
        served_path: Where its versions are for the server.

    Returns:
        The files written.
    """
    return [_write(directory / name, model_name, served_path) for name in DOCKER_FILES]


def write_kubernetes_files(
    directory: Path, model_name: str, served_path: str, configuration: Sequence[Path]
) -> list[Path]:
    """Writes manifests for Kubernetes and KServe.

    Args:
        directory: Where they go.
        model_name: The model's name on the server, and that of the objects.
        served_path: Where its versions are for the server.
        configuration: The server's files, for the ConfigMap.

    Returns:
        The files written.
    """
    data = "".join(
        f"  {path.name}: |\n{textwrap.indent(path.read_text(encoding='utf-8'), '    ')}"
        for path in configuration
    )

    def fill_in(manifest: str) -> str:
        return _CONFIG_DATA.sub(lambda _: data, manifest, count=1)

    return [_write(directory / name, model_name, served_path, fill_in) for name in KUBERNETES_FILES]


def _write(
    path: Path, model_name: str, served_path: str, fill_in: Callable[[str], str] = str
) -> Path:
    template = TEMPLATES / path.name
    # Pieces between the path are renamed, since the path need not end with the model's name.
    pieces = template.read_text(encoding="utf-8").split("/models/distilbert")
    text = os.fspath(served_path).join(_TEMPLATE_NAME.sub(model_name, piece) for piece in pieces)
    with replacing(path) as temporary:
        temporary.write_text(fill_in(text), encoding="utf-8")
    shutil.copymode(template, path)
    return path
