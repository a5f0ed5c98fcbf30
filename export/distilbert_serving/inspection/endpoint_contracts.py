"""What a SavedModel's signatures take and give, and which calls of TF Serving they can answer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from distilbert_serving.protos import meta_graph_pb2
from distilbert_serving.tensors import data_type_name

_PREFIX = "tensorflow/serving/"  # of the method's name in a signature
_EXAMPLES = ("inputs", "string")
_CLASSES, _SCORES = ("classes", "string"), ("scores", "float")
_REGRESSION = ("outputs", "float")


@dataclass(frozen=True)
class TensorContract:
    """An input or output.

    Attributes:
        data_type: As "string" or "float".
        shape: Its dimensions, None for one of any size; None if even their number is unknown.
    """

    data_type: str
    shape: tuple[int | None, ...] | None


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
    inputs: dict[str, TensorContract]
    outputs: dict[str, TensorContract]
    method: str
    calls: list[str]
    unbatched: list[str]


def describe_signatures(meta_graph: meta_graph_pb2.MetaGraphDef) -> list[SignatureContract]:
    """Describes the signatures of a graph, TensorFlow's own for the initialisation left out."""
    return [
        _describe(name, signature)
        for name, signature in sorted(meta_graph.signature_def.items())
        if not name.startswith("__")
    ]


def find_contract_faults(signature: SignatureContract) -> Iterator[str]:
    """Finds why a signature cannot answer the call that its name or method promises.

    Classify and Regress take one input, `inputs`, of serialized tf.Example. Classify gives
    `classes`, `scores` or both, a row for each example; Regress gives `outputs`, a number for each.
    """
    named = re.fullmatch(r"(?:.*_)?(classify|regress)", signature.name)
    promised = {signature.method} | ({named[1]} if named else set())
    for call in sorted(promised - {"predict"} - set(signature.calls)):
        wanted = "one input, inputs: string [?]; " + (
            "outputs of classes: string [?, C], scores: float [?, C] and no other"
            if call == "classify"
            else "one output, outputs: float [?]"
        )
        has = f"inputs {show_tensors(signature.inputs)}; outputs {show_tensors(signature.outputs)}"
        yield f"signature {signature.name}: a {call} call wants {wanted}; it has {has}"


def show_tensors(tensors: dict[str, TensorContract]) -> str:
    """Writes tensors as in "text: string [?]"."""
    return ", ".join(
        f"{name}: {tensor.data_type} {_show_shape(tensor.shape)}"
        for name, tensor in sorted(tensors.items())
    )


def _show_shape(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _describe(name: str, signature: meta_graph_pb2.SignatureDef) -> SignatureContract:
    inputs = {key: _read_tensor(info) for key, info in signature.inputs.items()}
    outputs = {key: _read_tensor(info) for key, info in signature.outputs.items()}
    method = signature.method_name.removeprefix(_PREFIX) or "predict"
    calls = []
    # A signature of TensorFlow 1 for one call is refused by the others; TensorFlow 2 names all
    # "predict", which every call accepts.
    if method == "predict":
        calls.append("predict")
    if method in ("predict", "classify") and _can_classify(inputs, outputs):
        calls.append("classify")
    if method in ("predict", "regress") and _can_regress(inputs, outputs):
        calls.append("regress")
    unbatched = [
        f"signature {name}: {key} has no batch dimension first"
        for key, tensor in (*sorted(inputs.items()), *sorted(outputs.items()))
        if not tensor.shape or tensor.shape[0] is not None
    ]
    return SignatureContract(name, inputs, outputs, method, calls, unbatched)


def _read_tensor(info: meta_graph_pb2.TensorInfo) -> TensorContract:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    encoding = info.WhichOneof("encoding")
    data_type = data_type_name(info.dtype)
    if encoding in ("coo_sparse", "composite_tensor"):
        data_type = f"{encoding.removesuffix('_tensor').removeprefix('coo_')} {data_type}"
    return TensorContract(data_type, shape)


def _has(tensors: dict[str, TensorContract], wanted: tuple[str, str], ranks: tuple) -> bool:
    name, data_type = wanted
    tensor = tensors.get(name)
    return (
        tensor is not None
        and tensor.data_type == data_type
        and (tensor.shape is None or len(tensor.shape) in ranks)
    )


def _takes_examples(inputs: dict[str, TensorContract]) -> bool:
    return len(inputs) == 1 and _has(inputs, _EXAMPLES, ranks=(1,))


def _can_classify(inputs: dict[str, TensorContract], outputs: dict[str, TensorContract]) -> bool:
    kinds = (_CLASSES, _SCORES)
    given = [kind for kind in kinds if _has(outputs, kind, ranks=(2,))]
    return _takes_examples(inputs) and bool(given) and len(given) == len(outputs)


def _can_regress(inputs: dict[str, TensorContract], outputs: dict[str, TensorContract]) -> bool:
    return (
        _takes_examples(inputs) and len(outputs) == 1 and _has(outputs, _REGRESSION, ranks=(1, 2))
    )
