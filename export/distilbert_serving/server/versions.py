"""The versions of one model: finds new ones, loads them, switches over, and drops the old.

A version is loaded while the others go on answering, and is asked only when it is whole: loaded,
and warmed up. The versions that are no longer wanted go once a wanted one is there; requests that
they have accepted they finish. So no request fails because of a switch, at the price of two
versions in memory for a while, as under TF Serving's default policy.

Reference: tensorflow_serving/core/aspired_versions_manager.cc, loader_harness.cc and
availability_preserving_policy.cc; tensorflow_serving/sources/storage_path/
file_system_storage_path_source.cc.
"""

import contextlib
import dataclasses
import gc
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import grpc
from absl import logging

from distilbert_serving.protos import get_model_status_pb2
from distilbert_serving.server import inference, status
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.options import ServerOptions
from distilbert_serving.server.servable import Servable
from distilbert_serving.tf_serving.batching_parameters import (
    BATCHING_FILE,
    FILLING_WARNING,
    find_skipped_sizes,
    read_batching_parameters,
)
from distilbert_serving.tf_serving.config_protos import BatchingParameters
from distilbert_serving.tf_serving.warmup import WARMUP_FILE, read_warmup
from distilbert_serving.version_numbers import find_versions

_States = get_model_status_pb2.ModelVersionStatus


# What answers the request of each kind of warm-up log.
_ANSWERS = {
    "predict_log": inference.predict,
    "classify_log": inference.classify,
    "regress_log": inference.regress,
    "multi_inference_log": inference.multi_inference,
}


@dataclasses.dataclass(eq=False)
class _Version:
    """A version that is or was wanted."""

    state: int = _States.START
    servable: Servable | None = None
    in_flight: int = 0
    error: status.RequestError | None = None
    failures: int = 0
    retry_at_s: float = 0.0
    directory: tuple[int, int] | None = None  # what could not be loaded


class VersionManager:
    """The versions of one model: loads the wanted ones, then looks for new ones in a thread.

    Args:
        config: Where they are, and which are wanted: a `ModelConfig`.
        options: When to look for versions, how often to try, and how to merge requests.
        metrics: Is told of loads and runs.

    Raises:
        FileNotFoundError, NotADirectoryError: There is no version; the message lists what is
            there.
        OSError, ValueError: No wanted version can be loaded.
    """

    def __init__(self, config: Any, options: ServerOptions, metrics: Metrics) -> None:
        self._name = config.name
        self._base_path = pathlib.Path(config.base_path)
        self._policy = config.model_version_policy
        self._options = options
        self._metrics = metrics
        self._versions: dict[int, _Version] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        errors = self._refresh()
        if not self.available():
            raise errors[0] if errors else FileNotFoundError(self._explain_nothing())
        self._thread = threading.Thread(target=self._poll, name="versions", daemon=True)
        if options.poll_wait_s > 0:
            self._thread.start()

    def available(self) -> list[int]:
        """Lists the versions that answer."""
        with self._changed:
            return [v for v, each in self._versions.items() if each.state == _States.AVAILABLE]

    def lease(self, version: int | None) -> AbstractContextManager[Servable] | None:
        """Keeps a version in memory while a request uses it.

        Args:
            version: Its number; None for the newest.

        Returns:
            None if it doesn't answer.
        """
        with self._changed:
            if version is None:
                version = max(self.available(), default=0)
            leased = self._versions.get(version)
            if leased is None or leased.servable is None or leased.state != _States.AVAILABLE:
                return None
            leased.in_flight += 1
            return self._hold(leased, leased.servable)

    @contextlib.contextmanager
    def _hold(self, leased: _Version, servable: Servable) -> Iterator[Servable]:
        try:
            yield servable
        finally:
            with self._changed:
                leased.in_flight -= 1
                self._changed.notify_all()

    def statuses(self) -> list[get_model_status_pb2.ModelVersionStatus]:
        """Returns the state of every version that is or was wanted, newest first."""
        found = []
        with self._changed:
            for number, version in sorted(self._versions.items(), reverse=True):
                proto = _States(version=number, state=version.state)
                proto.status.SetInParent()  # a status of its own: OK, with no message
                if version.error is not None:
                    proto.status.error_code = version.error.code.value[0]
                    proto.status.error_message = version.error.message
                found.append(proto)
        return found

    def close(self) -> None:
        """Ends the looking, and drops all versions as they are."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        for version in self._versions.values():
            self._unload(version, timeout_s=0.0)

    def _poll(self) -> None:
        while not self._stop.wait(self._options.poll_wait_s):
            try:
                self._refresh()
            except Exception as error:
                # A network disk that is away is no reason to stop answering.
                logging.log_every_n_seconds(
                    logging.ERROR, "Looking for versions of %s: %s", 60, self._name, error
                )

    def _refresh(self) -> list[Exception]:
        """Loads what is wanted of the versions that are there, then drops what is not.

        Returns:
            Why wanted versions could not be loaded.
        """
        found = find_versions(self._base_path)
        wanted = self._choose(found)
        due = [number for number in wanted if self._is_due(number, found[number])]
        errors = [self._load(number, found[number]) for number in due if not self._stop.is_set()]
        available = self.available()
        if not wanted or set(wanted).intersection(available):
            for number in set(available).difference(wanted):
                version = self._versions[number]
                with self._changed:
                    version.state = _States.UNLOADING
                # In a thread of its own: an endless request must not keep new versions out.
                threading.Thread(target=self._unload, args=(version,), daemon=True).start()
        return [error for error in errors if error is not None]

    def _choose(self, found: Iterable[int]) -> list[int]:
        """Returns the versions to serve of those that are there, newest first."""
        newest_first = sorted(found, reverse=True)
        if self._policy.HasField("all"):
            return newest_first
        if self._policy.HasField("specific"):
            return [
                version for version in newest_first if version in self._policy.specific.versions
            ]
        return newest_first[: self._policy.latest.num_versions or 1]

    def _is_due(self, number: int, path: pathlib.Path) -> bool:
        """Says whether to load a version now."""
        version = self._versions.get(number)
        if version is None:
            return True
        if version.state != _States.END:
            return False
        if version.error is None:
            return True  # it was dropped, and is wanted again
        if _identify(path) != version.directory:
            version.failures = 0
            return True
        is_time = time.monotonic() >= version.retry_at_s
        return version.failures <= self._options.max_num_load_retries and is_time

    def _load(self, number: int, path: pathlib.Path) -> Exception | None:
        """Loads a version and lets it answer, or notes and returns why it cannot."""
        with self._changed:
            version = self._versions.setdefault(number, _Version())
            version.state, version.error = _States.LOADING, None
        version.directory = _identify(path)
        started_s = time.monotonic()
        servable = failure = None
        try:
            servable = self._load_servable(number, path)
        except Exception as error:
            logging.error("Model %s version %d cannot be served: %s", self._name, number, error)
            failure = error
        seconds = time.monotonic() - started_s
        self._metrics.observe_load(self._name, number, seconds, failure is None)
        with self._changed:
            version.servable = servable
            if failure is None:
                version.state, version.failures = _States.AVAILABLE, 0
                logging.info("Model %s version %d answers", self._name, number)
            else:
                code = grpc.StatusCode.INVALID_ARGUMENT
                if isinstance(failure, OSError):
                    code = grpc.StatusCode.NOT_FOUND
                version.error = status.RequestError(code, f"{type(failure).__name__}: {failure}")
                version.state, version.failures = _States.END, version.failures + 1
                version.retry_at_s = time.monotonic() + self._options.load_retry_interval_s
        return failure

    def _load_servable(self, number: int, path: pathlib.Path) -> Servable:
        """Loads a version and sends it the warm-up requests that came with it.

        The first run of a signature is slow, and what a model cannot do shows only when it runs: a
        version that fails one of its own requests is not served.

        Reference: saved_model_warmup.cc in tensorflow_serving/servables/tensorflow.
        """
        batching = None
        if self._options.enable_batching:
            batching = self._options.batching or BatchingParameters()
            if (file := path / BATCHING_FILE).exists():
                batching = read_batching_parameters(file)
            if skipped := find_skipped_sizes(batching):
                logging.warning(
                    "%s: no batch may have %d rows: %s", path, skipped[0], FILLING_WARNING
                )
        servable = Servable(self._name, number, path, batching, self._metrics)
        file = path / WARMUP_FILE
        try:
            for record, log in enumerate(read_warmup(file) if file.exists() else ()):
                kind = log.WhichOneof("log_type")
                try:
                    _ANSWERS[kind](servable, getattr(log, kind).request, lambda: True)
                except status.RequestError as error:
                    raise ValueError(
                        f"{file}: record {record} gets {error.code.name}: {error.message}"
                    ) from error
        except BaseException:
            servable.close()
            raise
        return servable

    def _unload(self, version: _Version, timeout_s: float | None = None) -> None:
        """Waits for a version's requests, then takes it out of memory."""
        with self._changed:
            if version.servable is None:
                return
            version.state = _States.UNLOADING
            self._changed.wait_for(lambda: version.in_flight == 0, timeout_s)
            servable, version.servable = version.servable, None
        servable.close()
        del servable
        gc.collect()  # a loaded model is full of circles
        version.state = _States.END

    def _explain_nothing(self) -> str:
        """Says what there is where no version was found."""
        there = sorted(path.name for path in self._base_path.iterdir())
        hint = "A version is a sub-directory with a number for a name, such as 1."
        if self._policy.HasField("specific"):
            hint = f"The wanted versions are {list(self._policy.specific.versions)}."
        elif "saved_model.pb" in there:
            hint = "This is a version's own directory: give its parent, and name it by a number."
        listing = ", ".join(there[:10] + ["..."] * (len(there) > 10)) or "nothing"
        return (
            f"No version of model {self._name} in {self._base_path}, where there is: {listing}. "
            f"{hint}"
        )


def _identify(path: pathlib.Path) -> tuple[int, int]:
    """Tells a directory from one that replaces it, or to which files were added."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns
