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


@pytest.mark.parity
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
            server.send_random_requests(2_000)
            first_bytes = process.memory_bytes()
            started_s = time.monotonic()
            server.send_random_requests(COUNT - 2_000)
            seconds = time.monotonic() - started_s
        finally:
            server.close()
        last_bytes = process.memory_bytes()
        assert process.is_alive
    with capsys.disabled():
        print(
            f"\n{sum(server.counts.values())} requests; the last {COUNT - 2_000} in {seconds:.0f} s"
        )
        print(f"slowest {server.slowest_s:.2f} s")
        print(f"memory {first_bytes / 1e6:.0f} MB, then {last_bytes / 1e6:.0f} MB")
        for (kind, code), number in sorted(server.counts.items(), key=str):
            print(f"{kind:26} {code:20} {number:6}")
    assert last_bytes - first_bytes < 100e6
    assert server.slowest_s < 20.0
    assert "Traceback" not in process.errors
