"""The subcommand `query`: asks a server about texts, any number of them, and writes its answers."""

import contextlib
import sys
import typing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_address, define_pair
from distilbert_tf.commands.query_input import Faults, InputRow, QueryInput
from distilbert_tf.commands.query_output import FORMATS, METHODS, QueryOutput
from distilbert_tf.data.file_formats import BadRows


def define_query(values: flags.FlagValues) -> None:
    """Defines the flags of `query`."""
    define_address(values)
    flags.DEFINE_integer(
        "version", None, "version to ask; the newest if not given", 1, flag_values=values
    )
    flags.DEFINE_string("label", None, "label of the version to ask", flag_values=values)
    flags.DEFINE_enum("method", "predict", METHODS, "what to ask for", flag_values=values)
    flags.DEFINE_string(
        "signature",
        "serving_default",
        "endpoint of the model; of one for several tasks, a task's name",
        flag_values=values,
    )
    _define_texts(values)
    flags.DEFINE_integer("batch_size", 32, "texts in a request", 1, flag_values=values)
    flags.DEFINE_integer("concurrency", 1, "requests at once", 1, flag_values=values)
    flags.DEFINE_float("timeout_s", 10.0, "deadline of each request", 0.001, flag_values=values)
    flags.DEFINE_float(
        "wait_s", 0.0, "how long to wait for the server to be ready", 0.0, flag_values=values
    )
    _define_security(values)


def _define_texts(values: flags.FlagValues) -> None:
    define_pair(values)
    flags.DEFINE_string(
        "input",
        None,
        "file with a text in each line; standard input if there are no texts either",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "file to write, complete or not at all; standard output if not given",
        flag_values=values,
    )
    flags.DEFINE_enum("format", "text", FORMATS, "how answers are written", flag_values=values)
    flags.DEFINE_boolean("json", False, "the same as --format=jsonl", flag_values=values)
    flags.DEFINE_enum(
        "bad_rows",
        "error",
        typing.get_args(BadRows),
        "what to do with texts that cannot be read or computed",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "progress",
        None,
        "show progress on standard error; only on a terminal if not given",
        flag_values=values,
    )


def _define_security(values: flags.FlagValues) -> None:
    from distilbert_serving.client.tls_flags import define_tls

    define_tls(values)
    flags.DEFINE_multi_string(
        "header", [], "sent with each request, as 'name: value'", flag_values=values
    )


def run_query(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Asks a server."""
    if words and values.input is not None:
        raise UsageError(f"texts are given twice: {words[0]!r} and --input={values.input}")
    format_name = "jsonl" if values.json else values.format
    with (
        _client(values) as client,
        _open(values.input) as file,
        QueryOutput(values.output, format_name, values.method) as output,
    ):
        if values.wait_s:
            client.wait_until_ready(values.wait_s)
        name = values.input or "standard input"
        texts = QueryInput(words, file, name, Faults(values.bad_rows), values.pair)
        _ask(client, texts, output, values)


def _open(path: str | None) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if path is None else Path(path).open("rb")


def _ask(client: Any, texts: QueryInput, output: QueryOutput, values: flags.FlagValues) -> None:
    """Writes answer after answer; if that ends early, says where."""
    from distilbert_serving.client.endpoints import text_endpoint
    from distilbert_serving.client.results import is_valid
    from tqdm import tqdm

    limits = text_endpoint(values.method).limits
    asked: deque[InputRow] = deque()  # without an answer yet
    is_shown = values.progress
    if is_shown is None:  # two things on one terminal would be a mess
        is_shown = sys.stderr.isatty() and not (values.output is None and sys.stdout.isatty())
    count = done = 0
    stream = client.stream(
        _note(texts, asked),
        values.method,
        batch_size=1 if texts.is_typed else values.batch_size,
        concurrency=1 if texts.is_typed else values.concurrency,
        return_invalid=True,
    )
    try:
        with (
            contextlib.closing(stream) as answers,
            tqdm(
                disable=not is_shown,
                unit=" texts",
                smoothing=0,
                dynamic_ncols=True,
                mininterval=0.1 if sys.stderr.isatty() else 10.0,  # a log is kept
            ) as progress,
        ):
            for answer in answers:
                if is_valid(answer):
                    output.write(asked[0].texts, answer)
                    count += 1
                else:
                    texts.faults.add(f"{asked[0].place} cannot be computed: {limits}")
                done += 1
                if share := asked.popleft().share:
                    progress.total = round(done / share)  # a guess until the last
                progress.update()
        if texts.error is not None:
            raise texts.error
    except BaseException:
        place = f" before {asked[0].place}" if asked else ""
        if count:
            sys.stderr.write(
                f"distilbert-tf query: stopped{place}; {count} answers are in {output.place}\n"
            )
        raise
    finally:
        if faults := texts.faults.count:
            sys.stderr.write(
                f"distilbert-tf query: left out {faults} of {faults + count} texts, among them: "
                f"{texts.faults.example}\n"
            )


def _note(rows: Iterable[InputRow], asked: deque[InputRow]) -> Iterator[Any]:
    """Yields rows in the client's form, and notes them."""
    for row in rows:
        asked.append(row)
        yield row.texts[0] if len(row.texts) == 1 else row.texts


def _client(values: flags.FlagValues) -> Any:
    from distilbert_serving.client.predict_client import PredictClient
    from distilbert_serving.client.tls_flags import make_tls

    return PredictClient(
        f"{values.host}:{values.port}",
        values.model_name,
        timeout_s=values.timeout_s,
        version=values.version,
        version_label=values.label,
        signature_name=values.signature,
        tls=make_tls(values),
        headers=dict(map(_header, values.header)),
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"--header wants 'name: value'; got {text!r}")
    return name.strip(), value.strip()
