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
import ctypes
import dataclasses
import gc
import pathlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import grpc
from absl import logging

from distilbert_serving.protos import get_model_status_pb2
from distilbert_serving.server import status
from distilbert_serving.server.loaded_version import LoadedVersion
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.model_config import ModelSettings
from distilbert_serving.server.version_directories import (
    Fingerprint,
    explain_nothing,
    fingerprint_of,
)
from distilbert_serving.version_numbers import find_versions

_States = get_model_status_pb2.ModelVersionStatus

Load = Callable[[str, int, pathlib.Path], LoadedVersion]


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """When to look for versions, and how often to try.

    Args:
        poll_wait_s: How long to wait between two looks at the base path; less than 0: never look
            again, 0: look once at the start, which is the same here.
        max_num_load_retries: How often to try a version again that could not be loaded.
        retry_interval_s: How long to wait before that; it is also tried, and the count starts
            anew, when its directory has changed.
    """

    poll_wait_s: float = 1.0
    max_num_load_retries: int = 5
    retry_interval_s: float = 60.0


class VersionStatus(NamedTuple):
    """What GetModelStatus says of a version."""

    version: int
    state: int
    error: status.RequestError | None


@dataclasses.dataclass(eq=False)
class _Entry:
    """A version that is or was wanted."""

    version: int
    state: int = _States.START
    loaded: LoadedVersion | None = None
    in_flight: int = 0
    error: Exception | None = None
    failures: int = 0
    retry_at_s: float = 0.0
    fingerprint: Fingerprint = frozenset()


class Lease:
    """Keeps a version in memory while a request uses it: a context manager that gives it."""

    def __init__(self, loaded: LoadedVersion, release: Callable[[], None]) -> None:
        self._loaded = loaded
        self._release = release

    def __enter__(self) -> LoadedVersion:
        return self._loaded

    def __exit__(self, *_: object) -> None:
        self._release()


class VersionManager:
    """The versions of one model.

    Args:
        settings: Where they are, and which are wanted.
        load: Loads a version, or raises.
        options: When to look for versions, and how often to try.
        metrics: Hears of loads.
    """

    def __init__(
        self,
        settings: ModelSettings,
        load: Load,
        options: LoadOptions,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self._load = load
        self._options = options
        self._metrics = metrics
        self._entries: dict[int, _Entry] = {}
        self._current: _Entry | None = None  # the newest version that answers
        self._changed = threading.Condition()
        self._refreshing = threading.RLock()  # one look at the base path at a time
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_base_path_away = False

    def start(self) -> set[int]:
        """Loads the wanted versions, then goes on looking for new ones in a thread.

        Returns:
            The versions that are wanted and answer.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no version; the message lists what is
                there.
            OSError, ValueError: no wanted version can be loaded.
        """
        with self.paused():
            available = self.prepare(self.settings)
        if self._options.poll_wait_s > 0:
            self._thread = threading.Thread(
                target=self._poll, name=f"versions-{self.settings.name}", daemon=True
            )
            self._thread.start()
        return available

    def paused(self) -> contextlib.AbstractContextManager[object]:
        """Stops the looking for new versions while the context lasts."""
        return self._refreshing

    def prepare(self, settings: ModelSettings) -> set[int]:
        """Loads what other settings of the same model ask for, beside what is there.

        To be called, and followed by `switch`, while `paused`.

        Returns:
            The versions that they ask for and that answer.

        Raises:
            OSError, ValueError: see `start`.
        """
        found = find_versions(settings.base_path)
        wanted = settings.policy.choose(found)
        self._load_wanted(wanted, found)
        available = set(filter(self._is_available, wanted))
        if not available:
            self._raise_nothing(settings, wanted)
        return available

    def switch(self, settings: ModelSettings) -> None:
        """Takes the other settings, and drops what they don't ask for."""
        self.settings = settings
        self.refresh()

    def acquire(self, version: int | None) -> Lease | None:
        """Finds a version that answers.

        Args:
            version: Its number; None for the newest.

        Returns:
            It, or None if there is none.
        """
        with self._changed:
            entry = self._current if version is None else self._entries.get(version)
            if entry is None or entry.state != _States.AVAILABLE or entry.loaded is None:
                return None
            entry.in_flight += 1
            return Lease(entry.loaded, lambda: self._release(entry))

    def statuses(self) -> list[VersionStatus]:
        """Gives the state of every version that is or was wanted, newest first."""
        with self._changed:
            return [
                VersionStatus(entry.version, entry.state, _as_request_error(entry.error))
                for _, entry in sorted(self._entries.items(), reverse=True)
            ]

    def newest(self) -> int | None:
        """Gives the newest version that answers; None if there is none."""
        current = self._current
        return None if current is None else current.version

    def refresh(self) -> None:
        """Looks at the base path, loads what is wanted, then drops what is not."""
        with self._refreshing:
            try:
                found = find_versions(self.settings.base_path)
            except OSError as error:
                # A network disk that is away is no reason to stop answering.
                if not self._is_base_path_away:
                    logging.error("Model %s: %s. Going on.", self.settings.name, error)
                self._is_base_path_away = True
                return
            self._is_base_path_away = False
            wanted = self.settings.policy.choose(found)
            self._load_wanted(wanted, found)
            self._drop_others(set(wanted))

    def close(self) -> None:
        """Ends the looking, and drops all versions as they are."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        with self._changed:
            entries = list(self._entries.values())
            self._current = None
        for entry in entries:
            self._unload(entry, timeout_s=0.0)

    def drop(self) -> None:
        """Ends the looking, and drops all versions when they have finished their requests."""
        self._stop.set()
        with self._refreshing:
            self._drop_others(set())

    def _poll(self) -> None:
        while not self._stop.wait(self._options.poll_wait_s):
            try:
                self.refresh()
            except Exception:
                logging.exception("Looking for versions of model %s failed", self.settings.name)

    def _load_wanted(self, wanted: list[int], found: dict[int, pathlib.Path]) -> None:
        for version in wanted:
            if not self._stop.is_set() and self._is_due(version, found[version]):
                self._load_version(version, found[version])

    def _is_available(self, version: int) -> bool:
        with self._changed:
            entry = self._entries.get(version)
            return entry is not None and entry.state == _States.AVAILABLE

    def _raise_nothing(self, settings: ModelSettings, wanted: list[int]) -> NoReturn:
        """Says why nothing can be served."""
        for version in wanted:
            error = self._entries[version].error
            if error is not None:
                raise error
        raise FileNotFoundError(explain_nothing(settings))

    def _is_due(self, version: int, path: pathlib.Path) -> bool:
        """Says whether to load a version now."""
        entry = self._entries.get(version)
        if entry is None:
            return True
        if entry.state != _States.END:
            return False
        if entry.error is None:
            return True  # it was dropped, and is wanted again
        if fingerprint_of(path) != entry.fingerprint:
            entry.failures = 0
            return True
        return (
            entry.failures <= self._options.max_num_load_retries
            and time.monotonic() >= entry.retry_at_s
        )

    def _load_version(self, version: int, path: pathlib.Path) -> None:
        """Loads a version and lets it answer, or notes why it cannot."""
        name = self.settings.name
        with self._changed:
            entry = self._entries.setdefault(version, _Entry(version))
            entry.state, entry.error = _States.LOADING, None
        fingerprint = fingerprint_of(path)  # before the load: what changes meanwhile counts as new
        started_s = time.monotonic()
        try:
            loaded = self._load(name, version, path)
        except Exception as error:
            self._metrics.observe_load(name, version, time.monotonic() - started_s, False)
            logging.error("Model %s version %d cannot be served: %s", name, version, error)
            # The traceback's frames would keep in memory what was loaded so far.
            _forget_frames(error)
            with self._changed:
                entry.state, entry.error = _States.END, error
                entry.failures += 1
                entry.retry_at_s = time.monotonic() + self._options.retry_interval_s
                entry.fingerprint = fingerprint
            _give_memory_back()
            return
        self._metrics.observe_load(name, version, time.monotonic() - started_s, True)
        with self._changed:
            entry.loaded, entry.state, entry.failures = loaded, _States.AVAILABLE, 0
            self._choose_current()
        logging.info("Model %s version %d answers", name, version)

    def _drop_others(self, wanted: set[int]) -> None:
        """Drops the versions that are not wanted, once one that is wanted answers."""
        with self._changed:
            available = [e for e in self._entries.values() if e.state == _States.AVAILABLE]
            unwanted = [entry for entry in available if entry.version not in wanted]
            if wanted and len(unwanted) == len(available):
                return
            for entry in unwanted:
                entry.state = _States.UNLOADING
            self._choose_current()
        for entry in unwanted:
            # In a thread of its own: an endless request must not keep new versions out.
            threading.Thread(target=self._unload, args=(entry,), name="unload", daemon=True).start()

    def _choose_current(self) -> None:
        available = [e for e in self._entries.values() if e.state == _States.AVAILABLE]
        self._current = max(available, key=lambda entry: entry.version, default=None)

    def _unload(self, entry: _Entry, timeout_s: float | None = None) -> None:
        """Waits for a version's requests, then takes it out of memory."""
        with self._changed:
            if entry.loaded is None:
                return
            entry.state = _States.UNLOADING
            self._changed.wait_for(lambda: entry.in_flight == 0, timeout_s)
            loaded, entry.loaded = entry.loaded, None
        loaded.close()
        del loaded
        _give_memory_back()
        with self._changed:
            entry.state = _States.END
        logging.info("Model %s version %d is unloaded", self.settings.name, entry.version)

    def _release(self, entry: _Entry) -> None:
        with self._changed:
            entry.in_flight -= 1
            if entry.in_flight == 0 and entry.state == _States.UNLOADING:
                self._changed.notify_all()


def _as_request_error(error: Exception | None) -> status.RequestError | None:
    if error is None or isinstance(error, status.RequestError):
        return error
    code = grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, FileNotFoundError):
        code = grpc.StatusCode.NOT_FOUND
    elif not isinstance(error, ValueError):
        code = grpc.StatusCode.UNKNOWN
    return status.RequestError(code, f"{type(error).__name__}: {error}")


def _forget_frames(error: BaseException | None) -> None:
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _give_memory_back() -> None:
    """Frees what is only held by cycles, and lets the C library return it to the system."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
