"""The examples in docstrings run, but for those that need a network, a server or minutes."""

import ast
import importlib
import re
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import distilbert_tf

ROOT = Path(distilbert_tf.__file__).parent
ROOMS = ("checkpoints", "data", "distillation", "models", "pipelines", "tokenizers", "training")


def examples() -> dict[str, tuple[str, str]]:
    """Finds the code under `Example:`, with its module, by the name of what has it."""
    found = {}
    for path in sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py")):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                docstring = ast.get_docstring(node) or ""
                if match := re.search(r"^Example:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE):
                    found[node.name] = (module, textwrap.dedent(match[1]))
    return found


EXAMPLES = examples()


def test_public_classes_have_one() -> None:
    names = {"Examples", "Task", "TFDistilBertModel", "DistilBertTokenizer", "FillMaskPipeline"}
    assert names <= EXAMPLES.keys()


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where some write
    module, code = EXAMPLES[name]
    compile(code, name, "exec")
    if "distilbert-base" in code or "distil_bert" in code:
        pytest.skip("needs a network")
    if name == "distill":
        pytest.skip("takes minutes; 04_distillation.ipynb runs it with fewer steps")
    public = {name: getattr(distilbert_tf, name) for name in distilbert_tf.__all__}
    modules = {"np": np, "tf": tf, "keras": keras}
    exec(code, {**public, **modules, **vars(importlib.import_module(module))})
