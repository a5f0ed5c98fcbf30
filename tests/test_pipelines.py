"""Pipelines against models small enough to compute by hand, and against direct calls."""

import itertools
import string

import numpy as np
import pytest
from transformers import DistilBertConfig

from distilbert_tf.checkpoint_files import CheckpointError
from distilbert_tf.heads import TFDistilBertForMaskedLM, TFDistilBertForSequenceClassification
from distilbert_tf.model import TFDistilBertModel
from distilbert_tf.pipelines import pipeline
from distilbert_tf.tokenizer import DistilBertTokenizer

SENTENCES = [
    "The river froze early this year.",
    "Nobody at the harbour remembered who had painted the blue boat.",
    "Good soup!",
    "She returned the library book eleven years late, paid in coins and borrowed it again.",
    "",
    "My brother collects maps of towns that were never built",
    "Is the museum open on Mondays, or do we have to walk back in the rain?",
    "Rain again.",
    "The second act drags, but the last ten minutes are worth the whole evening.",
    "Tomorrow: bread, lamp oil, and a letter to the landlord.",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "river", "froze", "book", "boat", "rain", "blue", "good", "soup", "library", "year"]
# Every word in lower case can be spelled, so that sentences differ in length after tokenization.
VOCABULARY = [
    *SPECIAL,
    *WORDS,
    *"!,.:?",
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
]
POSITIONS = 120


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> DistilBertTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return DistilBertTokenizer.from_pretrained(directory)


def make_config(**fields) -> DistilBertConfig:
    sizes = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS}
    layers = {"dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 20}
    return DistilBertConfig(**(sizes | layers | fields))


def perturb(model, seed: int):
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(weight + 0.4 * random.normal(size=weight.shape))
    return model


def constant_classifier(logits: list[float], **fields) -> TFDistilBertForSequenceClassification:
    """A classifier that gives the same logits for every text."""
    fields.setdefault("num_labels", len(logits))
    model = TFDistilBertForSequenceClassification(make_config(n_layers=1, **fields))
    model.classifier.kernel.assign(np.zeros(model.classifier.kernel.shape))
    model.classifier.bias.assign(logits)
    return model


def constant_filler(probabilities: dict[str, float]) -> TFDistilBertForMaskedLM:
    """A masked-LM model that gives these words their probabilities everywhere, others none."""
    model = TFDistilBertForMaskedLM(make_config(n_layers=1, tie_word_embeddings=False))
    model.vocab_projector.kernel.assign(np.zeros(model.vocab_projector.kernel.shape))
    bias = np.full(len(VOCABULARY), -100.0)
    for word, probability in probabilities.items():
        bias[VOCABULARY.index(word)] = np.log(probability)
    model.vocab_projector.bias.assign(bias)
    return model


@pytest.fixture(scope="module")
def classifier():
    names = {0: "bad", 1: "fair", 2: "good"}
    return perturb(TFDistilBertForSequenceClassification(make_config(id2label=names)), seed=1)


@pytest.fixture(scope="module")
def filler():
    return perturb(TFDistilBertForMaskedLM(make_config()), seed=2)


@pytest.fixture(scope="module")
def classify(classifier, tokenizer):
    return pipeline("sentiment-analysis", classifier, tokenizer, batch_size=4)


@pytest.fixture(scope="module")
def fill(filler, tokenizer):
    return pipeline("fill-mask", filler, tokenizer)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


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
        assert scores == pytest.approx([score for _, score in self.ALL[:count]], abs=1e-6)

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
        assert scores == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("function", "expected"),
        [("sigmoid", [0.75, 0.2]), ("SOFTMAX", [12 / 13, 1 / 13]), ("none", np.log([3, 1 / 4]))],
    )
    def test_function_to_apply(self, two_labels, function, expected):
        found = two_labels("Good soup!", top_k=None, function_to_apply=function)
        assert [one["score"] for one in found] == pytest.approx(list(expected), abs=1e-6)

    def test_function_from_the_start(self, two_labels, tokenizer):
        classify = pipeline(
            "text-classification", two_labels.model, tokenizer, function_to_apply="sigmoid"
        )
        assert classify("Good soup!")[0]["score"] == pytest.approx(0.75, abs=1e-6)
        raw = classify("Good soup!", function_to_apply="none")
        assert raw[0]["score"] == pytest.approx(np.log(3), abs=1e-6)


class TestClassificationByDirectCalls:
    def expected(self, model, tokenizer, text, pair=None) -> dict[str, float]:
        inputs = tokenizer(text, pair, return_tensors="tf")
        (scores,) = softmax(model(inputs).numpy())
        return {model.config.id2label[i]: score for i, score in enumerate(scores)}

    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_many_texts_in_order(self, classify, classifier, tokenizer, batch_size):
        results = classify(SENTENCES, top_k=None, batch_size=batch_size)
        best = classify(SENTENCES, batch_size=batch_size)
        spread = {round(one["score"], 4) for one in best}
        assert len(spread) == len(SENTENCES)  # a mix-up could not stay unseen
        for text, result, one in zip(SENTENCES, results, best, strict=True):
            expected = self.expected(classifier, tokenizer, text)
            assert {r["label"]: r["score"] for r in result} == pytest.approx(expected, abs=1e-5)
            assert result == sorted(result, key=lambda r: -r["score"])
            assert result[0] == one

    def test_pairs(self, classify, classifier, tokenizer):
        pairs = list(itertools.pairwise(SENTENCES[:5]))
        inputs = [{"text": a, "text_pair": b} for a, b in pairs] + ["Rain again."]
        results = classify(inputs, top_k=None)
        for (a, b), result in zip([*pairs, ("Rain again.", None)], results, strict=True):
            expected = self.expected(classifier, tokenizer, a, b)
            assert {r["label"]: r["score"] for r in result} == pytest.approx(expected, abs=1e-5)

    def test_long_texts_lose_their_end(self, classify, classifier, tokenizer):
        long = " ".join(SENTENCES)
        assert len(tokenizer(long)["input_ids"]) > POSITIONS
        inputs = tokenizer(long, truncation=True, max_length=POSITIONS, return_tensors="tf")
        score = softmax(classifier(inputs).numpy()).max()
        assert classify(long)[0]["score"] == pytest.approx(score, abs=1e-5)
        with pytest.raises(ValueError, match=f"the model takes {POSITIONS}"):
            classify(long, truncation=False)

    def test_max_length(self, classifier, tokenizer):
        classify = pipeline("text-classification", classifier, tokenizer, max_length=7)
        inputs = tokenizer(SENTENCES[0], truncation=True, max_length=7, return_tensors="tf")
        score = softmax(classifier(inputs).numpy()).max()
        assert classify(SENTENCES[0], padding="max_length")[0]["score"] == pytest.approx(score)

    def test_generators_are_read_batch_by_batch(self, classify):
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
            assert result["score"] == pytest.approx(one["score"], abs=1e-6)

    def test_tuples_are_lists(self, classify):
        assert classify(tuple(SENTENCES)) == classify(SENTENCES)

    def test_later_training_shows(self, tokenizer):
        model = constant_classifier([0.0, 1.0])
        classify = pipeline("text-classification", model, tokenizer)
        classify = pipeline("text-classification", model, tokenizer)
        assert classify("Rain again.")[0]["label"] == "LABEL_1"
        model.classifier.bias.assign([3.0, 1.0])
        assert classify("Rain again.")[0]["label"] == "LABEL_0"


class TestFillMaskByHand:
    @pytest.fixture(scope="class")
    def fill(self, tokenizer):
        words = {"river": 0.4, "boat": 0.3, "soup": 0.15, "##s": 0.1, "book": 0.05}
        return pipeline("fill-mask", constant_filler(words), tokenizer)

    def test_one_mask(self, fill):
        found = fill("The [MASK] froze!")
        assert [one["token_str"] for one in found] == ["river", "boat", "soup", "##s", "book"]
        assert [one["token"] for one in found] == [
            VOCABULARY.index(one["token_str"]) for one in found
        ]
        assert [one["sequence"] for one in found[2:4]] == ["the soup froze!", "thes froze!"]
        scores = [one["score"] for one in found]
        assert scores == pytest.approx([0.4, 0.3, 0.15, 0.1, 0.05], abs=1e-6)
        assert all(list(one) == ["score", "token", "token_str", "sequence"] for one in found)
        assert all(type(one["score"]) is float and type(one["token"]) is int for one in found)

    def test_several_masks(self, fill):
        first, second = fill("[MASK] blue [MASK]", top_k=1)
        assert [first[0]["sequence"], second[0]["sequence"]] == [
            "[CLS] river blue [MASK] [SEP]",
            "[CLS] [MASK] blue river [SEP]",
        ]

    def test_padding_in_the_text_is_left_out(self, fill):
        (one,) = fill("good [PAD] [MASK]", top_k=1)
        assert one["sequence"] == "good river"

    def test_shapes(self, fill):
        assert len(fill("[MASK] rain", top_k=3)) == 3
        assert fill(["[MASK] rain"]) == fill("[MASK] rain")  # transformers unwraps a list of one
        two = fill(["[MASK] rain", "good [MASK]"], top_k=3)
        assert [[type(one) for one in found] for found in two] == [[dict] * 3] * 2
        mixed = fill(["[MASK] rain", "[MASK] [MASK]"], top_k=2)
        assert [type(mixed[0][0]), type(mixed[1][0])] == [dict, list]
        assert list(fill(text for text in ["[MASK] rain"])) == [fill("[MASK] rain")]
        assert len(fill("[MASK] rain", top_k=1000)) == len(VOCABULARY)

    def test_targets(self, fill, caplog):
        found = fill("the [MASK]", targets=["book", "boat", "good"])
        assert [one["token_str"] for one in found] == ["boat", "book", "good"]
        assert [one["score"] for one in found[:2]] == pytest.approx([0.3, 0.05], abs=1e-6)
        assert fill("the [MASK]", targets="boat") == found[:1]
        assert not caplog.text
        assert fill("the [MASK]", targets=["rivers", "river", ""])[0]["token_str"] == "river"
        assert "'rivers' is no word; 'river' stands for it" in caplog.text
        assert "'' has no token" in caplog.text

    def test_options_from_the_start(self, fill, tokenizer):
        other = pipeline("fill-mask", fill.model, tokenizer, top_k=1, targets=["soup", "book"])
        assert [one["token_str"] for one in other("the [MASK]")] == ["soup"]
        assert [one["token_str"] for one in other("the [MASK]", top_k=2)] == ["soup", "book"]


class TestFillMaskByDirectCalls:
    TEXTS = (
        "The [MASK] froze early this year.",
        "[MASK] soup!",
        "Nobody at the [MASK] remembered who had painted the [MASK] boat.",
        "She returned the library [MASK] eleven years late and borrowed it again.",
        "[MASK]",
        "Rain [MASK] [MASK] [MASK]",
    )

    @pytest.mark.parametrize("batch_size", [1, 2, 32])
    def test_many_texts_in_order(self, fill, filler, tokenizer, batch_size):
        for text, result in zip(
            self.TEXTS, fill(list(self.TEXTS), batch_size=batch_size), strict=True
        ):
            inputs = tokenizer(text, return_tensors="tf")
            ids = inputs["input_ids"].numpy()[0]
            places = np.flatnonzero(ids == tokenizer.mask_token_id)
            probabilities = softmax(filler(inputs).numpy()[0])
            for place, found in zip(places, [result] if len(places) == 1 else result, strict=True):
                best = np.argsort(-probabilities[place])[:5]
                assert [one["token"] for one in found] == best.tolist()
                scores = [one["score"] for one in found]
                assert scores == pytest.approx(probabilities[place][best], abs=1e-5)
                filled = np.where(np.arange(len(ids)) == place, found[0]["token"], ids)
                sequence = tokenizer.decode(filled, skip_special_tokens=len(places) == 1)
                assert found[0]["sequence"] == sequence

    def test_truncation_is_asked_for(self, fill, filler, tokenizer):
        long = "[MASK] " + " ".join(SENTENCES)
        with pytest.raises(ValueError, match=f"the model takes {POSITIONS}"):
            fill(long)
        inputs = tokenizer(long, truncation=True, max_length=POSITIONS, return_tensors="tf")
        best = softmax(filler(inputs).numpy()[0, 1]).max()
        found = fill(long, tokenizer_kwargs={"truncation": True})
        assert found[0]["score"] == pytest.approx(best, abs=1e-5)
        with pytest.raises(ValueError, match="cut off"):
            fill(" ".join(SENTENCES) + " [MASK]", tokenizer_kwargs={"truncation": True})

    def test_mixed_precision(self, fill, filler, tokenizer, tmp_path):
        filler.save_pretrained(tmp_path)
        half = TFDistilBertForMaskedLM.from_pretrained(tmp_path, dtype="mixed_bfloat16")
        full = fill(list(self.TEXTS[:2]), top_k=1)
        close = pipeline("fill-mask", half, tokenizer, targets=[full[0][0]["token_str"]])
        assert close(self.TEXTS[0])[0]["score"] == pytest.approx(full[0][0]["score"], rel=0.1)


class TestNames:
    @pytest.fixture(scope="class")
    def saved(self, classifier, tokenizer, tmp_path_factory):
        directory = tmp_path_factory.mktemp("checkpoint")
        classifier.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    def test_directory(self, saved, classify):
        expected = classify(SENTENCES, batch_size=32)
        assert pipeline("text-classification", model=str(saved))(SENTENCES) == expected
        assert pipeline("text-classification", saved, tokenizer=saved)(SENTENCES) == expected

    def test_checkpoint_without_the_head(self, saved):
        with pytest.raises(CheckpointError, match="no head for TFDistilBertForMaskedLM"):
            pipeline("fill-mask", saved)

    def test_base_checkpoint_gets_no_invented_classifier(self, classifier, tokenizer, tmp_path):
        classifier.distilbert.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="no head for TFDistilBertForSequenceClass"):
            pipeline("text-classification", tmp_path)

    def test_directory_without_a_tokenizer(self, classifier, tmp_path):
        classifier.save_pretrained(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"vocab\.txt"):
            pipeline("text-classification", tmp_path)


class TestErrors:
    def test_unknown_task(self, classifier, tokenizer):
        with pytest.raises(ValueError, match=r"fill-mask, text-classification, sentiment-analysis"):
            pipeline("translation", classifier, tokenizer)

    @pytest.mark.parametrize("task", ["fill-mask", "text-classification"])
    def test_model_without_the_head(self, task, tokenizer):
        with pytest.raises(TypeError, match=f"'{task}' takes a TFDistil.*; got TFDistilBertModel"):
            pipeline(task, TFDistilBertModel(make_config()), tokenizer)

    def test_model_with_another_head(self, classifier, filler, tokenizer):
        with pytest.raises(TypeError, match="takes a TFDistilBertForMaskedLM"):
            pipeline("fill-mask", classifier, tokenizer)
        with pytest.raises(TypeError, match="takes a TFDistilBertForSequenceClassification"):
            pipeline("text-classification", filler, tokenizer)

    def test_model_object_without_tokenizer(self, classifier):
        with pytest.raises(ValueError, match="tokenizer="):
            pipeline("text-classification", classifier)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"top_k": 0}, ValueError, "top_k must be"),
            ({"top_k": 2.5}, ValueError, "top_k must be"),
            ({"batch_size": 0}, ValueError, "batch_size must be"),
            ({"function_to_apply": "relu"}, ValueError, "softmax, sigmoid, none"),
            ({"topk": 3}, TypeError, "Unknown option 'topk'"),
        ],
    )
    def test_options_of_text_classification(self, classifier, tokenizer, options, error, message):
        with pytest.raises(error, match=message):
            pipeline("text-classification", classifier, tokenizer, **options)
        classify = pipeline("text-classification", classifier, tokenizer)
        with pytest.raises(error, match=message):
            classify("Rain again.", **options)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"top_k": -1}, ValueError, "top_k must be"),
            ({"targets": []}, ValueError, "at least one word"),
            ({"targets": [""]}, ValueError, "at least one word"),
            ({"tokenizer_kwargs": {"trunkation": True}}, TypeError, "Unknown option 'trunkation'"),
        ],
    )
    def test_options_of_fill_mask(self, filler, tokenizer, options, error, message):
        with pytest.raises(error, match=message):
            pipeline("fill-mask", filler, tokenizer, **options)
        fill = pipeline("fill-mask", filler, tokenizer)
        with pytest.raises(error, match=message):
            fill("the [MASK]", **options)

    def test_inputs_of_text_classification(self, classifier, tokenizer):
        classify = pipeline("text-classification", classifier, tokenizer)
        with pytest.raises(TypeError, match="got int"):
            classify(5)
        with pytest.raises(TypeError, match=r'"text_pair".*got list'):
            classify([["Rain again.", "Good soup!"]])
        with pytest.raises(ValueError, match="keys 'text' and 'text_pair'"):
            classify({"text": "Rain again.", "pair": "Good soup!"})

    def test_inputs_of_fill_mask(self, filler, tokenizer):
        fill = pipeline("fill-mask", filler, tokenizer)
        with pytest.raises(ValueError, match=r"No mask token \(\[MASK\]\) in the text 'Rain again"):
            fill(["the [MASK]", "Rain again."])
        with pytest.raises(TypeError, match="got NoneType"):
            fill(None)
        with pytest.raises(TypeError, match="got dict"):
            fill({"text": "the [MASK]"})

    def test_tokenizer_of_another_model(self, tokenizer):
        small = TFDistilBertForSequenceClassification(make_config(vocab_size=20))
        with pytest.raises(ValueError, match="do not belong together"):
            pipeline("text-classification", small, tokenizer)("Nobody")

    def test_tokenizer_without_a_mask(self, filler, tmp_path):
        (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
        maskless = DistilBertTokenizer.from_pretrained(tmp_path)
        maskless.mask_token = None
        with pytest.raises(ValueError, match="no mask token"):
            pipeline("fill-mask", filler, maskless)
