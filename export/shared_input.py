"""Lets TF Serving's MultiInference ask several signatures at once.

That call runs Classify and Regress signatures on one list of examples, in one run of the graph, and
the server refuses signatures that do not read the same input tensor. TensorFlow gives every
signature a tensor of its own, so the file is edited after it is written. Only the graph that
servers and sessions run is touched; the functions that `tf.saved_model.load` calls are apart.

Reference: tensorflow_serving/servables/tensorflow/multi_inference.cc.
"""

from pathlib import Path

from tensorflow.python.saved_model import fingerprinting_utils

from export import signatures as names
from export.protos import meta_graph_pb2, saved_model_pb2


def share_example_input(directory: Path) -> list[str]:
    """Makes all signatures that take serialized examples read one input tensor.

    Args:
        directory: A SavedModel that TensorFlow has just written; its file is replaced.

    Returns:
        The names of those signatures.
    """
    path = directory / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString(path.read_bytes())
    (meta_graph,) = saved_model.meta_graphs
    found = sorted(
        name
        for name, signature in meta_graph.signature_def.items()
        if list(signature.inputs) == [names.EXAMPLES]
    )
    if len(found) > 1:
        _share(meta_graph, found)
        path.write_bytes(saved_model.SerializeToString(deterministic=True))
        fingerprinting_utils.write_fingerprint(str(directory))
    return found


def _share(meta_graph: meta_graph_pb2.MetaGraphDef, signature_names: list[str]) -> None:
    inputs = [meta_graph.signature_def[name].inputs[names.EXAMPLES] for name in signature_names]
    shared, *others = inputs
    obsolete = {_node(info.name) for info in others} - {_node(shared.name)}
    for node in meta_graph.graph_def.node:
        node.input[:] = [
            _node(shared.name) if _node(tensor) in obsolete else tensor for tensor in node.input
        ]
    for info in others:
        info.name = shared.name
    kept = [node for node in meta_graph.graph_def.node if node.name not in obsolete]
    del meta_graph.graph_def.node[:]
    meta_graph.graph_def.node.extend(kept)


def _node(tensor: str) -> str:
    """Gives the name of the node that a tensor comes from."""
    return tensor.split(":")[0]
