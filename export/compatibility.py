"""What an exported graph may hold, so that every TF Serving since 2.12 can run it as it is.

The checks read the files and need no TensorFlow runtime. `stripped_op_list`, the list of ops in
saved_model.pb, is not enough: it leaves out what stands inside branches and loops, so the function
library is walked as well.
"""

import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from export.protos import meta_graph_pb2, saved_model_pb2

OLDEST_SERVER = "2.12"
SERVING_TAG = "serve"

# Core ops that TensorFlow 2.12.1 registers too. An op outside this list may be added after a look
# at that release's registry and at `_NEVER`; a test compares the list with today's registry.
_CORE_OPS = """
Abs Add AddN AddV2 All Any ArgMax ArgMin AsString Assert AssignVariableOp BatchMatMulV2
BatchMatMulV3 BiasAdd BitwiseAnd BitwiseOr BroadcastArgs BroadcastTo Bucketize Case Cast Ceil
ClipByValue ConcatV2 Const Cumsum DisableCopyOnRead DivNoNan Einsum Elu EnsureShape Equal Erf
Erfc Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod GatherNd GatherV2 Greater GreaterEqual
HashTableV2 Identity IdentityN If InTopKV2 Inv InvertPermutation LeakyRelu LeftShift Less
LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LookupTableExportV2
LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2 LowerBound MatMul MatrixBandPart Max
Maximum Mean MergeV2Checkpoints Min Minimum Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike Pack
Pad PadV2 ParseExampleV2 PartitionedCall Placeholder PlaceholderWithDefault Pow Prod
RaggedGather RaggedRange RaggedTensorToTensor Range Rank ReadVariableOp RealDiv Reciprocal Relu
Relu6 Reshape ResourceGather RestoreV2 ReverseV2 RightShift Round Rsqrt SaveV2 ScatterNd
SegmentMax SegmentSum Select SelectV2 Selu Shape ShapeN ShardedFilename Sigmoid Sign Size Slice
Softmax Softplus Softsign Split SplitV Sqrt Square SquaredDifference Squeeze
StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile StaticRegexFullMatch
StaticRegexReplace StopGradient StridedSlice StringJoin StringLength StringLower StringSplitV2
StringStrip Sub Substr Sum Tanh TensorScatterAdd TensorScatterMax TensorScatterUpdate Tile
TopKV2 Transpose UnicodeDecode UnicodeEncode UnicodeTranscode Unique UniqueV2 Unpack
UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentSum UpperBound VarHandleOp
VarIsInitializedOp Where While Xdivy ZerosLike
"""
ALLOWED_OPS = frozenset(_CORE_OPS.split())
# Why some ops can never be allowed: pattern of the name -> reason.
_NEVER = {
    r".*>.*": "a custom op, which a stock server lacks or has in another release",
    r"Xla.*|.*XLA.*": "an XLA op, which a stock server refuses",
    r".*PyFunc.*": "Python code, which no server can run",
    r"ReadFile|WriteFile|.*Dataset.*|.*Reader.*": "an op that reads files of its own",
    r"(Random|Stateless(Random|Truncated)|Multinomial).*": "a random op: dropout was left on",
}
_XLA_MARKERS = ("_XlaMustCompile", "_XlaCompile")


class CompatibilityError(ValueError):
    """A SavedModel that a stock TF Serving could not load or run."""


def check_saved_model(directory: Path, private_paths: Iterable[Path] = ()) -> frozenset[str]:
    """Checks a SavedModel's files.

    Args:
        directory: Where `saved_model.pb` is.
        private_paths: Directories of this machine that no file may name, besides the usual ones.

    Returns:
        The names of all ops in the graph.

    Raises:
        CompatibilityError: Something in it would not work on a stock server, or tells about this
            machine. The message lists every finding.
    """
    meta_graph = read_meta_graph(directory)
    ops = find_ops(meta_graph)
    problems = [
        *_find_bad_ops(meta_graph, ops),
        *_find_bad_attributes(meta_graph),
        *_find_unbatched(meta_graph),
        *_find_private_paths(directory, private_paths),
    ]
    if problems:
        listed = "\n  ".join(problems[:20])
        raise CompatibilityError(
            f"This model cannot be exported for TF Serving {OLDEST_SERVER} and newer:\n  {listed}"
        )
    return ops


def read_meta_graph(directory: Path) -> meta_graph_pb2.MetaGraphDef:
    """Reads the graph for serving out of `saved_model.pb`."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((directory / "saved_model.pb").read_bytes())
    for meta_graph in saved_model.meta_graphs:
        if SERVING_TAG in meta_graph.meta_info_def.tags:
            return meta_graph
    raise CompatibilityError(f"No graph in {directory} is tagged {SERVING_TAG!r}.")


def find_ops(meta_graph: meta_graph_pb2.MetaGraphDef) -> frozenset[str]:
    """Names the ops of a graph, those inside functions, branches and loops included."""
    functions = {f.signature.name for f in meta_graph.graph_def.library.function}
    listed = {op.name for op in meta_graph.meta_info_def.stripped_op_list.op}
    return frozenset((listed | {node.op for node, _ in _walk_nodes(meta_graph)}) - functions)


def _walk_nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[tuple]:
    """Gives every NodeDef with the name of the function it is in, "" for none."""
    for node in meta_graph.graph_def.node:
        yield node, ""
    for function in meta_graph.graph_def.library.function:
        for node in function.node_def:
            yield node, function.signature.name


def _find_bad_ops(meta_graph: meta_graph_pb2.MetaGraphDef, ops: frozenset[str]) -> Iterator[str]:
    for op in sorted(ops - ALLOWED_OPS):
        reasons = [why for pattern, why in _NEVER.items() if re.fullmatch(pattern, op)]
        reason = reasons[0] if reasons else f"not in the list of ops known to {OLDEST_SERVER}"
        nodes = [node.name for node, _ in _walk_nodes(meta_graph) if node.op == op]
        where = f", at {nodes[0]!r}" if nodes else ""
        yield f"op {op}{where}: {reason}"


def _find_bad_attributes(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    for function in meta_graph.graph_def.library.function:
        if any(function.attr[marker].b for marker in _XLA_MARKERS if marker in function.attr):
            yield f"function {function.signature.name}: marked for XLA (jit_compile=True)"
    for node, _ in _walk_nodes(meta_graph):
        if any(node.attr[marker].b for marker in _XLA_MARKERS if marker in node.attr):
            yield f"node {node.name!r}: marked for XLA (jit_compile=True)"
        if node.device and "CPU" not in node.device.upper():
            yield f"node {node.name!r}: bound to {node.device}, which a server may lack"


def _find_unbatched(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """Finds inputs and outputs that TF Serving could not merge into batches."""
    for name, signature in meta_graph.signature_def.items():
        if name.startswith("__"):  # TensorFlow's own, for the initialisation
            continue
        tensors = [*signature.inputs.items(), *signature.outputs.items()]
        for tensor_name, info in tensors:
            shape = info.tensor_shape
            if shape.unknown_rank or not shape.dim or shape.dim[0].size != -1:
                yield f"signature {name}: {tensor_name} has no batch dimension first"


def _find_private_paths(directory: Path, private_paths: Iterable[Path]) -> Iterator[str]:
    # Not Path.home(), which raises for a user without an entry, as in many containers.
    usual = [Path.cwd(), Path(os.path.expanduser("~")), Path(__file__).parent]
    usual += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    paths = {path.absolute() for path in (*private_paths, *usual)}
    patterns = {path: re.compile(_path_pattern(path)) for path in paths if path.name}
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        if ".data-" in file.name:  # the weights: numbers
            continue
        contents = file.read_bytes()
        for path, pattern in patterns.items():
            if pattern.search(contents):
                yield f"{file.relative_to(directory)}: names a directory of this machine, {path}"


def _path_pattern(path: Path) -> bytes:
    name = re.escape(str(path).encode())
    # A short path such as "/root" also occurs inside the names of nodes ("encoder/root/add").
    return name if len(path.parts) > 2 else rb"(?<![\w.-])" + name + rb"/"
