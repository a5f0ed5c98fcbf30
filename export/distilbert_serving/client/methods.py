"""The ways to ask a server, as a table: how rows become a request, and an answer becomes rows."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from distilbert_serving import signatures
from distilbert_serving.client import answers, requests
from distilbert_serving.protos import classification_pb2, inference_pb2, regression_pb2


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to ask.

    Args:
        rpc: The method of TF Serving's PredictionService.
        endpoint: The name of the signature, or its ending where each task has its own.
        make_request: Makes the request, from model spec and rows.
        read: Reads the answer, given the number of rows.
        limits: What a row must keep to; one that does not cannot be computed.
        no_rows: Makes the answer to no rows, from the signature if `has_inputs`, else from None.
        has_inputs: Whether the rows' names are the signature's inputs; else they are features.
    """

    rpc: str
    endpoint: str
    make_request: Callable[[Any, requests.Rows], Any]
    read: Callable[[Any, int], Any]
    limits: str
    no_rows: Callable[[Any], Any] = answers.no_rows
    has_inputs: bool = True

    def signature_of(self, task: str) -> str:
        """Names the signature that asks a task in this way.

        Args:
            task: The signature that classifies the task's texts, or the one wanted itself.
        """
        if self.endpoint in (signatures.SERVING_DEFAULT, task) or task.endswith(
            f"_{self.endpoint}"
        ):
            return task
        if self.endpoint in (signatures.ENCODE, signatures.FILL_MASK) or task in (
            signatures.SERVING_DEFAULT,
            signatures.CLASSIFY_TEXT,
        ):
            return self.endpoint
        return f"{task}_{self.endpoint}"


_TEXT_LIMITS = "a text may have no more bytes than the export's max_text_bytes"
_EXAMPLE_LIMITS = f"{_TEXT_LIMITS}, and a signature for pairs of texts needs text_pairs"

PREDICT = Method(
    "Predict",
    signatures.SERVING_DEFAULT,
    requests.predict_texts,
    answers.read_predictions,
    _TEXT_LIMITS,
)
FROM_IDS = Method(
    "Predict",
    signatures.FROM_IDS,
    requests.predict_ids,
    answers.read_predictions,
    "a row needs an id, may have no more than the model has positions, and all in its vocabulary",
)
ENCODE = Method(
    "Predict",
    signatures.ENCODE,
    requests.predict_texts,
    answers.read_embeddings,
    _TEXT_LIMITS,
)
TOKENIZE = Method(
    "Predict", signatures.TOKENIZE, requests.predict_texts, answers.read_tokens, _TEXT_LIMITS
)
FILL_MASK = Method(
    "Predict",
    signatures.FILL_MASK,
    requests.predict_texts,
    answers.read_mask_answers,
    f"{_TEXT_LIMITS}, and no more [MASK]s than its max_masks",
)
CLASSIFY = Method(
    "Classify",
    signatures.CLASSIFY,
    requests.classify,
    answers.read_classifications,
    _EXAMPLE_LIMITS,
    lambda _: classification_pb2.ClassificationResponse(),
    has_inputs=False,
)
REGRESS = Method(
    "Regress",
    signatures.REGRESS,
    requests.regress,
    answers.read_regressions,
    _EXAMPLE_LIMITS,
    lambda _: regression_pb2.RegressionResponse(),
    has_inputs=False,
)

# Those whose rows are texts, by the name of the client's method.
_TEXT_METHODS = {
    "predict": PREDICT,
    "encode": ENCODE,
    "tokenize": TOKENIZE,
    "fill_mask": FILL_MASK,
    "classify": CLASSIFY,
    "regress": REGRESS,
}


def text_method(name: str) -> Method:
    """Returns the way that a client's method of this name asks about texts.

    Raises:
        ValueError: there is none.
    """
    if name not in _TEXT_METHODS:
        raise ValueError(f"There is no method {name!r} for texts, but {[*_TEXT_METHODS]}")
    return _TEXT_METHODS[name]


def multi_inference(classify: Sequence[str], regress: Sequence[str]) -> Method:
    """Makes the way to ask several signatures at once.

    Args:
        classify: Signatures for Classify.
        regress: Signatures for Regress.

    Raises:
        ValueError: no signature is named, or one twice.
    """
    parts = dict.fromkeys(classify, CLASSIFY) | dict.fromkeys(regress, REGRESS)
    if not parts or len(parts) != len(classify) + len(regress):
        raise ValueError("Name one signature or more, each once")
    tasks = [(name, signatures.CLASSIFY_METHOD) for name in classify]
    tasks += [(name, signatures.REGRESS_METHOD) for name in regress]

    def read(response: Any, size: int) -> dict[str, Any]:
        if len(response.results) != len(tasks):
            raise ValueError(f"there are {len(response.results)} results for {len(tasks)} tasks")
        return {
            name: part.read(result, size)
            for (name, part), result in zip(parts.items(), response.results, strict=True)
        }

    return Method(
        "MultiInference",
        "",
        functools.partial(requests.multi_inference, tasks=tasks),
        read,
        _EXAMPLE_LIMITS,
        lambda _: inference_pb2.MultiInferenceResponse(
            results=[inference_pb2.InferenceResult() for _ in tasks]
        ),
        has_inputs=False,
    )
