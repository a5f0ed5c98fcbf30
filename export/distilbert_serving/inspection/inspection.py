"""Reports on a SavedModel, any SavedModel: what it holds, and which servers can serve it."""

import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from google.protobuf import json_format

from distilbert_serving.inspection.compatibility import (
    OLDEST_SERVER,
    find_unfit,
    find_unwanted,
    find_xla_markers,
)
from distilbert_serving.inspection.endpoint_contracts import (
    SignatureContract,
    describe_signatures,
    find_contract_faults,
)
from distilbert_serving.inspection.op_registry import find_custom_ops, find_release
from distilbert_serving.inspection.releases import (
    find_first_release,
    find_ignored,
    find_kinds,
    find_misfits,
)
from distilbert_serving.inspection.saved_model_files import read_meta_graph
from distilbert_serving.inspection.tensor_bundle import BundleError, list_variables
from distilbert_serving.protos import meta_graph_pb2
from distilbert_serving.signatures import SERVING_DEFAULT
from distilbert_serving.tf_serving.batching_parameters import (
    BATCHING_FILE,
    FILLING_WARNING,
    find_skipped_sizes,
    read_batching_parameters,
)
from distilbert_serving.tf_serving.config_files import ConfigError
from distilbert_serving.tf_serving.tfrecord import CorruptFileError
from distilbert_serving.tf_serving.warmup import WARMUP_FILE, read_warmup

Severity = Literal["error", "warning", "note"]

# What looks like a path on somebody's machine, in the bytes of any file.
_ABSOLUTE_PATH = re.compile(
    rb"(?<![\w.:/)\]-])/(?:home|root|Users|tmp|var|opt|mnt|usr|content|workspace|private)"
    rb"/[\w.@+-]+(?:/[\w.@+-]+)*"
)
_VARIABLE_OPS = frozenset({"VarHandleOp", "VariableV2", "Variable"})


class Finding(NamedTuple):
    """Something to know about a SavedModel.

    Attributes:
        severity: "error" for what keeps the asked server from loading or running it, "warning" for
            what works, but hardly as it was meant, "note" for the rest.
        text: What, and where.
    """

    severity: Severity
    text: str


@dataclass(frozen=True)
class ExportReport:
    """What a SavedModel holds, and which servers can serve it.

    Attributes:
        directory: The SavedModel.
        server: The TF Serving release that was asked about, as "2.12".
        first_server: The first release that can serve it; None if none can.
        tensorflow: The TensorFlow release that wrote it; "" if it does not say.
        graph_version: The version of its GraphDef.
        min_consumer: The lowest GraphDef version of a server that may read it.
        ops: The ops in the graph and its functions.
        num_functions: How many functions it has.
        custom_ops: Those ops that are not TensorFlow's own.
        xla_markers: What asks to be compiled by XLA.
        absolute_paths: What looks like a path on somebody's machine.
        signatures: Its endpoints.
        num_variables: How many variables it has.
        variable_bytes: Their size by data type.
        assets: Size in bytes of each file in `assets/`.
        num_bytes: The size of all files together.
        num_warmup_requests: How many requests a server runs before it is ready.
        batching: Its own batching parameters; None if it has none.
        findings: What to know, errors first.
    """

    directory: str
    server: str
    first_server: str | None
    tensorflow: str
    graph_version: int
    min_consumer: int
    ops: list[str]
    num_functions: int
    custom_ops: list[str]
    xla_markers: list[str]
    absolute_paths: list[str]
    signatures: list[SignatureContract]
    num_variables: int
    variable_bytes: dict[str, int]
    assets: dict[str, int]
    num_bytes: int
    num_warmup_requests: int
    batching: dict[str, Any] | None
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_servable(self) -> bool:
        """Whether the asked server can load and run it."""
        return not any(finding.severity == "error" for finding in self.findings)


def inspect_export(directory: Path, server: str = OLDEST_SERVER) -> ExportReport:
    """Reads a SavedModel's files, and says what a server makes of them. Nothing is run.

    Args:
        directory: Where `saved_model.pb` is. Whoever wrote it: Keras, TensorFlow 1 or 2.
        server: The TF Serving release that is to serve it on a CPU.

    Returns:
        The report.

    Raises:
        CompatibilityError: It is no SavedModel, is damaged, or has no graph for serving.
        ValueError: Nothing is known about that release.
    """
    release = find_release(server)
    meta_graph = read_meta_graph(directory)
    kinds = find_kinds(meta_graph)
    ops = {kind.op for kind in kinds}
    custom = sorted(find_custom_ops(ops))
    signatures = describe_signatures(meta_graph)
    paths = sorted(_find_absolute_paths(directory))

    # What no release can serve; then what the asked one cannot.
    problems = [*find_unfit(meta_graph, kinds), *_find_missing_assets(directory, meta_graph)]
    warnings = [*find_unwanted(meta_graph, kinds), *_judge_signatures(signatures)]
    variables = _try(problems, list_variables, directory / "variables" / "variables") or []
    requests = _try(problems, read_warmup, directory / WARMUP_FILE) or []
    batching = _try(problems, read_batching_parameters, directory / BATCHING_FILE)
    if batching is not None:
        warnings += [f"{BATCHING_FILE}: {text}" for text in _judge_batching(batching, signatures)]
    if not signatures:
        problems.append("it has no signature, so no request can name one")
    if ops & _VARIABLE_OPS and not variables:
        warnings.append("the graph has variables, but there are no files with their values")
    problems += _find_lost_requests(requests, {each.name for each in signatures})
    first = None if problems else find_first_release(meta_graph, kinds)
    problems += find_misfits(meta_graph, kinds, release)
    warnings += [f"names a path of a machine: {path}" for path in paths]
    notes = [
        f"TF Serving {release.name} ignores {name}, which only names things, and logs a line"
        for name in find_ignored(kinds, release)
    ]
    if text_ops := sorted(release.text_ops & ops):
        notes.append(
            f"TensorFlow Text's ops, which TF Serving has and other runtimes lack: "
            f"{', '.join(text_ops)}"
        )
    sizes: Counter[str] = Counter()
    for variable in variables:
        sizes[variable.data_type] += variable.num_bytes
    return ExportReport(
        directory=str(directory),
        server=release.name,
        first_server=first.name if first else None,
        tensorflow=meta_graph.meta_info_def.tensorflow_version,
        graph_version=meta_graph.graph_def.versions.producer,
        min_consumer=meta_graph.graph_def.versions.min_consumer,
        ops=sorted(ops),
        num_functions=len(meta_graph.graph_def.library.function),
        custom_ops=custom,
        xla_markers=list(find_xla_markers(meta_graph)),
        absolute_paths=paths,
        signatures=signatures,
        num_variables=len(variables),
        variable_bytes=dict(sizes),
        assets=_measure(directory / "assets"),
        num_bytes=sum(_measure(directory).values()),
        num_warmup_requests=len(requests),
        batching=None if batching is None else json_format.MessageToDict(batching),
        findings=[
            *(Finding("error", text) for text in problems),
            *(Finding("warning", text) for text in warnings),
            *(Finding("note", text) for text in notes),
        ],
    )


def _try(problems: list[str], read: Callable[[Path], Any], path: Path) -> Any:
    """Reads a file if it is there; what is wrong with it becomes a problem."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (BundleError, ConfigError, CorruptFileError) as error:
        problems.append(str(error))
        return None


def _judge_signatures(signatures: list[SignatureContract]) -> Iterator[str]:
    if signatures and SERVING_DEFAULT not in {each.name for each in signatures}:
        yield f"there is no signature {SERVING_DEFAULT}: each request has to name one"
    for signature in signatures:
        for reason in signature.unbatched:
            yield f"{reason}: a server with batching cannot merge requests to it"
        yield from find_contract_faults(signature)


def _judge_batching(batching: Any, signatures: list[SignatureContract]) -> Iterator[str]:
    """Finds what one request may do to the others that a server merges it with."""
    if skipped := find_skipped_sizes(batching):
        yield f"no batch may have {skipped[0]} rows: {FILLING_WARNING}"
    for signature in signatures:
        for name, tensor in sorted(signature.inputs.items()):
            if not tensor.shape or None not in tensor.shape[1:]:
                continue
            if not batching.pad_variable_length_inputs:
                yield (
                    f"signature {signature.name}: requests whose {name} differ in width fail "
                    "together once they are merged: set pad_variable_length_inputs, if what is "
                    "padded does not count"
                )
            elif "mask" in name:
                yield (
                    f"signature {signature.name}: pad_variable_length_inputs pads {name} with its "
                    "first element, so padding counts: export again, for from_ids with num_tokens"
                )
        if batching.enable_large_batch_splitting.value:
            for name, tensor in sorted(signature.outputs.items()):
                if not tensor.shape or None in tensor.shape[1:]:
                    yield (
                        f"signature {signature.name}: {name} has no fixed width, so the parts of a "
                        "request that enable_large_batch_splitting has split may not fit together, "
                        "which kills a server: export again, or delete that line"
                    )


def _find_missing_assets(directory: Path, meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    for asset in meta_graph.asset_file_def:
        if not (directory / "assets" / asset.filename).exists():
            yield f"assets/{asset.filename} is missing"


def _find_lost_requests(requests: list, signatures: set[str]) -> Iterator[str]:
    """Finds warm-up requests to signatures that are not there: they fail the load."""
    for number, request in enumerate(requests):
        kind = request.WhichOneof("log_type")
        asked = getattr(request, kind).request
        for each in asked.tasks if kind == "multi_inference_log" else [asked]:
            name = each.model_spec.signature_name or SERVING_DEFAULT
            if name not in signatures:
                yield (
                    f"{WARMUP_FILE}: record {number} is for the signature {name}, which is not "
                    "there"
                )


def _find_absolute_paths(directory: Path) -> set[str]:
    paths: set[str] = set()
    for file in directory.rglob("*"):
        # Not the weights, which are numbers; and an empty file cannot be mapped.
        if not file.is_file() or ".data-" in file.name or not file.stat().st_size:
            continue
        with (
            file.open("rb") as opened,  # mapped, as an asset may be larger than the memory
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as contents,
        ):
            found = _ABSOLUTE_PATH.findall(contents)
        paths.update(f"{path.decode()} ({file.relative_to(directory)})" for path in found)
    return paths


def _measure(directory: Path) -> dict[str, int]:
    return {
        str(file.relative_to(directory)): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
