"""What the server answers, however the request came: gRPC and REST are thin layers on this.

Reference: server_core.cc, get_model_status_impl.cc and get_model_metadata_impl.cc in
tensorflow_serving.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any

from distilbert_serving.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    meta_graph_pb2,
    model_pb2,
)
from distilbert_serving.server import inference, status
from distilbert_serving.server.batching import IsActive
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.options import ServerOptions
from distilbert_serving.server.servable import Servable
from distilbert_serving.server.versions import VersionManager
from distilbert_serving.tf_serving.serving_config import check_model_config
from distilbert_serving.version_status import write_statuses


class RequestHandler:
    """The models of a `ModelServerConfig`; raises OSError or ValueError if one cannot be served.

    The methods may be called from any thread. They answer, or raise `status.RequestError`.
    """

    def __init__(self, config: Any, options: ServerOptions, metrics: Metrics) -> None:
        check_model_config(config)
        models = config.model_config_list.config
        self._labels = {model.name: dict(model.version_labels) for model in models}
        self._managers: dict[str, VersionManager] = {}
        try:
            for model in models:
                manager = self._managers[model.name] = VersionManager(model, options, metrics)
                missing = set(model.version_labels.values()).difference(manager.available())
                if missing and not options.allow_version_labels_for_unavailable_models:
                    text = "has labels on versions that are not available for inference"
                    raise ValueError(f"Model {model.name} {text}: {sorted(missing)}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drops the models as they are."""
        for manager in self._managers.values():
            manager.close()

    def _run(self, answer: Callable[..., Any], request: Any, is_active: IsActive) -> Any:
        with self._lease(spec_of(request)) as servable:
            return answer(servable, request, is_active)

    # Each takes a request, and what says whether anybody still waits for the answer.
    predict = partialmethod(_run, inference.predict)
    classify = partialmethod(_run, inference.classify)
    regress = partialmethod(_run, inference.regress)
    multi_inference = partialmethod(_run, inference.multi_inference)

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the model's SignatureDefs."""
        spec = spec_of(request)
        if set(request.metadata_field) != {"signature_def"}:
            text = (
                "GetModelMetadataRequest must specify the metadata_field signature_def and no other"
            )
            raise status.invalid(f"{text}, not {list(request.metadata_field)}")
        name, version, signature_defs = self.signature_defs(spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = name
        response.model_spec.version.value = version
        packed = get_model_metadata_pb2.SignatureDefMap(signature_def=signature_defs)
        response.metadata["signature_def"].Pack(packed)
        return response

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the states of a model's versions, and what went wrong with them."""
        spec = spec_of(request)
        version = self._find_version(spec)
        if spec.name not in self._managers:
            raise status.not_found(f"Could not find any versions of model {spec.name}")
        found = [s for s in self._managers[spec.name].statuses() if version in (None, s.version)]
        if not found:
            raise status.not_found(f"Could not find version {version} of model {spec.name}")
        return write_statuses(found)

    def signature_defs(
        self, model_spec: model_pb2.ModelSpec
    ) -> tuple[str, int, dict[str, meta_graph_pb2.SignatureDef]]:
        """Returns a model's name, its version, and its SignatureDefs by name."""
        with self._lease(model_spec) as servable:
            return servable.name, servable.version, servable.signature_defs

    @contextlib.contextmanager
    def _lease(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """Finds the version that a request means, and keeps it in memory meanwhile."""
        if not spec.name:
            raise status.invalid("ModelSpec has no name specified.")
        version = self._find_version(spec)
        manager = self._managers.get(spec.name)
        with manager.lease(version) if manager else contextlib.nullcontext() as servable:
            if servable is None:
                kind = (
                    f"Latest({spec.name}" if version is None else f"Specific({spec.name}, {version}"
                )
                raise status.not_found(f"Servable not found for request: {kind})")
            yield servable

    def _find_version(self, spec: model_pb2.ModelSpec) -> int | None:
        """Returns the version that a spec asks for, by number or label; None for the newest."""
        choice = spec.WhichOneof("version_choice")
        if choice != "version_label":
            return None if choice is None else spec.version.value
        labels = self._labels.get(spec.name, {})
        if spec.version_label not in labels:
            raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")
        return labels[spec.version_label]


def spec_of(request: Any) -> model_pb2.ModelSpec:
    """Returns which model a request means: of MultiInference, the first task's."""
    first = next(iter(request.tasks), None) if hasattr(request, "tasks") else request
    if first is None or not first.HasField("model_spec"):
        raise status.invalid("Missing ModelSpec")
    return first.model_spec
