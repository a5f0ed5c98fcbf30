"""Calls as they are written for Keras and for transformers 4."""

import gc
import weakref

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from absl import logging
from comparing import FEW, WITH_GRADIENTS, assert_close, near, roundings
from tiny_pipelines import make_classifier, make_config, make_filler, make_tokenizer, randomize

from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.outputs import EncoderOutput, HeadOutput

TEXTS = ["The river froze early this year.", "Good soup!", "Rain again."]
LABELS = np.array([2, 0, 1])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def encoding(tokenizer):
    return tokenizer(TEXTS, padding=True, return_tensors="tf")


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture(scope="module")
def filler():
    return make_filler()


@pytest.fixture(scope="module")
def logits(classifier, encoding):
    return classifier(dict(encoding)).numpy()


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss of each row in float64."""
    logits = logits.astype("float64")
    right = np.take_along_axis(logits, labels[..., np.newaxis], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - right


class TestInputs:
    def test_all_ways_give_the_same_logits(self, classifier, encoding, tokenizer, logits):
        ids, mask = encoding["input_ids"], encoding["attention_mask"]
        uneven = tokenizer(TEXTS)
        rows = uneven["input_ids"]
        assert len({len(row) for row in rows}) == 3
        lengths = [len(row) for row in rows]
        ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(rows).astype("int32"), lengths)
        as_keras = [
            [ids, mask],
            (ids, mask),
            [ids.numpy().tolist(), mask.numpy().tolist()],
            rows,
            [np.array(row) for row in rows],
            np.array([np.array(row) for row in rows], object),
            ragged,
            dict(uneven),
            uneven,
            encoding,
            {"input_ids": ragged, "attention_mask": tf.ones_like(ragged)},
        ]
        for inputs in as_keras:
            output = classifier(inputs)
            assert tf.is_tensor(output)
            np.testing.assert_array_equal(output, logits)
        as_transformers = [
            classifier(**encoding),
            classifier(**uneven),
            classifier(ids, attention_mask=mask),
            classifier(ids, mask),
            classifier(input_ids=ids, attention_mask=mask, head_mask=None, training=False),
            classifier(dict(encoding), return_dict=True),
        ]
        for output in as_transformers:
            assert isinstance(output, HeadOutput)
            np.testing.assert_array_equal(output.logits, logits)

    def test_mask_positions_by_name(self, filler, encoding):
        positions = tf.constant([[1, 2]] * 3)
        expected = filler({**encoding, "mask_positions": positions})
        assert expected.shape == (3, 2, filler.config.vocab_size)
        output = filler(**encoding, mask_positions=positions)
        np.testing.assert_array_equal(output.logits, expected)

    def test_in_a_functional_model_and_a_graph(self, classifier, encoding, logits):
        ids, mask = (keras.Input((None,), dtype="int32", name=name) for name in encoding)
        model = keras.Model([ids, mask], classifier(ids, attention_mask=mask).logits)
        count = roundings(classifier)
        assert_close(model.predict(list(encoding.values()), verbose=0), logits, count)
        graph = tf.function(lambda ids, mask: classifier([ids, mask]).logits)
        assert_close(graph(*encoding.values()), logits, count)

    @pytest.mark.parametrize(
        ("inputs", "named", "message"),
        [
            ([2, 5, 3], {}, r"shape \(rows, tokens\); got \(3,\); a single row is \[ids\]"),
            (["Rain"], {}, "input_ids must be integers; row 0 .* is text: tokenize it first"),
            ([[2, 3], [2, None]], {}, r"must be integers; row 1 \(from 0\) holds None"),
            ([[2, 3], [2, float("nan"), 3]], {}, r"row 1 \(from 0\) holds nan"),
            ("Rain", {}, "input_ids must be integers .*; got str"),
            (np.array([["Rain"]]), {}, "must be integers; got string: tokenize the texts first"),
            (None, {}, "lack 'input_ids'"),
            ([[2, 3]], {"input_ids": [[2, 3]]}, "input_ids is given twice: by position and by"),
            ([[[2, 3]]] * 3, {}, r"is \[input_ids, attention_mask\]; this one has 3"),
            ([[2, 3]], {"attention_mask": np.ones((1, 3))}, r"attention_mask \(1, 3\) must have"),
            ([[2, 3]], {"token_type_ids": [[0, 0]]}, "'token_type_ids'.*has no token types"),
            (None, {"inputs_embeds": np.ones((1, 2, 12))}, "'inputs_embeds'.*stand in for ids"),
            ({"input_ids": [[2]], "labels": [1]}, {}, "'labels'.*`fit` and `evaluate` as targets"),
        ],
    )
    def test_wrong_inputs(self, classifier, inputs, named, message):
        with pytest.raises((TypeError, ValueError), match=message):
            classifier(inputs, **named)


class TestOutputs:
    def test_as_transformers_reads_it(self, classifier, encoding, logits):
        output = classifier(**encoding)
        for value in (output.logits, output["logits"], output[0]):
            np.testing.assert_array_equal(value, logits)
        assert output.loss is None
        assert len(output.to_tuple()) == 1
        (alone,) = classifier(encoding, return_dict=False)
        np.testing.assert_array_equal(alone, logits)

    def test_labels_give_the_loss(self, classifier, encoding, logits):
        expected = cross_entropy(logits, LABELS).mean()
        for labels in (LABELS, LABELS.tolist(), tf.constant(LABELS)):
            output = classifier(**encoding, labels=labels)
            assert float(output.loss) == near(expected, FEW)
        assert output["loss"] is output[0] is output.loss
        np.testing.assert_array_equal(output[1], logits)
        ignored = classifier(dict(encoding), labels=[2, -100, 1]).loss
        assert float(ignored) == near(cross_entropy(logits, LABELS)[[0, 2]].mean(), FEW)
        loss, other = classifier(**encoding, labels=LABELS, return_dict=False)
        assert float(loss) == near(expected, FEW)
        np.testing.assert_array_equal(other, logits)
        with pytest.raises(TypeError, match="labels must be ids, not texts"):
            classifier(**encoding, labels=["good", "bad", "fair"])

    def test_losses_of_other_problems(self, encoding):
        one = randomize(TFDistilBertForSequenceClassification(make_config(num_labels=1)), 3)
        scores = one(dict(encoding)).numpy()[:, 0].astype("float64")
        targets = np.array([0.5, -1.0, 2.0])
        output = one(**encoding, labels=targets)
        assert float(output.loss) == near(np.mean((scores - targets) ** 2), FEW)
        for kind in (None, "multi_label_classification"):
            config = make_config(num_labels=3, problem_type=kind)
            several = randomize(TFDistilBertForSequenceClassification(config), 4)
            scores = several(dict(encoding)).numpy().astype("float64")
            targets = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
            expected = np.mean(np.log1p(np.exp(scores)) - targets * scores)
            output = several(**encoding, labels=targets.astype("float32"))
            assert float(output.loss) == near(expected, FEW, size=np.abs(scores).max())

    def test_loss_of_masked_words(self, filler, encoding):
        labels = np.full(encoding["input_ids"].shape, -100)
        labels[0, 2], labels[2, 1] = 9, 40
        output = filler(**encoding, labels=labels)
        words = output.logits.numpy()[[0, 2], [2, 1]]
        expected = cross_entropy(words, np.array([9, 40])).mean()
        assert float(output.loss) == near(expected, FEW, size=np.abs(words).max())
        padding = np.argwhere(np.asarray(encoding["attention_mask"]) == 0)[0]
        labels[tuple(padding)] = 11  # as where labels are the ids
        everywhere = filler(dict(encoding), skip_padding=False)
        chosen = everywhere.numpy()[labels != -100]
        expected = cross_entropy(chosen, labels[labels != -100]).mean()
        output = filler(**encoding, labels=labels)
        assert float(output.loss) == near(expected, FEW, size=np.abs(chosen).max())
        with pytest.raises(ValueError, match="TFDistilBertModel has no head, so labels give"):
            TFDistilBertModel(make_config())(encoding, labels=labels)

    def test_training_by_hand(self, encoding):
        model = make_classifier()
        with tf.GradientTape() as tape:
            loss = model(**encoding, labels=LABELS, training=True).loss
        gradients = tape.gradient(loss, model.trainable_weights)
        assert all(gradient is not None for gradient in gradients)
        assert all(np.any(np.asarray(gradient) != 0) for gradient in gradients)

    def test_configuration_asks_for_states(self, encoding, caplog, monkeypatch):
        for name in ("output_hidden_states", "output_attentions"):
            config = make_config(id2label={0: "bad", 1: "fair", 2: "good"}, **{name: True})
            model = randomize(TFDistilBertForSequenceClassification(config), 1)
            output = model(**encoding)
            expected = model(dict(encoding), **{name: True})
            field = name.removeprefix("output_")
            assert len(output[field]) == 2 + (field == "hidden_states")
            for ours, theirs in zip(output[1], expected[1], strict=True):
                np.testing.assert_array_equal(ours, theirs)
            assert getattr(model(**encoding, **{name: False}), field) == ()
            assert len(getattr(model(encoding), field)) == len(output[field])
            monkeypatch.setattr(logging, "_log_counter_per_token", {})
            caplog.clear()
            with caplog.at_level("WARNING", logger="absl"):
                for options in ({"training": False}, {}, {}):
                    assert tf.is_tensor(model(dict(encoding), **options))  # as Keras' trainer needs
            (record,) = caplog.records
            assert "Pass the inputs by name for the states" in record.getMessage()
            encoder = TFDistilBertModel(config)
            assert len(getattr(encoder(dict(encoding)), field)) == len(output[field])

    def test_logits_can_be_read_as_an_output(self, classifier, encoding, logits):
        output = classifier(dict(encoding))
        np.testing.assert_array_equal(output.logits, logits)
        freed = weakref.ref(output)
        gc.disable()
        try:  # at once, not when Python collects its garbage
            del output
            assert freed() is None
        finally:
            gc.enable()

    def test_an_encoding_as_one_argument_says_what_comes_back(self, encoding, caplog, monkeypatch):
        model = make_classifier()
        both = list(encoding.values())
        with caplog.at_level("WARNING", logger="absl"):
            model(dict(encoding))
            model(**encoding)
            model(both, training=False)
            model.distilbert(encoding)
            assert not caplog.text
            for inputs in (encoding, both):
                monkeypatch.setattr(logging, "_log_counter_per_token", {})
                caplog.clear()
                for _ in range(2):
                    model(inputs)
                (record,) = caplog.records
                assert "so [0] is the first row. model(**encoding) and" in record.getMessage()

    def test_encoder(self, encoding):
        encoder = TFDistilBertModel(make_config())
        output = encoder(**encoding)
        assert isinstance(output, EncoderOutput)
        assert output[0] is output["last_hidden_state"] is output.last_hidden_state
        states = encoder(**encoding, output_hidden_states=True, return_dict=False)
        assert len(states) == 2
        assert_close(states[1][-1], states[0], roundings(encoder))


class TestKeras:
    def test_fit_and_evaluate_take_encodings(self, encoding, tokenizer):
        lists = tokenizer(TEXTS, padding=True)
        arrays = tokenizer(TEXTS, padding=True, return_tensors="np")

        def batches():
            while True:
                yield encoding, LABELS

        slices = tf.data.Dataset.from_tensor_slices((arrays, LABELS)).batch(3)
        ways = ((lists, LABELS), (batches(), None), (slices, None), (dict(encoding), LABELS))
        none = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
        results = []
        for x, y in ways:
            config = make_config(num_labels=3, **none)
            model = randomize(TFDistilBertForSequenceClassification(config), 5)
            before = cross_entropy(model(dict(encoding)).numpy(), LABELS).mean()
            model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
            validation = (lists, LABELS) if y is not None else batches()
            history = model.fit(
                x, y, steps_per_epoch=1, verbose=0, validation_data=validation, validation_steps=1
            ).history
            after = cross_entropy(model(dict(encoding)).numpy(), LABELS).mean()
            count = roundings(model, passes=WITH_GRADIENTS)
            assert history["loss"][0] == near(before, count)
            assert history["val_loss"][0] == near(after, count)
            assert model.evaluate(arrays, LABELS, verbose=0) == near(after, count)
            results.append(after)
            assert after < 0.99 * before
        assert_close(results, [results[-1]] * 4, count)

    def test_other_ways_into_the_trainer(self, encoding, logits):
        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return encoding, LABELS

        model = make_classifier()
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
        expected = cross_entropy(logits, LABELS).mean()
        count = roundings(model)
        assert model.evaluate(Batches(), verbose=0) == near(expected, count)
        assert model.test_on_batch(encoding, LABELS) == near(expected, count)
        assert np.isfinite(model.train_on_batch(encoding, LABELS))
        assert len(model.fit(Batches(), validation_data=Batches(), verbose=0).history) == 2

    def test_predict_takes_encodings(self, classifier, encoding, logits, tokenizer):
        count = roundings(classifier)
        for form in ("tf", "np", None):
            encoded = tokenizer(TEXTS, padding=True, return_tensors=form)
            assert_close(classifier.predict(encoded, verbose=0), logits, count)
            assert_close(classifier.predict_on_batch(encoded), logits, count)
        several = classifier.predict((encoding for _ in range(2)), steps=2, verbose=0)
        assert_close(several, np.concatenate([logits, logits]), count)
        rows = tokenizer(TEXTS)["input_ids"]
        assert_close(classifier.predict(rows, verbose=0), logits, count)

    def test_texts_are_refused(self, classifier):
        for texts in (TEXTS, np.array(TEXTS)):
            with pytest.raises(TypeError, match="takes token ids, not texts: pass what the tok"):
                classifier.predict(texts, verbose=0)

    def test_labels_that_are_texts_are_refused(self, encoding):
        classifier = make_classifier()
        classifier.compile("adam")
        names = ["no", "yes", "no"]
        batch = (dict(encoding), np.array(names))
        for train in (
            lambda: classifier.fit(encoding, names),
            lambda: classifier.fit(encoding, np.array(names, object)),
            lambda: classifier.fit(encoding, pd.Series(names)),
            lambda: classifier.fit(tf.data.Dataset.from_tensors(batch), verbose=0),
            lambda: classifier.fit(part for part in [batch]),
            lambda: classifier.fit(encoding, LABELS, validation_data=batch),
            lambda: classifier.evaluate(encoding, tf.constant(names)),
            lambda: classifier.train_on_batch(encoding, names),
            lambda: classifier.test_on_batch(encoding, names),
            lambda: classifier(**encoding, labels=names),
        ):
            with pytest.raises(TypeError, match=r"^labels must be ids, not texts: .*id2label=.*$"):
                train()

    def test_compile_without_a_loss_has_that_of_the_head(self, encoding, logits, filler, tmp_path):
        model = make_classifier()
        model.compile()
        expected = cross_entropy(logits, LABELS).mean()
        assert model.evaluate(encoding, LABELS, verbose=0) == near(expected, roundings(model))
        with pytest.raises(ValueError, match="There are no targets: pass the labels as y"):
            model.evaluate(encoding, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.evaluate(encoding, LABELS, verbose=0) == near(expected, roundings(model))
        filler.compile("adam")
        words = np.where(encoding["attention_mask"], encoding["input_ids"], -100)
        expected = filler(**encoding, labels=words).loss
        score = filler.evaluate(encoding, words, verbose=0)
        assert score == near(float(expected), roundings(filler))
