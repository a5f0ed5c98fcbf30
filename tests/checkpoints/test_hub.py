import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from comparing import assert_close, roundings
from huggingface_hub import constants

from distilbert_tf.checkpoints import hub
from distilbert_tf.checkpoints.hub import find_checkpoint, find_dataset, find_tokenizer, shard_names
from distilbert_tf.models.encoder import TFDistilBertModel

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache of the hub library, and no network."""
    directory = tmp_path / "hub"
    directory.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(directory))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return directory


def fill_cache(
    cache: Path, name: str, files: dict[str, Path | bytes], kind: str = "models"
) -> Path:
    """Lays files out as `hf download` does: blobs, links to them, and the name of a revision."""
    repository = cache / f"{kind}--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(REVISION)
    (repository / "blobs").mkdir()
    for number, (file, content) in enumerate(files.items()):
        blob = repository / "blobs" / f"{number:040x}"
        blob.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        (snapshot / file).parent.mkdir(exist_ok=True)
        (snapshot / file).symlink_to(blob)
    return snapshot


def test_cached_repository_is_loaded_without_network(cache, references):
    files = {name: references / "base" / name for name in ("config.json", "model.safetensors")}
    snapshot = fill_cache(cache, "someone/tiny", files)
    found = find_checkpoint("someone/tiny")
    assert found.config == snapshot / "config.json"
    assert found.weights == snapshot / "model.safetensors"
    expected = np.load(references / "base/expected.npz")
    for revision in (None, "main", REVISION):
        model = TFDistilBertModel.from_pretrained("someone/tiny", revision=revision)
        output = model(expected["input_ids"])[0][:1]  # its mask is full
        assert_close(output, expected["hidden_states.2"][:1], roundings(model))


def test_cached_repository_with_nothing_but_hdf5_is_loaded(cache, copy_reference):
    directory = copy_reference("tf4_base")
    names = ("config.json", "tf_model.h5")
    snapshot = fill_cache(cache, "someone/old", {name: directory / name for name in names})
    assert find_checkpoint("someone/old").weights == snapshot / "tf_model.h5"
    expected = np.load(directory / "expected.npz")
    model = TFDistilBertModel.from_pretrained("someone/old")
    inputs = {name: expected[name] for name in ("input_ids", "attention_mask")}
    at = expected["attention_mask"] != 0
    assert_close(model(inputs)[0][at], expected["output"][at], roundings(model))


def test_cached_tokenizer_is_found(cache):
    snapshot = fill_cache(cache, "someone/words", {"vocab.txt": b"[PAD]\n[UNK]\n"})
    assert find_tokenizer("someone/words") == snapshot


def test_unreachable_name_tells_the_file_and_what_works_offline(cache):
    with pytest.raises(FileNotFoundError) as error:
        find_checkpoint("distilbert-base-uncased")
    message = str(error.value)
    for part in (
        "There is no directory 'distilbert-base-uncased' here",
        "config.json of the hub repository",
        "model.safetensors and vocab.txt",
        "'demo'",
        hub.DEMO_INSTALL,
        "hf download distilbert-base-uncased",
        "HF_HOME",
    ):
        assert part in message
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt or tokenizer\.json"):
        find_tokenizer("distilbert-base-uncased")


def test_uncached_weights_of_a_cached_configuration_are_named(cache, references):
    fill_cache(cache, "a/b", {"config.json": references / "base/config.json"})
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors or .* or tf_model\.h5 of the"):
        find_checkpoint("a/b")


def test_uncached_revision_is_out_of_reach(cache, references):
    fill_cache(cache, "a/b", {"config.json": references / "base/config.json"})
    with pytest.raises(FileNotFoundError, match=r"config\.json of the hub repository"):
        find_checkpoint("a/b", revision="v2")


def test_network_failure_is_reported(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(FileNotFoundError, match=r"config\.json.*Network is unreachable"):
        find_checkpoint("someone/tiny")


def answer_with(monkeypatch, files: dict[str, Path], error: Exception) -> None:
    def download(name, file, revision=None):
        if file in files:
            return str(files[file])
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", download)


class _Response:
    headers: dict = {}
    request = None


def test_unknown_repository_is_reported(monkeypatch):
    error = huggingface_hub.errors.RepositoryNotFoundError("401", response=_Response())
    answer_with(monkeypatch, {}, error)
    with pytest.raises(FileNotFoundError, match=r"no directory 'me/typo' here, and no repository"):
        find_checkpoint("me/typo")


def test_online_repository_without_weights_is_not_called_unreachable(monkeypatch, references):
    missing = huggingface_hub.errors.EntryNotFoundError("404")
    answer_with(monkeypatch, {"config.json": references / "base/config.json"}, missing)
    with pytest.raises(FileNotFoundError, match=r"^The hub repository 'me/x' has no model\.safe"):
        find_checkpoint("me/x")


@pytest.mark.parametrize("name", ["a/b/c", "no such model!", "-x/y", "a--b/..", ""])
def test_name_that_no_repository_can_have(name, cache):
    with pytest.raises(FileNotFoundError, match="no directory|has no config"):
        find_checkpoint(name)


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "/nowhere/at/all", "~/no-such-dir"])
def test_path_that_does_not_exist_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(hub, "hf_hub_download", None)  # calling it would raise TypeError
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        find_checkpoint(name)
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        find_tokenizer(name)


def test_directory_goes_before_the_hub(tmp_path, monkeypatch, references):
    shutil.copytree(references / "base", tmp_path / "distilbert-base-uncased")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", None)
    assert find_checkpoint("distilbert-base-uncased").config.is_file()


def test_home_directory_is_expanded(tmp_path, monkeypatch, references):
    shutil.copytree(references / "base", tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_checkpoint("~/mine").weights == tmp_path / "mine/model.safetensors"


def test_file_instead_of_directory(references):
    with pytest.raises(FileNotFoundError, match=r"config\.json is a file; give the directory"):
        find_checkpoint(references / "base/config.json")


def test_directory_without_files_tells_what_it_holds(tmp_path, references):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; it holds nothing"):
        find_checkpoint(tmp_path)
    shutil.copy(references / "base/config.json", tmp_path)
    (tmp_path / "model.ckpt").touch()
    match = r"has no model\.safetensors or .*tf_model\.h5; it holds config\.json, model\.ckpt\."
    with pytest.raises(FileNotFoundError, match=match):
        find_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no vocab\.txt or tokenizer\.json"):
        find_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickle_only_checkpoint_tells_how_to_convert_it(file, tmp_path, references):
    shutil.copy(references / "base/config.json", tmp_path)
    (tmp_path / file).write_bytes(b"not to be opened")
    with pytest.raises(FileNotFoundError) as error:
        find_checkpoint(tmp_path)
    assert "pickle only" in str(error.value)
    assert f"from_pretrained('{tmp_path}').save_pretrained('converted')" in str(error.value)


def test_safetensors_go_before_hdf5(copy_reference):
    directory = copy_reference("tf4_base")
    assert find_checkpoint(directory).weights.name == "tf_model.h5"
    (directory / "model.safetensors").touch()
    assert find_checkpoint(directory).weights.name == "model.safetensors"


def test_missing_shard_is_named(tmp_path, references):
    shutil.copy(references / "base/config.json", tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "one.safetensors").touch()
    assert shard_names(index) == ["one.safetensors", "two.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"names a shard that is missing.*two\.safetensors"):
        find_checkpoint(tmp_path)
    (tmp_path / "two.safetensors").touch()
    assert find_checkpoint(tmp_path).weights == index


@pytest.mark.parametrize("text", ["{}", "[1]", "half a fi", '{"weight_map": 3}'])
def test_damaged_index_is_named(text, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is not a safetensors index"):
        shard_names(index)


def test_demo_directory_has_tokenizer_and_checkpoint(demo):
    assert find_tokenizer(demo) == find_checkpoint(demo).config.parent == hub.demo_directory()


def fake_demo(tmp_path: Path, monkeypatch, content: bytes | None) -> None:
    if content is not None:
        model = tmp_path / hub.DEMO_PACKAGE / "model"
        model.mkdir(parents=True)
        (model.parent / "__init__.py").write_text("raise RuntimeError('must not be imported')")
        (model / "model.safetensors").write_bytes(content)
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)


def test_demo_encoder_of_another_release_is_refused(tmp_path, monkeypatch):
    fake_demo(tmp_path, monkeypatch, b"something else")
    with pytest.raises(ValueError, match=f"sha256 .*, not {hub.DEMO_SHA256}.*--force-reinstall"):
        find_checkpoint("demo")


def test_missing_demo_encoder_tells_how_to_install_it(tmp_path, monkeypatch):
    fake_demo(tmp_path, monkeypatch, None)
    with pytest.raises(FileNotFoundError, match=f"run `{hub.DEMO_INSTALL}`"):
        find_checkpoint("demo")


def test_cached_dataset_is_found_without_network(cache):
    files = {"sst2/train-00000-of-00001.parquet": b"rows"}
    snapshot = fill_cache(cache, "nyu-mll/glue", files, "datasets")
    assert find_dataset("nyu-mll/glue", ["sst2/train-*.parquet"]) == snapshot
    assert (snapshot / "sst2/train-00000-of-00001.parquet").read_bytes() == b"rows"


def test_unreachable_dataset_tells_the_files_and_what_works_offline(cache):
    with pytest.raises(FileNotFoundError) as error:
        find_dataset("nyu-mll/glue", ["sst2/dev.parquet", "sst2/dev-*.parquet"])
    message = str(error.value)
    for part in (
        "sst2/dev.parquet or sst2/dev-*.parquet of the dataset repository 'nyu-mll/glue' is",
        "'demo'",
        "hf download --repo-type dataset nyu-mll/glue",
        "HF_HOME",
        "The hub library says: ",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("Network is unreachable"), r"rows\.parquet of .*Network is unreachable"),
        (
            huggingface_hub.errors.RepositoryNotFoundError("401", response=_Response()),
            r"no dataset repository 'me/rows' .*rows\.parquet",
        ),
        (
            huggingface_hub.errors.HFValidationError("no such name"),
            "cannot have the name 'me/rows'",
        ),
    ],
)
def test_failures_of_a_dataset_are_reported(monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=message):
        find_dataset("me/rows", ["rows.parquet"])
