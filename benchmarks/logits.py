"""What the peers compute: runs a case with all of them, and compares their logits.

Shapes: B rows, C classes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.harness import Crew, WorkerError
from benchmarks.peers import Peer

# Of the largest logit of all cases, by precision. A token of padding too many changes ten times as
# much as the first; bfloat16 has 8 bits, and int8 is as its tool makes it.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "int8": float("inf")}


def takes_part(peer: Peer, case: Case) -> bool:
    """Whether a peer has a turn at a case: yardsticks multiply matrices, not strings."""
    return case.mode == "ids" or not peer.yardstick


def run_once(crew: Crew, case: Case, path: str, peers: dict[str, Peer]) -> dict[str, Any]:
    """Runs a case once with everybody, which also warms up.

    Returns:
        What each computed.
    """
    outputs: dict[str, Any] = {}
    for name, worker in list(crew.workers.items()):
        if not takes_part(peers[name], case):
            continue
        try:
            outputs[name] = worker.ask("case", name=case.key, path=path)
        except WorkerError as error:
            crew.fail(name, error)
    return outputs


def list_logits(outputs: dict[str, Any], peers: dict[str, Peer]) -> dict[str, np.ndarray]:
    """Lists the logits of each peer in the table's order, the reference first: ours as a rule."""
    return {
        name: np.array(outputs[name], np.float64)
        for name, peer in peers.items()
        if name in outputs and not peer.yardstick
    }


def largest_logit(cases: Iterable[dict[str, Any]], peers: dict[str, Peer]) -> float:
    """Returns the largest logit of the references of all cases, 0 without any.

    That of a case is no measure: the logits of its only row may be nearly 0.
    """
    listed = [list(list_logits(outputs, peers).values()) for outputs in cases]
    found = (np.abs(arrays[0][np.isfinite(arrays[0])]) for arrays in listed if arrays)
    return max((float(logits.max(initial=0.0)) for logits in found), default=0.0)


def compare(
    outputs: dict[str, Any], peers: dict[str, Peer], largest: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Compares the peers' logits with the reference's.

    Args:
        outputs: Logits of each peer, (rows, classes).
        peers: The peers by name.
        largest: What `TOLERANCES` are shares of: see `largest_logit`.

    Returns:
        Largest absolute difference of each peer, and a message for each that computes something
        else: further away than `TOLERANCES` allows.
    """
    arrays = list_logits(outputs, peers)
    if not arrays:
        return {}, {}
    reference_name, reference = next(iter(arrays.items()))
    differences, errors = {}, {}
    for name, array in arrays.items():
        if array.shape != reference.shape or not np.isfinite(array).all():
            errors[name] = f"gives logits {array.shape} that are not finite, or of another shape"
            continue
        differences[name] = float(np.abs(array - reference).max())
        if differences[name] > TOLERANCES[peers[name].precision] * largest:
            errors[name] = f"logits are {differences[name]:.1e} from those of {reference_name}"
    return differences, errors


def score(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compares a peer's logits with the true labels, and with the logits of the reference.

    Args:
        logits: Float (B, C).
        reference: Float (B, C).
        labels: Integers (B,).

    Returns:
        Accuracy, how many labels are not the reference's, and the largest difference of a logit.

    Raises:
        ValueError: The shapes differ, or a logit is not finite.
    """
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        raise ValueError(f"logits {logits.shape} are not finite, or of another shape")
    predicted = logits.argmax(axis=1)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "changed_labels": int(np.sum(predicted != reference.argmax(axis=1))),
        "max_abs_difference": float(np.abs(logits - reference).max()),
    }
