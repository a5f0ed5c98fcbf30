"""Imports run down between packages: each may import only what its rule names."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {"distilbert_tf": ROOT, "distilbert_serving": ROOT / "export"}

# What each package may import, besides itself; from the top of the house to its foundations.
RULES = {
    "distilbert_tf.cli": "commands version",
    "distilbert_tf.commands": "pipelines distillation training data tokenizers",
    "distilbert_tf.pipelines": "models tokenizers checkpoints",
    "distilbert_tf.distillation": "training data models tokenizers checkpoints",
    "distilbert_tf.training": "data models tokenizers checkpoints version",
    "distilbert_tf.data": "checkpoints",
    "distilbert_tf.models": "tokenizers checkpoints",
    "distilbert_tf.tokenizers": "checkpoints",
    "distilbert_tf.checkpoints": "",
    "distilbert_serving.server": "inspection tf_serving shared",
    "distilbert_serving.smoke_test": "client tf_serving shared",
    "distilbert_serving.client": "shared",
    "distilbert_serving.saved_model": "inspection tf_serving shared distilbert_tf",
    "distilbert_serving.inspection": "tf_serving shared",
    "distilbert_serving.tf_serving": "shared",
    "distilbert_serving.shared": "",
}
# Single modules at the top of `distilbert_serving`: the contract that its packages share.
SHARED = (
    "examples",
    "output_comparison",
    "protos",
    "protoset",
    "sample_sentences",
    "signatures",
    "tensors",
    "version_numbers",
    "version_status",
)
# What needs nothing but Python, and every package may import.
FOUNDATION = ("distilbert_tf.files", "distilbert_tf.spelling", "distilbert_tf.tensorflow_import")
# Packages that import names when they are used, so that what needs no TensorFlow starts at once.
LAZY = ("distilbert_tf", "distilbert_serving", "distilbert_tf.training")
# `distilbert_tf` never imports `distilbert_serving`, but for its commands, when they run.
LATE = ("distilbert_tf.commands", "distilbert_serving")


class Edge(NamedTuple):
    """An import of a module of these packages by another one."""

    importer: str
    imported: str
    late: bool
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    found = {}
    for package, home in HOMES.items():
        for path in sorted((home / package).rglob("*.py")):
            name = ".".join(path.relative_to(home).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, source: str, known: set[str], is_package: bool = False) -> Iterator[Edge]:
    def visit(node: ast.AST, late: bool) -> Iterator[Edge]:
        for child in ast.iter_child_nodes(node):
            targets: list[str] = []
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = name.split(".")[: None if is_package else -1]
                    parents = parents[: len(parents) - child.level + 1]
                    base = ".".join([*parents, base]).rstrip(".")
                # `from package import module` means the module, not its package.
                full = [f"{base}.{alias.name}" for alias in child.names]
                targets = [target if target in known else base for target in full]
            for target in dict.fromkeys(targets):
                if target.split(".")[0] in HOMES and target != name:
                    yield Edge(name, target, late, child.lineno)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, late or is_function)

    yield from visit(ast.parse(source), late=False)


@pytest.fixture(scope="module")
def edges() -> list[Edge]:
    found = modules()
    return [
        edge
        for name, path in found.items()
        for edge in imports(
            name, path.read_text(encoding="utf-8"), set(found), path.name == "__init__.py"
        )
    ]


def room_of(module: str) -> str:
    """Names the package of a module, as RULES does; the distribution's own name at the top."""
    top, *rest = module.split(".")
    if top == "distilbert_serving" and rest and rest[0] in SHARED:
        return "distilbert_serving.shared"
    return f"{top}.{rest[0]}" if rest else top


def complaint(edge: Edge) -> str | None:
    importer, imported = room_of(edge.importer), room_of(edge.imported)
    top, _, room = imported.partition(".")
    if importer == imported or imported in FOUNDATION or edge.importer in LAZY:
        return None
    if top != importer.split(".")[0]:
        if (importer, top) == LATE:
            return None if edge.late else f"{edge}: only inside a function"
        room = top
    if importer not in RULES:
        return f"{edge}: no rule for {importer}"
    if room not in RULES[importer].split():
        return f"{edge}: {importer} may import {RULES[importer] or 'nothing'}"
    return None


def test_imports_run_down(edges):
    assert len(edges) > 100
    assert [text for edge in edges if (text := complaint(edge))] == []


def test_every_package_has_a_rule():
    rooms = {room_of(name) for name in modules()} - {*HOMES, *FOUNDATION, "distilbert_tf.version"}
    assert rooms == RULES.keys()


def test_no_circles(edges):
    """Inside a package as well; what a function imports late does not count."""
    graph: dict[str, set[str]] = {}
    for edge in edges:
        if not edge.late and edge.importer not in LAZY:
            graph.setdefault(edge.importer, set()).add(edge.imported)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("start", ["distilbert_serving.client", "distilbert_serving.server"])
def test_client_and_server_need_no_model_code(start, edges):
    reached = set()
    todo = {name for name in modules() if room_of(name) == start}
    while todo:
        reached |= todo
        todo = {edge.imported for edge in edges if edge.importer in todo} - reached
    assert {name for name in reached if name.split(".")[0] == "distilbert_tf"} <= {*FOUNDATION}


@pytest.mark.parametrize(
    ("importer", "source", "expected"),
    [
        ("distilbert_tf.checkpoints.hub", "from distilbert_tf.models import X", "may import noth"),
        ("distilbert_tf.checkpoints.hub", "from distilbert_tf import models", "may import noth"),
        ("distilbert_tf.checkpoints.hub", "from ..models import X", "may import nothing"),
        ("distilbert_tf.checkpoints.hub", "from . import config", None),
        ("distilbert_tf.data.tasks", "def f():\n  import distilbert_tf.models.heads", "may import"),
        ("distilbert_tf.models.heads", "import distilbert_serving.client", "may import tokenizers"),
        ("distilbert_tf.commands.query", "import distilbert_serving.client", "inside a function"),
        ("distilbert_tf.commands.query", "def f():\n  import distilbert_serving.client", None),
        ("distilbert_tf.heads", "from distilbert_tf.models import X", "no rule for"),
        ("distilbert_serving.signatures", "from distilbert_serving.client import X", "nothing"),
        ("distilbert_serving.client.base", "import distilbert_serving.signatures", None),
        ("distilbert_serving.saved_model.exporter", "from distilbert_tf.models import X", None),
    ],
)
def test_the_walk_itself(importer, source, expected):
    (edge,) = imports(importer, source, set(modules()) | {"distilbert_tf.checkpoints.config"})
    text = complaint(edge)
    assert (expected is None and text is None) or (text is not None and expected in text)
