r"""TF Serving's `SSLConfig`: keys and certificates for TLS.

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

from distilbert_serving.tf_serving.config_files import ConfigError, errors_name, read_config
from distilbert_serving.tf_serving.config_protos import SSLConfig


def read_ssl_config(path: str | os.PathLike[str]) -> Any:
    """Reads an `SSLConfig` file and checks that it can be used.

    Raises:
        OSError: It cannot be read.
        ConfigError: It is no `SSLConfig`, a field is missing or is not PEM text, or the key is not
            the certificate's.
    """
    config = read_config(path, SSLConfig())
    with errors_name(path):
        server_credentials(config)
    return config


def make_ssl_config(
    key: str | os.PathLike[str],
    certificate: str | os.PathLike[str],
    client_authority: str | os.PathLike[str] | None = None,
) -> Any:
    """Makes an `SSLConfig` of PEM files, and checks that it can be used.

    Args:
        key: The server's private key.
        certificate: Its certificate, followed by those that link it to an authority.
        client_authority: Who must have signed a client's certificate (mutual TLS); clients need
            none if not given.

    Raises:
        OSError: A file cannot be read.
        ConfigError: A file is not PEM text, or the key is not the certificate's.
    """
    paths = {"server_key": key, "server_cert": certificate, "custom_ca": client_authority}
    config = SSLConfig(client_verify=client_authority is not None)
    for name, path in paths.items():
        if path is not None:
            content = pathlib.Path(path).read_bytes()
            if b"-----BEGIN " not in content or not content.isascii():
                raise ConfigError(f"{os.fspath(path)} is not PEM text, which has -----BEGIN in it.")
            setattr(config, name, content.decode())
    with errors_name(certificate):
        server_credentials(config)
    return config


def server_credentials(config: Any) -> grpc.ServerCredentials:
    """Makes the credentials of a gRPC server, and checks what gRPC would notice much later.

    Args:
        config: An `SSLConfig`. With `client_verify`, clients must show a certificate signed by
            one of `custom_ca` (mutual TLS).

    Raises:
        ValueError: See `read_ssl_config`.
    """
    for name in ("server_key", "server_cert", "custom_ca"):
        value = getattr(config, name)
        if not value and (name != "custom_ca" or config.client_verify):
            raise ValueError(f"{name} is missing; it must hold the PEM text itself")
        if value and "-----BEGIN " not in value:
            raise ValueError(
                f"{name} is not PEM text, which starts with -----BEGIN; give the contents of the "
                "file, not its path"
            )
    try:
        _load(config)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError("server_key does not belong to server_cert") from error
        raise ValueError(f"A key or certificate cannot be read: {error}") from error
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def _load(config: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The library reads keys and certificates from files only.
    with tempfile.TemporaryDirectory() as directory:  # readable by this user alone
        key, certificate = pathlib.Path(directory, "key"), pathlib.Path(directory, "certificate")
        key.write_text(config.server_key, encoding="utf-8")
        certificate.write_text(config.server_cert, encoding="utf-8")
        context.load_cert_chain(certificate, key, password=_refuse_password)
    if config.custom_ca:
        context.load_verify_locations(cadata=config.custom_ca)


def _refuse_password() -> NoReturn:
    # Without this, OpenSSL would ask for the password on the terminal.
    raise ValueError("server_key is encrypted; give the key without a password")
