"""The subcommand `query`: asks a server about texts, any number of them, and writes its answers."""

import socket
from collections.abc import Sequence
from typing import Any

from absl import flags

from distilbert_tf.commands.answer_output import (
    METHODS,
    AnswerOutput,
    define_output,
    write_answers,
)
from distilbert_tf.commands.common_flags import UsageError, define_address, define_flag
from distilbert_tf.commands.text_input import TextInput, define_input, open_texts


def define_query(values: flags.FlagValues) -> None:
    """Defines the flags of `query`."""
    define_address(values)
    text = "version to ask (default: the newest)"
    define_flag(values, "version", None, text, kind=int, minimum=1)
    define_flag(values, "label", None, "label of the version to ask", kind=str)
    define_flag(values, "method", "predict", "what to ask for", choices=METHODS)
    text = "endpoint of the model; of one for several tasks, a task's name"
    define_flag(values, "signature", "serving_default", text)
    define_input(values)
    define_output(values)
    define_flag(values, "batch_size", 32, "texts in a request", minimum=1)
    define_flag(values, "concurrency", 1, "requests at once", minimum=1)
    define_flag(values, "timeout_s", 10.0, "deadline of each request", minimum=0.001)
    text = "how long to wait for the server to be ready"
    define_flag(values, "wait_s", 0.0, text, minimum=0.0)
    _define_security(values)


def _define_security(values: flags.FlagValues) -> None:
    from distilbert_serving.client.tls_flags import define_tls

    define_tls(values)
    flags.DEFINE_multi_string(
        "header", None, "sent with each request, as 'name: value'", flag_values=values
    )


def run_query(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Asks a server."""
    from distilbert_serving.client.endpoints import text_endpoint
    from distilbert_serving.client.results import is_valid

    with (
        _client(values) as client,
        open_texts(values, words) as texts,
        AnswerOutput(values) as output,
    ):
        if values.wait_s:
            client.wait_until_ready(values.wait_s)
        else:
            _find_listener(values)
        _match_rows(values, client, texts)
        write_answers(
            "query",
            values,
            texts,
            output,
            lambda rows: client.stream(
                rows,
                values.method,
                batch_size=1 if texts.is_typed else values.batch_size,
                concurrency=1 if texts.is_typed else values.concurrency,
                return_invalid=True,
            ),
            lambda answer: None if is_valid(answer) else text_endpoint(values.method).limits,
        )


def _match_rows(values: flags.FlagValues, client: Any, texts: TextInput) -> None:
    """Makes each text two if the signature takes pairs: who asks need not say so.

    Raises:
        UsageError: It takes single texts, but pairs are given.
    """
    from distilbert_serving import signatures
    from distilbert_serving.client.endpoints import PREDICT, text_endpoint

    endpoint = text_endpoint(values.method)
    if endpoint.rpc != "Predict":  # its inputs are Examples, whose features nobody lists
        endpoint = PREDICT
    signature = client.metadata().signatures.get(endpoint.signature_for(values.signature))
    kind = signature and signatures.kind_of_inputs(signature.inputs)
    if kind == "texts" and texts.is_pair:
        raise UsageError(
            f"model {values.model_name!r} takes single texts: leave out --pair, and name one "
            "column at most with --text_columns"
        )
    texts.is_pair = texts.is_pair or kind == "pairs"


def _find_listener(values: flags.FlagValues) -> None:
    """Ends at once if nothing listens, where the client would try until its deadline.

    Raises:
        ConnectionRefusedError: Nothing does.
    """
    try:
        socket.create_connection((values.host, values.port), values.timeout_s).close()
    except ConnectionRefusedError:
        raise ConnectionRefusedError(
            f"nothing listens at {values.host}:{values.port}. Start a server there, such as "
            f"`distilbert-tf serve --model_base_path=DIR --port={values.port}`; name another one "
            "with --host and --port; or wait for it with --wait_s=60."
        ) from None
    except OSError:
        return  # the client may know a way, such as a proxy, or else explains it better


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
        headers=dict(map(_header, values.header or ())),
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"--header wants 'name: value'; got {text!r}")
    return name.strip(), value.strip()
