"""Certificates for tests, made by the openssl program: an authority and what it signs."""

import subprocess


def make_authority(directory, name="authority"):
    """Makes a key and a certificate that signs itself; gives their paths."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}")  # fmt: skip
    return key, certificate


def make_certificate(directory, name, authority):
    """Makes a key and a certificate for a host, signed by an authority; gives their paths."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    request, extensions = directory / f"{name}.csr", directory / f"{name}.ext"
    extensions.write_text(f"subjectAltName=DNS:{name}\n")
    _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-out", request, "-subj", f"/CN={name}")  # fmt: skip
    _openssl("x509", "-req", "-in", request, "-CA", authority[1], "-CAkey", authority[0],
             "-CAcreateserial", "-out", certificate, "-days", "2",
             "-extfile", extensions)  # fmt: skip
    return key, certificate


def _openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
