"""The encoder against KerasHub's DistilBERT, both ways.

Shapes: B rows, T tokens in a row, D width.
"""

import logging
import subprocess
import sys
from pathlib import Path

import keras
import keras_nlp
import numpy as np
import pytest
import requests
from comparing import FEW, assert_close, roundings
from tiny_pipelines import SENTENCES, VOCABULARY, make_config, make_tokenizer, randomize
from transformers import DistilBertConfig

from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import CheckpointError, export_tensors
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

# Axes of one size differ in length where they can, so that none are mixed up unseen.
SIZES = {
    "one head": {"layers": 2, "heads": 1, "width": 6, "inner": 11, "words": 31, "positions": 17},
    "narrow heads": {"layers": 1, "heads": 8, "width": 8, "inner": 5, "words": 53, "positions": 12},
    "deep": {"layers": 3, "heads": 4, "width": 48, "inner": 80, "words": 97, "positions": 40},
}
SMALL = SIZES["one head"]


def perturb(model: keras.Model, seed: int) -> None:
    """Moves every weight, biases and LayerNorms too: fresh ones are all 0 or all 1."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype == "float32":  # not the step counters of dropout
            weight.assign(weight + 0.3 * random.normal(size=weight.shape))


def make_backbone(size: dict[str, int], seed: int = 0, **fields) -> keras.Model:
    backbone = keras_nlp.models.DistilBertBackbone(
        vocabulary_size=size["words"],
        num_layers=size["layers"],
        num_heads=size["heads"],
        hidden_dim=size["width"],
        intermediate_dim=size["inner"],
        max_sequence_length=size["positions"],
        **fields,
    )
    perturb(backbone, seed)
    return backbone


def make_model(size: dict[str, int], seed: int = 0, **fields) -> TFDistilBertModel:
    config = DistilBertConfig(
        vocab_size=size["words"],
        n_layers=size["layers"],
        n_heads=size["heads"],
        dim=size["width"],
        hidden_dim=size["inner"],
        max_position_embeddings=size["positions"],
        **fields,
    )
    model = TFDistilBertModel(config)
    perturb(model, seed)
    return model


def make_batch(words: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and masks: a full row, padding right, padding left, holes."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, words, (4, length))
    mask = np.ones((4, length), int)
    mask[1, length // 2 :] = 0
    mask[2, : length // 3] = 0
    mask[3, 1::2] = 0
    return ids, mask


def in_float64(model: keras.Model) -> keras.Model:
    """Copies a model: float32 sums in another order differ by more than a small error would."""
    copy = type(model).from_config({**model.get_config(), "dtype": "float64"})
    copy.set_weights(model.get_weights())
    return copy


def assert_same_outputs(model: TFDistilBertModel, backbone: keras.Model, words: int, length: int):
    model, backbone = in_float64(model), in_float64(backbone)
    ids, mask = make_batch(words, length)
    theirs = np.asarray(backbone({"token_ids": ids, "padding_mask": mask}))
    unmasked = np.asarray(backbone({"token_ids": ids, "padding_mask": np.ones_like(mask)}))
    assert np.abs(theirs - unmasked).max() > 1e-2  # the masks do something
    inputs = {"input_ids": ids, "attention_mask": mask}
    ours = model(inputs).last_hidden_state.numpy()
    # Keras rounds the scale of scores to float32 under any policy; else both agree to float64.
    assert_close(ours[mask != 0], theirs[mask != 0], FEW)
    everywhere = model(inputs, skip_padding=False).last_hidden_state
    assert_close(everywhere, theirs, FEW)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
class TestOutputs:
    def test_from_keras_hub(self, size):
        backbone = make_backbone(size, seed=1)
        model = TFDistilBertModel.from_keras_hub(backbone)
        assert_same_outputs(model, backbone, size["words"], size["positions"])

    def test_to_keras_hub(self, size):
        model = make_model(size, seed=2)
        assert_same_outputs(model, model.to_keras_hub(), size["words"], size["positions"] - 3)

    def test_there_and_back_is_bit_equal(self, size):
        model = make_model(size, seed=3)
        back = TFDistilBertModel.from_keras_hub(model.to_keras_hub())
        theirs = export_tensors(back)
        for name, array in export_tensors(model).items():
            np.testing.assert_array_equal(theirs[name], array, err_msg=name)


class TestConfiguration:
    def test_overrides(self):
        backbone = make_backbone(SMALL, dropout=0.25)
        config = TFDistilBertModel.from_keras_hub(backbone).config
        assert (config.dropout, config.attention_dropout) == (0.25, 0.25)
        config = TFDistilBertModel.from_keras_hub(backbone, attention_dropout=0.0).config
        assert (config.dropout, config.attention_dropout) == (0.25, 0.0)
        with pytest.raises(ValueError, match="no field 'atention_dropout'"):
            TFDistilBertModel.from_keras_hub(backbone, atention_dropout=0.0)
        with pytest.raises(CheckpointError, match="the KerasHub backbone does not fit"):
            TFDistilBertModel.from_keras_hub(backbone, n_layers=3)

    def test_two_dropout_rates_become_one_with_a_warning(self, caplog):
        with caplog.at_level(logging.WARNING, logger="absl"):
            make_model(SMALL, dropout=0.2, attention_dropout=0.2).to_keras_hub()
            assert not caplog.text
            backbone = make_model(SMALL, dropout=0.2, attention_dropout=0.4).to_keras_hub()
        assert backbone.dropout == 0.2
        assert "attention_dropout=0.4 is left out" in caplog.text

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ({"activation": "gelu_new"}, "activation is 'gelu_new'"),
            ({"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds"),
        ],
    )
    def test_what_keras_hub_lacks_is_refused(self, field, message):
        with pytest.raises(ValueError, match=message):
            make_model(SMALL, **field).to_keras_hub()

    def test_dtype_policy_goes_along(self):
        backbone = make_backbone(SMALL, dtype="mixed_bfloat16")
        model = TFDistilBertModel.from_keras_hub(backbone)
        assert model.dtype_policy.name == "mixed_bfloat16"
        assert model.to_keras_hub().dtype_policy.name == "mixed_bfloat16"
        full = TFDistilBertModel.from_keras_hub(backbone, dtype="float32")
        assert full.dtype_policy.name == "float32"


class TestPresets:
    def test_a_preset_saved_and_loaded(self, tmp_path):
        model = make_model(SIZES["deep"], seed=5)
        model.to_keras_hub().save_to_preset(str(tmp_path / "preset"))
        backbone = keras_nlp.models.DistilBertBackbone.from_preset(str(tmp_path / "preset"))
        assert_same_outputs(model, backbone, 97, 40)
        loaded = TFDistilBertModel.from_preset(tmp_path / "preset", attention_dropout=0.5)
        assert_same_outputs(loaded, backbone, 97, 33)
        assert loaded.config.attention_dropout == 0.5
        bfloat16 = TFDistilBertModel.from_preset(str(tmp_path / "preset"), dtype="mixed_bfloat16")
        assert bfloat16.dtype_policy.name == "mixed_bfloat16"

    def test_out_of_reach(self, monkeypatch):
        def fail(preset, **options):
            raise requests.exceptions.ConnectionError("no route to api.kaggle.com")

        monkeypatch.setattr(keras_nlp.models.DistilBertBackbone, "from_preset", fail)
        with pytest.raises(FileNotFoundError, match="KAGGLEHUB_CACHE") as caught:
            TFDistilBertModel.from_preset("distil_bert_base_en_uncased")
        assert "distil_bert_base_en_uncased" in str(caught.value)
        assert "from_pretrained" in str(caught.value)
        assert "no route to api.kaggle.com" in str(caught.value)

    def test_no_such_preset(self):
        with pytest.raises(ValueError, match=r"(?s)'distil_bert_enormous'.*save_to_preset"):
            TFDistilBertModel.from_preset("distil_bert_enormous")

    def test_preset_of_another_model(self, tmp_path):
        bert = keras_nlp.models.BertBackbone(31, 1, 2, 8, 12, max_sequence_length=16)
        bert.save_to_preset(str(tmp_path / "bert"))
        with pytest.raises(ValueError, match="BertBackbone"):
            TFDistilBertModel.from_preset(tmp_path / "bert")

    def test_directory_without_a_preset(self, tmp_path):
        with pytest.raises(ValueError, match=r"no config\.json"):
            TFDistilBertModel.from_preset(tmp_path)


def make_classifier(**fields) -> TFDistilBertForSequenceClassification:
    config = make_config(num_labels=3, seq_classif_dropout=0.4, **fields)
    return randomize(TFDistilBertForSequenceClassification(config), seed=8)


def assert_same_logits(model, task) -> None:
    model, task = in_float64(model), in_float64(task)
    ids, mask = make_batch(len(VOCABULARY), 30)
    mask[:, 0] = 1
    ours = model({"input_ids": ids, "attention_mask": mask})
    assert_close(ours, task({"token_ids": ids, "padding_mask": mask}), FEW)


class TestClassifiers:
    def test_there_and_back(self, tmp_path):
        model = make_classifier()
        task = model.to_keras_hub()
        assert (task.num_classes, task.dropout) == (3, 0.4)
        assert_same_logits(model, task)
        back = TFDistilBertForSequenceClassification.from_keras_hub(task)
        assert (back.config.num_labels, back.config.seq_classif_dropout) == (3, 0.4)
        theirs = export_tensors(back)
        for name, array in export_tensors(model).items():
            np.testing.assert_array_equal(theirs[name], array, err_msg=name)

    def test_preset_of_a_classifier(self, tmp_path):
        tokenizer = make_tokenizer(tmp_path)
        model, preset = make_classifier(), tmp_path / "preset"
        model.to_keras_hub(tokenizer).save_to_preset(str(preset))
        task = keras_nlp.models.DistilBertTextClassifier.from_preset(str(preset))
        again = DistilBertTokenizer.from_pretrained(preset)
        assert again(SENTENCES) == tokenizer(SENTENCES)
        encoding = again(SENTENCES, padding=True, return_tensors="np")
        loaded = TFDistilBertForSequenceClassification.from_pretrained(
            preset, id2label=["bad", "fair", "good"], skip_padding=False
        )
        assert loaded.config.id2label[2] == "good"
        assert not loaded.skip_padding
        assert_same_logits(loaded, task)
        logits = loaded(dict(encoding))
        assert_close(task.predict(SENTENCES, verbose=0), logits, roundings(model))
        encoder = TFDistilBertModel.from_pretrained(preset)
        states = encoder(dict(encoding), skip_padding=False)[0]
        assert_close(states, loaded.distilbert(dict(encoding))[0], roundings(model))
        with pytest.raises(CheckpointError, match="no head for TFDistilBertForMaskedLM"):
            TFDistilBertForMaskedLM.from_pretrained(preset)

    def test_preset_of_a_backbone_gets_a_fresh_head(self, tmp_path, caplog):
        backbone = make_backbone(SMALL)
        backbone.save_to_preset(str(tmp_path))
        with caplog.at_level(logging.WARNING, logger="absl"):
            model = TFDistilBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
        assert "freshly initialized head" in caplog.text
        assert model.config.num_labels == 5
        assert_same_outputs(model.distilbert, backbone, 31, 17)

    def test_head_of_another_width(self):
        backbone = make_backbone(SMALL)
        task = keras_nlp.models.DistilBertTextClassifier(backbone, num_classes=2, hidden_dim=9)
        with pytest.raises(ValueError, match="hidden layer of width 9, but .* encoder, 6"):
            TFDistilBertForSequenceClassification.from_keras_hub(task)

    def test_keras_hub_reads_what_is_saved_here(self, tmp_path):
        tokenizer = make_tokenizer(tmp_path)
        model = make_classifier()
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        backbone = keras_nlp.models.DistilBertBackbone.from_preset(str(tmp_path))
        assert_same_outputs(model.distilbert, backbone, len(VOCABULARY), 30)
        theirs = keras_nlp.models.DistilBertTokenizer.from_preset(str(tmp_path))
        rows = tokenizer(SENTENCES, add_special_tokens=False)["input_ids"]
        assert theirs(SENTENCES) == rows


class TestTokenizers:
    def test_there_and_back(self, tmp_path):
        tokenizer = make_tokenizer(tmp_path)
        theirs = tokenizer.to_keras_hub()
        assert (theirs.lowercase, theirs.strip_accents, theirs.split_on_cjk) == (True, True, True)
        rows = tokenizer(SENTENCES, add_special_tokens=False)["input_ids"]
        assert theirs(SENTENCES) == rows
        again = DistilBertTokenizer.from_keras_hub(theirs, model_max_length=64)
        assert again(SENTENCES) == tokenizer(SENTENCES)
        assert again("Caf\u00e9") == tokenizer("Caf\u00e9")
        assert again.model_max_length == 64
        cased = keras_nlp.models.DistilBertTokenizer(theirs.get_vocabulary(), lowercase=False)
        assert not DistilBertTokenizer.from_keras_hub(cased).do_lower_case

    def test_what_keras_hub_lacks_is_refused(self, tmp_path):
        tokenizer = make_tokenizer(tmp_path)
        tokenizer.add_tokens(["<e1>"])
        with pytest.raises(ValueError, match=r"added tokens \(<e1>\)"):
            tokenizer.to_keras_hub()
        tokenizer.cls_token = "book"
        with pytest.raises(ValueError, match=r"cls_token is 'book', .* always has '\[CLS\]'"):
            tokenizer.to_keras_hub()
        with pytest.raises(TypeError, match="got DistilBertTokenizer"):
            DistilBertTokenizer.from_keras_hub(tokenizer)


class TestWrongObjects:
    def test_another_backbone(self):
        bert = keras_nlp.models.BertBackbone(31, 1, 2, 8, 12, max_sequence_length=16)
        with pytest.raises(TypeError, match="got BertBackbone"):
            TFDistilBertModel.from_keras_hub(bert)

    def test_task_model(self):
        classifier = keras_nlp.models.DistilBertTextClassifier(make_backbone(SMALL), num_classes=2)
        with pytest.raises(TypeError, match=r"DistilBertTextClassifier\. Give its `\.backbone`"):
            TFDistilBertModel.from_keras_hub(classifier)
        TFDistilBertModel.from_keras_hub(classifier.backbone)

    def test_backbone_with_more_weights(self):
        backbone = make_backbone(SMALL)
        backbone.enable_lora(2)
        with pytest.raises(ValueError, match="lora_kernel_a"):
            TFDistilBertModel.from_keras_hub(backbone)


def test_encoder_under_a_head():
    config = make_model(SMALL).config
    model = TFDistilBertForMaskedLM(config)
    perturb(model, seed=6)
    assert_same_outputs(model.distilbert, model.distilbert.to_keras_hub(), 31, 17)


@pytest.mark.slow
def test_keras_hub_is_imported_late():
    code = (
        "import sys, distilbert_tf.models.encoder, distilbert_tf.models.keras_hub\n"
        "sys.exit(any(name in sys.modules for name in ('keras_nlp', 'keras_hub')))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=True)
