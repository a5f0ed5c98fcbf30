"""TLS over gRPC: real certificates, real handshakes."""

import contextlib

import certificates
import grpc
import pytest
from distilbert_serving.server import ModelServer
from distilbert_serving.tf_serving.config_protos import SSLConfig
from serving_models import call
from tensorflow_serving.apis import prediction_service_pb2_grpc

pytestmark = certificates.needs_openssl


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """Keys and certificates, by file name: an authority, a server, a client, and a stranger."""
    directory = tmp_path_factory.mktemp("pem")
    authority = certificates.make_authority(directory, "ca")
    certificates.make_authority(directory, "stranger")
    for name in ("server", "client"):
        certificates.make_certificate(directory, name, authority, "DNS:localhost,IP:127.0.0.1")
    return {path.name: path.read_bytes() for path in directory.glob("*.[ck]*")}


def start(base_path, pem, **fields):
    config = SSLConfig(server_key=pem["server.key"], server_cert=pem["server.crt"], **fields)
    return ModelServer(base_path, "m", port=0, ssl_config=config)


def ask(server, *credentials):
    """Asks with TLS if there are credentials: an authority, and perhaps a client's own."""
    address = f"localhost:{server.port}"
    open_channel = grpc.insecure_channel(address)
    if credentials:
        open_channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*credentials))
    with contextlib.closing(open_channel) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return call(stub, {"text": ["abc"]})["label"].tolist()


def assert_unavailable(server, *credentials):
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, *credentials)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_the_servers_certificate(base_path, pem):
    with start(base_path, pem) as server:
        assert ask(server, pem["ca.crt"]) == [b"short"]
        assert_unavailable(server, pem["stranger.crt"])
        assert_unavailable(server)


def test_certificates_on_both_sides(base_path, pem):
    with start(base_path, pem, custom_ca=pem["ca.crt"], client_verify=True) as server:
        assert ask(server, pem["ca.crt"], pem["client.key"], pem["client.crt"]) == [b"short"]
        assert_unavailable(server, pem["ca.crt"])
        assert_unavailable(server, pem["ca.crt"], pem["stranger.key"], pem["stranger.crt"])


def test_a_key_of_another_certificate(base_path, pem):
    pem = {**pem, "server.key": pem["client.key"]}
    with pytest.raises(ValueError, match="server_key does not belong to server_cert"):
        start(base_path, pem).start()
