"""Imports point one way: a module may import only modules that stand before it in ORDER."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("distilbert_tf", "export")

ORDER = """
distilbert_tf.version
distilbert_tf.training.stop_signals
distilbert_tf.checkpoints.hub
distilbert_tf.checkpoints.config
distilbert_tf.models.activations
distilbert_tf.data.tasks
distilbert_tf.data.file_formats
distilbert_tf.training.options
distilbert_tf.training.optimizer
distilbert_tf.checkpoints.tensor_files
distilbert_tf.data.examples
distilbert_tf.data.submission
distilbert_tf.models.distributed
distilbert_tf.models.layers
distilbert_tf.models.weight_names
distilbert_tf.models.unpadding
distilbert_tf.models.transformer
distilbert_tf.models.embeddings
distilbert_tf.models.keras_hub
distilbert_tf.models.encoder
distilbert_tf.models.heads
distilbert_tf.tokenizers.unicode_table
distilbert_tf.tokenizers.basic_tokenizer
distilbert_tf.tokenizers.truncation
distilbert_tf.tokenizers.wordpiece
distilbert_tf.tokenizers.tokenizer
distilbert_tf.models.shared_encoder
distilbert_tf.pipelines.base
distilbert_tf.pipelines.fill_mask
distilbert_tf.pipelines.text_classification
distilbert_tf.pipelines
distilbert_tf.training.metrics
distilbert_tf.data.sampler
distilbert_tf.data.datasets
distilbert_tf.training.batches
distilbert_tf.training.multitask
distilbert_tf.training.classifiers
distilbert_tf.training.evaluation
distilbert_tf.training.report
distilbert_tf.training.state
distilbert_tf.training.callbacks
distilbert_tf.training.interruption
distilbert_tf.training.plan
distilbert_tf.training.run_directory
distilbert_tf.training.finetuning
distilbert_tf
export
distilbert_serving.tf_serving
distilbert_serving.inspection
distilbert_serving.client
distilbert_serving.signatures
distilbert_serving.tf_serving.environment
distilbert_serving.protos
distilbert_serving.tf_serving.config_protos
distilbert_serving.tensors
distilbert_serving.client.results
distilbert_serving.examples
distilbert_serving.saved_model.example_parser
distilbert_serving.tf_serving.tfrecord
distilbert_serving.version_numbers
distilbert_serving.saved_model.publishing
distilbert_serving.tf_serving.warmup
distilbert_serving.tf_serving.config_files
distilbert_serving.tf_serving.batching_parameters
distilbert_serving.tf_serving.serving_config
distilbert_serving.tf_serving.serving_files
distilbert_serving.inspection.reload
distilbert_serving.inspection.fresh_process
distilbert_serving.inspection.op_registry
distilbert_serving.inspection.tensor_bundle
distilbert_serving.inspection.saved_model_files
distilbert_serving.inspection.releases
distilbert_serving.inspection.endpoint_contracts
distilbert_serving.inspection.compatibility
distilbert_serving.inspection.inspection
distilbert_serving.inspection.trial_runs
distilbert_serving.inspection.report_text
distilbert_serving.client.requests
distilbert_serving.client.answers
distilbert_serving.client.methods
distilbert_serving.client.channel
distilbert_serving.client.tls_flags
distilbert_serving.client.connection
distilbert_serving.client.async_connection
distilbert_serving.client.base
distilbert_serving.client.predict_client
distilbert_serving.client.async_predict_client
distilbert_serving.smoke_test.checks
distilbert_serving.smoke_test.rest_checks
distilbert_serving.smoke_test.run
distilbert_serving.server.status
distilbert_serving.server.metrics
distilbert_serving.server.tls
distilbert_serving.server.json_values
distilbert_serving.server.json_requests
distilbert_serving.server.json_responses
distilbert_serving.server.rest_api
distilbert_serving.server.connections
distilbert_serving.server.rest
distilbert_serving.server.signature
distilbert_serving.server.batching_options
distilbert_serving.server.merging
distilbert_serving.server.batching
distilbert_serving.server.servable
distilbert_serving.server.direct_runner
distilbert_serving.server.batching_config
distilbert_serving.server.loaded_version
distilbert_serving.server.inference
distilbert_serving.server.warmup
distilbert_serving.server.loading
distilbert_serving.server.model_config
distilbert_serving.server.version_directories
distilbert_serving.server.versions
distilbert_serving.server.models
distilbert_serving.server.core
distilbert_serving.server.services
distilbert_serving.server.model_server
distilbert_serving.server.command
distilbert_serving.server
distilbert_serving.saved_model.tracing
distilbert_serving.saved_model.served_models
distilbert_serving.saved_model.endpoints
distilbert_serving.saved_model.graph_file
distilbert_serving.saved_model.weight_quantization
distilbert_serving.saved_model.verification
distilbert_serving.saved_model.exporter
distilbert_tf.training.launcher
distilbert_tf.commands.demo
distilbert_tf.commands.common_flags
distilbert_tf.commands.query_input
distilbert_tf.commands.query_output
distilbert_tf.commands.query
distilbert_tf.commands.training
distilbert_tf.commands.serving
distilbert_tf.commands
distilbert_tf.cli
""".split()

# Imports inside a function, allowed against the order or because they cost much.
LATE = {
    # KerasHub is large, and few want it.
    ("distilbert_tf.models.encoder", "distilbert_tf.models.keras_hub"),
}

# `distilbert_tf` never imports `export` when it is itself imported.
LATE_ONLY = {"distilbert_tf.commands.query", "distilbert_tf.commands.serving"}

# What runs beside TF Serving, or instead of it, needs no model code.
WITHOUT_DISTILBERT_TF = {
    "distilbert_serving.client.async_predict_client",
    "distilbert_serving.client.predict_client",
    "distilbert_serving.server",
}


class Edge(NamedTuple):
    """An import of a module of these packages by another one."""

    importer: str
    imported: str
    late: bool
    line: int


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
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
                if target.split(".")[0] in PACKAGES and target != name:
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


def complaint(edge: Edge) -> str | None:
    importer, imported = edge.importer, edge.imported
    where = f"{importer}:{edge.line} imports {imported}"
    if edge.late and (importer, imported) in LATE:
        return None
    if importer == "distilbert_tf" and edge.late:
        return None  # public names are imported when asked for
    if imported.split(".")[0] == "export" and importer.split(".")[0] == "distilbert_tf":
        if importer not in LATE_ONLY:
            return f"{where}: the arrow is export -> distilbert_tf"
        if not edge.late:
            return f"{where}: only inside a function"
        return None
    if imported not in ORDER:
        return f"{where}, which stands nowhere in ORDER"
    if importer in ORDER and ORDER.index(imported) > ORDER.index(importer):
        return f"{where}, which stands after it in ORDER"
    return None


def test_every_module_has_its_place():
    missing = modules().keys() - set(ORDER)
    assert not missing, f"Add to ORDER in {Path(__file__).name}, where they belong: {missing}"
    assert len(set(ORDER)) == len(ORDER)


def test_imports_point_one_way(edges):
    assert len(edges) > 20
    assert [text for edge in edges if (text := complaint(edge))] == []


@pytest.mark.parametrize("start", sorted(WITHOUT_DISTILBERT_TF))
def test_client_and_server_never_import_distilbert_tf(start, edges):
    reached, todo = set(), {start}
    while todo:
        reached |= todo
        todo = {edge.imported for edge in edges if edge.importer in todo} - reached
    assert {name for name in reached if name.split(".")[0] == "distilbert_tf"} == set()


@pytest.mark.parametrize(
    ("importer", "source", "expected"),
    [
        (
            "distilbert_tf.checkpoints.hub",
            "from distilbert_tf.models.encoder import X",
            "stands after it",
        ),
        ("distilbert_tf.checkpoints.hub", "from distilbert_tf import model", "stands after it"),
        ("distilbert_tf.checkpoints.hub", "import distilbert_tf.models.encoder", "stands after it"),
        ("distilbert_tf.checkpoints.hub", "from .model import X", "stands after it"),
        ("distilbert_tf.checkpoints.hub", "from . import model", "stands after it"),
        (
            "distilbert_tf.checkpoints.hub",
            "def f():\n  from distilbert_tf import model",
            "stands after it",
        ),
        (
            "distilbert_tf.checkpoints.hub",
            "if True:\n  import distilbert_tf.models.encoder",
            "stands after it",
        ),
        (
            "distilbert_tf.models.encoder",
            "import distilbert_serving.client.predict_client",
            "the arrow is",
        ),
        (
            "distilbert_tf.models.encoder",
            "def f():\n  import distilbert_serving.client.predict_client",
            "the arrow is",
        ),
        (
            "distilbert_tf.commands.serving",
            "import distilbert_serving.client.predict_client",
            "only inside a function",
        ),
        (
            "distilbert_tf.commands.serving",
            "def f():\n  import distilbert_serving.client.predict_client",
            None,
        ),
        ("distilbert_tf.models.encoder", "from distilbert_tf import keras_hub", None),
        ("distilbert_tf.models.encoder", "import distilbert_tf.nothing", "nowhere"),
        (
            "distilbert_serving.saved_model.exporter",
            "from distilbert_tf.models.heads import X",
            None,
        ),
        (
            "distilbert_serving.signatures",
            "from distilbert_serving.client.predict_client import X",
            "stands after it",
        ),
        ("distilbert_tf.models.heads", "from distilbert_tf.models.encoder import X", None),
    ],
)
def test_the_walk_itself(importer, source, expected):
    (edge,) = imports(importer, source, set(ORDER))
    text = complaint(edge)
    assert (expected is None and text is None) or (text is not None and expected in text)
