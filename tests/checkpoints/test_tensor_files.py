import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comparing import assert_close, roundings
from processes import deadline, finish
from recorded import CLASSES, assert_equals_recorded, at_tokens, outputs
from safetensors.numpy import load_file, save_file

from distilbert_tf.checkpoints.tensor_files import CheckpointError, read_tensors
from distilbert_tf.files import replacing
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

# transformers' old TensorFlow files.


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("tf4_base", TFDistilBertModel),
        ("tf4_masked_lm", TFDistilBertForMaskedLM),
        ("tf4_classifier", TFDistilBertForSequenceClassification),
        ("tf4_bert_pretraining", TFDistilBertForMaskedLM),
    ],
)
def test_tf_model_h5(name, cls, copy_reference, tmp_path):
    directory = copy_reference(name)
    arrays = np.load(directory / "expected.npz")
    expected = at_tokens(arrays["output"], arrays["attention_mask"])
    model = cls.from_pretrained(directory)
    assert_close(outputs(model, directory), expected, roundings(model))
    model.save_pretrained(tmp_path / "converted")
    converted = cls.from_pretrained(tmp_path / "converted")
    np.testing.assert_array_equal(outputs(converted, directory), outputs(model, directory))


@pytest.mark.parametrize("name", ["tf4_classifier", "tf4_masked_lm", "tf4_bert_pretraining"])
def test_tf_model_h5_with_a_head_gives_its_encoder(name, copy_reference):
    directory = copy_reference(name)
    whole = {"tf4_classifier": TFDistilBertForSequenceClassification}
    whole_model = whole.get(name, TFDistilBertForMaskedLM).from_pretrained(directory)
    encoder = TFDistilBertModel.from_pretrained(directory)
    np.testing.assert_array_equal(
        outputs(encoder, directory), outputs(whole_model.distilbert, directory)
    )


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_damaged_hdf5_is_named(size, copy_reference):
    directory = copy_reference("tf4_base")
    path = directory / "tf_model.h5"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"tf_model\.h5 cannot be read as HDF5"):
        TFDistilBertModel.from_pretrained(directory)


def test_hdf5_of_another_layout_is_refused(copy_reference):
    directory = copy_reference("tf4_base")
    model = TFDistilBertModel.from_pretrained(directory)
    model.save_weights(directory / "other.weights.h5")
    (directory / "other.weights.h5").replace(directory / "tf_model.h5")
    with pytest.raises(CheckpointError, match=r"holds no weights in the layout of transformers'"):
        TFDistilBertModel.from_pretrained(directory)


# Damaged files.


@pytest.mark.parametrize("size", [0, 5, 60, 3000, -1])
def test_truncated_safetensors_are_named(size, copy_reference):
    directory = copy_reference("base")
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read.*cut short"):
        TFDistilBertModel.from_pretrained(directory)


def test_text_instead_of_safetensors_is_named(copy_reference):
    directory = copy_reference("base")
    pointer = "version 1\noid sha256:12\nsize 12\n"
    (directory / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read as safetensors"):
        TFDistilBertModel.from_pretrained(directory)


# Shards.


def shard(directory: Path, *, repeat: bool = False) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = [names[::2], names[1::2] + (names[:1] if repeat else [])]
    weight_map = {}
    for number, half in enumerate(halves, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, directory / file, {"format": "pt"})
        weight_map |= dict.fromkeys(half, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["base", "masked_lm_untied"])
def test_sharded_checkpoint(name, copy_reference):
    directory = copy_reference(name)
    shard(directory)
    assert_equals_recorded(CLASSES[name].from_pretrained(directory), directory)


def test_tensor_in_two_shards(copy_reference):
    directory = copy_reference("base")
    shard(directory, repeat=True)
    with pytest.raises(CheckpointError, match="is in two shards"):
        TFDistilBertModel.from_pretrained(directory)


def test_missing_and_damaged_shards_are_named(copy_reference):
    directory = copy_reference("base")
    shard(directory)
    path = directory / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors cannot be read"):
        TFDistilBertModel.from_pretrained(directory)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00002-of-00002\.safetensors"):
        TFDistilBertModel.from_pretrained(directory)


# Files are replaced whole or not at all.


def test_replacing_keeps_the_old_file_if_anything_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_read_tensors_keeps_integers_and_widens_floats(tmp_path):
    tensors = {"i": np.arange(3), "h": np.array([0.5], "float16"), "d": np.array([1 / 3])}
    save_file(tensors, tmp_path / "x.safetensors")
    read = read_tensors(tmp_path / "x.safetensors")
    assert {name: array.dtype.name for name, array in read.items()} == {
        "i": "int64", "h": "float32", "d": "float32",
    }  # fmt: skip


SAVE_HALF = """
import sys
from pathlib import Path
from distilbert_tf.checkpoints import tensor_files

def save_half_and_wait(tensors, path, metadata):
    path.write_bytes(Path(sys.argv[1]).read_bytes()[:1000])
    print("halfway", flush=True)
    sys.stdin.read()

tensor_files.save_file = save_half_and_wait
tensor_files.write_safetensors(sys.argv[1], {})
"""
SAVE_ON_A_FULL_DISK = """
import resource, signal, sys
import numpy as np
from distilbert_tf.checkpoints.tensor_files import write_safetensors
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write_safetensors(sys.argv[1], {"w": np.zeros((300, 1000), "float32")})  # 1.2 MB
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A checkpoint, which a child tries to replace."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.full((300, 1000), 1.0, "float32")}, path)
    return path


def start(code: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_kill_in_the_middle_of_saving_leaves_the_old_checkpoint(old):
    process = start(SAVE_HALF, old)
    with deadline(process):
        assert process.stdout.readline() == "halfway\n"
    process.kill()
    finish(process, -signal.SIGKILL)
    assert len(list(old.parent.iterdir())) == 2  # there was a half-written file
    assert read_tensors(old)["w"][299, 999] == 1


def test_full_disk_leaves_the_old_checkpoint_and_no_rubbish(old):
    _, errors = finish(start(SAVE_ON_A_FULL_DISK, old), 1)
    assert "File too large" in errors
    assert list(old.parent.iterdir()) == [old]
    assert read_tensors(old)["w"][299, 999] == 1


def test_save_pretrained_replaces_and_leaves_no_temporary_file(references, tmp_path):
    for name in ("classifier", "base"):
        CLASSES[name].from_pretrained(references / name).save_pretrained(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
        assert_equals_recorded(CLASSES[name].from_pretrained(tmp_path), references / name)
