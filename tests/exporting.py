"""A tiny classifier, and a process that exports it on demand: what the export's tests share.

Run as a script it reads one JSON request a line from standard input, and forks a child for each.
The import of TensorFlow is then paid once, and a child can be killed without harm to the rest.
A request has `base`, `result` (the file for the outcome), `limit` (largest file that may be
written, in bytes, or null) and `options` of the export. The answer is a line with the child's
process id.
"""

import contextlib
import json
import os
import resource
import signal
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from comparing import ROUNDINGS_PER_LAYER
from distilbert_serving.saved_model.publishing import WORK_PREFIX
from processes import deadline, finish
from waiting import wait_until

LABELS = ["negativ", "neutral – weder/noch", "positiv 👍"]
WORDS = ["the", "film", "was", "good", "bad", "not", "very", "never", "boring", "it", "##ly", "##s"]
TINY_MAX_LENGTH = 21
TINY_ROUNDINGS = 3 * ROUNDINGS_PER_LAYER  # two layers, and the embeddings or a head


def make_tiny_model(directory, seed=7, **options):
    """Makes a random classifier whose answers depend on every token, and its tokenizer."""
    import keras
    from transformers import DistilBertConfig

    from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
    from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    vocabulary = [*special, *WORDS, *string.punctuation, *string.digits, *letters]
    directory = Path(directory)
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    fields = {
        "vocab_size": len(vocabulary),
        "dim": 12,
        "n_heads": 3,
        "hidden_dim": 20,
        "n_layers": 2,
        "max_position_embeddings": 24,
        "initializer_range": 0.6,  # the usual 0.02 gives all texts nearly the same logits
        "id2label": dict(enumerate(LABELS)),
    }
    config = DistilBertConfig(**{**fields, **options.pop("fields", {})})
    keras.utils.set_random_seed(seed)
    model = TFDistilBertForSequenceClassification(config, **options)
    return model, DistilBertTokenizer.from_pretrained(directory)


@contextlib.contextmanager
def exporter_process(model_directory) -> Iterator["Exporter"]:
    """Starts this file as a script."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, __file__, os.fspath(model_directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        yield Exporter(process)
    finally:
        finish(process)


class Exporter:
    """The test's side of the process."""

    def __init__(self, process):
        self.process = process
        self.count = 0

    def start(self, base, *, limit=None, **options) -> tuple[int, Path]:
        """Starts an export; returns its process id and the file that will hold the outcome."""
        self.count += 1
        base = Path(base)
        result = base.with_name(f"{base.name}-result-{self.count}.json")
        request = {"base": str(base), "limit": limit, "result": str(result), "options": options}
        with deadline(self.process):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return int(self.process.stdout.readline()), result

    def export(self, base, **options) -> dict:
        """Exports, and returns the outcome."""
        return wait_for_result(self.start(base, **options)[1])


def works(base: Path) -> list[str]:
    """Lists the working directories below a base path."""
    return sorted(path.name for path in base.glob(f"{WORK_PREFIX}*"))


def wait_for_result(result: Path, timeout_s=120) -> dict:
    """Waits for an outcome: {"version": path} or {"error": text}."""
    wait_until(result.exists, timeout_s)
    return json.loads(result.read_text(encoding="utf-8"))


def main(model_directory):
    """Forks a child for each request."""
    from distilbert_serving.saved_model import exporter as saved_model

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    for line in sys.stdin:
        child = os.fork()
        if child:
            sys.stdout.write(f"{child}\n")
            sys.stdout.flush()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(line)
        try:
            model, tokenizer = make_tiny_model(model_directory)
            if request["limit"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
            version = saved_model.export_saved_model(
                model,
                tokenizer,
                request["base"],
                max_length=TINY_MAX_LENGTH,
                **{"verify": False, **request["options"]},
            )
            outcome = {"version": str(version)}
        except BaseException as error:
            outcome = {"error": f"{type(error).__name__}: {error}"}
        result = Path(request["result"])
        result.with_suffix(".tmp").write_text(json.dumps(outcome), encoding="utf-8")
        result.with_suffix(".tmp").replace(result)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
