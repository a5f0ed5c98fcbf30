"""What both pipelines share: names of checkpoints, and errors."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tiny_pipelines import SENTENCES, VOCABULARY, make_config

from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.pipelines import pipeline
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer


class TestNames:
    @pytest.fixture(scope="class")
    def saved(self, classifier, tokenizer, tmp_path_factory):
        directory = tmp_path_factory.mktemp("checkpoint")
        classifier.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    def test_directory(self, saved, classifier, tokenizer):
        expected = pipeline("text-classification", classifier, tokenizer)(SENTENCES)
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

    def test_model_with_another_head_or_none(self, classifier, filler, tokenizer):
        encoder = TFDistilBertModel(make_config())
        for task, model, wanted in (
            ("fill-mask", classifier, "TFDistilBertForMaskedLM"),
            ("fill-mask", encoder, "TFDistilBertForMaskedLM; got TFDistilBertModel"),
            ("text-classification", filler, "TFDistilBertForSequenceClassification"),
            ("text-classification", encoder, "TFDistilBertForSequenceClassification; got TFDist"),
        ):
            with pytest.raises(TypeError, match=f"'{task}' takes a {wanted}"):
                pipeline(task, model, tokenizer)

    def test_model_object_without_tokenizer(self, classifier):
        with pytest.raises(ValueError, match="tokenizer="):
            pipeline("text-classification", classifier)

    @pytest.mark.parametrize(
        ("task", "options", "error", "message"),
        [
            ("text-classification", {"top_k": 0}, ValueError, "top_k must be"),
            ("text-classification", {"top_k": 2.5}, ValueError, "top_k must be"),
            ("text-classification", {"batch_size": 0}, ValueError, "batch_size must be"),
            ("text-classification", {"function_to_apply": "relu"}, ValueError, "softmax, sigmoid"),
            ("text-classification", {"topk": 3}, TypeError, "Unknown option 'topk'"),
            ("fill-mask", {"top_k": -1}, ValueError, "top_k must be"),
            ("fill-mask", {"targets": []}, ValueError, "at least one word"),
            ("fill-mask", {"targets": [""]}, ValueError, "at least one word"),
            ("fill-mask", {"tokenizer_kwargs": {"trunkation": 1}}, TypeError, "option 'trunkation"),
        ],
    )
    def test_options(self, classifier, filler, tokenizer, task, options, error, message):
        model = filler if task == "fill-mask" else classifier
        with pytest.raises(error, match=message):
            pipeline(task, model, tokenizer, **options)
        with pytest.raises(error, match=message):
            pipeline(task, model, tokenizer)("the [MASK]", **options)

    def test_options_of_transformers(self, classifier, tokenizer):
        classify = pipeline("text-classification", classifier, tokenizer, framework="tf")
        assert classify("Good soup!")[0]["label"] in classifier.config.id2label.values()
        for options, message in (
            ({"device": 0}, "has no device: call the pipeline under `tf.device`"),
            ({"return_all_scores": True}, "has no return_all_scores: pass top_k=None"),
            ({"framework": "pt"}, "has no framework: there is only TensorFlow"),
        ):
            with pytest.raises(TypeError, match=message):
                pipeline("text-classification", classifier, tokenizer, **options)

    def test_hub_options_reach_model_and_tokenizer(self, classifier, tokenizer, tmp_path):
        classifier.save_pretrained(tmp_path / "tf")
        tokenizer.save_pretrained(tmp_path / "tf")
        classify = pipeline("text-classification", tmp_path, subfolder="tf", token="hf_x")
        assert classify(SENTENCES) == pipeline("text-classification", tmp_path / "tf")(SENTENCES)

    def test_inputs_of_text_classification(self, classifier, tokenizer):
        classify = pipeline("text-classification", classifier, tokenizer)
        with pytest.raises(TypeError, match="got int"):
            classify(5)
        pair = ("Rain again.", "Good soup!")
        for rows in ([pair], [list(pair)], np.array([pair])):
            with pytest.raises(TypeError, match=r'^Row 0 .*string: write a pair as {"text": ...,'):
                classify(rows)
        with pytest.raises(ValueError, match="keys 'text' and 'text_pair'"):
            classify({"text": "Rain again.", "pair": "Good soup!"})

    def test_tables_are_no_texts(self, classifier, filler, tokenizer):
        frame = pd.DataFrame({"Subject": SENTENCES, "Body": SENTENCES[::-1]})
        classify = pipeline("text-classification", classifier, tokenizer)
        with pytest.raises(
            TypeError,
            match=r"takes texts, not a DataFrame: pass a column, such as frame\['Subject'\], or "
            r'frame.to_dict\("records"\) with the keys text and text_pair\.',
        ):
            classify(frame)
        with pytest.raises(TypeError, match=r"pass a column, such as frame\['Subject'\]\.$"):
            pipeline("fill-mask", filler, tokenizer)(frame)
        # What the message says works.
        assert classify(frame["Subject"]) == classify(SENTENCES)
        renamed = frame.set_axis(["text", "text_pair"], axis=1)
        pairs = zip(SENTENCES, SENTENCES[::-1], strict=True)
        assert classify(renamed.to_dict("records")) == classify(
            [{"text": first, "text_pair": second} for first, second in pairs]
        )

    def test_inputs_of_fill_mask(self, filler, tokenizer):
        fill = pipeline("fill-mask", filler, tokenizer)
        with pytest.raises(ValueError, match=r"No mask token \(\[MASK\]\) in the text 'Rain again"):
            fill(["the [MASK]", "Rain again."])
        with pytest.raises(TypeError, match="got NoneType"):
            fill(None)
        with pytest.raises(TypeError, match="of type dict, not a string"):
            fill({"text": "the [MASK]"})

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            (None, "is None, not a string"),
            (float("nan"), "is NaN, a missing value, not a string"),
            (5, "is 5, of type int, not a string"),
            (b"Rain [MASK]", "is bytes, not a string; decode them"),
            (b"Rain \xff", r"is bytes that are not UTF-8 \(invalid start byte at byte 5\)"),
        ],
    )
    def test_cells_that_are_no_text(self, classifier, filler, tokenizer, cell, message):
        texts = ["Rain [MASK]", "[MASK] soup", "Good [MASK]", cell]
        for task, model in (("fill-mask", filler), ("text-classification", classifier)):
            answer = pipeline(task, model, tokenizer, batch_size=2)
            with pytest.raises(TypeError, match=rf"^Row 3 \(from 0\): .*{message}: leave it out"):
                answer(texts)
            with pytest.raises(TypeError, match=rf"^Row 3 \(from 0\): .*{message}: leave it out"):
                list(answer(iter(texts)))
        with pytest.raises(TypeError, match=f"Row 0 .*'text' of a pair {message}: leave the pair"):
            answer([{"text": cell, "text_pair": "Rain"}])
        if cell is not None:  # which stands for none
            with pytest.raises(TypeError, match=f"'text_pair' of a pair {message}: leave the"):
                answer({"text": "Rain", "text_pair": cell})

    def test_arrays_and_tensors_are_lists(self, classifier, tokenizer):
        classify = pipeline("text-classification", classifier, tokenizer)
        expected = classify(SENTENCES)
        assert classify(np.array(SENTENCES)) == expected
        assert classify(tf.constant(SENTENCES)) == expected
        with pytest.raises(ValueError, match="text of row 1 .* not UTF-8"):
            classify(tf.constant(["Rain", b"\xff"]))

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
