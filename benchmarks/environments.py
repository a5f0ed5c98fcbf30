"""The peers' virtual environments, made when they are missing."""

import hashlib
import subprocess
import sys
from pathlib import Path

from absl import logging

HERE = Path(__file__).parent
VENVS = HERE / ".venvs"
REQUIREMENTS = HERE / "requirements"
STAMP = "requirements.sha256"


def python_of(venv: str | None) -> str:
    """Gives the interpreter of a virtual environment, which is made if it is missing or old.

    Args:
        venv: A file in requirements/ without its ending; None for the running interpreter.

    Returns:
        Path of the interpreter.

    Raises:
        RuntimeError: The environment cannot be made; says what pip said.
    """
    if venv is None:
        return sys.executable
    directory, requirements = VENVS / venv, REQUIREMENTS / f"{venv}.txt"
    python = directory / "bin" / "python"
    digest = fingerprint(venv)
    stamp = directory / STAMP
    if stamp.is_file() and stamp.read_text().strip() == digest:
        return str(python)
    logging.info("Making %s from %s.", directory, requirements.name)
    _run([sys.executable, "-m", "venv", "--clear", str(directory)])
    _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
    stamp.write_text(digest + "\n")
    return str(python)


def fingerprint(venv: str | None) -> str:
    """Hashes a virtual environment's requirements; empty for the running interpreter's."""
    if venv is None:
        return ""
    return hashlib.sha256((REQUIREMENTS / f"{venv}.txt").read_bytes()).hexdigest()


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} failed: {result.stderr.strip()[-800:]}")
