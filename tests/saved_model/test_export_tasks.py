"""One export for several tasks on one encoder: what it holds, answers and refuses."""

import json
import os
import shutil
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from comparing import assert_close
from distilbert_serving.client.predict_client import PredictClient, PredictError
from distilbert_serving.saved_model import exporter as saved_model
from distilbert_serving.saved_model.exporter import (
    EXPORT_RECORD,
    export_pretrained,
    export_saved_model,
)
from distilbert_serving.saved_model.verification import VerificationError
from distilbert_serving.server import ModelServer
from distilbert_serving.tf_serving.warmup import EXTRA_ASSETS
from exporting import TINY_MAX_LENGTH, TINY_ROUNDINGS, make_tiny_model
from safetensors.numpy import load_file, save_file

from distilbert_tf import cli
from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.shared_encoder import load_classifiers
from distilbert_tf.training.run_directory import find_task_directories

LABELS = {
    "sst2": ["schlecht", "gut 👍"],
    "mnli": ["follows", "open – who knows", "contradicts"],
    "qqp": ["different", "same"],
}
PAIR = {"sst2": False, "mnli": True, "qqp": True}
TEXTS = [
    "the film was very good",
    "It was boring; never, never again!",
    "",
    "Crème brûlée for 3 out of 10 😀",
    "not bad, and not good. " * 30,
    "ok",
]
ONE_TASK = [
    "serving_default",
    "classify_text",
    "classify",
    "regress",
    "tokenize",
    "from_ids",
    "encode",
]
SEED = 30  # with it no classifier gives all texts the same label
QUERY = "distilbert.transformer.layer.0.attention.q_lin.weight"


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Three classifiers that share an encoder, and their tokenizer."""
    models = {}
    encoder = None
    for seed, (task, labels) in enumerate(LABELS.items(), SEED):
        fields = {
            "id2label": dict(enumerate(labels)),
            "task_name": task,
            "text_pair": PAIR[task],
        }
        models[task], tokenizer = make_tiny_model(
            tmp_path_factory.mktemp("model"), seed=seed, fields=fields, encoder=encoder
        )
        encoder = models[task].distilbert
    return models, tokenizer


@pytest.fixture(scope="module")
def exported(classifiers, tmp_path_factory):
    models, tokenizer = classifiers
    base = tmp_path_factory.mktemp("base")
    return export_saved_model(models, tokenizer, base, max_length=TINY_MAX_LENGTH)


@pytest.fixture(scope="module")
def saved_run(classifiers, tmp_path_factory):
    """The directory that a run on several tasks leaves."""
    models, tokenizer = classifiers
    parent = tmp_path_factory.mktemp("run")
    for task, model in models.items():
        model.save_pretrained(parent / task)
        tokenizer.save_pretrained(parent / task)
    (parent / "logs").mkdir()
    (parent / "run.json").write_text(json.dumps({"seed": 3}))
    return parent


@pytest.fixture
def run_copy(saved_run, tmp_path):
    return shutil.copytree(saved_run, tmp_path / "run")


def sides(task, texts=TEXTS):
    return [texts, texts[::-1]] if PAIR[task] else [texts]


def logits_in_memory(classifiers, task):
    models, tokenizer = classifiers
    encoding = tokenizer(
        *sides(task), truncation=True, max_length=TINY_MAX_LENGTH, padding=True, return_tensors="tf"
    )
    return models[task](encoding, training=False).numpy()


def assert_answers(version, classifiers, signature, task):
    function = tf.saved_model.load(os.fspath(version)).signatures[signature]
    inputs = dict(zip(("text", "text_pair"), map(tf.constant, sides(task)), strict=False))
    answer = {name: tensor.numpy() for name, tensor in function(**inputs).items()}
    assert answer.keys() == {"label", "label_id", "probabilities", "logits"}
    expected = logits_in_memory(classifiers, task)
    assert_close(answer["logits"], expected, TINY_ROUNDINGS, size=1.0)
    assert_close(answer["probabilities"], tf.nn.softmax(expected), TINY_ROUNDINGS, size=1.0)
    labels = [label.decode() for label in answer["label"]]
    assert labels == [LABELS[task][i] for i in expected.argmax(axis=1)]
    assert len(set(labels)) > 1  # or the comparison would prove little


def count_weights(model):
    # Dropout counts its steps, and an export has no dropout.
    return sum(np.prod(v.shape) for v in model.variables if not v.path.endswith("/step"))


def change_json(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# The export.


@pytest.mark.parametrize(
    ("signature", "task"), [*zip(LABELS, LABELS, strict=True), ("serving_default", "sst2")]
)
def test_each_signature_answers_as_its_classifier(exported, classifiers, signature, task):
    assert_answers(exported, classifiers, signature, task)


def test_holds_the_encoder_once(exported, classifiers):
    models, _ = classifiers
    stored = dict(tf.train.list_variables(os.fspath(exported / "variables" / "variables")))
    del stored["_CHECKPOINTABLE_OBJECT_GRAPH"]
    encoder = count_weights(models["sst2"].distilbert)
    heads = [count_weights(model) - encoder for model in models.values()]
    assert encoder > 10 * max(heads) > 0
    assert sum(map(np.prod, stored.values())) == encoder + sum(heads)
    data = exported / "variables" / "variables.data-00000-of-00001"
    # The file's remainder is the list of objects.
    assert 4 * (encoder + sum(heads)) <= data.stat().st_size < 4 * (2 * encoder + sum(heads))


def test_record(exported):
    record = json.loads((exported / EXTRA_ASSETS / EXPORT_RECORD).read_text(encoding="utf-8"))
    kinds = ["", "_classify", "_regress", "_tokenize", "_from_ids"]
    own = [task + kind for task in LABELS for kind in kinds]
    assert record["signatures"] == sorted([*ONE_TASK, *own])
    assert list(record["tasks"]) == list(LABELS)
    for task, described in record["tasks"].items():
        assert (described["labels"], described["pair"]) == (LABELS[task], PAIR[task])
    assert len({described["weights_sha256"] for described in record["tasks"].values()}) == 3
    # At the top stands what is true of the default signature.
    assert {name: record[name] for name in record["tasks"]["sst2"]} == record["tasks"]["sst2"]
    assert record["max_length"] == TINY_MAX_LENGTH
    assert record["max_difference"] > 0  # what verification found, and allowed


def test_one_wrong_signature_is_enough(classifiers, tmp_path, monkeypatch):
    models, tokenizer = classifiers
    models = {task: models[task] for task in ("sst2", "qqp")}
    bias = models["qqp"].classifier.bias
    save = tf.saved_model.save

    def save_another_head(*args):
        bias.assign_add([0.0, 0.001])
        save(*args)
        bias.assign_sub([0.0, 0.001])

    monkeypatch.setattr(tf.saved_model, "save", save_another_head)
    message = r"in signature qqp, tf2 loader, batch of 1, text '': logits is \[.*1.0e-03"
    with pytest.raises(VerificationError, match=message):
        export_saved_model(models, tokenizer, tmp_path, max_length=TINY_MAX_LENGTH)
    assert os.listdir(tmp_path) == []


def test_pair_is_what_the_configuration_says_or_the_caller(classifiers, tmp_path):
    models, tokenizer = classifiers
    inputs = []
    for pair in (None, False):
        version = export_saved_model(
            models["mnli"],
            tokenizer,
            tmp_path,
            pair=pair,
            max_length=TINY_MAX_LENGTH,
            verify=False,
        )
        loaded = tf.saved_model.load(os.fspath(version))
        assert sorted(loaded.signatures) == sorted(ONE_TASK)
        inputs.append(set(loaded.signatures["serving_default"].structured_input_signature[1]))
    assert inputs == [{"text", "text_pair"}, {"text"}]
    model, _ = make_tiny_model(tmp_path / "model", fields={"text_pair": "no"})
    with pytest.raises(ValueError, match="text_pair must be true or false; got 'no'"):
        export_saved_model(model, tokenizer, tmp_path)


def test_names_that_are_taken(classifiers, tmp_path):
    models, tokenizer = classifiers
    for name in ("encode", "sst2_classify"):
        with pytest.raises(ValueError, match=f"would have a signature '{name}', which exists"):
            export_saved_model({"sst2": models["sst2"], name: models["qqp"]}, tokenizer, tmp_path)


@pytest.mark.parametrize("name", ["serving_default", "2nd", "", "a-b", "a/b", "naïve", "__init"])
def test_names_that_are_none(classifiers, tmp_path, name):
    models, tokenizer = classifiers
    with pytest.raises(ValueError, match=f"'{name}' cannot be the name of a task's signature"):
        export_saved_model({"sst2": models["sst2"], name: models["qqp"]}, tokenizer, tmp_path)


def test_classifiers_that_do_not_go_together(classifiers, tmp_path):
    models, tokenizer = classifiers
    other, _ = make_tiny_model(tmp_path / "model")
    with pytest.raises(ValueError, match="of 'sst2' and 'films' have encoders of their own"):
        export_saved_model({**models, "films": other}, tokenizer, tmp_path)
    with pytest.raises(ValueError, match="the mapping is empty"):
        export_saved_model({}, tokenizer, tmp_path)
    words = TFDistilBertForMaskedLM(other.config)
    with pytest.raises(TypeError, match="Task 'words': .* got TFDistilBertForMaskedLM"):
        export_saved_model({**models, "words": words}, tokenizer, tmp_path)


# Checkpoints.


def test_loads_classifiers_on_one_encoder(saved_run, classifiers):
    models, _ = classifiers
    order = ["qqp", "sst2", "mnli"]
    loaded = load_classifiers([saved_run / task for task in order])
    assert list(loaded) == order
    assert len({id(model.distilbert) for model in loaded.values()}) == 1
    for task, model in loaded.items():
        assert list(model.config.id2label.values()) == LABELS[task]
        assert model.config.text_pair is PAIR[task]
        for variable, original in zip(model.weights, models[task].weights, strict=True):
            np.testing.assert_array_equal(variable, original)


def test_exports_the_directory_of_a_run(run_copy, classifiers, tmp_path):
    for task, length in (("mnli", 9), ("qqp", TINY_MAX_LENGTH), ("sst2", 9)):
        change_json(run_copy / task / "tokenizer_config.json", model_max_length=length)
    version = export_pretrained(run_copy, tmp_path / "base", verify=False)
    record = json.loads((version / EXTRA_ASSETS / EXPORT_RECORD).read_text(encoding="utf-8"))
    assert record["max_length"] == TINY_MAX_LENGTH
    assert_answers(version, classifiers, "serving_default", "mnli")  # the first by name
    for task in LABELS:
        assert_answers(version, classifiers, task, task)


def test_the_run_gives_the_order(run_copy):
    assert [path.name for path in find_task_directories(run_copy)] == ["mnli", "qqp", "sst2"]
    change_json(run_copy / "run.json", tasks=["sst2", "mnli"])
    assert find_task_directories(run_copy) == [run_copy / "sst2", run_copy / "mnli"]
    change_json(run_copy / "run.json", tasks=["sst2", "cola"])
    with pytest.raises(CheckpointError, match=r"lists the task 'cola', .*there are mnli, qqp, sst"):
        find_task_directories(run_copy)
    (run_copy / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json is not a JSON file"):
        find_task_directories(run_copy)


def test_directories_that_are_no_runs(run_copy):
    assert find_task_directories(run_copy / "sst2") == []
    assert find_task_directories(run_copy / "logs") == []
    assert find_task_directories("some/repository") == []
    (run_copy / "qqp").rename(run_copy / "quora")
    with pytest.raises(CheckpointError, match=r"quora.config\.json has task_name='qqp'.*'quora'"):
        find_task_directories(run_copy)


def test_names_of_tasks(run_copy):
    fields = json.loads((run_copy / "mnli" / "config.json").read_text())
    del fields["task_name"], fields["text_pair"]  # as before there were such fields
    (run_copy / "mnli" / "config.json").write_text(json.dumps(fields))
    assert list(load_classifiers([run_copy / "mnli"])) == ["mnli"]
    change_json(run_copy / "sst2" / "config.json", task_name="mnli")
    with pytest.raises(CheckpointError, match=r"mnli and .*sst2 both are for the task 'mnli'"):
        load_classifiers([run_copy / "mnli", run_copy / "sst2"])
    with pytest.raises(ValueError, match="the list is empty"):
        load_classifiers([])


def change_tensor(directory, name, change):
    tensors = load_file(directory / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def change_one_weight(directory):
    def change(array):
        array[1, 2] = np.nextafter(array[1, 2], np.float32(9))
        return array

    change_tensor(directory, QUERY, change)


def change_a_sign(directory):
    bias = QUERY.replace("weight", "bias")
    change_tensor(directory, bias, lambda array: -array)  # 0.0 becomes -0.0
    assert not load_file(directory / "model.safetensors")[bias].any()


def drop_a_word(directory):
    for name in ("vocab.txt", "tokenizer.json"):
        path = directory / name
        if path.exists():
            path.write_text(path.read_text(encoding="utf-8").replace("boring", "exciting"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_one_weight, r"tensor transformer\.layer\.0\.attention\.q_lin\.weight: values, by"),
        (
            change_a_sign,
            r"tensor transformer\.layer\.0\.attention\.q_lin\.bias: values, by up to 0",
        ),
        (lambda path: change_json(path / "config.json", n_heads=2), "n_heads: 3 and 2"),
        (lambda path: change_json(path / "config.json", activation="relu"), "activation: 'gelu'"),
        (
            lambda path: change_json(path / "tokenizer_config.json", do_lower_case=False),
            "do_lower_case: True and False",
        ),
        (drop_a_word, "vocabulary: the id of 'boring' is 13 and None"),
    ],
    ids=["value", "sign", "heads", "activation", "case", "vocabulary"],
)
def test_encoders_and_tokenizers_that_differ(run_copy, change, message):
    change(run_copy / "mnli")
    with pytest.raises(CheckpointError, match=message) as caught:
        export_pretrained([run_copy / "sst2", run_copy / "mnli"], run_copy / "base")
    assert f"{run_copy / 'sst2'} and {run_copy / 'mnli'} cannot share" in str(caught.value)
    assert not (run_copy / "base").exists()


def test_encoders_of_different_depth(run_copy, tmp_path):
    model, _ = make_tiny_model(tmp_path / "model", fields={"n_layers": 1})
    model.save_pretrained(run_copy / "mnli")
    with pytest.raises(CheckpointError, match="n_layers: 2 and 1\n"):
        load_classifiers([run_copy / "sst2", run_copy / "mnli"])


def test_a_tensor_that_only_one_has(run_copy):
    tensors = load_file(run_copy / "mnli" / "model.safetensors")
    del tensors[QUERY]
    save_file(tensors, run_copy / "mnli" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor trans.*q_lin\.weight: only in the first"):
        load_classifiers([run_copy / "sst2", run_copy / "mnli"])


# Serving.


@pytest.fixture(scope="module")
def target(exported):
    with ModelServer(exported.parent, port=0) as server:
        yield f"127.0.0.1:{server.port}"


def test_served_side_by_side(target, classifiers):
    """Many requests at once to all signatures, some of which take the very same inputs."""
    expected = {task: logits_in_memory(classifiers, task) for task in LABELS}
    with PredictClient(target) as client, futures.ThreadPoolExecutor(12) as pool:

        def ask(task):
            return client.predict(*sides(task), signature_name=task, batch_size=2)

        tasks = [*LABELS] * 10
        for task, answer in zip(tasks, pool.map(ask, tasks), strict=True):
            assert_close(answer.logits, expected[task], TINY_ROUNDINGS, size=1.0)
            assert answer.labels == [LABELS[task][i] for i in expected[task].argmax(axis=1)]
        by_default = client.predict(TEXTS)
        assert_close(by_default.logits, expected["sst2"], TINY_ROUNDINGS, size=1.0)
        with pytest.raises(ValueError, match="'mnli'.*takes pairs of texts: give text_pairs"):
            client.predict("one alone", signature_name="mnli")
        with pytest.raises(PredictError, match="no signature 'cola', but .*'qqp'"):
            client.predict("one alone", signature_name="cola")


def test_query_names_the_signature(target, classifiers, capsys):
    pairs = ["the film was good\tit was bad", "ok\tnot very boring", "never\tnever"]
    port = target.split(":")[1]
    cli.main(["query", f"--port={port}", "--signature=mnli", "--pair", "--json", *pairs])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    models, tokenizer = classifiers
    encoding = tokenizer(
        *zip(*(pair.split("\t") for pair in pairs), strict=True), padding=True, return_tensors="tf"
    )
    probabilities = tf.nn.softmax(models["mnli"](encoding)).numpy()
    assert [row["label"] for row in rows] == [LABELS["mnli"][i] for i in probabilities.argmax(1)]
    assert_close([row["probabilities"] for row in rows], probabilities, TINY_ROUNDINGS, size=1.0)


@pytest.mark.parametrize(
    ("flags", "models", "pair"),
    [
        (["--model=run"], "run", None),
        (["--model=run/sst2,run/mnli", "--nopair"], ["run/sst2", "run/mnli"], False),
        (["--model=run/mnli,", "--pair"], "run/mnli", True),
    ],
)
def test_export_takes_one_model_or_several(monkeypatch, capsys, flags, models, pair):
    calls = []
    monkeypatch.setattr(
        saved_model, "export_pretrained", lambda *args, **options: calls.append((args, options))
    )
    cli.main(["export", "--output=base", *flags])
    ((arguments, options),) = calls
    assert arguments == (models, "base")
    assert options == {
        "version": None,
        "max_length": None,
        "pair": pair,
        "regress_label": None,
        "top_k": 5,
        "max_masks": 16,
        "max_text_bytes": 2**20,
        "max_request_rows": None,
        "allowed_batch_sizes": None,
        "weights": "fp32",
        "compute": None,
        "evaluate_on": None,
        "max_changed_labels": None,
        "max_score_loss": None,
        "max_batch_size": 32,
        "max_latency_ms": 5.0,
        "warmup": ["serving_default"],
    }
