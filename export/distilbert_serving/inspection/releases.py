"""Can a server release load a graph? Compares each node with what the release knows.

A server refuses a graph with an op that it does not know, and a node with a value that its op does
not allow. An attribute that it does not know it ignores, and computes as if that had its default
value. Where it has no kernel for a node's types it fails, often only at the first request.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from distilbert_serving.inspection.op_registry import Release, load_releases
from distilbert_serving.inspection.saved_model_files import Place, walk_nodes
from distilbert_serving.protos import attr_value_pb2, kernel_def_pb2, meta_graph_pb2, op_def_pb2
from distilbert_serving.tensors import data_type_name

AttrValue: TypeAlias = attr_value_pb2.AttrValue

# Kinds of value that a release can object to; tensors, shapes and functions are the graph's own.
_COMPARED = ("type", "list", "s", "i", "b", "f")
# Attributes that change no result, so it does not matter that older releases ignore them.
_NAMES_ONLY = {("VarHandleOp", "debug_name")}


class NodeKind(NamedTuple):
    """An op with its attributes: a server can load all nodes of one kind, or none.

    Attributes:
        op: The op's name.
        attributes: Name and serialized value; None for values that don't matter.
    """

    op: str
    attributes: tuple[tuple[str, bytes | None], ...]


def find_kinds(meta_graph: meta_graph_pb2.MetaGraphDef) -> dict[NodeKind, Place]:
    """Returns the kinds of nodes in a graph and its functions, each with the first one's place."""
    functions = {f.signature.name for f in meta_graph.graph_def.library.function}
    kinds: dict[NodeKind, Place] = {}
    for node, place in walk_nodes(meta_graph):
        if node.op in functions:  # a call
            continue
        attributes = (
            (name, value.SerializeToString() if value.WhichOneof("value") in _COMPARED else None)
            for name, value in node.attr.items()
            if not name.startswith("_")  # no op declares those, and no release checks them
        )
        kinds.setdefault(NodeKind(node.op, tuple(sorted(attributes))), place)
    return kinds


def find_misfits(
    meta_graph: meta_graph_pb2.MetaGraphDef, kinds: Mapping[NodeKind, Place], release: Release
) -> list[str]:
    """Lists what a release cannot load or run in a graph.

    Args:
        meta_graph: The graph.
        kinds: See `find_kinds`.
        release: The server's release.

    Returns:
        A sentence for each reason; none if the release can load it.
    """
    places: dict[tuple[str, str], list[Place]] = {}
    for kind, place in kinds.items():
        for reason in _compare_kind(kind, release):
            places.setdefault((kind.op, reason), []).append(place)
    return [
        *_compare_versions(meta_graph, release),
        *(
            f"op {op}, at {where[0]}{_count_others(where)}: {reason}"
            for (op, reason), where in places.items()
        ),
    ]


def _count_others(places: list[Place]) -> str:
    return f" and {len(places) - 1} more" if len(places) > 1 else ""


def find_ignored(kinds: Mapping[NodeKind, Place], release: Release) -> list[str]:
    """Names attributes that a release does not know, and that change no result.

    At load it writes a line about them to its log, at the level of errors.
    """
    present = {(kind.op, name) for kind in kinds for name, _ in kind.attributes}
    known = {(op, a.name) for op, _ in _NAMES_ONLY for a in release.ops[op].attr}
    return sorted(f"{op}.{name}" for op, name in (present & _NAMES_ONLY) - known)


def find_first_release(
    meta_graph: meta_graph_pb2.MetaGraphDef, kinds: Mapping[NodeKind, Place]
) -> Release | None:
    """Returns the first release that can load a graph; None if no known one can."""
    for release in load_releases():
        if not find_misfits(meta_graph, kinds, release):
            return release
    return None


def _compare_versions(meta_graph: meta_graph_pb2.MetaGraphDef, release: Release) -> Iterator[str]:
    versions = meta_graph.graph_def.versions
    if versions.min_consumer > release.graph_version:
        yield (
            f"the graph asks for GraphDef version {versions.min_consumer} or newer, and TF Serving "
            f"{release.name} has {release.graph_version}"
        )
    if release.graph_version in versions.bad_consumers:
        yield f"the graph refuses GraphDef version {release.graph_version}"


def _compare_kind(kind: NodeKind, release: Release) -> Iterator[str]:
    definition = release.ops.get(kind.op)
    if definition is None:
        yield _explain_missing_op(kind.op, release)
        return
    declared = {attribute.name: attribute for attribute in definition.attr}
    values = {name: AttrValue.FromString(value or b"") for name, value in kind.attributes}
    for name in sorted(values.keys() - declared.keys()):
        if (kind.op, name) not in _NAMES_ONLY:
            yield from _explain_missing_attribute(kind.op, name, values[name], release)
    for name, attribute in declared.items():
        if name not in values:
            if not attribute.HasField("default_value"):
                yield f"it lacks the attribute {name}, which TF Serving {release.name} wants"
            values[name] = attribute.default_value
        yield from _compare_value(attribute, values[name], release)
    kernels = release.kernels.get(kind.op, ())
    if not kernels:
        yield f"TF Serving {release.name} cannot compute it on a CPU"
    elif not any(_fits(kernel, values) for kernel in kernels):
        yield (f"TF Serving {release.name} cannot compute it on a CPU for {_show_types(values)}")


def _explain_missing_op(op: str, release: Release) -> str:
    if later := [each.name for each in load_releases() if op in each.ops]:
        return f"TF Serving {release.name} does not have it; {later[0]} is the first that has"
    if ">" in op:
        return "a custom op, which no stock server has"
    return "neither TensorFlow's nor TensorFlow Text's: a custom op, which no stock server has"


def _explain_missing_attribute(
    op: str, name: str, value: AttrValue, release: Release
) -> Iterator[str]:
    later = [
        (each.name, attribute)
        for each in load_releases()
        if op in each.ops
        for attribute in each.ops[op].attr
        if attribute.name == name
    ]
    if later and later[0][1].default_value == value:
        return  # as the release computes anyway
    since = f"{later[0][0]} is the first that does" if later else "no release does"
    yield (
        f"TF Serving {release.name} does not know its attribute {name} and would ignore it; {since}"
    )


def _compare_value(
    attribute: op_def_pb2.OpDef.AttrDef, value: AttrValue, release: Release
) -> Iterator[str]:
    types = _types_of(value)
    for number in sorted(set(types) - release.data_types):
        yield f"TF Serving {release.name} does not know {data_type_name(number)}"
    allowed = attribute.allowed_values.list
    if allowed.type:
        for number in sorted(set(types) & release.data_types - set(allowed.type)):
            yield (
                f"TF Serving {release.name} does not allow {data_type_name(number)} for its "
                f"attribute {attribute.name}"
            )
    if allowed.s and value.WhichOneof("value") == "s" and value.s not in allowed.s:
        yield (
            f"TF Serving {release.name} does not allow {value.s!r} for its attribute "
            f"{attribute.name}"
        )


def _types_of(value: AttrValue) -> list[int]:
    return [value.type] if value.WhichOneof("value") == "type" else list(value.list.type)


def _fits(kernel: kernel_def_pb2.KernelDef, values: Mapping[str, AttrValue]) -> bool:
    return all(
        set(_types_of(values[constraint.name])) <= set(constraint.allowed_values.list.type)
        for constraint in kernel.constraint
        if constraint.name in values and constraint.allowed_values.list.type
    )


def _show_types(values: Mapping[str, AttrValue]) -> str:
    shown = {name: [data_type_name(t) for t in _types_of(value)] for name, value in values.items()}
    return ", ".join(f"{name}={'/'.join(types)}" for name, types in sorted(shown.items()) if types)
