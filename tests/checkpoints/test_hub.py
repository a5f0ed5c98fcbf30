"""From names to files: directories, the hub (a small one in this process), and its cache."""

import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from recorded import assert_equals_recorded

from distilbert_tf.checkpoints import hub
from distilbert_tf.checkpoints.hub import find_checkpoint, find_dataset, find_tokenizer, shard_names
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Answers the hub's library about repositories, each of one branch with one commit.

    Attributes:
        repositories: Contents by file name, by path (`/me/model`, `/datasets/me/rows`).
        sent: The files that were downloaded.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.sent: list[str] = []


class HubAnswers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None: ...

    def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self) -> None:
        path = re.match(r"(?:/api)?(?:/models)?((?:/datasets)?/[^/]+/[^/]+)/(.*?)(\?|$)", self.path)
        files = self.server.repositories.get(path[1]) if path else None
        if files is None:
            return self.answer(404, X_Error_Code="RepoNotFound")
        action, revision, *names = path[2].split("/")
        file = "/".join(names)
        if revision not in ("main", COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if action == "revision":
            return self.answer(200, json.dumps({"id": path[1], "sha": COMMIT}).encode())
        if action == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in files.items()
            ]
            return self.answer(200, json.dumps(tree).encode())
        if self.command == "GET":
            self.server.sent.append(file)
        tag = f'"{file.replace("/", "-")}"'
        return self.answer(200, files[file], ETag=tag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's library, and no network."""
    directory = tmp_path / "hub"
    directory.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(directory))
    return directory


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def read(directory: Path, *names: str) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in names}


def fill_cache(cache: Path, repository: str, files: dict[str, bytes]) -> Path:
    """Lays files out as other versions of the hub's library do, without a list of all of them."""
    snapshot = cache / repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cache / repository / "refs").mkdir()
    (cache / repository / "refs/main").write_text(COMMIT)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


# The hub.


def test_only_what_is_read_is_downloaded_and_then_works_offline(online, references, monkeypatch):
    files = read(references / "base", "config.json", "model.safetensors")
    others = dict.fromkeys(("pytorch_model.bin", "tf_model.h5", "flax.msgpack", "vocab.txt"), b"x")
    online.repositories["/someone/tiny"] = files | others
    for revision in (None, "main", COMMIT):
        model = TFDistilBertModel.from_pretrained("someone/tiny", revision=revision)
        assert_equals_recorded(model, references / "base")
    assert sorted(online.sent) == sorted(files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_equals_recorded(TFDistilBertModel.from_pretrained("someone/tiny"), references / "base")
    with pytest.raises(FileNotFoundError, match=r"no vocab\.txt or .* copy may be incomplete"):
        find_tokenizer("someone/tiny")


def test_hdf5_is_downloaded_where_there_is_nothing_else(online):
    files = {"config.json": b"{}", "tf_model.h5": b"weights"}
    online.repositories["/someone/old"] = files | {"pytorch_model.bin": b"a pickle"}
    assert find_checkpoint("someone/old").weights.read_bytes() == b"weights"
    assert sorted(online.sent) == sorted(files)


def test_shards_are_downloaded(online):
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    shards = {"one.safetensors": b"1", "two.safetensors": b"2", "three.safetensors": b"3"}
    files = {"config.json": b"{}", "model.safetensors.index.json": index, **shards}
    online.repositories["/me/big"] = files
    assert find_checkpoint("me/big").weights.name == "model.safetensors.index.json"
    assert sorted(online.sent) == sorted(files.keys() - {"three.safetensors"})


def test_a_tokenizer_is_downloaded(online):
    files = {"vocab.txt": b"[PAD]\n[UNK]\n", "tokenizer_config.json": b"{}"}
    online.repositories["/someone/words"] = files | {"merges.txt": b"", "config.json": b"{}"}
    assert read(find_tokenizer("someone/words"), *files) == files
    assert sorted(online.sent) == sorted(files)


def test_a_tokenizer_of_which_the_cache_has_a_part_is_used(online, monkeypatch, caplog):
    files = {
        "vocab.txt": b"[PAD]",
        "tokenizer_config.json": b"{}",
        "special_tokens_map.json": b"{}",
    }
    online.repositories["/someone/words"] = files
    directory = find_tokenizer("someone/words")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (directory / "special_tokens_map.json").unlink()
    assert find_tokenizer("someone/words") == directory
    assert "was found" not in caplog.text
    (directory / "tokenizer_config.json").unlink()
    assert find_tokenizer("someone/words") == directory
    assert "Of the tokenizer of 'someone/words' only vocab.txt was found" in caplog.text


def test_data_is_downloaded(online):
    files = {"sst2/train-00000-of-00001.parquet": b"rows", "sst2/other.parquet": b"", "x": b""}
    online.repositories["/datasets/nyu-mll/glue"] = files
    found = find_dataset("nyu-mll/glue", ["sst2/train.parquet", "sst2/train-*.parquet"])
    assert (found / "sst2/train-00000-of-00001.parquet").read_bytes() == b"rows"
    assert online.sent == ["sst2/train-00000-of-00001.parquet"]


def test_what_the_hub_lacks_is_named(online, references):
    with pytest.raises(FileNotFoundError, match=r"no directory 'me/typo' here, and the hub has no"):
        find_checkpoint("me/typo")
    with pytest.raises(FileNotFoundError, match=r"^The hub has no dataset repository 'me/typo'"):
        find_dataset("me/typo", ["rows.parquet"])
    online.repositories["/me/x"] = read(references / "base", "config.json") | {"vocab": b"a"}
    with pytest.raises(FileNotFoundError, match="'me/x' on the hub has no revision 'v2'"):
        find_checkpoint("me/x", revision="v2")
    match = r"^The hub repository 'me/x' has no model\.safetensors or .*h5; its copy in .* holds co"
    with pytest.raises(FileNotFoundError, match=match):
        find_checkpoint("me/x")
    with pytest.raises(FileNotFoundError, match=r"'me/x' has no vocab\.txt or tokenizer\.json;"):
        find_tokenizer("me/x")
    online.repositories["/me/empty"] = {"README.md": b""}
    with pytest.raises(FileNotFoundError, match=r"'me/empty' has no config\.json; .* nothing"):
        find_checkpoint("me/empty")


@pytest.mark.parametrize("name", ["a/b/c", "no such model!", "-x/y", "a--b/.."])
def test_name_that_no_repository_can_have(name, cache):
    with pytest.raises(FileNotFoundError, match=f"cannot have a model repository {name!r}"):
        find_checkpoint(name)


# Without a network.


def test_unreachable_names_tell_the_files_and_what_works_offline(cache):
    for find, files, kind in (
        (find_checkpoint, "config.json or model.safetensors", "model"),
        (find_tokenizer, "vocab.txt or tokenizer.json or tokenizer_config.json", "model"),
        (lambda name: find_dataset(name, ["dev.tsv", "dev-*"]), "dev.tsv or dev-*", "dataset"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            find("me/x")
        message = str(error.value)
        assert ("There is no directory 'me/x' here, and the" in message) == (kind == "model")
        for part in (
            f"(asked for {files}", f"`hf download me/x --repo-type {kind}`", "'demo'", "HF_HOME",
            "The hub library says: ",
        ):  # fmt: skip
            assert part in message


def test_a_network_that_fails_is_reported(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(FileNotFoundError, match=r"config\.json or .*(refused|internet connection)"):
        find_checkpoint("someone/tiny")


def test_a_cache_of_another_version_is_used_as_far_as_it_goes(cache, references, caplog):
    files = read(references / "base", "config.json", "model.safetensors")
    snapshot = fill_cache(cache, "models--someone--tiny", files | {"vocab.txt": b"[PAD]"})
    assert find_checkpoint("someone/tiny").weights == snapshot / "model.safetensors"
    assert find_tokenizer("someone/tiny") == snapshot
    assert "Of the tokenizer of 'someone/tiny' only vocab.txt was found" in caplog.text
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="Without a network that copy may be incomplete"):
        find_checkpoint("someone/tiny")
    with pytest.raises(FileNotFoundError, match="neither cached here"):
        find_checkpoint("someone/tiny", revision="v2")


# Directories.


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "/nowhere/at/all", "~/no-such-dir"])
@pytest.mark.parametrize("find", [find_checkpoint, find_tokenizer])
def test_path_that_does_not_exist_is_not_asked_of_the_hub(name, find, online):
    with pytest.raises(FileNotFoundError, match=r"There is no directory [^']*\.$"):
        find(name)


def test_directory_goes_before_the_hub(tmp_path, monkeypatch, references):
    shutil.copytree(references / "base", tmp_path / "distilbert-base-uncased")
    monkeypatch.chdir(tmp_path)
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


def test_a_pickle_is_not_opened_but_can_be_converted(tmp_path, references):
    shutil.copy(references / "base/config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not to be opened")
    with pytest.raises(FileNotFoundError) as error:
        find_checkpoint(tmp_path)
    assert "it holds config.json, pytorch_model.bin. Weights in a pickle" in str(error.value)
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
    with pytest.raises(FileNotFoundError, match=r"names a missing shard: .*two\.safetensors"):
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


# What transformers' from_pretrained takes, too.


def test_options_of_the_hub_are_passed_on(online, references, tmp_path, monkeypatch):
    files = read(references / "base", "config.json", "model.safetensors")
    vocabulary = {"vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nrain"}
    nested = {f"tf/{name}": content for name, content in (files | vocabulary).items()}
    online.repositories["/someone/nested"] = nested | {"config.json": b"{}"}
    options = {"subfolder": "tf", "cache_dir": tmp_path / "other", "token": "hf_secret"}
    asked = []
    download = hub.snapshot_download

    def record(*args, **given):
        asked.append(given["token"])
        return download(*args, **given)

    monkeypatch.setattr(hub, "snapshot_download", record)
    model = TFDistilBertModel.from_pretrained("someone/nested", **options)
    assert_equals_recorded(model, references / "base")
    tokenizer = DistilBertTokenizer.from_pretrained("someone/nested", use_auth_token="hf_secret",
        subfolder="tf", cache_dir=tmp_path / "other")  # fmt: skip
    assert tokenizer("rain")["input_ids"] == [2, 5, 3]
    assert set(asked) == {"hf_secret"}
    assert sorted(online.sent) == ["tf/config.json", "tf/model.safetensors", "tf/vocab.txt"]
    online.repositories.clear()  # from now on only the cache has it
    model = TFDistilBertModel.from_pretrained("someone/nested", local_files_only=True, **options)
    assert_equals_recorded(model, references / "base")
    with pytest.raises(FileNotFoundError, match="neither cached here nor"):
        find_checkpoint("someone/nested", subfolder="tf", local_files_only=True)


def test_subfolder_of_a_directory(references):
    model = TFDistilBertModel.from_pretrained(references, subfolder="base")
    assert_equals_recorded(model, references / "base")
    with pytest.raises(FileNotFoundError, match=r"references/other has no config\.json"):
        find_checkpoint(references, subfolder="other")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_git_lfs_pointers_are_named(name, copy_reference):
    directory = copy_reference("base")
    (directory / "vocab.txt").write_text("[UNK]")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 267967963\n"
    (directory / name).write_text(pointer)
    find = find_tokenizer if name == "vocab.txt" else find_checkpoint
    with pytest.raises(FileNotFoundError, match=rf"{name} is a Git LFS pointer.*`git lfs pull`"):
        find(directory)


def test_git_lfs_pointers_among_shards(tmp_path):
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "one.safetensors").write_bytes(b"weights")
    (tmp_path / "two.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FileNotFoundError, match=r"two\.safetensors is a Git LFS pointer"):
        find_checkpoint(tmp_path)
