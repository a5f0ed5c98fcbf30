"""What the server answers, however the request came: gRPC and REST are thin layers on this.

Reference: server_core.cc, get_model_status_impl.cc and grpc_status_util.cc in
tensorflow_serving/model_servers; get_model_metadata_impl.cc in
tensorflow_serving/servables/tensorflow.
"""

from contextlib import AbstractContextManager
from typing import Any

from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    meta_graph_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import inference, status
from distilbert_serving.server.batching import IsActive
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.options import ServerOptions
from distilbert_serving.server.servable import Servable
from distilbert_serving.server.versions import VersionManager
from distilbert_serving.tf_serving.serving_config import check_model_config


class RequestHandler:
    """The models of a server; its methods answer requests, or raise `status.RequestError`.

    They may be called from any thread. `is_active` says whether anybody still waits for the
    answer; a request that nobody waits for is not run.

    Args:
        config: The models, and which of their versions: a `ModelServerConfig`.
        options: The settings of the server.
        metrics: Is told of loads and runs.

    Raises:
        OSError, ValueError: A model cannot be served; see `VersionManager`.
    """

    def __init__(self, config: Any, options: ServerOptions, metrics: Metrics) -> None:
        check_model_config(config)
        models = config.model_config_list.config
        self._labels = {model.name: dict(model.version_labels) for model in models}
        self._managers: dict[str, VersionManager] = {}
        try:
            for model in models:
                self._managers[model.name] = VersionManager(model, options, metrics)
                if not options.allow_version_labels_for_unavailable_models:
                    self._check_labels(model.name)
        except BaseException:
            self.close()
            raise

    def _check_labels(self, name: str) -> None:
        for label, version in self._labels[name].items():
            if version not in self._managers[name].available():
                raise ValueError(
                    f"Request to assign label {label} to version {version} of model {name}, which "
                    "is not currently available for inference"
                )

    def close(self) -> None:
        """Drops the models as they are."""
        for manager in self._managers.values():
            manager.close()

    def predict(
        self, request: predict_pb2.PredictRequest, is_active: IsActive
    ) -> predict_pb2.PredictResponse:
        """Runs a signature on the request's tensors."""
        with self._lease(_spec_of(request)) as servable:
            return inference.predict(servable, request, is_active)

    def classify(
        self, request: classification_pb2.ClassificationRequest, is_active: IsActive
    ) -> classification_pb2.ClassificationResponse:
        """Returns every example's classes and their scores."""
        with self._lease(_spec_of(request)) as servable:
            return inference.classify(servable, request, is_active)

    def regress(
        self, request: regression_pb2.RegressionRequest, is_active: IsActive
    ) -> regression_pb2.RegressionResponse:
        """Returns a number for every example."""
        with self._lease(_spec_of(request)) as servable:
            return inference.regress(servable, request, is_active)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, is_active: IsActive
    ) -> inference_pb2.MultiInferenceResponse:
        """Runs several signatures of one model on the same examples."""
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self._lease(spec) as servable:
            return inference.multi_inference(servable, request, is_active)

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the model's SignatureDefs."""
        spec = _spec_of(request)
        if not request.metadata_field:
            raise status.invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise status.invalid(f"Metadata field {field} is not supported")
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
        spec = _spec_of(request)
        version = self._find_version(spec)
        manager = self._managers.get(spec.name)
        if manager is None:
            raise status.not_found(f"Could not find any versions of model {spec.name}")
        found = [s for s in manager.statuses() if version in (None, s.version)]
        if not found:
            raise status.not_found(f"Could not find version {version} of model {spec.name}")
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=found)

    def signature_defs(
        self, model_spec: model_pb2.ModelSpec
    ) -> tuple[str, int, dict[str, meta_graph_pb2.SignatureDef]]:
        """Returns a model's name, its version, and its SignatureDefs by name."""
        with self._lease(model_spec) as servable:
            return servable.name, servable.version, servable.signature_defs

    def _lease(self, spec: model_pb2.ModelSpec) -> AbstractContextManager[Servable]:
        """Finds the version that a request means, and keeps it in memory meanwhile."""
        if not spec.name:
            raise status.invalid("ModelSpec has no name specified.")
        version = self._find_version(spec)
        manager = self._managers.get(spec.name)
        lease = None if manager is None else manager.lease(version)
        if lease is None:
            latest, specific = f"Latest({spec.name})", f"Specific({spec.name}, {version})"
            wanted = latest if version is None else specific
            raise status.not_found(f"Servable not found for request: {wanted}")
        return lease

    def _find_version(self, spec: model_pb2.ModelSpec) -> int | None:
        """Returns the version that a spec asks for, by number or label; None for the newest."""
        choice = spec.WhichOneof("version_choice")
        if choice != "version_label":
            return None if choice is None else spec.version.value
        labels = self._labels.get(spec.name, {})
        if spec.version_label not in labels:
            raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")
        return labels[spec.version_label]


def _spec_of(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise status.invalid("Missing ModelSpec")
    return request.model_spec
