"""Edits a SavedModel's graph for servers, after TensorFlow has written it."""

from pathlib import Path

from tensorflow.python.saved_model import fingerprinting_utils

from distilbert_serving import signatures as names
from distilbert_serving.protos import meta_graph_pb2, saved_model_pb2

_UNWANTED = ("debug_name", "_gradient_op_type")  # attributes of nodes


def edit_graph(directory: Path) -> None:
    """Makes the graph fit for every server and every call.

    Signatures that take serialized examples then read one input tensor. TensorFlow gives each its
    own, but MultiInference runs several of them on the same examples in one run of the graph, and
    TF Serving refuses those that do not share their input.

    Attributes that would only fill logs go: the names of variables for debugging, which servers
    before 2.15 do not know, and the names of gradients, of which `tf.saved_model.load` says for
    each function that they were not saved.

    Args:
        directory: A SavedModel that TensorFlow has just written; its file is replaced.

    Reference:
        tensorflow_serving/servables/tensorflow/multi_inference.cc.
    """
    path = directory / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString(path.read_bytes())
    (meta_graph,) = saved_model.meta_graphs
    _share_example_input(meta_graph)
    functions = meta_graph.graph_def.library.function
    for nodes in (meta_graph.graph_def.node, *(function.node_def for function in functions)):
        for node in nodes:
            for name in _UNWANTED:
                node.attr.pop(name, None)
    path.write_bytes(saved_model.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(directory))


def _share_example_input(meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    infos = [
        signature.inputs[names.EXAMPLES]
        for _, signature in sorted(meta_graph.signature_def.items())
        if list(signature.inputs) == [names.EXAMPLES]
    ]
    if not infos:
        return
    shared, *others = infos
    shared_node = _node_of(shared.name)
    obsolete = {_node_of(info.name) for info in others} - {shared_node}
    for info in others:
        info.name = shared.name
    kept = [node for node in meta_graph.graph_def.node if node.name not in obsolete]
    for node in kept:
        node.input[:] = [
            shared_node if _node_of(tensor) in obsolete else tensor for tensor in node.input
        ]
    del meta_graph.graph_def.node[:]
    meta_graph.graph_def.node.extend(kept)


def _node_of(tensor: str) -> str:
    """Returns the name of the node that a tensor comes from."""
    return tensor.split(":")[0]
