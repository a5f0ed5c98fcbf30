"""Random requests for the REST port: mostly right ones with a mistake or two, and plain garbage."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st


class HttpCall(NamedTuple):
    """What is sent to the REST port."""

    method: str
    path: str
    body: bytes


_TEXTS = st.sampled_from(["the film was good", "", "[MASK] très", "[MASK]" * 17, {"b64": "/wA="}])
_ODD = ["\0", "\ud800", {"b64": "/w"}, {"b64": "?"}, 2**31, 2**63, 10**400, 1e300, "[" * 100_000]
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(_ODD),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "text_pair", "b64", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_CELLS = {"input_ids": st.just([2, 6, 3]), "num_tokens": st.sampled_from([3, 3, 2, 0, 9])}


def _one_in(count: int) -> st.SearchStrategy[bool]:
    return st.sampled_from([False] * (count - 1) + [True])


@st.composite
def _bodies(draw, verb: str, signature: str, inputs: list[str]) -> bytes:
    """Makes JSON for a signature, mostly such that fits."""
    rows, odd = draw(st.integers(1, 3)), _one_in(5)
    cells = {name: _CELLS.get(name, _TEXTS) for name in inputs}
    document: dict[str, Any] = {"signature_name": signature}
    if verb != "predict":
        example = {name: draw(_TEXTS) for name in ("text", "text_pair")}
        document["examples"] = [draw(_JSON) if draw(odd) else example for _ in range(rows)]
    elif draw(st.booleans()):
        row = {name: draw(cells[name]) for name in inputs}
        document["instances"] = [draw(_JSON) if draw(odd) else row for _ in range(rows)]
    else:
        document["inputs"] = {
            name: draw(_JSON) if draw(odd) else [draw(cells[name])] * rows for name in inputs
        }
    if draw(_one_in(8)):
        keys = ["inputs", "instances", "signature_name", "examples", "context"]
        document[draw(st.sampled_from(keys))] = draw(_JSON)
    body = json.dumps(draw(_JSON) if draw(_one_in(20)) else document).encode()
    if draw(_one_in(8)):
        start = draw(st.integers(0, len(body)))
        body = body[:start] + draw(st.binary(max_size=8)) + body[start + draw(st.integers(0, 8)) :]
    return body


@st.composite
def http_calls(draw, signatures: Mapping[tuple[str, str], Iterable[str]]) -> HttpCall:
    """Makes requests, given the names of the inputs by model and signature."""
    model, signature = draw(st.sampled_from(sorted(signatures)))
    verb = draw(st.sampled_from(["predict"] * 4 + ["classify", "regress", "status", "metadata"]))
    version = draw(
        st.sampled_from([""] * 5 + ["/versions/1", "/versions/9" + "9" * 30, "/labels/%ff"])
    )
    end = {"status": "", "metadata": "/metadata"}.get(verb, f":{verb}")
    path = f"/v1/models/{model}{version}{end}"
    if draw(_one_in(10)):
        path = path[: draw(st.integers(1, len(path)))] + draw(
            st.sampled_from(["", "/", "%zz", ":"])
        )
    if end.startswith(":"):
        body = draw(_bodies(verb, signature, list(signatures[model, signature])))
        return HttpCall(draw(st.sampled_from(["POST"] * 19 + ["PUT"])), path, body)
    return HttpCall(draw(st.sampled_from(["GET"] * 9 + ["DELETE"])), path, b"")
