"""What the clients can ask a server for, as a table: how rows are sent, and responses read."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from distilbert_serving import signatures
from distilbert_serving.client import requests, responses
from distilbert_serving.protos import classification_pb2, inference_pb2, regression_pb2


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Something to ask for.

    Args:
        rpc: The method of TF Serving's PredictionService.
        name: The signature's name, or its ending where each task has its own.
        make_request: Makes the request, from model spec and rows.
        read: Reads the response, given the number of rows.
        limits: What a row must keep to; one that does not cannot be computed.
        empty: The response to no rows; None for Predict, where it depends on the signature.
    """

    rpc: str
    name: str
    make_request: Callable[[Any, requests.Rows], Any]
    read: Callable[[Any, int], Any]
    limits: str
    empty: Any = None

    def signature_for(self, task: str) -> str:
        """Names the signature to ask about a task, or about the task of a signature."""
        if self.name == signatures.SERVING_DEFAULT or signatures.is_named_for(task, self.name):
            return task
        if self.name in (signatures.ENCODE, signatures.FILL_MASK) or task in (
            signatures.SERVING_DEFAULT,
            signatures.CLASSIFY_TEXT,
        ):
            return self.name
        return signatures.signature_of(task, self.name)


_TEXT_LIMITS = "a text may have no more bytes than the export's max_text_bytes"
_EXAMPLE_LIMITS = f"{_TEXT_LIMITS}, and a signature for pairs of texts needs text_pairs"

_predict_texts = functools.partial(Endpoint, "Predict", make_request=requests.predict_texts)

PREDICT = _predict_texts(
    name=signatures.SERVING_DEFAULT, read=responses.read_predictions, limits=_TEXT_LIMITS
)
ENCODE = _predict_texts(name=signatures.ENCODE, read=responses.read_embeddings, limits=_TEXT_LIMITS)
TOKENIZE = _predict_texts(name=signatures.TOKENIZE, read=responses.read_tokens, limits=_TEXT_LIMITS)
FILL_MASK = _predict_texts(
    name=signatures.FILL_MASK,
    read=responses.read_mask_answers,
    limits=f"{_TEXT_LIMITS}, and no more [MASK]s than its max_masks",
)
FROM_IDS = Endpoint(
    "Predict",
    signatures.FROM_IDS,
    requests.predict_ids,
    responses.read_predictions,
    "a row needs an id, may have no more than the model has positions, and all in its vocabulary",
)
CLASSIFY = Endpoint(
    "Classify",
    signatures.CLASSIFY,
    requests.classify,
    responses.read_classifications,
    _EXAMPLE_LIMITS,
    classification_pb2.ClassificationResponse(),
)
REGRESS = Endpoint(
    "Regress",
    signatures.REGRESS,
    requests.regress,
    responses.read_regressions,
    _EXAMPLE_LIMITS,
    regression_pb2.RegressionResponse(),
)

# Those whose rows are texts, by the name of the client's method.
_TEXT_ENDPOINTS = {
    "predict": PREDICT,
    "encode": ENCODE,
    "tokenize": TOKENIZE,
    "fill_mask": FILL_MASK,
    "classify": CLASSIFY,
    "regress": REGRESS,
}


def text_endpoint(method: str) -> Endpoint:
    """Returns what a client's method of this name asks for; a ValueError names those there are."""
    if method not in _TEXT_ENDPOINTS:
        raise ValueError(f"There is no method {method!r} for texts, but {[*_TEXT_ENDPOINTS]}")
    return _TEXT_ENDPOINTS[method]


def multi_inference(classify: Sequence[str], regress: Sequence[str]) -> Endpoint:
    """Makes an endpoint of several signatures, some for Classify and some for Regress."""
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

    return Endpoint(
        "MultiInference",
        "",
        functools.partial(requests.multi_inference, tasks=tasks),
        read,
        _EXAMPLE_LIMITS,
        inference_pb2.MultiInferenceResponse(results=[{}] * len(tasks)),
    )
