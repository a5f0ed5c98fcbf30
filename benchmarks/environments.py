"""The peers' virtual environments, made when they are missing."""

import hashlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from absl import logging

HERE = Path(__file__).parent
VENVS = Path(os.environ.get("BENCHMARK_VENVS", HERE / ".venvs"))
REQUIREMENTS = HERE / "requirements"
STAMP = "requirements.sha256"


def python_of(venv: str | None, *, make: bool = True) -> str:
    """Finds the interpreter of a virtual environment, which is made if it is missing or old.

    Args:
        venv: A file in requirements/ without its ending; None for the running interpreter.
        make: Whether it may be made.

    Returns:
        Path of the interpreter.

    Raises:
        RuntimeError: The environment cannot be made, with what pip said, or may not be made.
    """
    if venv is None:
        return sys.executable
    directory, requirements = VENVS / venv, REQUIREMENTS / f"{venv}.txt"
    python = directory / "bin" / "python"
    digest = fingerprint(venv)
    stamp = directory / STAMP
    if stamp.is_file() and stamp.read_text().strip() == digest:
        return str(python)
    if not make:
        raise RuntimeError(f"{directory} is not there, and not made (--noinstall)")
    logging.info("Making %s from %s.", directory, requirements.name)
    _run([sys.executable, "-m", "venv", "--clear", str(directory)])
    _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
    stamp.write_text(digest + "\n")
    return str(python)


def fingerprint(venv: str | None) -> str:
    """Hashes what decides over what a peer makes of a checkpoint.

    Args:
        venv: See `python_of`. A peer in the running interpreter is this package itself.

    Returns:
        The hash of the requirements, or of this package's code and TensorFlow's version.
    """
    if venv is not None:
        return hashlib.sha256((REQUIREMENTS / f"{venv}.txt").read_bytes()).hexdigest()
    found = hashlib.sha256(metadata.version("tensorflow").encode())
    for package in ("distilbert_tf", "export"):
        for path in sorted((HERE.parent / package).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} failed: {result.stderr.strip()[-800:]}")
