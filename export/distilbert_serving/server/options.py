"""The settings of a server: those of `ModelServer`, and of the flags of `distilbert-tf serve`."""

import dataclasses
import os
from typing import Any


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """The settings of a server; `distilbert-tf serve --help` explains them.

    What a flag names a file for is given as the message that the file holds: `models` is a
    `ModelServerConfig`, `batching` are `BatchingParameters`, `ssl_config` is an `SSLConfig`. A port
    that is 0 is chosen by the system, and None for `rest_port` means no REST API. Settings that
    contradict each other raise ValueError.
    """

    model_base_path: str | os.PathLike[str] | None = None
    model_name: str = "distilbert"
    host: str = "127.0.0.1"
    port: int = 8500
    models: Any = None
    allow_version_labels_for_unavailable_models: bool = False
    enable_batching: bool = True
    batching: Any = None
    poll_wait_s: float = 1.0
    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0
    grpc_max_threads: int = 320
    max_message_bytes: int = 2**31 - 1
    enable_health_service: bool = True
    rest_port: int | None = None
    monitoring_path: str | None = None
    ssl_config: Any = None
    grace_s: float = 5.0

    def __post_init__(self) -> None:
        if (self.model_base_path is None) == (self.models is None):
            raise ValueError("Give either model_base_path or models (--model_config_file).")
        if self.batching and not self.enable_batching:
            raise ValueError("Batching parameters need enable_batching.")
        if self.monitoring_path and self.rest_port is None:
            raise ValueError("The page for Prometheus needs rest_port (--rest_api_port).")
        if self.ssl_config and self.rest_port is not None:
            text = (
                "TLS is for the gRPC port only, as in TF Serving: the REST API would be plain HTTP."
            )
            raise ValueError(f"{text} Leave out ssl_config or rest_port, or use a proxy with TLS.")
