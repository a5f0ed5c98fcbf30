"""Models, a running server, and stubs for it: fixtures of the server's tests.

They import what they need when they are asked for, since every test run loads this file.
"""

import pytest


@pytest.fixture
def free_port():
    """A port where nobody listens."""
    import server_process

    return server_process.free_port()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """SavedModels whose label is their directory's name: a, b and c."""
    import serving_models

    path = tmp_path_factory.mktemp("made")
    for label in "abc":
        serving_models.save_constant(path / label, label)
    return path


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """A base path with version 30, and with all that must not be taken for a newer one."""
    import serving_models

    path = tmp_path_factory.mktemp("models")
    serving_models.save(path / "30")
    for name in ("4", "31.tmp", "tmp-32", "v33", "-34", "３５"):
        (path / name).mkdir()
    (path / "36").write_text("a file")
    return path


@pytest.fixture(scope="module")
def server(base_path):
    from distilbert_serving.server import ModelServer
    from running_server import one_thread

    with ModelServer(base_path, "m", port=0, batching=one_thread()) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as open_channel:
        yield open_channel


@pytest.fixture(scope="module")
def stub(channel):
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model_stub(channel):
    from tensorflow_serving.apis import model_service_pb2_grpc

    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture
def start():
    """Starts servers that look for versions all the time; stops them in the end."""
    from distilbert_serving.server import ModelServer
    from running_server import OPTIONS, Running

    servers = []

    def start_one(*args, **kwargs):
        servers.append(ModelServer(*args, **{**OPTIONS, **kwargs}).start())
        return Running(servers[-1])

    yield start_one
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def tiny_exports(tmp_path_factory):
    """Base paths of real exports by name: see tiny_exports.py."""
    import tiny_exports

    return tiny_exports.export_all(tmp_path_factory.mktemp("tiny_exports"))


@pytest.fixture(scope="session")
def tiny_server(tiny_exports):
    """A server of these exports, with REST."""
    from distilbert_serving.server import ModelServer
    from distilbert_serving.tf_serving.serving_config import model_config

    models = model_config({name: str(path) for name, path in tiny_exports.items()})
    with ModelServer(models=models, port=0, rest_port=0) as running:
        yield running


@pytest.fixture(params=["threads", "asyncio"])
def serve(request):
    """Starts a fake server with a script; gives a client of each kind, and the servicer."""
    import client_kinds
    import fake_serving

    stack = []

    def run(*script, options=(), **settings):
        servicer = fake_serving.FakeServing(*script)
        server, port = fake_serving.start(servicer, options=options)
        kind = client_kinds.KINDS[request.param]
        stack.append((server, asker := client_kinds.Asker(kind, f"127.0.0.1:{port}", **settings)))
        return asker, servicer

    yield run
    for server, asker in stack:
        asker.close()
        asker.loop.close()
        server.stop(0)
