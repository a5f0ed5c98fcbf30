"""All models of a server: finds the version that a request means, and takes new settings."""

import contextlib
import threading
from collections.abc import Mapping, Sequence

from distilbert_serving.protos import model_pb2
from distilbert_serving.server import status
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.model_config import ModelSettings
from distilbert_serving.server.versions import Lease, Load, LoadOptions, VersionManager


class LabelError(ValueError):
    """A label is to mean a version that doesn't answer."""


class Models:
    """The models that a server has.

    Args:
        load: Loads a version, or raises.
        options: When to look for versions, and how often to try.
        metrics: Hears of loads.
        allow_labels_for_unavailable: Accept labels of versions that are not loaded (yet).
    """

    def __init__(
        self,
        load: Load,
        options: LoadOptions,
        metrics: Metrics,
        *,
        allow_labels_for_unavailable: bool = False,
    ) -> None:
        self._load = load
        self._options = options
        self._metrics = metrics
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._managers: dict[str, VersionManager] = {}
        self._labels: dict[str, Mapping[str, int]] = {}
        self._applying = threading.Lock()

    def apply(self, settings: Sequence[ModelSettings]) -> None:
        """Serves these models from now on, and no others.

        What is new is loaded before what is old is dropped. If something cannot be served,
        everything stays as it is.

        Raises:
            OSError, ValueError: one of them cannot be served; see `VersionManager.start`.
        """
        with self._applying, contextlib.ExitStack() as stack:
            old = self._managers
            new: dict[str, VersionManager] = {}
            started: list[VersionManager] = []
            kept: list[VersionManager] = []
            try:
                for model in settings:
                    manager = old.get(model.name)
                    if manager is None or manager.settings.base_path != model.base_path:
                        manager = VersionManager(model, self._load, self._options, self._metrics)
                        started.append(manager)
                        available = manager.start()
                    else:
                        stack.enter_context(manager.paused())
                        kept.append(manager)
                        available = manager.prepare(model)
                    new[model.name] = manager
                    self._check_labels(model, available)
            except Exception:
                for manager in started:
                    manager.close()
                for manager in kept:
                    manager.refresh()  # drops what only the new settings asked for
                raise
            # The labels before the old versions go: at no time does one lead to nothing.
            self._managers = new
            self._labels = {model.name: model.labels for model in settings}
            for model in settings:
                new[model.name].switch(model)
        for name, manager in old.items():
            if new.get(name) is not manager:
                manager.drop()

    def find(self, name: str) -> VersionManager | None:
        """Finds a model's versions."""
        return self._managers.get(name)

    def lease(self, spec: model_pb2.ModelSpec) -> Lease:
        """Finds the version that a request means, and keeps it in memory meanwhile.

        Raises:
            RequestError: INVALID_ARGUMENT, the spec has no name, or an unknown label; NOT_FOUND,
                there is no such model, or the version doesn't answer.
        """
        if not spec.name:
            raise status.invalid("ModelSpec has no name specified.")
        version = self.version_of(spec)
        manager = self._managers.get(spec.name)
        lease = None if manager is None else manager.acquire(version)
        if lease is None:
            wanted = f"Latest({spec.name})"
            if version is not None:
                wanted = f"Specific({spec.name}, {version})"
            raise status.not_found(f"Servable not found for request: {wanted}")
        return lease

    def version_of(self, spec: model_pb2.ModelSpec) -> int | None:
        """Gives the version that a spec asks for, by number or label; None for the newest.

        Raises:
            RequestError: INVALID_ARGUMENT; the model has no such label.
        """
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.version.value
        if choice == "version_label":
            labels = self._labels.get(spec.name, {})
            if spec.version_label not in labels:
                raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")
            return labels[spec.version_label]
        return None

    def newest(self) -> dict[str, int]:
        """Gives the newest version that answers of each model."""
        newest = {name: manager.newest() for name, manager in self._managers.items()}
        return {name: version for name, version in newest.items() if version is not None}

    def close(self) -> None:
        """Drops everything as it is."""
        managers, self._managers = self._managers, {}
        for manager in managers.values():
            manager.close()

    def _check_labels(self, model: ModelSettings, available: set[int]) -> None:
        if self._allow_labels_for_unavailable:
            return
        for label, version in model.labels.items():
            if version not in available:
                raise LabelError(
                    f"Request to assign label {label} to version {version} of model {model.name}, "
                    "which is not currently available for inference"
                )
