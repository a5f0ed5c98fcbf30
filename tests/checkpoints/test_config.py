import json

import pytest
from transformers import BertConfig, DistilBertConfig

from distilbert_tf.checkpoints.config import from_bert, load_config, override

BERT = dict(vocab_size=33, hidden_size=15, num_hidden_layers=7, num_attention_heads=3)
BERT |= dict(intermediate_size=21, max_position_embeddings=12, hidden_act="relu")
BERT |= dict(hidden_dropout_prob=0.11, attention_probs_dropout_prob=0.22, initializer_range=0.3)
BERT |= dict(pad_token_id=2, id2label={0: "ja", 1: "nein", 2: "vielleicht"})


def write(tmp_path, fields: dict):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    return path


def test_bert_fields_become_distilberts():
    config = from_bert(BertConfig(**BERT).to_dict())
    assert isinstance(config, DistilBertConfig)
    assert (config.vocab_size, config.dim, config.n_layers, config.n_heads) == (33, 15, 7, 3)
    assert (config.hidden_dim, config.max_position_embeddings) == (21, 12)
    assert (config.activation, config.dropout, config.attention_dropout) == ("relu", 0.11, 0.22)
    assert (config.initializer_range, config.pad_token_id) == (0.3, 2)
    assert config.id2label == {0: "ja", 1: "nein", 2: "vielleicht"}
    assert config.num_labels == 3
    assert config.tie_word_embeddings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_norm_eps", 1e-5),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
    ],
)
def test_bert_that_is_no_distilbert_is_refused(field, value, tmp_path):
    path = write(tmp_path, BERT | {"model_type": "bert", field: value})
    with pytest.raises(ValueError, match=f"{field}={value!r}") as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_old_bert_without_pooled_fields_is_read(tmp_path):
    path = write(tmp_path, {"model_type": "bert", "hidden_size": 24, "num_hidden_layers": 2})
    config, family = load_config(path)
    assert family == "bert"
    assert (config.dim, config.n_layers, config.n_heads, config.hidden_dim) == (24, 2, 12, 3072)


def test_every_field_of_a_distilbert_survives(tmp_path):
    fields = DistilBertConfig(
        vocab_size=31, dim=10, n_layers=3, n_heads=5, hidden_dim=12, activation="silu",
        dropout=0.11, attention_dropout=0.12, seq_classif_dropout=0.13, qa_dropout=0.14,
        sinusoidal_pos_embds=True, initializer_range=0.7, max_position_embeddings=44,
        tie_word_embeddings=False, pad_token_id=4,
    ).to_dict()  # fmt: skip
    config, family = load_config(write(tmp_path, fields))
    assert family == "distilbert"
    assert config.to_dict() == DistilBertConfig.from_dict(fields).to_dict()
    assert (config.dim, config.seq_classif_dropout, config.tie_word_embeddings) == (10, 0.13, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "file"), ("", "file"), ("\x00\x01", "file"), ("[]", "object but list"), ("3", "object")],
)
def test_what_is_no_json_object_is_named(text, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json is not a JSON {message}"):
        load_config(path)


@pytest.mark.parametrize("kind", ["roberta", "albert", None])
def test_another_kind_of_model_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match=f"model_type={kind!r}; this package reads 'distilbert'"):
        load_config(write(tmp_path, {"model_type": kind}))


def test_overrides_replace_fields(tmp_path):
    path = write(tmp_path, DistilBertConfig(num_labels=5).to_dict())
    config, _ = load_config(path, dropout=0.0, seq_classif_dropout=0.4)
    assert (config.dropout, config.seq_classif_dropout, config.num_labels) == (0.0, 0.4, 5)
    config, _ = load_config(path, num_labels=3)
    assert config.num_labels == 3
    assert len(config.id2label) == len(config.label2id) == 3


def test_overriding_labels_keeps_all_label_fields_consistent(tmp_path):
    path = write(tmp_path, DistilBertConfig(num_labels=5).to_dict())
    config, _ = load_config(path, id2label={"0": "no", "1": "yes", "2": "maybe"})
    assert config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert config.num_labels == 3


def test_same_number_of_labels_keeps_their_names(tmp_path):
    fields = DistilBertConfig(id2label={0: "bad", 1: "good"}).to_dict()
    config, _ = load_config(write(tmp_path, fields), num_labels=2)
    assert config.id2label == {0: "bad", 1: "good"}


def test_unknown_override_is_named():
    with pytest.raises(ValueError, match="no field 'dropuot'"):
        override(DistilBertConfig(), dropuot=0.1)


def test_label2id_is_completed_from_id2label(references):
    config, _ = load_config(references / "classifier/config.json")
    assert config.id2label == {0: "gut", 1: "schlecht", 2: "weder noch"}
    assert config.label2id == {"gut": 0, "schlecht": 1, "weder noch": 2}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"id2label": {1: "a", 2: "b"}},
            'id2label {"1": "a", "2": "b"}, whose ids do not count from',
        ),
        ({"id2label": {0: "a", 2: "b"}}, "ids do not count from 0 to 1"),
        ({"id2label": {"a": 0, "b": 1}}, "with an id that is no number: .*'a'"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 3}, "num_labels 3, but id2label with 2"),
        (
            {"id2label": {0: "a", 1: "b"}, "label2id": {"b": 0, "a": 1}},
            'but label2id {"b": 0, "a": 1}, which is not its reverse',
        ),
        (
            {"id2label": {0: "a", 1: "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}},
            "not its reverse",
        ),
    ],
)
@pytest.mark.parametrize("family", ["distilbert", "bert"])
def test_labels_that_contradict_each_other(labels, message, family, tmp_path):
    labels = {name: {str(k): v for k, v in x.items()} if isinstance(x, dict) else x
              for name, x in labels.items()}  # fmt: skip
    path = write(tmp_path, {"model_type": family, **labels})
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "pass id2label={0: ..., 1: ...} to from_pretrained" in str(caught.value)
    config, _ = load_config(path, id2label=["no", "yes"])
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    with pytest.raises(ValueError, match=message):
        override(DistilBertConfig(), **labels)


def test_labels_given_in_any_consistent_way():
    expected = ({0: "no", 1: "yes", 2: "why"}, {"no": 0, "yes": 1, "why": 2}, 3)
    names, ids, count = expected
    for fields in (
        {"id2label": names},
        {"label2id": ids},
        {"id2label": names, "label2id": ids, "num_labels": count},
        {"id2label": dict(reversed(names.items()))},
        {"id2label": ["no", "yes", "why"], "num_labels": 3},
    ):
        config = DistilBertConfig()
        override(config, **fields)
        assert (config.id2label, config.label2id, config.num_labels) == expected
        assert list(config.id2label) == [0, 1, 2]


def test_a_configuration_in_place_of_the_files(tmp_path):
    path = write(tmp_path, DistilBertConfig(num_labels=5, dim=12, n_heads=2).to_dict())
    given = DistilBertConfig(num_labels=3, dim=8, n_heads=2)
    config, family = load_config(path, given, dropout=0.25)
    assert (config.num_labels, config.dim, config.dropout, family) == (3, 8, 0.25, "distilbert")
    assert given.dropout == 0.1  # it was copied
    for source in (tmp_path, path, str(path)):
        assert load_config(path, source)[0].dim == 12
    bert, family = load_config(path, BertConfig(hidden_size=24))
    assert (bert.dim, family) == (24, "distilbert")  # the file says how tensors are named
    with pytest.raises(TypeError, match="config must be a DistilBertConfig .*; got dict"):
        load_config(path, {"dim": 8})
