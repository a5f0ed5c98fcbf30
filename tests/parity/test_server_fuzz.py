"""Twenty thousand random requests to a server process.

FUZZ_BASE_PATH names another export of a classifier of texts to ask instead of the tiny one.
"""

import os
import pathlib
import time

import pytest
from fuzzed_server import FuzzedServer
from server_process import ServerProcess

COUNT = 20_000
STEPS = 5


@pytest.mark.parity
@pytest.mark.timeout(1200)
def test_many_random_requests(tiny_exports, tmp_path, capsys):
    base_paths = dict(tiny_exports)
    if "FUZZ_BASE_PATH" in os.environ:
        base_paths["single"] = pathlib.Path(os.environ["FUZZ_BASE_PATH"]).absolute()
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
            for name, path in base_paths.items()
        )
        + "}"
    )
    with ServerProcess(f"--model_config_file={config}", has_rest=True) as process:
        process.wait_until_ready(*base_paths)
        server = FuzzedServer(process.port, process.rest_port)
        try:
            started_s = time.monotonic()
            memory_mb = []
            for _ in range(STEPS):
                server.send_random_requests(COUNT // STEPS)
                memory_mb.append(round(process.memory_bytes() / 1e6))
            seconds = time.monotonic() - started_s
        finally:
            server.close()
        assert process.is_alive
    with capsys.disabled():
        print(f"\n{sum(server.counts.values())} requests in {seconds:.0f} s")
        print(f"slowest {server.slowest_s:.2f} s; memory in MB, by steps: {memory_mb}")
        for (kind, code), number in sorted(server.counts.items(), key=str):
            print(f"{kind:26} {code:20} {number:6}")
    # The first step fills TensorFlow's pools, and a few kilobytes for each failing run of the graph
    # TensorFlow never gives back.
    assert memory_mb[-1] - memory_mb[0] < 150
    assert server.slowest_s < 20.0
    assert "Traceback" not in process.errors
