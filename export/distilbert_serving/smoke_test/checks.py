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

from distilbert_serving import signatures
from distilbert_serving.client.predict_client import PredictClient, PredictError
from distilbert_serving.client.results import Classifications, ModelMetadata, SignatureInfo
from distilbert_serving.examples import serialize_examples

# A row's answer must not depend on its neighbours, so lengths and scripts are mixed.
TEXTS = (
    "The lamp flickers, but the book is too good to put down.",
    "No.",
    "Grüße aus Köln! Ça va? 東京は雨です。 🎈👩‍🚀",
    "We waited for an hour at the wrong platform, and when the train left without us, everybody "
    "laughed, even the man who had sent us there.",
)
EMPTY = ("", " \t\n", "\u200b")
LONG = "A sentence that nobody would ever want to read to its end goes on and on. " * 50
CONCURRENT = 24

Columns = dict[str, list[str]]
Arrays = Mapping[str, np.ndarray]
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
        timeout_s: The deadline of each call, in seconds.
        batch_size: Rows in the largest request: no more than the server's `max_batch_size`.
        tolerance: By how much two answers to one text may differ: other rows in a batch mean other
            kernels, and another rounding.
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
        return self.client.metadata(self.timeout_s)

    def require(self, *names: str) -> None:
        """Skips the check if the model lacks one of the signatures."""
        for name in names:
            if name not in self.metadata().signatures:
                raise CheckSkippedError(f"the model has no signature {name}")

    def require_token_ids(self) -> None:
        """Skips the check if the model does not make token ids of texts and take them again."""
        self.require(signatures.TOKENIZE, signatures.FROM_IDS)
        if _OLD_INPUT in self.metadata().signatures[signatures.FROM_IDS].inputs:
            raise CheckSkippedError("the export is too old")

    def token_ids(self, texts: Sequence[str]) -> Arrays:
        """Asks for the inputs of `from_ids` that are made of texts."""
        columns = self.columns(signatures.SERVING_DEFAULT, texts)
        tokens = self.call(columns, signatures.TOKENIZE)
        return {name: tokens[name] for name in (signatures.INPUT_IDS, signatures.NUM_TOKENS)}

    def columns(self, name: str, texts: Sequence[str]) -> Columns:
        """Makes a signature's inputs of texts; of pairs, each text meets the one before it."""
        signature = self.metadata().signatures[name]
        if not takes_texts(signature):
            raise CheckSkippedError(f"{name} takes no texts, but {sorted(signature.inputs)}")
        texts = list(texts)
        if signatures.TOKEN_IDS in signature.outputs:
            texts = [text + _MASK for text in texts]
        columns = {signatures.TEXT: texts}
        if signatures.TEXT_PAIR in signature.inputs:
            columns[signatures.TEXT_PAIR] = texts[-1:] + texts[:-1]
        return columns

    def call(self, inputs: Mapping[str, Any], name: str = signatures.SERVING_DEFAULT) -> Arrays:
        """Calls a signature, and checks what holds for every answer."""
        outputs = self.client.call(inputs, signature_name=name, timeout_s=self.timeout_s)
        rows = len(next(iter(inputs.values())))
        for output, array in outputs.items():
            if array.ndim < 1 or len(array) != rows:
                raise CheckFailedError(f"{name}: {output} has shape {array.shape} for {rows} rows")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CheckFailedError(f"{name}: {output} is not finite")
        check_classes(name, outputs)
        return outputs

    def compare(self, what: str, got: Arrays, want: Arrays) -> None:
        """Checks that two answers to the same rows are equal but for rounding."""
        for name, array in want.items():
            if array.dtype.kind == "f":
                self.compare_arrays(f"{what}: {name}", got[name], array)

    def compare_arrays(self, what: str, got: Any, want: Any) -> None:
        """Checks that two arrays are equal but for rounding, relative to each row's largest."""
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if got.shape != want.shape:
            raise CheckFailedError(f"{what} has shape {got.shape} and {want.shape}")
        for row, (have, need) in enumerate(zip(got, want, strict=True)):
            allowed = self.tolerance * max(1.0, float(np.abs(need).max(initial=0.0)))
            difference = float(np.abs(have - need).max(initial=0.0))
            if not difference <= allowed:
                raise CheckFailedError(
                    f"{what} differ by {difference:.1e} in row {row}, allowed is {allowed:.1e}"
                )


def takes_texts(signature: SignatureInfo) -> bool:
    """Says whether texts or pairs of texts are all that a signature wants."""
    inputs = set(signature.inputs)
    return signatures.TEXT in inputs and inputs <= {signatures.TEXT, signatures.TEXT_PAIR}


def check_classes(name: str, outputs: Arrays) -> None:
    """Checks that probabilities are some, and that the label is the likeliest class."""
    if signatures.PROBABILITIES not in outputs:
        return
    probabilities = outputs[signatures.PROBABILITIES]
    if (probabilities < 0).any() or np.abs(probabilities.sum(axis=1) - 1).max(initial=0) > 1e-3:
        raise CheckFailedError(f"{name}: probabilities do not sum to 1: {probabilities.tolist()}")
    best = probabilities.argmax(axis=1)
    if signatures.LABEL_ID in outputs and not (outputs[signatures.LABEL_ID] == best).all():
        raise CheckFailedError(f"{name}: label_id is not the likeliest class")
    if not all(outputs.get(signatures.LABEL, [b"-"])):
        raise CheckFailedError(f"{name}: a label is empty")


def status(subject: Subject) -> str:
    """A version is available, and none has failed."""
    versions = subject.client.model_status(subject.timeout_s)
    failed = [version for version in versions if version.error_message]
    if failed:
        raise CheckFailedError(f"version {failed[0].version}: {failed[0].error_message}")
    available = [version.version for version in versions if version.state == "AVAILABLE"]
    if not available:
        raise CheckFailedError(f"no version is AVAILABLE: {versions}")
    return f"versions {', '.join(map(str, available))}"


def metadata(subject: Subject) -> str:
    """There is a default signature that takes text."""
    found = subject.metadata()
    default = found.signatures.get(signatures.SERVING_DEFAULT)
    if default is None or not takes_texts(default):
        raise CheckFailedError(f"serving_default does not take {signatures.TEXT!r}: {default}")
    return f"version {found.version}: {', '.join(sorted(found.signatures))}"


def export_age(subject: Subject) -> str:
    """The export is of the kind whose rows cannot hurt each other once a server merges them."""
    subject.require(signatures.FROM_IDS)
    if _OLD_INPUT in subject.metadata().signatures[signatures.FROM_IDS].inputs:
        raise CheckFailedError(
            f"from_ids takes {_OLD_INPUT}, so the export is old: a row that cannot be computed "
            "fails all requests that are merged with it, and with allowed_batch_sizes in its "
            "batching_params.pbtxt a request without rows ends the server's process. Export the "
            "model again; until then, delete allowed_batch_sizes and restart the server"
        )
    return f"from_ids takes {signatures.NUM_TOKENS}"


def one_text(subject: Subject) -> str:
    """A lone text has an answer."""
    outputs = subject.call(subject.columns(signatures.SERVING_DEFAULT, TEXTS[:1]))
    if signatures.PROBABILITIES not in outputs:
        return ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
    label = outputs[signatures.LABEL][0].decode("utf-8", "replace")
    return f"{label!r} {outputs[signatures.PROBABILITIES][0].max():.4f}"


def many_rows(subject: Subject) -> str:
    """A large request has the answers that its texts have alone."""
    each = subject.columns(signatures.SERVING_DEFAULT, TEXTS)
    rows = np.arange(subject.batch_size) % len(TEXTS)
    columns = {name: [texts[row] for row in rows] for name, texts in each.items()}
    with _advise(
        f"a request has {len(rows)} rows (--batch_size): if that is too many, export the model "
        "again, or set max_batch_size to what a request may have, max_execution_batch_size to "
        "what a run may have, and enable_large_batch_splitting to true",
        _Code.INVALID_ARGUMENT,
    ):
        answers = subject.call(columns)
    want = {name: array[rows] for name, array in _call_each(subject, each).items()}
    subject.compare("a request of many rows and single texts", answers, want)
    return f"{len(rows)} rows"


def odd_texts(subject: Subject) -> str:
    """Texts without words, and one far too long, have answers; they leave other rows alone."""
    texts = (TEXTS[0], *EMPTY, LONG, *TEXTS[1:])[: subject.batch_size]
    columns = subject.columns(signatures.SERVING_DEFAULT, texts)
    subject.compare("among odd texts, answers", subject.call(columns), _call_each(subject, columns))
    return f"{len(texts)} rows, up to {max(map(len, texts))} characters"


def concurrent_calls(subject: Subject) -> str:
    """Calls that are merged into batches have their own answers."""
    texts = [TEXTS[number % len(TEXTS)] for number in range(CONCURRENT)]
    columns = subject.columns(signatures.SERVING_DEFAULT, texts)
    with futures.ThreadPoolExecutor(CONCURRENT) as pool:
        answers = _call_each(subject, columns, pool.map)
    subject.compare("concurrent calls and single ones", answers, _call_each(subject, columns))
    return f"{CONCURRENT} at once"


def every_text_signature(subject: Subject) -> str:
    """Each signature that takes texts answers them; batches equal single texts there, too."""
    names = [
        name
        for name, signature in sorted(subject.metadata().signatures.items())
        if takes_texts(signature) and name != signatures.SERVING_DEFAULT
    ]
    if not names:
        raise CheckSkippedError("the model has no others")
    for name in names:
        columns = subject.columns(name, subject.texts)
        batch = subject.call(columns, name)
        first = {key: column[:1] for key, column in columns.items()}
        subject.compare(
            name, {key: array[:1] for key, array in batch.items()}, subject.call(first, name)
        )
    return ", ".join(names)


def token_ids(subject: Subject) -> str:
    """Tokens that the model returns are what it makes of the text itself."""
    subject.require_token_ids()
    columns = subject.columns(signatures.SERVING_DEFAULT, subject.texts)
    inputs = subject.token_ids(subject.texts)
    answers = subject.call(inputs, signatures.FROM_IDS)
    subject.compare("ids and texts", answers, subject.call(columns))
    return f"{inputs[signatures.NUM_TOKENS].max()} tokens in the longest row"


def different_lengths(subject: Subject) -> str:
    """Token ids of different lengths, sent at once, have the answers that they have alone."""
    subject.require_token_ids()
    ids, counts = subject.token_ids(subject.texts).values()
    # Long rows are cut to one length; the beginning of a row is a row, too.
    counts = np.maximum(counts - np.arange(len(counts), dtype=np.int32), 1)
    rows = [
        {signatures.INPUT_IDS: ids[[row], :count], signatures.NUM_TOKENS: counts[[row]]}
        for row, count in enumerate(counts)
    ]

    def ask(inputs: Arrays) -> Arrays:
        return subject.call(inputs, signatures.FROM_IDS)

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
    bad_ids = {signatures.INPUT_IDS: -1, signatures.NUM_TOKENS: 1}
    _check_bad_row(subject, signatures.FROM_IDS, subject.token_ids(texts), bad_ids)
    if signatures.CLASSIFY not in subject.metadata().signatures:
        return signatures.FROM_IDS
    columns = subject.columns(signatures.SERVING_DEFAULT, texts)
    examples = np.array(serialize_examples(columns), object)
    no_example = {signatures.EXAMPLES: b"no tf.Example"}
    _check_bad_row(subject, signatures.CLASSIFY, {signatures.EXAMPLES: examples}, no_example)
    return f"{signatures.FROM_IDS}, {signatures.CLASSIFY}"


def classify(subject: Subject) -> str:
    """Classify returns the scores of Predict, with labels."""
    subject.require(signatures.CLASSIFY)
    columns = subject.columns(signatures.SERVING_DEFAULT, subject.texts)
    answers = subject.client.classify(*columns.values(), timeout_s=subject.timeout_s)
    return _check_classifications(subject, columns, answers)


def regress(subject: Subject) -> str:
    """Regress returns a number for each text."""
    subject.require(signatures.REGRESS)
    columns = subject.columns(signatures.SERVING_DEFAULT, subject.texts)
    return _check_regressions(
        subject, subject.client.regress(*columns.values(), timeout_s=subject.timeout_s)
    )


def multi_inference(subject: Subject) -> str:
    """MultiInference returns both at once."""
    subject.require(signatures.CLASSIFY, signatures.REGRESS)
    columns = subject.columns(signatures.SERVING_DEFAULT, subject.texts)
    answers = subject.client.multi_inference(
        *columns.values(),
        classify=[signatures.CLASSIFY],
        regress=[signatures.REGRESS],
        timeout_s=subject.timeout_s,
    )
    _check_regressions(subject, answers[signatures.REGRESS])
    return _check_classifications(subject, columns, answers[signatures.CLASSIFY])


def bad_requests(subject: Subject) -> str:
    """Wrong requests hear what is wrong, and the next good one is answered."""
    default = signatures.SERVING_DEFAULT
    good = subject.columns(default, TEXTS[:1])
    text = signatures.TEXT
    invalid = _Code.INVALID_ARGUMENT
    before = subject.call(good)
    _expect(subject, "no input", {}, default, invalid)
    _expect(subject, "another input", {**good, "no_such_input": ["x"]}, default, invalid)
    wrong_type = {**good, text: np.array([7], np.int32)}
    _expect(subject, "numbers for texts", wrong_type, default, invalid)
    # Older releases call it a failed precondition.
    codes = (invalid, _Code.FAILED_PRECONDITION)
    _expect(subject, "no such signature", good, "no_such_signature", *codes)
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


def _call_each(subject: Subject, columns: Columns, apply: Callable[..., Any] = map) -> Arrays:
    """Calls the default signature for each row alone, and joins the answers."""
    rows = [
        {name: [text] for name, text in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]
    answers = list(apply(subject.call, rows))
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


@contextlib.contextmanager
def _advise(advice: str, *codes: grpc.StatusCode) -> Iterator[None]:
    """Says what may be the matter where a call fails with one of the codes."""
    try:
        yield
    except PredictError as error:
        if error.code not in codes:
            raise
        raise CheckFailedError(f"{error.code.name}: {error.details}; {advice}") from error


def _check_bad_row(subject: Subject, name: str, good: Arrays, bad: Mapping[str, Any]) -> None:
    """Puts a row that cannot be computed between others."""
    want = subject.call(good, name)
    place = len(next(iter(good.values()))) // 2
    inputs = {key: np.insert(array, place, bad[key], axis=0) for key, array in good.items()}
    answers = subject.client.call(inputs, signature_name=name, timeout_s=subject.timeout_s)
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
    return bool((row == (signatures.NO_NUMBER if row.dtype.kind == "i" else b"")).all())


def _check_classifications(subject: Subject, columns: Columns, answers: Classifications) -> str:
    """Compares answers of Classify with what Predict says."""
    want = subject.call(columns)
    labels = answers.classes
    if any(row != labels[0] for row in labels):
        raise CheckFailedError(f"rows have different classes: {labels}")
    subject.compare_arrays(
        "scores and probabilities", answers.scores, want[signatures.PROBABILITIES]
    )
    best = want[signatures.PROBABILITIES].argmax(axis=1)
    for row, label in enumerate(want[signatures.LABEL]):
        if label.decode("utf-8", "replace") != labels[row][best[row]]:
            raise CheckFailedError(f"Predict says {label!r}, Classify {labels[row][best[row]]!r}")
    return ", ".join(labels[0])


def _check_regressions(subject: Subject, values: list[float]) -> str:
    if len(values) != len(subject.texts) or not np.isfinite(values).all():
        raise CheckFailedError(f"{len(subject.texts)} texts have the values {values}")
    return ", ".join(f"{value:.3f}" for value in values)


def _expect(
    subject: Subject, what: str, inputs: Mapping[str, Any], name: str, *codes: grpc.StatusCode
) -> None:
    """Checks that a request is refused with one of the codes."""
    try:
        subject.client.call(inputs, signature_name=name, timeout_s=subject.timeout_s)
    except PredictError as error:
        if error.code not in codes:
            raise CheckFailedError(
                f"{what} should be {codes[0].name}, but is {error.code.name}: {error.details}"
            ) from error
    else:
        raise CheckFailedError(f"{what} was answered, and should be {codes[0].name}")
