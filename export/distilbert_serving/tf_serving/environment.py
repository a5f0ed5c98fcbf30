"""The environment that a server's process should have: see `tf_serving.env`."""

import os
from collections.abc import MutableMapping
from pathlib import Path

ENV_FILE = Path(__file__).with_name("tf_serving.env")


def serving_environment() -> dict[str, str]:
    """Reads the variables that make a server fast on a CPU.

    TensorFlow reads them once, so they must be set before it is imported.

    Returns:
        Values by name.
    """
    lines = ENV_FILE.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def set_serving_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what is not set already.

    Args:
        environment: Where to set it; this process' by default.
    """
    for name, value in serving_environment().items():
        environment.setdefault(name, value)
