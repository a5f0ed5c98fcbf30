"""SSLConfig files: what is read, and what is refused at the start."""

import certificates
import pytest
from absl import flags
from distilbert_serving.tf_serving import ssl_config
from distilbert_serving.tf_serving.config_protos import SSLConfig
from google.protobuf import text_format

from distilbert_tf.commands.common_flags import UsageError
from distilbert_tf.commands.serve import define_serve, read_server_settings

pytestmark = certificates.needs_openssl


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("pem")


@pytest.fixture(scope="module")
def pem(directory):
    """Keys and certificates, by file name: an authority, a server, and a stranger."""
    authority = certificates.make_authority(directory, "ca")
    certificates.make_authority(directory, "stranger")
    certificates.make_certificate(directory, "server", authority)
    certificates.encrypt_key(directory / "server.key", directory / "encrypted.key")
    return {path.name: path.read_text() for path in directory.glob("*.[ck]*")}


def make_config(pem, **fields):
    values = {"server_key": pem["server.key"], "server_cert": pem["server.crt"]}
    return SSLConfig(**{**values, **{name: pem.get(v, v) for name, v in fields.items()}})


def test_a_file_is_read_as_tf_serving_reads_it(pem, tmp_path):
    config = make_config(pem, custom_ca="ca.crt", client_verify=True)
    path = tmp_path / "ssl.pbtxt"
    path.write_text(text_format.MessageToString(config))
    assert ssl_config.read_ssl_config(path) == config


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        ("model_config_list {}", r"ssl.pbtxt:1:1 : .*\(it should be a SSLConfig\)"),
        ("\x00\xff", r"ssl.pbtxt:1:2 : .*\(it should be a SSLConfig\)"),
        ("", "ssl.pbtxt: server_key is missing"),
        ('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"', "contents of the file, not"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, gist):
    path = tmp_path / "ssl.pbtxt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=gist):
        ssl_config.read_ssl_config(path)


@pytest.mark.parametrize(
    ("changes", "gist"),
    [
        ({"server_key": ""}, "server_key is missing"),
        ({"server_cert": ""}, "server_cert is missing"),
        ({"server_key": "stranger.key"}, "server_key does not belong to server_cert"),
        ({"server_key": "encrypted.key"}, "server_key is encrypted"),
        ({"server_key": "server.crt"}, "cannot be read"),
        ({"server_cert": "-----BEGIN CERTIFICATE-----\nAAAA\n"}, "cannot be read"),
        ({"client_verify": True}, "custom_ca is missing"),
        ({"custom_ca": "-----BEGIN CERTIFICATE-----\nAAAA\n"}, "cannot be read"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(pem, changes, gist):
    with pytest.raises(ValueError, match=gist):
        ssl_config.server_credentials(make_config(pem, **changes))


def read_flags(directory, **files):
    values = flags.FlagValues()
    define_serve(values)
    values(["serve", *(f"--{name}={directory / file}" for name, file in files.items())])
    return read_server_settings(values)["ssl_config"]


def test_the_flags_of_serve_take_the_files_themselves(pem, directory):
    one_way = read_flags(directory, tls_key="server.key", tls_cert="server.crt")
    assert one_way == make_config(pem)
    both = {"tls_key": "server.key", "tls_cert": "server.crt", "tls_client_ca": "ca.crt"}
    assert read_flags(directory, **both) == make_config(pem, custom_ca="ca.crt", client_verify=True)


@pytest.mark.parametrize(
    ("files", "gist"),
    [
        ({"tls_key": "server.key"}, "needs both --tls_key and --tls_cert"),
        ({"tls_client_ca": "ca.crt"}, "needs both --tls_key and --tls_cert"),
        (
            {"tls_key": "server.key", "tls_cert": "server.crt", "ssl_config_file": "x"},
            "--ssl_config_file holds keys and certificates, as do --tls_...: pass one",
        ),
        ({"tls_key": "stranger.key", "tls_cert": "server.crt"}, "server.crt: server_key does not"),
        ({"tls_key": "server.csr.der", "tls_cert": "server.crt"}, "der is not PEM text"),
    ],
)
def test_flags_that_cannot_work(pem, directory, files, gist):
    (directory / "server.csr.der").write_bytes(b"0\x82\x01\x22")
    with pytest.raises((ValueError, UsageError), match=gist):
        read_flags(directory, **files)
