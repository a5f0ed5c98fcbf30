"""What any server of an export must get right, whatever the model has learnt.

Each check takes a `Subject` and returns a note for the report; it raises `CheckFailedError` or
`CheckSkippedError` instead, or lets the errors of a call through. None sends a request without
rows: that ends the process of a server that fills up batches.

Shapes: B texts, C classes.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import grpc
import numpy as np

from distilbert_serving import signatures as names
from distilbert_serving.client.predict_client import PredictClient, PredictError
from distilbert_serving.client.results import Classifications, ModelMetadata
from distilbert_serving.examples import serialize_examples
from distilbert_serving.output_comparison import Arrays, DifferenceError, compare_outputs
from distilbert_serving.sample_sentences import EMPTY, ENDLESS, LONG, SCRIPTS, SHORT
from distilbert_serving.version_status import AVAILABLE

# A row's answer must not depend on its neighbours, so lengths and scripts are mixed.
TEXTS = (SHORT[0], "No.", *SCRIPTS[:2], LONG[0])
CONCURRENT = 24

Columns = dict[str, list[str]]
_MASK = " [MASK]"
_OLD_INPUT = "attention_mask"  # of `from_ids`, before there was num_tokens
_Code = grpc.StatusCode


class CheckFailedError(Exception):
    """An answer that is wrong."""


class CheckSkippedError(Exception):
    """A check that does not apply here."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """The server under test.

    Args:
        client: Asks it for the model.
        timeout_s: The deadline of each REST call, in seconds; the client has its own.
        batch_size: Rows in the largest request: no more than the server's `max_batch_size`.
        tolerance: By how much two answers to one text may differ, relative to the largest number of
            their output, or 1: other rows in a batch mean other kernels, and another rounding.
    """

    client: PredictClient
    timeout_s: float = 30.0
    batch_size: int = 100
    tolerance: float = 1e-3

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of all kinds, as many as a request may have."""
        return TEXTS[: self.batch_size]

    def metadata(self) -> ModelMetadata:
        """Returns the model's signatures."""
        return self.client.metadata()

    def require(self, *wanted: str) -> None:
        """Skips the check if the model lacks one of the signatures."""
        for name in wanted:
            if name not in self.metadata().signatures:
                raise CheckSkippedError(f"the model has no signature {name}")

    def require_token_ids(self) -> None:
        """Skips the check if the model does not make token ids of texts and take them again."""
        self.require(names.TOKENIZE, names.FROM_IDS)
        if _OLD_INPUT in self.metadata().signatures[names.FROM_IDS].inputs:
            raise CheckSkippedError("the export is too old")

    def token_ids(self, texts: Sequence[str]) -> Arrays:
        """Asks for the inputs of `from_ids` that are made of texts."""
        tokens = self.call(self.columns(texts), names.TOKENIZE)
        return {name: tokens[name] for name in names.INPUTS["ids"]}

    def columns(self, texts: Sequence[str], name: str = names.SERVING_DEFAULT) -> Columns:
        """Makes a signature's inputs of texts; of pairs, each text meets the one before it."""
        signature = self.metadata().signatures[name]
        if not names.takes_texts(signature.inputs):
            raise CheckSkippedError(f"{name} takes no texts, but {sorted(signature.inputs)}")
        texts = [text + _MASK if names.TOKEN_IDS in signature.outputs else text for text in texts]
        columns = {names.TEXT: texts, names.TEXT_PAIR: texts[-1:] + texts[:-1]}
        return {name: columns[name] for name in signature.inputs}

    def call(self, inputs: Mapping[str, Any], name: str = names.SERVING_DEFAULT) -> Arrays:
        """Calls a signature, and checks what holds for every answer."""
        outputs = self.client.call(inputs, signature_name=name)
        rows = len(next(iter(inputs.values())))
        for output, array in outputs.items():
            if array.ndim < 1 or len(array) != rows:
                raise CheckFailedError(f"{name}: {output} has shape {array.shape} for {rows} rows")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CheckFailedError(f"{name}: {output} is not finite")
        _check_classes(name, outputs)
        return outputs

    def call_each(self, columns: Columns, apply: Callable[..., Any] = map) -> Arrays:
        """Calls the default signature for each row alone, and joins the answers."""
        rows = [
            {name: [text] for name, text in zip(columns, row, strict=True)}
            for row in zip(*columns.values(), strict=True)
        ]
        answers = list(apply(self.call, rows))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def compare(self, what: str, got: Mapping[str, Any], want: Arrays) -> None:
        """Checks that the numbers of two answers to the same rows are equal but for rounding."""
        want = {name: array for name, array in want.items() if array.dtype.kind == "f"}
        got = {name: np.asarray(got[name], array.dtype) for name, array in want.items()}
        try:
            compare_outputs(got, want, self.tolerance)
        except DifferenceError as error:
            raise CheckFailedError(f"{what}: {error}") from error


def status(subject: Subject) -> str:
    """A version is available, and none has failed."""
    versions = subject.client.model_status()
    for version in versions:
        if version.error_message:
            raise CheckFailedError(f"version {version.version}: {version.error_message}")
    available = [version.version for version in versions if version.state == AVAILABLE]
    if not available:
        raise CheckFailedError(f"no version is {AVAILABLE}: {versions}")
    return f"versions {', '.join(map(str, available))}"


def metadata(subject: Subject) -> str:
    """There is a default signature that takes text."""
    found = subject.metadata()
    default = found.signatures.get(names.SERVING_DEFAULT)
    if default is None or not names.takes_texts(default.inputs):
        raise CheckFailedError(f"serving_default does not take {names.TEXT!r}: {default}")
    return f"version {found.version}: {', '.join(sorted(found.signatures))}"


def export_age(subject: Subject) -> str:
    """The export is new enough that a bad row leaves the rows it is merged with alone."""
    subject.require(names.FROM_IDS)
    if _OLD_INPUT in subject.metadata().signatures[names.FROM_IDS].inputs:
        raise CheckFailedError(
            f"from_ids takes {_OLD_INPUT}, so the export is old: a row that cannot be computed "
            "fails all requests that are merged with it, and with allowed_batch_sizes in its "
            "batching_params.pbtxt a request without rows ends the server's process. Export the "
            "model again; until then, delete allowed_batch_sizes and restart the server"
        )
    return f"from_ids takes {names.NUM_TOKENS}"


def one_text(subject: Subject) -> str:
    """A lone text has an answer."""
    outputs = subject.call(subject.columns(TEXTS[:1]))
    if names.PROBABILITIES not in outputs:
        return ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
    label = outputs[names.LABEL][0].decode("utf-8", "replace")
    return f"{label!r} {outputs[names.PROBABILITIES][0].max():.4f}"


def many_rows(subject: Subject) -> str:
    """A large request has the answers that its texts have alone."""
    each = subject.columns(TEXTS)
    rows = np.arange(subject.batch_size) % len(TEXTS)
    columns = {name: [texts[row] for row in rows] for name, texts in each.items()}
    with _advise(
        f"a request has {len(rows)} rows (--batch_size): if that is too many, export the model "
        "again, or set max_batch_size to what a request may have, max_execution_batch_size to "
        "what a run may have, and enable_large_batch_splitting to true",
        _Code.INVALID_ARGUMENT,
    ):
        answers = subject.call(columns)
    want = {name: array[rows] for name, array in subject.call_each(each).items()}
    subject.compare("a request of many rows and single texts", answers, want)
    return f"{len(rows)} rows"


def odd_texts(subject: Subject) -> str:
    """Texts without words, and one far too long, have answers; they leave other rows alone."""
    texts = (TEXTS[0], *EMPTY, ENDLESS, *TEXTS[1:])[: subject.batch_size]
    columns = subject.columns(texts)
    subject.compare("among odd texts", subject.call(columns), subject.call_each(columns))
    return f"{len(texts)} rows, up to {max(map(len, texts))} characters"


def concurrent_calls(subject: Subject) -> str:
    """Calls that are merged into batches have their own answers."""
    columns = subject.columns([TEXTS[number % len(TEXTS)] for number in range(CONCURRENT)])
    with futures.ThreadPoolExecutor(CONCURRENT) as pool:
        answers = subject.call_each(columns, pool.map)
    subject.compare("concurrent calls and single ones", answers, subject.call_each(columns))
    return f"{CONCURRENT} at once"


def every_text_signature(subject: Subject) -> str:
    """Each signature that takes texts answers them; batches equal single texts there, too."""
    others = [
        name
        for name, signature in sorted(subject.metadata().signatures.items())
        if names.takes_texts(signature.inputs) and name != names.SERVING_DEFAULT
    ]
    if not others:
        raise CheckSkippedError("the model has no others")
    for name in others:
        columns = subject.columns(subject.texts, name)
        batch = subject.call(columns, name)
        first = {key: column[:1] for key, column in columns.items()}
        got = {key: array[:1] for key, array in batch.items()}
        subject.compare(name, got, subject.call(first, name))
    return ", ".join(others)


def token_ids(subject: Subject) -> str:
    """Tokens that the model returns are what it makes of the text itself."""
    subject.require_token_ids()
    inputs = subject.token_ids(subject.texts)
    answers = subject.call(inputs, names.FROM_IDS)
    subject.compare("ids and texts", answers, subject.call(subject.columns(subject.texts)))
    return f"{inputs[names.NUM_TOKENS].max()} tokens in the longest row"


def different_lengths(subject: Subject) -> str:
    """Token ids of different lengths, sent at once, have the answers that they have alone."""
    subject.require_token_ids()
    ids, counts = subject.token_ids(subject.texts).values()
    # Long rows are cut to one length; the beginning of a row is a row, too.
    counts = np.maximum(counts - np.arange(len(counts), dtype=np.int32), 1)
    rows = [
        {names.INPUT_IDS: ids[[row], :count], names.NUM_TOKENS: counts[[row]]}
        for row, count in enumerate(counts)
    ]

    def ask(inputs: Arrays) -> Arrays:
        return subject.call(inputs, names.FROM_IDS)

    want = list(map(ask, rows))
    advice = (
        "ids of different lengths cannot be merged: set pad_variable_length_inputs: true in "
        "batching_params.pbtxt, as newer exports do"
    )
    codes = (_Code.INVALID_ARGUMENT, _Code.FAILED_PRECONDITION)
    with _advise(advice, *codes), futures.ThreadPoolExecutor(CONCURRENT) as pool:
        for number, answer in enumerate(pool.map(ask, (rows * CONCURRENT)[:CONCURRENT])):
            subject.compare("ids at once and alone", answer, want[number % len(rows)])
    return f"{CONCURRENT} at once, of {counts.min()} to {counts.max()} tokens"


def bad_rows(subject: Subject) -> str:
    """A row that cannot be computed has no answer, and leaves the others of its request alone."""
    subject.require_token_ids()
    texts = subject.texts[: subject.batch_size - 1]
    bad_ids = {names.INPUT_IDS: -1, names.NUM_TOKENS: 1}
    _check_bad_row(subject, names.FROM_IDS, subject.token_ids(texts), bad_ids)
    if names.CLASSIFY not in subject.metadata().signatures:
        return names.FROM_IDS
    examples = np.array(serialize_examples(subject.columns(texts)), object)
    no_example = {names.EXAMPLES: b"no tf.Example"}
    _check_bad_row(subject, names.CLASSIFY, {names.EXAMPLES: examples}, no_example)
    return f"{names.FROM_IDS}, {names.CLASSIFY}"


def classify(subject: Subject) -> str:
    """Classify returns the scores of Predict, with labels."""
    subject.require(names.CLASSIFY)
    columns = subject.columns(subject.texts)
    return _check_classifications(subject, columns, subject.client.classify(*columns.values()))


def regress(subject: Subject) -> str:
    """Regress returns a number for each text."""
    subject.require(names.REGRESS)
    columns = subject.columns(subject.texts)
    return _check_regressions(subject, subject.client.regress(*columns.values()))


def multi_inference(subject: Subject) -> str:
    """MultiInference returns both at once."""
    subject.require(names.CLASSIFY, names.REGRESS)
    columns = subject.columns(subject.texts)
    answers = subject.client.multi_inference(
        *columns.values(), classify=[names.CLASSIFY], regress=[names.REGRESS]
    )
    _check_regressions(subject, answers[names.REGRESS])
    return _check_classifications(subject, columns, answers[names.CLASSIFY])


def bad_requests(subject: Subject) -> str:
    """Wrong requests are refused with the right code, and the next good one is answered."""
    good = subject.columns(TEXTS[:1])
    before = subject.call(good)
    wrong_type = {**good, names.TEXT: np.array([7], np.int32)}
    # Of a signature that is not there, older releases say that it is a failed precondition.
    codes = (_Code.INVALID_ARGUMENT, _Code.FAILED_PRECONDITION)
    for what, inputs, name, allowed in (
        ("no input", {}, names.SERVING_DEFAULT, codes[:1]),
        ("another input", {**good, "no_such_input": ["x"]}, names.SERVING_DEFAULT, codes[:1]),
        ("numbers for texts", wrong_type, names.SERVING_DEFAULT, codes[:1]),
        ("no such signature", good, "no_such_signature", codes),
    ):
        try:
            subject.client.call(inputs, signature_name=name)
        except PredictError as error:
            if error.code not in allowed:
                raise CheckFailedError(
                    f"{what} should be {codes[0].name}, but is {error.code.name}: {error.details}"
                ) from error
        else:
            raise CheckFailedError(f"{what} was answered, and should be {codes[0].name}")
    subject.compare("before and after bad requests", subject.call(good), before)
    return "refused"


# In the order of the report.
CHECKS: dict[str, Callable[[Subject], str]] = {
    "status": status,
    "metadata": metadata,
    "export": export_age,
    "one text": one_text,
    "many rows": many_rows,
    "odd texts": odd_texts,
    "concurrent calls": concurrent_calls,
    "other signatures": every_text_signature,
    "token ids": token_ids,
    "different lengths": different_lengths,
    "bad rows": bad_rows,
    "Classify": classify,
    "Regress": regress,
    "MultiInference": multi_inference,
    "bad requests": bad_requests,
}


@contextlib.contextmanager
def _advise(advice: str, *codes: grpc.StatusCode) -> Iterator[None]:
    """Says what may be the matter where a call fails with one of the codes."""
    try:
        yield
    except PredictError as error:
        if error.code not in codes:
            raise
        raise CheckFailedError(f"{error.code.name}: {error.details}; {advice}") from error


def _check_classes(name: str, outputs: Arrays) -> None:
    """Checks that probabilities are some, and that the label is the likeliest class."""
    if names.PROBABILITIES not in outputs:
        return
    probabilities = outputs[names.PROBABILITIES]
    if (probabilities < 0).any() or np.abs(probabilities.sum(axis=1) - 1).max(initial=0) > 1e-3:
        raise CheckFailedError(f"{name}: probabilities do not sum to 1: {probabilities.tolist()}")
    best = probabilities.argmax(axis=1)
    if names.LABEL_ID in outputs and not (outputs[names.LABEL_ID] == best).all():
        raise CheckFailedError(f"{name}: label_id is not the likeliest class")
    if not all(outputs.get(names.LABEL, [b"-"])):
        raise CheckFailedError(f"{name}: a label is empty")


def _check_bad_row(subject: Subject, name: str, good: Arrays, bad: Mapping[str, Any]) -> None:
    """Puts a row that cannot be computed between others."""
    want = subject.call(good, name)
    place = len(next(iter(good.values()))) // 2
    inputs = {key: np.insert(array, place, bad[key], axis=0) for key, array in good.items()}
    answers = subject.client.call(inputs, signature_name=name)
    for key, array in answers.items():
        if not _is_blank(np.asarray(array[place])):
            raise CheckFailedError(
                f"{name}: {key} of a row that cannot be computed is {array[place]}"
            )
    others = {key: np.delete(array, place, axis=0) for key, array in answers.items()}
    subject.compare(f"{name} with a bad row and without", others, want)


def _is_blank(row: np.ndarray) -> bool:
    """Says whether an output's row is that of a row that cannot be computed."""
    if row.dtype.kind == "f":
        return bool(np.isnan(row).all())
    return bool((row == (names.NO_NUMBER if row.dtype.kind == "i" else b"")).all())


def _check_classifications(subject: Subject, columns: Columns, answers: Classifications) -> str:
    """Compares answers of Classify with what Predict says."""
    want = subject.call(columns)
    labels = answers.classes
    if any(row != labels[0] for row in labels):
        raise CheckFailedError(f"rows have different classes: {labels}")
    probabilities = {names.PROBABILITIES: want[names.PROBABILITIES]}
    subject.compare("Classify", {names.PROBABILITIES: answers.scores}, probabilities)
    for row, label in enumerate(want[names.LABEL]):
        best = labels[row][want[names.PROBABILITIES][row].argmax()]
        if label.decode("utf-8", "replace") != best:
            raise CheckFailedError(f"Predict says {label!r}, Classify {best!r}")
    return ", ".join(labels[0])


def _check_regressions(subject: Subject, values: list[float]) -> str:
    if len(values) != len(subject.texts) or not np.isfinite(values).all():
        raise CheckFailedError(f"{len(subject.texts)} texts have the values {values}")
    return ", ".join(f"{value:.3f}" for value in values)
