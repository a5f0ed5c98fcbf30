"""The text-classification pipeline against hand computation and direct calls."""

import itertools

import numpy as np
import pytest
from comparing import FEW, largest, near, roundings
from tiny_pipelines import (
    POSITIONS,
    SENTENCES,
    constant_classifier,
    softmax,
)

from distilbert_tf.pipelines import pipeline

LOGITS = 1.6  # the size of those that have their probabilities by hand: log(5)


@pytest.fixture(scope="module")
def classify(classifier, tokenizer):
    return pipeline("sentiment-analysis", classifier, tokenizer, batch_size=4)


class TestClassificationByHand:
    @pytest.fixture(scope="class")
    def model(self):
        names = {0: "no", 1: "perhaps", 2: "yes"}
        return constant_classifier([np.log(1), np.log(5), np.log(2)], id2label=names)

    @pytest.fixture(scope="class")
    def two_labels(self, tokenizer):
        model = constant_classifier([np.log(3), np.log(1 / 4)])
        return pipeline("text-classification", model, tokenizer)

    ALL = (("perhaps", 5 / 8), ("yes", 2 / 8), ("no", 1 / 8))

    def check(self, found: list[dict], count: int) -> None:
        assert [set(one) for one in found] == [{"label", "score"}] * count
        assert [one["label"] for one in found] == [label for label, _ in self.ALL[:count]]
        scores = [one["score"] for one in found]
        assert all(type(score) is float for score in scores)
        assert scores == near([score for _, score in self.ALL[:count]], FEW, size=LOGITS)

    def test_shapes_without_top_k(self, model, tokenizer):
        classify = pipeline("text-classification", model, tokenizer)
        self.check(classify("Rain again."), 1)  # a string: a list
        self.check([classify({"text": "Rain again.", "text_pair": "Good soup!"})], 1)  # no list
        self.check(classify(["Rain again."]), 1)
        assert len(classify(SENTENCES)) == len(SENTENCES)
        assert classify([]) == []

    def test_shapes_with_top_k_in_the_call(self, model, tokenizer):
        classify = pipeline("text-classification", model, tokenizer)
        self.check(classify("Rain again.", top_k=None), 3)
        self.check(classify("Rain again.", top_k=1), 1)
        self.check(classify({"text": "Rain again."}, top_k=2), 2)
        (only,) = classify(["Rain again."], top_k=2)
        self.check(only, 2)
        self.check(classify("Rain again.", top_k=9), 3)

    def test_shapes_with_top_k_from_the_start(self, model, tokenizer):
        classify = pipeline("text-classification", model, tokenizer, top_k=None)
        (only,) = classify("Rain again.")  # transformers wraps a lone string once more
        self.check(only, 3)
        self.check(classify({"text": "Rain again."}), 3)
        (only,) = classify(["Rain again."])
        self.check(only, 3)
        self.check(classify("Rain again.", top_k=2), 2)

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"num_labels": 1}, [0.75]),
            ({"problem_type": "multi_label_classification"}, [0.75, 0.2]),
            ({"problem_type": "single_label_classification"}, [12 / 13, 1 / 13]),
            ({"problem_type": "regression"}, [np.log(3), np.log(1 / 4)]),
            ({}, [12 / 13, 1 / 13]),
        ],
    )
    def test_function_by_kind_of_problem(self, tokenizer, fields, expected):
        logits = [np.log(3), np.log(1 / 4)][: len(expected)]
        classify = pipeline("text-classification", constant_classifier(logits, **fields), tokenizer)
        scores = [one["score"] for one in classify("Good soup!", top_k=None)]
        assert scores == near(expected, FEW, size=LOGITS)

    @pytest.mark.parametrize(
        ("function", "expected"),
        [("sigmoid", [0.75, 0.2]), ("SOFTMAX", [12 / 13, 1 / 13]), ("none", np.log([3, 1 / 4]))],
    )
    def test_function_to_apply(self, two_labels, function, expected):
        found = two_labels("Good soup!", top_k=None, function_to_apply=function)
        assert [one["score"] for one in found] == near(list(expected), FEW, size=LOGITS)

    def test_function_from_the_start(self, two_labels, tokenizer):
        classify = pipeline(
            "text-classification", two_labels.model, tokenizer, function_to_apply="sigmoid"
        )
        assert classify("Good soup!")[0]["score"] == near(0.75, FEW, size=LOGITS)
        raw = classify("Good soup!", function_to_apply="none")
        assert raw[0]["score"] == near(np.log(3), FEW)


class TestClassificationByDirectCalls:
    def expected(self, model, tokenizer, *texts, **options) -> dict[str, float]:
        """Makes what equals the scores of a text, or a pair, by label.

        Tokenized as a batch, as in training and serving: an empty second text has its [SEP].
        """
        columns = [None if text is None else [text] for text in texts]
        (logits,) = model(tokenizer(*columns, return_tensors="tf", **options)).numpy()
        scores = {model.config.id2label[i]: score for i, score in enumerate(softmax(logits))}
        return near(scores, roundings(model), size=largest(logits))

    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_many_texts_in_order(self, classify, classifier, tokenizer, batch_size):
        results = classify(SENTENCES, top_k=None, batch_size=batch_size)
        best = classify(SENTENCES, batch_size=batch_size)
        spread = {round(one["score"], 4) for one in best}
        assert len(spread) == len(SENTENCES)  # a mix-up could not stay unseen
        for text, result, one in zip(SENTENCES, results, best, strict=True):
            expected = self.expected(classifier, tokenizer, text)
            assert {r["label"]: r["score"] for r in result} == expected
            assert result == sorted(result, key=lambda r: -r["score"])
            assert result[0] == one

    def test_pairs(self, classify, classifier, tokenizer):
        pairs = list(itertools.pairwise(SENTENCES[:5]))
        inputs = [{"text": a, "text_pair": b} for a, b in pairs] + ["Rain again."]
        results = classify(inputs, top_k=None)
        for (a, b), result in zip([*pairs, ("Rain again.", None)], results, strict=True):
            expected = self.expected(classifier, tokenizer, a, b)
            assert {r["label"]: r["score"] for r in result} == expected

    def test_long_texts_lose_their_end(self, classify, classifier, tokenizer):
        long = " ".join(SENTENCES)
        assert len(tokenizer(long)["input_ids"]) > POSITIONS
        options = {"truncation": True, "max_length": POSITIONS}
        expected = self.expected(classifier, tokenizer, long, **options)
        assert {r["label"]: r["score"] for r in classify(long, top_k=None)} == expected
        with pytest.raises(ValueError, match=f"the model takes {POSITIONS}"):
            classify(long, truncation=False)

    def test_max_length(self, classifier, tokenizer):
        classify = pipeline("text-classification", classifier, tokenizer, max_length=7)
        options = {"truncation": True, "max_length": 7}
        expected = self.expected(classifier, tokenizer, SENTENCES[0], **options)
        results = classify(SENTENCES[0], padding="max_length", top_k=None)
        assert {r["label"]: r["score"] for r in results} == expected

    def test_generators_are_read_batch_by_batch(self, classify, classifier):
        read = []

        def texts():
            for text in SENTENCES:
                read.append(text)
                yield text

        results = classify(texts())
        assert read == []
        first = next(results)
        assert len(read) == 4
        expected = classify(SENTENCES)
        for result, one in zip([first, *results], expected, strict=True):
            assert result["label"] == one["label"]
            assert result["score"] == near(one["score"], roundings(classifier), size=1.0)

    def test_tuples_are_lists(self, classify):
        assert classify(tuple(SENTENCES)) == classify(SENTENCES)

    def test_later_training_shows(self, tokenizer):
        model = constant_classifier([0.0, 1.0])
        classify = pipeline("text-classification", model, tokenizer)
        classify = pipeline("text-classification", model, tokenizer)
        assert classify("Rain again.")[0]["label"] == "LABEL_1"
        model.classifier.bias.assign([3.0, 1.0])
        assert classify("Rain again.")[0]["label"] == "LABEL_0"
