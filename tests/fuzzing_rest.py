"""Random requests for the REST port, in the manner of `fuzzing`."""

import json
from typing import Any, NamedTuple

import tiny_exports
from fuzzing import KEYS, changed_bytes, one_in
from hypothesis import strategies as st


class HttpCall(NamedTuple):
    """What is sent over a connection of its own to the REST port, and whether nothing follows."""

    data: bytes
    is_closed: bool


_JSON_LEAVES = st.one_of(
    st.sampled_from(
        ["the film", "", "[MASK]", "\0", "\ud800", {"b64": "/w=="}, {"b64": "?"}, None]
    ),
    st.text(max_size=10),
    st.sampled_from([True, 0, 1, -1, 2**31, 2**63, 10**400, 1.5, 1e300, float("nan")]),
)
_JSON = st.recursive(
    _JSON_LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["text", "text_pair", "b64", "x"]), inner, max_size=2),
    ),
    max_leaves=6,
)


_CELLS = st.sampled_from(["the film was good", "", "[MASK] très", "[MASK]" * 17, {"b64": "/wA="}])


@st.composite
def _bodies(draw, key, verb) -> bytes:
    """Makes JSON bodies for a signature, mostly such that fit."""
    names = list(tiny_exports.INPUTS[key])
    odd = one_in(5)
    cells = dict.fromkeys(names, _CELLS)
    if "input_ids" in names:
        cells = {"input_ids": st.just([2, 6, 3]), "num_tokens": st.sampled_from([3, 3, 2, 0, 9])}
    rows = draw(st.sampled_from([1, 2, 3]))
    document: dict[str, Any] = {"signature_name": key[1]}
    if verb != "predict":
        feature = {name: draw(_CELLS) for name in ("text", "text_pair")}
        document["examples"] = [draw(_JSON) if draw(odd) else feature for _ in range(rows)]
        if draw(odd):
            document["context"] = draw(_JSON)
    elif draw(st.booleans()):
        row = {name: draw(cells[name]) for name in names}
        document["instances"] = [draw(_JSON) if draw(odd) else row for _ in range(rows)]
    else:
        document["inputs"] = {
            name: draw(_JSON) if draw(odd) else [draw(cells[name])] * rows for name in names
        }
    if draw(one_in(10)):
        document[draw(st.sampled_from(["inputs", "signature_name", "examples"]))] = draw(_JSON)
    body = json.dumps(draw(_JSON) if draw(one_in(20)) else document).encode()
    if draw(one_in(20)):
        body = b"[" * 100_000
    return draw(changed_bytes(body)) if draw(one_in(6)) else body


@st.composite
def _targets(draw, name, verb) -> bytes:
    """Makes paths, mostly right ones."""
    middle = b""
    if draw(one_in(5)):
        choices = [b"/versions/1", b"/versions/2", b"/versions/" + b"9" * 30, b"/labels/%ff"]
        middle = draw(st.sampled_from(choices))
    end = {"status": "", "metadata": "/metadata"}.get(verb, f":{verb}").encode()
    target = b"/v1/models/" + name.encode() + middle + end
    if draw(one_in(8)):
        target = draw(changed_bytes(target))
    # The request line's own characters would make another line of it.
    return target.translate(None, b" \r\n") or b"/"


@st.composite
def http_calls(draw) -> HttpCall:
    """Makes requests to the REST port."""
    if draw(one_in(20)):
        return HttpCall(draw(st.binary(max_size=60)), True)
    key = draw(KEYS)
    verb = draw(st.sampled_from(["predict"] * 4 + ["classify", "regress", "status", "metadata"]))
    is_get = verb in ("status", "metadata")
    method = b"GET" if is_get else b"POST"
    if draw(one_in(20)):
        method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"BREW"]))
    body = b"" if is_get else draw(_bodies(key, verb))
    headers = [b"Connection: close"]
    if body:
        headers.append(b"Content-Length: %d" % len(body))
    head = b"\r\n".join(
        [method + b" " + draw(_targets(key[0], verb)) + b" HTTP/1.1", *headers, b"", b""]
    )
    if draw(one_in(10)):
        odd = st.sampled_from(
            [
                b"Transfer-Encoding: chunked",
                b"Content-Length: -1",
                b"Content-Length: 99999999999999999999",
                b"Content-Encoding: gzip",
                b"Expect: 100-continue",
                b"X: " + b"x" * 70_000,
                b"\xff\xfe: \0",
            ]
        )
        head = head.replace(b"Connection", draw(odd) + b"\r\nConnection", 1)
        return HttpCall(head + body, True)
    if draw(one_in(10)):
        return HttpCall(draw(changed_bytes(head + body)), True)
    return HttpCall(head + body, False)
