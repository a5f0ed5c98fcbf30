"""What the server answers, whatever way the request came: gRPC and REST are thin layers on this.

Reference: server_core.cc, get_model_status_impl.cc, model_service_impl.cc and
grpc_status_util.cc in tensorflow_serving/model_servers; get_model_metadata_impl.cc in
tensorflow_serving/servables/tensorflow.
"""

from typing import Any

import grpc

from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    meta_graph_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import inference, status
from distilbert_serving.server.batching import IsActive
from distilbert_serving.server.model_config import read_settings
from distilbert_serving.server.models import LabelError, Models

_SIGNATURE_DEF = "signature_def"  # the only metadata field that there is


class ServerCore:
    """Answers requests of every transport; raises `status.RequestError`.

    The methods may be called from any thread. `is_active` says whether anybody still waits for
    the answer; a request that nobody waits for is not run.

    Args:
        models: What there is to ask.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def predict(
        self, request: predict_pb2.PredictRequest, is_active: IsActive
    ) -> predict_pb2.PredictResponse:
        """Runs an endpoint on the request's tensors."""
        with self._models.lease(_spec(request)) as version:
            return inference.predict(version, request, is_active)

    def classify(
        self, request: classification_pb2.ClassificationRequest, is_active: IsActive
    ) -> classification_pb2.ClassificationResponse:
        """Gives every example its classes and their scores."""
        with self._models.lease(_spec(request)) as version:
            return inference.classify(version, request, is_active)

    def regress(
        self, request: regression_pb2.RegressionRequest, is_active: IsActive
    ) -> regression_pb2.RegressionResponse:
        """Gives every example a number."""
        with self._models.lease(_spec(request)) as version:
            return inference.regress(version, request, is_active)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, is_active: IsActive
    ) -> inference_pb2.MultiInferenceResponse:
        """Runs several endpoints of one model on the same examples."""
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self._models.lease(spec) as version:
            return inference.multi_inference(version, request, is_active)

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Gives the model's SignatureDefs."""
        spec = _spec(request)
        if not request.metadata_field:
            raise status.invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise status.invalid(f"Metadata field {field} is not supported")
        name, version, signature_defs = self.signature_defs(spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = name
        response.model_spec.version.value = version
        packed = get_model_metadata_pb2.SignatureDefMap()
        for key, proto in signature_defs.items():
            packed.signature_def[key].CopyFrom(proto)
        response.metadata[_SIGNATURE_DEF].Pack(packed)
        return response

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Says in what state the versions are, and what went wrong with them."""
        spec = _spec(request)
        version = self._models.version_of(spec)
        manager = self._models.find(spec.name)
        statuses = [] if manager is None else manager.statuses()
        if version is not None:
            statuses = [one for one in statuses if one.version == version]
            if not statuses:
                raise status.not_found(f"Could not find version {version} of model {spec.name}")
        if not statuses:
            raise status.not_found(f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for one in statuses:
            added = response.model_version_status.add(version=one.version, state=one.state)
            added.status.SetInParent()  # a status of its own: OK, with no message
            if one.error is not None:
                added.status.error_code = one.error.code.value[0]
                added.status.error_message = one.error.message
        return response

    def reload_config(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Serves other models, versions or labels from now on; answers when they are there.

        Raises:
            RequestError: INVALID_ARGUMENT, NOT_FOUND or FAILED_PRECONDITION; the models cannot be
                served, and everything stays as it was.
        """
        try:
            self._models.apply(read_settings(request.config))
        except LabelError as error:
            raise status.RequestError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from error
        except OSError as error:
            raise status.not_found(f"{type(error).__name__}: {error}") from error
        except ValueError as error:
            raise status.invalid(str(error)) from error
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response

    def signature_defs(
        self, model_spec: model_pb2.ModelSpec
    ) -> tuple[str, int, dict[str, meta_graph_pb2.SignatureDef]]:
        """Gives what a model can be asked.

        Args:
            model_spec: The model; its version or label, if it says one.

        Returns:
            The model's name, its version, and SignatureDefs by name.

        Raises:
            RequestError: INVALID_ARGUMENT or NOT_FOUND; see `Models.lease`.
        """
        with self._models.lease(model_spec) as version:
            servable = version.servable
            return servable.name, servable.version, servable.signature_defs


def _spec(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise status.invalid("Missing ModelSpec")
    return request.model_spec
