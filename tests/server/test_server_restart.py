"""The server is killed under load and started again on its port: what 32 clients see of that."""

import threading
import time

import grpc
import pytest
from comparing import assert_close
from distilbert_serving.client.predict_client import PredictClient, PredictError
from exporting import TINY_ROUNDINGS
from server_process import ServerProcess
from waiting import wait_until

Code = grpc.StatusCode
TEXT = "the film was never boring"
CLIENTS = 16  # of each kind
HASTY_S = 1.5
PATIENT_S = 90.0


class Load:
    """Clients that ask without a pause, half of them patient, and how their calls ended."""

    def __init__(self, target):
        self.target = target
        self.outcomes = []  # client, start in s, duration in s, answer or error
        self._is_over = False
        self.threads = [
            threading.Thread(target=self._ask, args=(f"{timeout_s}-{i}", timeout_s))
            for i in range(CLIENTS)
            for timeout_s in (HASTY_S, PATIENT_S)
        ]
        for thread in self.threads:
            thread.start()

    def _ask(self, name, timeout_s):
        with PredictClient(self.target, model_name="single", timeout_s=timeout_s) as client:
            while not self._is_over:
                started_s = time.monotonic()
                try:
                    self._note(name, started_s, client.predict(TEXT).logits)
                except PredictError as error:
                    self._note(name, started_s, error)

    def _note(self, name, started_s, outcome):
        self.outcomes.append((name, started_s, time.monotonic() - started_s, outcome))

    def answered(self, since_s):
        """Clients that got an answer to what they asked since then."""
        return {
            name
            for name, started_s, _, outcome in self.outcomes
            if started_s > since_s and not isinstance(outcome, PredictError)
        }

    def stop(self):
        self._is_over = True
        for thread in self.threads:
            thread.join(PATIENT_S)


@pytest.mark.slow
def test_a_server_killed_under_load_and_started_again(tiny_exports):
    flags = f"--model_base_path={tiny_exports['single']}", "--model_name=single"
    with ServerProcess(*flags) as process:
        process.wait_until_ready("single")
        with PredictClient(f"127.0.0.1:{process.port}", model_name="single") as client:
            right = client.predict(TEXT).logits
        load = Load(f"127.0.0.1:{process.port}")
        try:
            wait_until(lambda: len(load.answered(0.0)) == 2 * CLIENTS)
            process.kill()
            killed_s = time.monotonic()
            time.sleep(HASTY_S)
            process.start()
            process.wait_until_ready("single")
            back_s = time.monotonic()
            wait_until(lambda: len(load.answered(back_s)) == 2 * CLIENTS)
        finally:
            load.stop()
    assert not any(thread.is_alive() for thread in load.threads)
    for name, started_s, seconds, outcome in load.outcomes:
        is_hasty = name.startswith(str(HASTY_S))
        # Late by no more than another deadline, on whatever machine.
        assert seconds < 2 * (HASTY_S if is_hasty else PATIENT_S), name
        if isinstance(outcome, PredictError):
            # Whoever waits long enough gets an answer; nobody gets an error without need.
            assert is_hasty, (name, outcome)
            assert outcome.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED), outcome
            assert killed_s - HASTY_S < started_s < back_s + HASTY_S
        else:
            assert_close(outcome, right, TINY_ROUNDINGS)
    failed = {name for name, *_, outcome in load.outcomes if isinstance(outcome, PredictError)}
    assert len(failed) == CLIENTS, "the hasty ones, all of which met the gap"
