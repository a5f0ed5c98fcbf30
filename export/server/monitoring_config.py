"""Reads TF Serving's MonitoringConfig: whether, and where, there is a page for Prometheus.

Reference: tensorflow_serving/config/monitoring_config.proto; http_server.cc in
tensorflow_serving/model_servers for the default path.
"""

import os
import pathlib

from google.protobuf import text_format

from export.config_protos import MonitoringConfig

DEFAULT_PATH = "/monitoring/prometheus/metrics"


def read_monitoring_path(path: str | os.PathLike[str]) -> str | None:
    """Reads a file.

    Returns:
        The path of the page below the REST API's port; None if there is to be none.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no MonitoringConfig, or the page's path doesn't begin with a slash.
    """
    path = pathlib.Path(path)
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), MonitoringConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"Monitoring config file {path}: {error}") from error
    if not config.prometheus_config.enable:
        return None
    page = config.prometheus_config.path or DEFAULT_PATH
    if not page.startswith("/"):
        raise ValueError(
            f"Monitoring config file {path}: prometheus_config.path is {page!r}; it must begin "
            "with a slash"
        )
    return page
