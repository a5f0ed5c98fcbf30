"""The versions of one model: finds new ones, loads them, switches over, and drops the old.

A version is loaded while the others go on answering, and is asked once it is warmed up. Those that
are no longer wanted then finish the requests that they have accepted. So no request fails because
of a switch, at the price of two versions in memory, as under TF Serving's default policy.

Reference: aspired_versions_manager.cc, loader_harness.cc and availability_preserving_policy.cc in
tensorflow_serving/core; file_system_storage_path_source.cc in tensorflow_serving/sources.
"""

import contextlib
import dataclasses
import gc
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from absl import logging
from grpc import StatusCode

from distilbert_serving.server import inference, status
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.options import ServerOptions
from distilbert_serving.server.servable import Servable
from distilbert_serving.tf_serving import batching_parameters as batching_files
from distilbert_serving.tf_serving.config_protos import BatchingParameters
from distilbert_serving.tf_serving.warmup import WARMUP_FILE, read_warmup
from distilbert_serving.version_numbers import find_versions
from distilbert_serving.version_status import AVAILABLE, VersionStatus


@dataclasses.dataclass(eq=False)
class _Version:
    """A version that is or was wanted."""

    state: str = "LOADING"
    servable: Servable | None = None
    in_flight: int = 0
    problem: tuple[str, int] = ("", 0)  # message and status code
    failures: int = 0
    retry_at_s: float = 0.0


class VersionManager:
    """The versions of a `ModelConfig`: loads the wanted ones, then looks for new ones in a thread.

    Raises OSError or ValueError if no wanted version can be loaded.
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
            there = sorted(path.name for path in self._base_path.iterdir())[:10]
            where = f"{self._name} in {self._base_path}, where there is: {', '.join(there)}"
            hint = "A version is a sub-directory named by a number, with saved_model.pb in it."
            nothing = FileNotFoundError(f"No wanted version of model {where}. {hint}")
            raise errors[0] if errors else nothing
        self._thread = threading.Thread(target=self._poll, name="versions", daemon=True)
        if options.poll_wait_s > 0:
            self._thread.start()

    def available(self) -> list[int]:
        """Lists the versions that answer."""
        with self._changed:
            return [v for v, each in self._versions.items() if each.state == AVAILABLE]

    def statuses(self) -> list[VersionStatus]:
        """Returns the state of every version that is or was wanted, newest first."""
        with self._changed:
            versions = sorted(self._versions.items(), reverse=True)
            return [VersionStatus(number, each.state, *each.problem) for number, each in versions]

    @contextlib.contextmanager
    def lease(self, number: int | None) -> Iterator[Servable | None]:
        """Keeps a version, or the newest, in memory while a request uses it; None if it is not."""
        with self._changed:
            number = max(self.available(), default=0) if number is None else number
            version = self._versions.get(number, _Version())
            servable = version.servable if version.state == AVAILABLE else None
            version.in_flight += 1
        try:
            yield servable
        finally:
            with self._changed:
                version.in_flight -= 1
                self._changed.notify_all()

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
                logging.log_every_n_seconds(logging.ERROR, "%s: %s", 60, self._name, error)

    def _refresh(self) -> list[Exception]:
        """Loads what is wanted and there, then drops what is not; returns why loads failed."""
        found = find_versions(self._base_path)
        for number in self._versions.keys() - found.keys():
            self._versions[number].failures = 0  # what comes in its place may be better
        wanted = self._choose(found)
        due = [number for number in wanted if self._is_due(number)]
        errors = [self._load(number, found[number]) for number in due if not self._stop.is_set()]
        available = set(self.available())
        if not wanted or available.intersection(wanted):
            for number in available.difference(wanted):
                version = self._versions[number]
                version.state = "UNLOADING"
                # In a thread of its own: an endless request must not keep new versions out.
                threading.Thread(target=self._unload, args=(version,), daemon=True).start()
        return [error for error in errors if error is not None]

    def _choose(self, found: Iterable[int]) -> list[int]:
        """Returns the versions to serve of those that are there, newest first."""
        newest_first = sorted(found, reverse=True)
        if self._policy.HasField("all"):
            return newest_first
        if self._policy.HasField("specific"):
            return [number for number in newest_first if number in self._policy.specific.versions]
        return newest_first[: self._policy.latest.num_versions or 1]

    def _is_due(self, number: int) -> bool:
        """Says whether to load a version now: it is new, was dropped, or may be tried again."""
        version = self._versions.get(number)
        if version is None or version.state != "END":
            return version is None
        is_time = not version.failures or time.monotonic() >= version.retry_at_s
        return is_time and version.failures <= self._options.max_num_load_retries

    def _load(self, number: int, path: pathlib.Path) -> Exception | None:
        """Loads a version and lets it answer, or notes and returns why it cannot."""
        with self._changed:
            version = self._versions.setdefault(number, _Version())
            version.state, version.problem = "LOADING", ("", 0)
        started_s = time.monotonic()
        failure = None
        try:
            version.servable = self._load_servable(number, path)
        except Exception as error:
            logging.error("Model %s version %d cannot be served: %s", self._name, number, error)
            failure = error
            code = (
                StatusCode.NOT_FOUND if isinstance(error, OSError) else StatusCode.INVALID_ARGUMENT
            )
            version.problem = f"{type(error).__name__}: {error}", code.value[0]
            version.failures += 1
            version.retry_at_s = time.monotonic() + self._options.load_retry_interval_s
        else:
            version.failures = 0
            logging.info("Model %s version %d answers", self._name, number)
        version.state = "END" if failure else AVAILABLE
        self._metrics.observe_load(self._name, number, time.monotonic() - started_s, not failure)
        return failure

    def _load_servable(self, number: int, path: pathlib.Path) -> Servable:
        batching = self._options.batching or BatchingParameters()
        if (file := path / batching_files.BATCHING_FILE).exists():
            batching = batching_files.read_batching_parameters(file)
        for size in batching_files.find_skipped_sizes(batching)[:1]:
            text = "%s: no batch may have %d rows: %s"
            logging.warning(text, path, size, batching_files.FILLING_WARNING)
        batching = batching if self._options.enable_batching else None
        servable = Servable(self._name, number, path, batching, self._metrics)
        try:
            if (file := path / WARMUP_FILE).exists():
                _warm_up(servable, file)
        except BaseException:
            servable.close()
            raise
        return servable

    def _unload(self, version: _Version, timeout_s: float | None = None) -> None:
        """Waits for a version's requests, then takes it out of memory."""
        with self._changed:
            if version.servable is None:
                return
            version.state = "UNLOADING"
            self._changed.wait_for(lambda: version.in_flight == 0, timeout_s)
            servable, version.servable = version.servable, None
        if servable is not None:  # nobody else was faster
            servable.close()
        del servable
        collect_garbage()  # a loaded model is full of circles
        version.state = "END"


def collect_garbage() -> None:
    """Collects garbage; where some of it is frozen (`gc.freeze`), freezes all that is left."""
    has_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if has_frozen:
        gc.freeze()


def _warm_up(servable: Servable, file: pathlib.Path) -> None:
    """Sends a version the requests that came with it; if it fails one, it is not served."""
    for record, log in enumerate(read_warmup(file)):
        kind = log.WhichOneof("log_type")
        answer = getattr(inference, kind.removesuffix("_log"))
        try:
            answer(servable, getattr(log, kind).request, lambda: True)
        except status.RequestError as error:
            problem = f"record {record} gets {error.code.name}: {error.message}"
            raise ValueError(f"{file}: {problem}") from error
