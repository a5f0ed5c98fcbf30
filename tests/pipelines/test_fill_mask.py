"""The fill-mask pipeline against hand computation and direct calls; names and errors of both."""

import numpy as np
import pytest
from comparing import FEW, largest, near, roundings
from tiny_pipelines import (
    POSITIONS,
    SENTENCES,
    VOCABULARY,
    constant_filler,
    softmax,
)

from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.pipelines import pipeline

LOGITS = 3.0  # the size of those that have their probabilities by hand: -log(0.05)


@pytest.fixture(scope="module")
def fill(filler, tokenizer):
    return pipeline("fill-mask", filler, tokenizer)


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
        assert scores == near([0.4, 0.3, 0.15, 0.1, 0.05], FEW, size=LOGITS)
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
        assert [one["score"] for one in found[:2]] == near([0.3, 0.05], FEW, size=LOGITS)
        assert fill("the [MASK]", targets="boat") == found[:1]
        assert not caplog.text
        assert fill("the [MASK]", targets=["rivers", "river", ""])[0]["token_str"] == "river"
        assert "'rivers' is not in the vocabulary; 'river' replaces it" in caplog.text
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
            logits = filler(inputs).numpy()[0]
            probabilities, size = softmax(logits), largest(logits)
            for place, found in zip(places, [result] if len(places) == 1 else result, strict=True):
                best = np.argsort(-probabilities[place])[:5]
                assert [one["token"] for one in found] == best.tolist()
                scores = [one["score"] for one in found]
                assert scores == near(probabilities[place][best], roundings(filler), size=size)
                filled = np.where(np.arange(len(ids)) == place, found[0]["token"], ids)
                sequence = tokenizer.decode(filled, skip_special_tokens=len(places) == 1)
                assert found[0]["sequence"] == sequence

    def test_truncation_is_asked_for(self, fill, filler, tokenizer):
        long = "[MASK] " + " ".join(SENTENCES)
        with pytest.raises(ValueError, match=f"the model takes {POSITIONS}"):
            fill(long)
        inputs = tokenizer(long, truncation=True, max_length=POSITIONS, return_tensors="tf")
        logits = filler(inputs).numpy()[0, 1]
        found = fill(long, tokenizer_kwargs={"truncation": True})
        best = softmax(logits).max()
        assert found[0]["score"] == near(best, roundings(filler), size=largest(logits))
        with pytest.raises(ValueError, match="truncation removed it"):
            fill(" ".join(SENTENCES) + " [MASK]", tokenizer_kwargs={"truncation": True})

    def test_mixed_precision(self, fill, filler, tokenizer, tmp_path):
        filler.save_pretrained(tmp_path)
        half = TFDistilBertForMaskedLM.from_pretrained(tmp_path, dtype="mixed_bfloat16")
        full = fill(list(self.TEXTS[:2]), top_k=1)
        close = pipeline("fill-mask", half, tokenizer, targets=[full[0][0]["token_str"]])
        assert close(self.TEXTS[0])[0]["score"] == pytest.approx(full[0][0]["score"], rel=0.1)
