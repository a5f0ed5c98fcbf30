"""What a SavedModel's signatures take and return, and which calls of TF Serving they answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from distilbert_serving import signatures as names
from distilbert_serving.protos import meta_graph_pb2
from distilbert_serving.signatures import TensorInfo
from distilbert_serving.tensors import read_signature

_PREFIX = "tensorflow/serving/"  # of the method's name in a signature


@dataclass(frozen=True)
class SignatureContract:
    """A signature.

    Attributes:
        name: Its name.
        inputs: By name.
        outputs: By name.
        method: What it is made for by its own word: "predict", "classify" or "regress".
        calls: What it can answer: "predict", "classify", "regress".
        unbatched: Why a server cannot merge requests to it, a sentence for each tensor; none if it
            can.
    """

    name: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method: str
    calls: list[str]
    unbatched: list[str]


def describe_signatures(meta_graph: meta_graph_pb2.MetaGraphDef) -> list[SignatureContract]:
    """Describes the signatures of a graph, without TensorFlow's own for the initialisation."""
    return [
        _describe(name, signature)
        for name, signature in sorted(meta_graph.signature_def.items())
        if not name.startswith("__")
    ]


def find_contract_faults(signature: SignatureContract) -> Iterator[str]:
    """Finds why a signature cannot answer the call that its name or method promises.

    Classify and Regress take one input, `inputs`, of serialized tf.Example. Classify returns
    `classes`, `scores` or both, a row for each example; Regress `outputs`, a number for each.
    """
    for call in (names.CLASSIFY, names.REGRESS):
        is_promised = signature.method == call or names.is_named_for(signature.name, call)
        if is_promised and call not in signature.calls:
            wanted = "one input, inputs: string [?]; " + (
                "outputs of classes: string [?, C], scores: float [?, C] and no other"
                if call == names.CLASSIFY
                else "one output, outputs: float [?]"
            )
            inputs, outputs = show_tensors(signature.inputs), show_tensors(signature.outputs)
            yield (
                f"signature {signature.name}: a {call} call wants {wanted}; it has inputs "
                f"{inputs}; outputs {outputs}"
            )


def show_tensors(tensors: Mapping[str, TensorInfo]) -> str:
    """Writes tensors as in "text: string [?]"."""
    return ", ".join(
        f"{name}: {tensor.dtype} {_show_shape(tensor.shape)}"
        for name, tensor in sorted(tensors.items())
    )


def _show_shape(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _describe(name: str, signature: meta_graph_pb2.SignatureDef) -> SignatureContract:
    inputs, outputs = read_signature(signature)
    method = signature.method_name.removeprefix(_PREFIX) or "predict"
    # A signature of TensorFlow 1 for one call is refused by the others; TensorFlow 2 names all
    # "predict", which every call accepts.
    can_answer = {
        "predict": True,
        names.CLASSIFY: _can_classify(inputs, outputs),
        names.REGRESS: _can_regress(inputs, outputs),
    }
    calls = [call for call, can in can_answer.items() if can and method in ("predict", call)]
    unbatched = [
        f"signature {name}: {key} has no batch dimension first"
        for key, tensor in (*sorted(inputs.items()), *sorted(outputs.items()))
        if not tensor.is_batched
    ]
    return SignatureContract(name, inputs, outputs, method, calls, unbatched)


def _fit(tensors: Mapping[str, TensorInfo], contract: Mapping[str, TensorInfo]) -> bool:
    """Says whether there are tensors, and the contract has all of them."""
    return bool(tensors) and all(
        name in contract and tensor.fits(contract[name]) for name, tensor in tensors.items()
    )


def _can_classify(inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo]) -> bool:
    return _fit(inputs, names.INPUTS["examples"]) and _fit(outputs, names.OUTPUTS[names.CLASSIFY])


def _can_regress(inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo]) -> bool:
    contract = names.OUTPUTS[names.REGRESS]
    columns = {name: TensorInfo(info.dtype, (None, 1)) for name, info in contract.items()}
    return _fit(inputs, names.INPUTS["examples"]) and (
        _fit(outputs, contract) or _fit(outputs, columns)
    )
