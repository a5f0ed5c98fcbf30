"""A run's directory: whose it is, whether a run may begin or go on in it, what it is rid of."""

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from distilbert_tf.checkpoints.hub import CONFIG, WEIGHTS
from distilbert_tf.checkpoints.tensor_files import Tensors
from distilbert_tf.models.shared_encoder import RUN
from distilbert_tf.training.model_card import CARD
from distilbert_tf.training.options import FinetuneOptions
from distilbert_tf.training.report import METRICS, PICTURES
from distilbert_tf.training.state import CHECKPOINTS, read_newest_state


def find_state(
    output_dir: Path, identity: Mapping[str, Any], settings: FinetuneOptions, overwrite: bool
) -> tuple[Tensors, dict[str, Any]] | None:
    """Reads the state of this very run, if it was interrupted.

    Args:
        output_dir: The run's directory.
        identity: What tells this run from others.
        settings: Its settings.
        overwrite: Whether the state of another run may be passed over.

    Returns:
        The newest state that is whole, as `read_state` gives it; None if there is none.

    Raises:
        CheckpointError: All states are damaged.
        FileExistsError: The state is another run's, and `overwrite` is false.
    """
    if (output_dir / METRICS).exists():
        return None  # finished, and to be replaced
    state = read_newest_state(output_dir / CHECKPOINTS)
    if state is None:
        return None
    differences = _differences(state[1]["run"], identity, settings)
    if not differences:
        return state
    if overwrite:
        logging.warning("The interrupted run in %s was another one; it is replaced.", output_dir)
        return None
    raise FileExistsError(
        f"{output_dir} holds the state of another run that was interrupted: "
        f"{'; '.join(differences)}. Go on with the same settings, choose another output_dir, or "
        "pass overwrite=True (--overwrite) to replace it."
    )


def _differences(
    before: Mapping[str, Any], identity: Mapping[str, Any], settings: FinetuneOptions
) -> list[str]:
    """Says in what a run that was begun differs from this one."""
    found = [
        f"{name} was {before[name]}, now {identity[name]}"
        for name in ("tasks", "model")
        if before[name] != identity[name]
    ]
    found += settings.differences(before["options"])
    if before["data_files"] != identity["data_files"]:
        found.append("the data files have changed")
    return found


def task_directories(output_dir: Path, names: Sequence[str]) -> dict[str, Path]:
    """Says where the classifier of each task goes: several have a directory each."""
    return {name: output_dir / name if len(names) > 1 else output_dir for name in names}


def has_begun(output_dir: Path, identity: Mapping[str, Any], settings: FinetuneOptions) -> bool:
    """Says whether this very run was ended before its first state was saved."""
    try:
        before = json.loads((output_dir / RUN).read_text(encoding="utf-8"))
        return before["status"] == "running" and not _differences(before, identity, settings)
    except (OSError, ValueError, KeyError):
        return False


def clear(output_dir: Path, names: Sequence[str], overwrite: bool) -> None:
    """Removes what an earlier run left, or the new one would be mixed with it if interrupted.

    Raises:
        FileExistsError: There is a checkpoint, and `overwrite` is false.
    """
    places = [output_dir, *task_directories(output_dir, names).values()]
    results = [place / name for place in places for name in (*WEIGHTS, METRICS)]
    earlier = [path for path in results if path.exists()]
    if earlier and not overwrite:
        raise FileExistsError(
            f"{output_dir} already holds a checkpoint ({earlier[0].name}). Choose another "
            "output_dir, or pass overwrite=True (--overwrite) to replace it."
        )
    if earlier:
        # Its scores and pictures would stand beside another run's weights, and its config.json
        # where a run on several tasks has none.
        record = [place.glob(pattern) for place in places for pattern in (CONFIG, CARD, *PICTURES)]
        for path in [*earlier, *itertools.chain(*record)]:
            path.unlink(missing_ok=True)
    for name in (CHECKPOINTS, "tensorboard"):
        shutil.rmtree(output_dir / name, ignore_errors=True)
    output_dir.mkdir(parents=True, exist_ok=True)
