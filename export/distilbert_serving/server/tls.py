r"""TLS for gRPC and REST, from TF Serving's `SSLConfig` file.

The file is a text proto whose fields hold keys and certificates themselves, as PEM text, not paths
to them:

    server_key: "-----BEGIN PRIVATE KEY-----\n...-----END PRIVATE KEY-----\n"
    server_cert: "-----BEGIN CERTIFICATE-----\n...-----END CERTIFICATE-----\n"
    custom_ca: "-----BEGIN CERTIFICATE-----\n...-----END CERTIFICATE-----\n"
    client_verify: true

Reference: tensorflow_serving/config/ssl_config.proto and
`BuildServerCredentialsFromSSLConfigFile` in tensorflow_serving/model_servers/server.cc.
"""

import os
import pathlib
import ssl
import tempfile
from typing import Any, NoReturn

import grpc

from distilbert_serving.tf_serving.config_files import errors_name, read_config
from distilbert_serving.tf_serving.config_protos import SSLConfig

_PEM_FIELDS = ("server_key", "server_cert", "custom_ca")


def read_ssl_config(path: str | os.PathLike[str]) -> Any:
    """Reads an `SSLConfig` file and checks that it can be used.

    Args:
        path: The file.

    Returns:
        The message.

    Raises:
        OSError: the file cannot be read.
        ConfigError: it is not an `SSLConfig`, a field is missing or is not PEM text, or the key is
            not the certificate's.
    """
    config = read_config(path, SSLConfig())
    with errors_name(path):
        ssl_context(config)
    return config


def grpc_credentials(config: Any) -> grpc.ServerCredentials:
    """Makes the credentials of a gRPC server.

    Args:
        config: An `SSLConfig`. With `client_verify`, clients must show a certificate signed by
            one of `custom_ca` (mutual TLS).

    Raises:
        ValueError: see `read_ssl_config`.
    """
    ssl_context(config)  # gRPC would find mistakes only at the first connection
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def ssl_context(config: Any) -> ssl.SSLContext:
    """Makes the context of an HTTPS server.

    Args:
        config: An `SSLConfig`, see `grpc_credentials`.

    Raises:
        ValueError: see `read_ssl_config`.
    """
    _check_fields(config)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # The library reads keys and certificates from files only.
    with tempfile.TemporaryDirectory() as directory:  # readable by this user alone
        key, certificate = pathlib.Path(directory, "key"), pathlib.Path(directory, "certificate")
        key.write_text(config.server_key, encoding="utf-8")
        certificate.write_text(config.server_cert, encoding="utf-8")
        try:
            context.load_cert_chain(certificate, key, password=_refuse_password)
        except ssl.SSLError as error:
            raise ValueError(_explain(error)) from error
    if config.custom_ca:
        try:
            context.load_verify_locations(cadata=config.custom_ca)
        except ssl.SSLError as error:
            raise ValueError(f"custom_ca holds no certificate that can be read: {error}") from error
    if config.client_verify:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_fields(config: Any) -> None:
    """Checks that what is needed is there, and looks like PEM text."""
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise ValueError(f"{name} is missing; it must hold the PEM text itself")
    if config.client_verify and not config.custom_ca:
        raise ValueError(
            "client_verify needs custom_ca: the certificates of those who sign clients' "
            "certificates, as PEM text"
        )
    for name in _PEM_FIELDS:
        value = getattr(config, name)
        if value and "-----BEGIN " not in value:
            raise ValueError(
                f"{name} is not PEM text, which starts with -----BEGIN; give the contents of the "
                "file, not its path"
            )


def _explain(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "server_key does not belong to the certificate in server_cert"
    return f"server_key or server_cert cannot be read: {error}"


def _refuse_password() -> NoReturn:
    # Without this, OpenSSL would ask for the password on the terminal.
    raise ValueError("server_key is encrypted; give the key without a password")
