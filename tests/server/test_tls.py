"""TLS from an SSLConfig: real certificates, real handshakes over gRPC."""

import contextlib
from concurrent import futures

import certificates
import grpc
import pytest
from distilbert_serving.server import tls
from distilbert_serving.tf_serving.config_protos import SSLConfig
from google.protobuf import text_format

pytestmark = certificates.needs_openssl


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """Keys and certificates, by file name: an authority, a server, a client, and a stranger."""
    directory = tmp_path_factory.mktemp("pem")
    authority = certificates.make_authority(directory, "ca")
    certificates.make_authority(directory, "stranger")
    hosts = "DNS:localhost,IP:127.0.0.1"
    for name in ("server", "client"):
        certificates.make_certificate(directory, name, authority, hosts)
    certificates.encrypt_key(directory / "server.key", directory / "encrypted.key")
    return {path.name: path.read_text() for path in directory.glob("*.[ck]*")}


def make_config(pem, **fields):
    values = {"server_key": pem["server.key"], "server_cert": pem["server.crt"]} | fields
    return SSLConfig(**values)


def mutual(pem):
    return make_config(pem, custom_ca=pem["ca.crt"], client_verify=True)


# Reading the file.


def test_a_file_is_read_as_tf_serving_reads_it(pem, tmp_path):
    config = mutual(pem)
    path = tmp_path / "ssl.pbtxt"
    path.write_text(text_format.MessageToString(config))
    assert tls.read_ssl_config(path) == config


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        ("model_config_list {}", r"ssl.pbtxt:1:1 : .*\(it should be a SSLConfig\)"),
        ("\x00\xff", r"ssl.pbtxt:1:2 : .*\(it should be a SSLConfig\)"),
        ("", "server_key is missing"),
        ('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"', "contents of the file, not"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, gist):
    path = tmp_path / "ssl.pbtxt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=gist) as caught:
        tls.read_ssl_config(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        tls.read_ssl_config(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "gist"),
    [
        ({"server_key": ""}, "server_key is missing"),
        ({"server_cert": ""}, "server_cert is missing"),
        ({"server_key": "stranger.key"}, "server_key does not belong to the certificate"),
        ({"server_key": "encrypted.key"}, "server_key is encrypted"),
        ({"server_key": "server.crt"}, "server_key or server_cert cannot be read"),
        ({"server_cert": "-----BEGIN CERTIFICATE-----\nAAAA\n"}, "cannot be read"),
        ({"client_verify": True}, "client_verify needs custom_ca"),
        ({"custom_ca": "-----BEGIN CERTIFICATE-----\nAAAA\n"}, "custom_ca holds no certificate"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(pem, changes, gist):
    fields = {name: pem.get(value, value) for name, value in changes.items()}
    with pytest.raises(ValueError, match=gist):
        tls.grpc_credentials(make_config(pem, **fields))


# gRPC.


@contextlib.contextmanager
def grpc_port(config):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request + b"!")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"echo": echo}),))
    port = server.add_secure_port("127.0.0.1:0", tls.grpc_credentials(config))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def grpc_call(port, *credentials):
    channel_credentials = grpc.ssl_channel_credentials(*credentials)
    with grpc.secure_channel(f"localhost:{port}", channel_credentials) as channel:
        return channel.unary_unary("/s/echo")(b"hello", timeout=10)


def test_grpc_with_the_servers_certificate(pem):
    with grpc_port(make_config(pem)) as port:
        assert grpc_call(port, pem["ca.crt"].encode()) == b"hello!"
        with pytest.raises(grpc.RpcError):
            grpc_call(port, pem["stranger.crt"].encode())


def test_grpc_with_certificates_on_both_sides(pem):
    authority = pem["ca.crt"].encode()
    with grpc_port(mutual(pem)) as port:
        client = (pem["client.key"].encode(), pem["client.crt"].encode())
        assert grpc_call(port, authority, *client) == b"hello!"
        stranger = (pem["stranger.key"].encode(), pem["stranger.crt"].encode())
        for others in ((), stranger):
            with pytest.raises(grpc.RpcError):
                grpc_call(port, authority, *others)
