"""Where the splits of a task are: the demo data, the hub, a directory, a file, or memory."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distilbert_tf.checkpoints.hub import find_dataset
from distilbert_tf.data.file_formats import ARROW, ENDINGS, SPREADSHEETS
from distilbert_tf.data.tasks import Task
from distilbert_tf.spelling import suggest

DEMO, HUB = "demo", "hub"
DEMO_DATA = Path(__file__).parent / "demo_data"


class Source(NamedTuple):
    """What a split is read from: files, or a table in memory."""

    files: tuple[Path, ...] = ()
    table: Any = None


def find_source(task: Task, data: Any, split: str) -> Source | None:
    """Finds a split of a task.

    Args:
        task: Names the split's files.
        data: See `load_examples`.
        split: A name in `task.splits`.

    Returns:
        Its files, or its table as it was given; None if there is no such split.

    Raises:
        FileNotFoundError: There is no such data, or one of several shards is missing.
        ValueError: The task has no such split; or `data` names one that is none.
    """
    if split not in task.splits:
        raise ValueError(f"Task {task.name!r} has no split {split!r}, only {list(task.splits)}.")
    if splits := splits_in_memory(task, data):
        if split not in splits:
            return _named_file(task, split)
        data = splits[split]
        if isinstance(data, str | Path):
            return Source(tuple(_files_of(Path(data))))
    if not isinstance(data, str | Path):
        return Source(table=data)
    if _is_file(data):
        return Source((Path(data).expanduser(),))
    for place in _places(task, data, split):
        for stem in task.splits[split]:
            if files := _find(place, stem):
                return Source(tuple(files))
    return None


def _named_file(task: Task, split: str) -> Source | None:
    """Finds the file of a split that the task names by its whole path."""
    paths = (Path(stem) for stem in task.splits[split])
    return next((Source((path,)) for path in paths if path.is_absolute() and path.is_file()), None)


def as_training_data(task: Task, data: Any) -> Any:
    """Returns data with splits: a single file or table is the training split."""
    is_place = isinstance(data, str | Path) and not _is_file(data)
    return data if is_place or splits_in_memory(task, data) else {"train": data}


def describe_place(data: Any) -> Any:
    """Returns where data is as JSON takes it: a path, paths by split, or None if in memory."""
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, Mapping) and all(isinstance(one, str | Path) for one in data.values()):
        return {str(name): str(path) for name, path in data.items()}
    return None


def _is_file(data: str | Path) -> bool:
    return str(data) not in (DEMO, HUB) and Path(data).expanduser().is_file()


def splits_in_memory(task: Task, data: Any) -> dict[str, Any]:
    """Returns the splits in a dict of them, by the task's names; nothing if it is none.

    A dict of splits has names of splits or of their files as keys; one of columns has those of
    columns.

    Raises:
        ValueError: A key is like the name of a split, but none.
    """
    if not isinstance(data, Mapping):
        return {}
    names = {stem: split for split, stems in task.splits.items() for stem in (*stems, split)}
    columns = {name for column in task.text_columns for name in task.names_of(column)}
    if columns & data.keys() or not names.keys() & data.keys():
        return {}
    for key in data:
        if key not in names and (hint := suggest(str(key), names)):
            raise ValueError(f"Task {task.name!r} has no split {key!r}{hint}.")
    return {names[key]: value for key, value in data.items() if key in names}


def explain_absence(task: Task, data: Any, split: str) -> str:
    """Says where a split was looked for."""
    if splits := splits_in_memory(task, data):
        return f"The data has no {split} split of {task.name}, only {', '.join(splits)}."
    places = _places(task, data, split)
    held = "; ".join(
        f"{place} holds {', '.join(sorted(path.name for path in place.iterdir())) or 'nothing'}"
        for place in places
        if place.is_dir()
    )
    return (
        f"Looked for the {split} split of {task.name} as {' or '.join(task.splits[split])} "
        f"({', '.join(ENDINGS)}, or a directory of {ARROW} files) in "
        f"{' and '.join(map(str, places))}; {held}."
        + (" Offline, the cache may be incomplete." if str(data) == HUB else "")
        + f" Files of other names are named by the task's `splits` (--{split}_file)."
    )


def _places(task: Task, data: str | Path, split: str) -> list[Path]:
    """Returns the directories where a split's file may be."""
    root = _root(task, data, task.splits[split])
    folders = dict.fromkeys(("", task.folder, task.name, task.hub_config))
    return list(dict.fromkeys(root / folder for folder in folders))


def _root(task: Task, data: str | Path, stems: Sequence[str]) -> Path:
    if str(data) == DEMO:
        if not (DEMO_DATA / task.name).is_dir():
            raise FileNotFoundError(
                f"There is no demo data for the task {task.name!r}: name the directory with its "
                "files (data, --data)."
            )
        return DEMO_DATA / task.name
    if str(data) == HUB:
        if not task.hub_dataset:
            raise ValueError(
                f"Task {task.name!r} has no dataset on the hub (its hub_dataset is empty); give a "
                "directory with its files."
            )
        patterns = [
            f"{task.hub_config}/{stem}{rest}.parquet" for stem in stems for rest in ("", "-*-of-*")
        ]
        return find_dataset(task.hub_dataset, patterns)
    root = Path(data).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"There is no data directory or file {root}.")
    return root


def _files_of(path: Path) -> list[Path]:
    """Returns the files of a split that is given by its path."""
    path = path.expanduser()
    if path.is_file():
        return [path]
    if files := _shards(path / f"data{ARROW}"):
        return files
    raise FileNotFoundError(f"There is no data file {path}.")


def _find(place: Path, stem: str) -> list[Path]:
    for ending in (*ENDINGS, *SPREADSHEETS, ""):
        if (path := place / f"{stem}{ending}").is_file():
            return [path]
    return _shards(place / f"{stem}.parquet") or _shards(place / stem / f"data{ARROW}")


def _shards(path: Path) -> list[Path]:
    """Returns all shards of a file, or nothing if there are none."""
    name = re.compile(rf"{re.escape(path.stem)}-(\d{{5}})-of-(\d{{5}}){re.escape(path.suffix)}")
    if not path.parent.is_dir():
        return []
    found = sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))
    if not found:
        return []
    total = found[0].stem.rpartition("-")[2]
    wanted = [
        path.with_name(f"{path.stem}-{i:05d}-of-{total}{path.suffix}") for i in range(int(total))
    ]
    if found != wanted:
        raise FileNotFoundError(
            f"{path.parent} holds {', '.join(file.name for file in found)}, but all shards of one "
            f"set are needed: {', '.join(file.name for file in wanted) or 'at least one'}."
        )
    return wanted
