"""Random requests to a server of real exports; tests/parity/test_server_fuzz.py sends many more."""

import pytest
from fuzzed_server import FuzzedServer


@pytest.mark.slow
def test_random_requests_get_answers_or_documented_errors(tiny_server):
    server = FuzzedServer(tiny_server.port, tiny_server.rest_port)
    try:
        server.send_random_requests(1500)
    finally:
        server.close()
    # The requests are neither all wrong nor all right.
    by_code = {code for _, code in server.counts}
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", 200, 400} <= by_code
    assert server.slowest_s < 10.0
