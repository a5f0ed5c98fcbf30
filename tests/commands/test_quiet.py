"""What reaches standard error: no noise, every real error, and everything if asked for."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import finish
from tiny_task import tiny_checkpoint

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tensorflow_import import filter_lines

# What a user's shell has; that of the tests silences TensorFlow.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}

NOISE = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
    b"I0000 00:00:1795923826.572879   13161 port.cc:153] oneDNN custom operations are on.\n",
    b"W0000 00:00:1758131437.322781 3722519 computation_placer.cc:177] already registered.\n",
    b"E0000 00:00:1795923974.713596   14736 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
    b"CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)\n",
)
REAL = (
    b"E0000 00:00:1795923974.713596   14736 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
    b"CUDA error: Failed call to cuInit: UNKNOWN ERROR (999)\n",
    b"F0000 00:00:1795923974.713596   14736 tensor.cc:3] Check failed: 1 == 2\n",
    b"Traceback (most recent call last):\n",
    "I0000 was here: ünïcode\n".encode(),
    b"\n",
    b"Aborted without a line end",
)


def run(*words: str, code: int = 0, **more: str) -> tuple[str, str]:
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path), **more},
    )  # fmt: skip
    return finish(process, code, timeout_s=120.0)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_checkpoint(tmp_path_factory.mktemp("quiet") / "classifier")
    TFDistilBertForSequenceClassification.from_pretrained(directory).save_pretrained(directory)
    return directory


def test_the_filter_drops_noise_and_nothing_else(tmp_path: Path) -> None:
    lines = [line for pair in zip(NOISE, REAL[: len(NOISE)], strict=True) for line in pair]
    content = b"".join([*lines, *REAL[len(NOISE) :]])
    source, end = os.pipe()
    os.write(end, content[:150])  # reads that end within lines
    os.write(end, content[150:])
    os.close(end)
    with (tmp_path / "shown").open("wb") as target:
        filter_lines(source, target.fileno())
    os.close(source)
    assert (tmp_path / "shown").read_bytes() == b"".join(REAL)


def test_the_last_words_of_a_crash_get_through() -> None:
    code = """if True:
        import os
        from distilbert_tf.tensorflow_import import filtering_stderr
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        with filtering_stderr():
            os.write(2, b"I0000 00:00:1.5  7 port.cc:1] noise\\nCheck failed: 1 == 2\\nand so")
            os.abort()
    """
    _, errors = run("-c", code, code=-signal.SIGABRT)
    assert errors == "Check failed: 1 == 2\nand so"


def test_children_write_through_the_filter_and_nothing_else_does() -> None:
    code = """if True:
        import os, subprocess, sys
        from distilbert_tf.tensorflow_import import filtering_stderr
        line = "I0000 00:00:1.5  7 port.cc:1] "
        with filtering_stderr(for_children=True):
            child = subprocess.Popen([sys.executable, "-c", f"import os; input(); "
                f"os.write(2, b'{line}noise\\\\nreal\\\\n')"], stdin=subprocess.PIPE)
        os.write(2, f"{line}of this process\\n".encode())
        child.communicate(b"\\n")
    """
    _, errors = run("-c", code, TF_CPP_MIN_LOG_LEVEL="2")
    assert errors == "I0000 00:00:1.5  7 port.cc:1] of this process\nreal\n"
    _, errors = run("-c", code)  # of a user who has not asked for silence
    assert "noise" in errors


def test_a_command_says_nothing_but_its_answer(classifier: Path) -> None:
    command = ("-m", "distilbert_tf.cli", "predict", f"--model={classifier}", "a warm talk")
    output, errors = run(*command)
    assert output.endswith("\ta warm talk\n")
    assert errors == ""
    output, errors = run(*command, "--verbose")
    assert output.endswith("\ta warm talk\n")
    assert "before absl::InitializeLog()" in errors


def test_python_says_nothing_beyond_the_start_of_tensorflow(classifier: Path) -> None:
    """Fitting, saving, exporting and reloading; and the start is TensorFlow's own."""
    code = """if True:
        import sys
        import keras, tensorflow as tf
        import distilbert_tf as package
        from distilbert_serving import export_saved_model
        task = package.get_task("sst2")
        tokenizer = package.DistilBertTokenizer.from_pretrained(sys.argv[1])
        tokenize = tokenizer.as_layer(max_length=16)
        examples = package.load_examples(task, "demo", "train")
        train = package.make_dataset(examples, tokenize, 64, shuffle_seed=1)
        model = package.TFDistilBertForSequenceClassification.from_pretrained(sys.argv[1])
        tf.config.list_physical_devices()
        print("started", file=sys.stderr, flush=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(package.create_optimizer(1e-4, total_steps=2 * len(train)), loss)
        model.fit(train, verbose=0)
        model.fit(train, verbose=0, validation_data=train)
        model.save_pretrained(sys.argv[2])
        tokenizer.save_pretrained(sys.argv[2])
        path = export_saved_model(model, tokenizer, sys.argv[2] + "/served", max_length=16)
        served = tf.saved_model.load(str(path))
        served.signatures["serving_default"](text=tf.constant(["a warm talk"]))
    """
    _, errors = run("-c", code, str(classifier), str(classifier.parent / "again"))
    # Both are at the level of information, once in a process, of TensorFlow's own input pipeline.
    shown = re.sub(r"^I0000 .*\n", "", errors.split("started\n", 1)[1], flags=re.MULTILINE)
    assert shown == ""


def test_importing_transformers_says_nothing_about_pytorch() -> None:
    code = """if True:
        import importlib.util
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "torch" else find_spec(name)
        import distilbert_tf
        distilbert_tf.DistilBertConfig
        import transformers
        assert not transformers.is_torch_available()
    """
    assert run("-c", code) == ("", "")
    _, errors = run(
        "-c",
        code.replace("import distilbert_tf\n", "import transformers\n").replace(
            "distilbert_tf.DistilBertConfig", "transformers.DistilBertConfig"
        ),
    )
    assert "PyTorch was not found" in errors
