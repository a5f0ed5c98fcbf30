"""Every method of the clients, of threads and of asyncio, against answers worked out by hand."""

import fake_serving
import numpy as np
import pytest
from distilbert_serving.client.predict_client import PredictError
from distilbert_serving.client.results import MaskAnswer

TEXTS = ["tea", "", "a kettle of tea", "naïve", "nul\x00", "so it goes", "ok"]


@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 1), (3, 1), (1, 3), (2, 2), (99, 9)])
def test_predict(serve, batch_size, concurrency):
    client, servicer = serve()
    answers = client.predict(TEXTS, batch_size=batch_size, concurrency=concurrency)
    logits = np.stack([fake_serving.logits_of(text) for text in TEXTS])
    np.testing.assert_array_equal(answers.logits, logits)
    assert answers.label_ids.tolist() == logits.argmax(1).tolist() == [0, 0, 1, 1, 0, 1, 0]
    assert answers.labels == [fake_serving.LABELS[i] for i in answers.label_ids]
    assert len(servicer.requests) == -(-7 // batch_size)
    one = client.predict("a kettle of tea")
    assert (one.label, one.label_id) == ("länger", 1)
    assert one.to_dict() == answers.to_list()[2]
    assert one.to_dict()["logits"] == [-9.5, 9.5]


def test_requests_at_once(serve):
    client, servicer = serve(*[0.05] * 12)
    numbers = [str(n) * n for n in range(12)]
    answers = client.predict(numbers, batch_size=1, concurrency=4)
    expected = [fake_serving.logits_of(number)[1] for number in numbers]
    assert answers.logits[:, 1].tolist() == expected
    assert 2 <= servicer.most_active <= 4


def test_encode(serve):
    client, _ = serve()
    answers = client.encode(TEXTS, batch_size=3)
    sizes = [len(text.encode()) for text in TEXTS]
    assert answers.cls.tolist() == [[size, 0.5, -1.0] for size in sizes]
    np.testing.assert_array_equal(answers.mean, 2 * answers.cls)
    assert client.encode("tea").to_dict() == {"cls": [3.0, 0.5, -1.0], "mean": [6.0, 1.0, -2.0]}
    assert client.encode([]).mean.shape == (0, 3)
    assert [row.cls[0] for row in answers] == sizes


def test_tokenize_takes_the_padding_off(serve):
    client, _ = serve()
    rows = client.tokenize(["so it goes", "", "naïve"])
    assert [row.tokens for row in rows] == [
        ["[CLS]", "so", "it", "goes"],
        ["[CLS]"],
        ["[CLS]", "naïve"],
    ]
    assert [row.input_ids for row in rows] == [[5, 2, 2, 4], [5], [5, 6]]
    assert rows[2].to_dict()["attention_mask"] == [1, 1]
    assert client.tokenize([]) == []


def test_fill_mask(serve):
    client, _ = serve()
    two, none = client.fill_mask(["[MASK] or not [MASK]", "no mask"])
    assert none == []
    assert two == [[MaskAnswer("bé", m, 0.5), MaskAnswer("to", 9, 0.25)] for m in range(2)]
    assert client.fill_mask("none") == []


def test_from_ids_pads(serve):
    client, servicer = serve()
    answers = client.from_ids([[1, 2], [1, 2, 7], [5]])
    assert answers.logits[:, 1].tolist() == [-2.5, 4.5, -0.5]
    assert servicer.requests[-1].inputs["input_ids"].tensor_shape.dim[1].size == 3
    assert client.from_ids(np.array([4, 4, 9]), [1, 1, 0]).label == "länger"
    assert len(client.from_ids([])) == 0
    asked = len(servicer.requests)
    for ids, mask, message in [
        ([[1, 2]], [[1]], r"attention_mask\[0\] must have a value for each of the 2 ids"),
        ([[1], [1, 2]], [[1], [0, 1]], r"attention_mask\[1\] must be ones followed by zeros"),
        ([1, 2], [2, 0], r"attention_mask\[0\] must be ones"),
        ([[1]], [[1], [1]], "There are 1 input_ids, but 2 rows of the mask"),
        ([[1], [2.5]], None, r"input_ids\[1\] must be a list of integers, not \[2.5\]"),
        ([[1], [[2]]], None, r"input_ids\[1\] must be a list of integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            client.from_ids(ids, mask)
    assert len(servicer.requests) == asked


def test_classify_and_regress(serve):
    client, servicer = serve()
    answers = client.classify(TEXTS, batch_size=4)
    np.testing.assert_array_equal(answers.scores, [fake_serving.logits_of(t) for t in TEXTS])
    assert answers.classes == [fake_serving.LABELS] * 7
    assert answers.labels[:3] == ["kurz", "kurz", "länger"]
    one = client.classify("a", "bb")
    assert (one.label, one.score) == ("länger", 15.5)
    assert client.regress(TEXTS) == [len(text.encode()) for text in TEXTS]
    assert client.regress("a", "bb") == 21.0
    assert servicer.requests[0].model_spec.signature_name == "classify"
    asked = len(servicer.requests)
    assert client.classify([]).scores.shape == (0, 0)
    assert client.regress([]) == []
    assert len(servicer.requests) == asked, "TF Serving refuses requests without examples"


def test_multi_inference(serve):
    client, _ = serve()
    answers = client.multi_inference(
        TEXTS, classify=["classify", "mnli_classify"], regress=["regress"], batch_size=5
    )
    assert list(answers) == ["classify", "mnli_classify", "regress"]
    assert answers["mnli_classify"].to_list() == client.classify(TEXTS).to_list()
    assert answers["regress"] == client.regress(TEXTS)
    assert client.multi_inference("tea", regress=["regress"]) == {"regress": 3.0}
    assert client.multi_inference([], regress=["regress"]) == {"regress": []}
    for names in [{}, {"classify": ["x"], "regress": ["x"]}]:
        with pytest.raises(ValueError, match="one signature or more, each once"):
            client.multi_inference("tea", **names)


def test_a_task_has_its_own_endpoints(serve):
    client, servicer = serve(signature_name="mnli")
    assert client.predict("a", "b").logits[1] == 5.5
    assert client.tokenize("a b", "c").tokens == ["[CLS]", "a", "b", "c"]
    client.classify("a", "b")
    client.regress("a", "b", signature_name="other")
    client.encode("a")
    names = [request.model_spec.signature_name for request in servicer.requests]
    assert names == ["mnli", "mnli_tokenize", "mnli_classify", "other", "encode"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_stream(serve, concurrency):
    client, _ = serve()
    texts = ("x" * number for number in range(20))
    answers = list(client.stream(texts, "regress", batch_size=3, concurrency=concurrency))
    assert answers == list(range(20))
    pairs = [("a", "b"), ("", "c")]
    assert [answer.score for answer in client.stream(pairs, "classify")] == [5.5, 4.5]
    with pytest.raises(ValueError, match="Row 1 is 'alone': all must be"):
        list(client.stream([("a", "b"), "alone"]))
    assert list(client.stream([])) == []


def test_wrong_texts_are_named(serve):
    client, servicer = serve()
    with pytest.raises(ValueError, match=r"texts\[1\] must be str or bytes, not int"):
        client.predict(["a", 3])
    with pytest.raises(ValueError, match=r"texts\[0\] is not Unicode.* position 2"):
        client.regress("ab\ud800")
    with pytest.raises(TypeError, match="no options .*'batchsize'"):
        client.predict("a", batchsize=3)
    with pytest.raises(ValueError, match="concurrency must be at least 1, not 0"):
        client.predict("a", concurrency=0)
    with pytest.raises(ValueError, match=r"no method 'from_ids' for texts, but \['predict', 'enc"):
        list(client.stream(["a"], "from_ids"))
    with pytest.raises(PredictError, match="no signature 'sst3', but"):
        client.tokenize("a", signature_name="sst3")
    assert servicer.requests == []


def _without_logits(answer):
    del answer.outputs["logits"]


def _short(answer):
    answer.outputs["logits"].tensor_shape.dim[0].size = 1


def _fewer(answer):
    answer.result.classifications.pop()


def _uneven(answer):
    answer.result.classifications[0].classes.pop()


def _numbers(answer):
    answer.outputs["label"].CopyFrom(answer.outputs["label_id"])


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("predict", _without_logits, "output 'logits' is missing; there are"),
        ("predict", _short, "output 'logits': shape .* has 2 elements"),
        ("predict", _numbers, "output 'label' is int32 of rank 1, not string of"),
        ("classify", _fewer, "classifications has 1 rows, but 2 were sent"),
        ("classify", _uneven, "the rows' classes are not equally many"),
    ],
)
def test_broken_answers_are_the_servers_errors(serve, method, change, message):
    client, servicer = serve(change)
    with pytest.raises(PredictError, match=f"gave INTERNAL: the answer cannot be read: {message}"):
        getattr(client, method)(["a", "b"])
    assert len(getattr(client, method)(["a", "b"])) == 2
    assert len(servicer.requests) == 2


def test_an_older_export_does_not_tell_the_label_id(serve):
    client, _ = serve(lambda answer: answer.outputs.pop("label_id"))
    assert client.predict(["tea", "kettles"]).label_ids.tolist() == [0, 1]
