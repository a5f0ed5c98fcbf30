"""Examples in docstrings run, and print what they show."""

import doctest
import importlib

import pytest

MODULES = ("data.datasets", "data.examples", "data.sampler", "data.tasks")


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"distilbert_tf.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
