"""Certificates for tests, made by the openssl program: an authority and what it signs."""

import shutil
import subprocess

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the openssl program makes the certificates"
)

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_authority(directory, name="authority"):
    """Makes a key and a certificate that signs itself; gives their paths."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    _openssl("req", "-x509", *_NEW_KEY, "-keyout", key, "-out", certificate, "-days", "2",
             "-subj", f"/CN={name}")  # fmt: skip
    return key, certificate


def make_certificate(directory, name, authority, hosts=None):
    """Makes a key and a certificate, signed by an authority; gives their paths.

    It is for the host of that name, or for `hosts` in openssl's form: "DNS:localhost,IP:127.0.0.1".
    """
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    request, extensions = directory / f"{name}.csr", directory / f"{name}.ext"
    extensions.write_text(f"subjectAltName={hosts or f'DNS:{name}'}\n")
    _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    _openssl("x509", "-req", "-in", request, "-CA", authority[1], "-CAkey", authority[0],
             "-CAcreateserial", "-out", certificate, "-days", "2",
             "-extfile", extensions)  # fmt: skip
    return key, certificate


def encrypt_key(key, path):
    """Writes a key so that it takes a password to read it."""
    _openssl("pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:secret",
             "-in", key, "-out", path)  # fmt: skip


def _openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
