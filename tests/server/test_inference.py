"""Classify, Regress and MultiInference over the wire, as TF Serving has them."""

import grpc
import pytest
import serving_models
import tensorflow as tf
from comparing import FEW, assert_close
from serving_models import make_example, set_spec
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

Code = grpc.StatusCode
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
METHODS = {
    classification_pb2.ClassificationRequest: "Classify",
    regression_pb2.RegressionRequest: "Regress",
    inference_pb2.MultiInferenceRequest: "MultiInference",
}
TEXTS = ["abc", "", "a longer text than that", "naïve façade"]


def fill_input(request, texts):
    request.input.example_list.SetInParent()
    for text in texts:
        request.input.example_list.examples.add().CopyFrom(make_example(text=text))


def request_of(request_class, texts=("abc",), *, signature, name="m", **spec):
    request = request_class()
    set_spec(request.model_spec, name, **spec)
    request.model_spec.signature_name = signature
    fill_input(request, texts)
    return request


def classification(texts=("abc",), signature="classify", **spec):
    return request_of(classification_pb2.ClassificationRequest, texts, signature=signature, **spec)


def regression(texts=("abc",), signature="regress", **spec):
    return request_of(regression_pb2.RegressionRequest, texts, signature=signature, **spec)


def multi(tasks, texts=("abc",)):
    request = inference_pb2.MultiInferenceRequest()
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        set_spec(task.model_spec, name)
        task.model_spec.signature_name = signature
    fill_input(request, texts)
    return request


def scores_of(result):
    return [[one.score for one in row.classes] for row in result.classifications]


def values_of(result):
    return [row.value for row in result.regressions]


def expected_scores(texts):
    return tf.nn.softmax([serving_models.logits_of(text) for text in texts]).numpy()


def sizes_of(texts):
    return [len(text.encode()) for text in texts]


def refusal(method, request):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=10)
    return caught.value.code(), caught.value.details()


def test_classify(stub):
    response = stub.Classify(classification(TEXTS), timeout=10)
    assert_close(scores_of(response.result), expected_scores(TEXTS), FEW)
    for row in response.result.classifications:
        assert [one.label for one in row.classes] == list(serving_models.LABELS)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 30, "classify")


def test_regress(stub):
    response = stub.Regress(regression(TEXTS), timeout=10)
    assert values_of(response.result) == sizes_of(TEXTS)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 30, "regress")


def test_the_context_is_merged_into_each_example(stub):
    request = classification(())
    batch = request.input.example_list_with_context
    batch.context.CopyFrom(make_example(text="from the context"))
    batch.examples.add().CopyFrom(make_example(other="x"))
    batch.examples.add().CopyFrom(make_example(text="its own"))
    scores = scores_of(stub.Classify(request, timeout=10).result)
    assert_close(scores, expected_scores(["from the context", "its own"]), FEW)


def test_multi_inference(stub):
    request = multi([("m", "regress", REGRESS), ("m", "classify", CLASSIFY)], TEXTS)
    first, second = stub.MultiInference(request, timeout=10).results
    assert values_of(first.regression_result) == sizes_of(TEXTS)
    assert_close(scores_of(second.classification_result), expected_scores(TEXTS), FEW)
    assert [first.model_spec.signature_name, second.model_spec.signature_name] == [
        "regress",
        "classify",
    ]
    assert first.model_spec.version.value == 30


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (classification_pb2.ClassificationRequest(), "Missing ModelSpec"),
        (classification(name=""), "ModelSpec has no name specified."),
        (classification(()), "Input is empty."),
        (classification(signature="none"), "No signature was found with the name: none"),
        (classification(signature=""), "Signature serving_default does not fit classify"),
        (classification(signature="regress"), "returns outputs: float"),
        (regression(()), "Input is empty."),
        (regression(signature="classify"), "Signature classify does not fit regress"),
        (regression(signature="distinct"), "it takes text: string [?]"),
        (multi([]), "Missing ModelSpec"),
        (
            multi([("m", "regress", REGRESS), ("n", "classify", CLASSIFY)]),
            "must access the same model name: got ['m', 'n']",
        ),
        (
            multi([("m", "regress", REGRESS), ("m", "regress", REGRESS)]),
            "Duplicate evaluation of signature: regress",
        ),
        (
            multi([("m", "regress", REGRESS), ("m", "nothing", CLASSIFY)]),
            "No signature was found with the name: nothing",
        ),
    ],
)
def test_what_is_invalid(stub, request_, message):
    code, details = refusal(getattr(stub, METHODS[type(request_)]), request_)
    assert code == Code.INVALID_ARGUMENT
    assert message in details


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (classification(name="other"), Code.NOT_FOUND),
        (regression(version=3), Code.NOT_FOUND),
        (multi([("m", "regress", "tensorflow/serving/predict")]), Code.UNIMPLEMENTED),
    ],
)
def test_other_codes(stub, request_, code):
    assert refusal(getattr(stub, METHODS[type(request_)]), request_)[0] == code


def test_an_example_without_the_feature_is_named(stub):
    request = classification(())
    request.input.example_list.examples.add().CopyFrom(make_example(other="x"))
    code, message = refusal(stub.Classify, request)
    assert code == Code.INVALID_ARGUMENT
    assert "text" in message
