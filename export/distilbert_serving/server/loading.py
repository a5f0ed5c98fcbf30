"""From a version's directory to a version that answers: load, batch, warm up."""

import pathlib

from distilbert_serving.server import warmup
from distilbert_serving.server.batching_config import read_batching_options
from distilbert_serving.server.batching_options import BatchingOptions
from distilbert_serving.server.loaded_version import LoadedVersion
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.servable import Servable
from distilbert_serving.tf_serving.batching_parameters import BATCHING_FILE


def load_version(
    name: str,
    version: int,
    path: pathlib.Path,
    options: BatchingOptions | None,
    metrics: Metrics,
) -> LoadedVersion:
    """Loads a version and warms it up.

    Args:
        name: The model's name.
        version: The version's number.
        path: Its directory.
        options: How its requests are merged, unless it has a `batching_params.pbtxt` of its own;
            None to run each by itself, whatever it has.
        metrics: Hears of its runs.

    Raises:
        OSError, ValueError: it cannot be served; nothing of it stays in memory.
    """
    batching_file = path / BATCHING_FILE
    if options is not None and batching_file.exists():
        options = read_batching_options(batching_file)
    loaded = LoadedVersion(Servable(name, version, path), options, metrics)
    try:
        warmup.run(loaded, path)
    except BaseException:
        loaded.close()
        raise
    return loaded
