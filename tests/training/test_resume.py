"""States in files: what is written, what damage is noticed, what is left after a failure."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from distilbert_tf.checkpoints.tensor_files import CheckpointError, Tensors
from distilbert_tf.training import state as resume
from distilbert_tf.training.state import (
    list_states,
    read_newest_state,
    read_state,
    read_variables,
    save_state,
    write_variables,
)

# A quiet NaN, one with a payload, one with a sign, and a signalling one.
NANS = np.array([0x7FC00000, 0x7FC0BEEF, 0xFFC00001, 0x7F800001], np.uint32).view(np.float32)
RECORD = {"step": 3, "rate": 0.1, "names": ["α", "β\n"], "none": None, "epochs": [{"loss": 1e-9}]}


def tensors(seed: int = 0) -> Tensors:
    random = np.random.default_rng(seed)
    return {
        "model/0000": random.normal(size=(3, 4)).astype("float32"),
        "model/0001": np.concatenate([NANS, np.array([-0.0, 0.0, np.inf, 1e-45], "float32")]),
        "optimizer/0000": np.array(seed, "int64"),
        "optimizer/0001": np.array([-(2**31), 2**31 - 1], "int32"),
        "optimizer/0002": np.array([-(2**63), 2**63 - 1], "int64"),
        "metrics/0000": np.zeros((0, 2), "float32"),
        "metrics/0001": np.array([2**32 - 1, 7], "uint32"),
        "metrics/0002": np.array([True, False]),
    }


def assert_same_bits(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        other = theirs[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        assert array.tobytes() == other.tobytes(), name


def test_all_bits_and_the_record_come_back(tmp_path: Path) -> None:
    path = save_state(tmp_path / "new" / "directory", 12, tensors(), RECORD, keep=2)
    assert path == tmp_path / "new" / "directory" / "step-00000012.safetensors"
    found, record = read_state(path)
    assert_same_bits(found, tensors())
    assert record == RECORD
    newest = read_newest_state(path.parent)
    assert newest is not None
    assert_same_bits(newest[0], tensors())


def test_views_are_written_as_they_read(tmp_path: Path) -> None:
    table = np.arange(6, dtype="float32").reshape(2, 3)
    views = {"model/0000": table.T, "model/0001": table[:, ::2], "model/0002": table[1, 1, ...]}
    found, _ = read_state(save_state(tmp_path, 1, views, {}, keep=1))
    assert_same_bits(found, views)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_state(tmp_path_factory.mktemp("saved"), 1, tensors(), RECORD, keep=1)


def test_every_changed_bit_is_noticed(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    end_of_header = 8 + int.from_bytes(content[:8], "little")
    assert len(content) == end_of_header + sum(array.nbytes for array in tensors().values())
    path = tmp_path / saved.name
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        if position < end_of_header and content[position : position + 1].isspace():
            continue  # safetensors pads its header with white space
        with pytest.raises(CheckpointError, match="cannot be read|does not have|do not have"):
            read_state(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_noticed(saved: Path, tmp_path: Path, share: float) -> None:
    content = saved.read_bytes()
    path = tmp_path / saved.name
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(path)


def test_another_safetensors_file_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.safetensors"
    resume.save_file({"model/0000": np.ones(3, "float32")}, path)
    with pytest.raises(CheckpointError, match="does not have|do not have"):
        read_state(path)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)


def test_the_state_before_a_damaged_one_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [save_state(tmp_path, step, tensors(step), {"step": step}, 3) for step in (5, 10, 15)]
    damage(paths[2])
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    newest = read_newest_state(tmp_path)
    assert newest is not None
    assert newest[1] == {"step": 5}
    assert_same_bits(newest[0], tensors(5))
    warnings = [record.getMessage() for record in caplog.records]
    assert [str(path) in text for path, text in zip(paths[:0:-1], warnings, strict=True)] == [
        True,
        True,
    ]
    assert all("The one before it is tried" in text for text in warnings)


def test_only_damaged_states_end_in_an_error(tmp_path: Path) -> None:
    for step in (1, 2):
        damage(save_state(tmp_path, step, tensors(), {}, keep=2))
    with pytest.raises(CheckpointError, match=f"All states in {tmp_path} are damaged. Delete"):
        read_newest_state(tmp_path)


def test_no_state_is_no_error(tmp_path: Path) -> None:
    assert read_newest_state(tmp_path / "missing") is None
    (tmp_path / "step-1.txt").write_text("a note")
    (tmp_path / ".step-00000001.safetensors.abc.tmp").write_bytes(b"")
    assert read_newest_state(tmp_path) is None
    assert list_states(tmp_path) == []


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_newest_states_are_kept(tmp_path: Path, keep: int) -> None:
    steps = (2, 9, 10, 99_999_999, 100_000_000)
    for step in steps:
        save_state(tmp_path, step, tensors(), {}, keep)
    kept = [int(path.stem.removeprefix("step-")) for path in list_states(tmp_path)]
    assert kept == [*reversed(steps)][:keep]


def test_a_state_is_replaced_by_one_of_the_same_step(tmp_path: Path) -> None:
    save_state(tmp_path, 4, tensors(1), {"try": 1}, keep=2)
    path = save_state(tmp_path, 4, tensors(2), {"try": 2}, keep=2)
    assert list_states(tmp_path) == [path]
    assert read_state(path)[1] == {"try": 2}


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_states_never_push_out_the_one_just_written(tmp_path: Path, keep: int) -> None:
    """A run that fell back to step 5 saves step 7, while a damaged step 9 is still there."""
    save_state(tmp_path, 5, tensors(5), {"step": 5}, keep=2)
    damage(save_state(tmp_path, 9, tensors(9), {"step": 9}, keep=2))
    save_state(tmp_path, 7, tensors(7), {"step": 7}, keep)
    newest = read_newest_state(tmp_path)
    assert newest is not None
    assert newest[1] == {"step": 7}
    assert len(list_states(tmp_path)) == keep


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-00000007.safetensors.x1y2.tmp"
    leftover.write_bytes(b"half a state")
    (tmp_path / "notes.tmp").write_text("not ours")
    path = save_state(tmp_path, 8, tensors(), {}, keep=1)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "notes.tmp"}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    def write_half(tensors: Tensors, path: Path, metadata: dict[str, str]) -> None:
        whole = tmp_path / "whole"
        original(tensors, whole, metadata)
        content = whole.read_bytes()
        whole.unlink()
        Path(path).write_bytes(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    original = resume.save_file
    monkeypatch.setattr(resume, "save_file", write_half)
    return


@pytest.mark.parametrize("step", [2, 3])
def test_a_full_disk_leaves_the_earlier_states(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    states = tmp_path / "states"
    for earlier in (1, 2):
        save_state(states, earlier, tensors(earlier), {"step": earlier}, keep=2)
    before = {path.name: path.read_bytes() for path in states.iterdir()}
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        save_state(states, step, tensors(9), {"step": 9}, keep=1)
    assert {path.name: path.read_bytes() for path in states.iterdir()} == before
    monkeypatch.undo()
    newest = read_newest_state(states)
    assert newest is not None
    assert newest[1] == {"step": 2}


def make_groups() -> dict[str, list[keras.Variable]]:
    return {
        "model": [
            keras.Variable(np.arange(6, dtype="float32").reshape(2, 3), name="kernel"),
            keras.Variable(np.float32(-0.0)),
            keras.Variable(np.array([1, 2], "uint32"), dtype="uint32", trainable=False),
        ],
        "optimizer": [keras.Variable(7, dtype="int32", trainable=False)],
    }


def test_variables_are_read_by_group_and_number() -> None:
    found = read_variables(make_groups())
    assert_same_bits(
        found,
        {
            "model/0000": np.arange(6, dtype="float32").reshape(2, 3),
            "model/0001": np.array(-0.0, "float32"),
            "model/0002": np.array([1, 2], "uint32"),
            "optimizer/0000": np.array(7, "int32"),
        },
    )


def test_variables_are_put_back_bit_for_bit(tmp_path: Path) -> None:
    groups = make_groups()
    given_ = read_variables(groups)
    given_["model/0000"] = np.array([*NANS[:3], -0.0, 1e-45, np.inf], "float32").reshape(2, 3)
    given_["optimizer/0000"] = np.array(-5, "int32")
    path = save_state(tmp_path, 1, given_, {}, keep=1)
    write_variables(groups, read_state(path)[0])
    assert_same_bits(read_variables(groups), given_)


def test_groups_that_are_not_asked_for_stay_as_they_are() -> None:
    groups, given_ = make_groups(), {"optimizer/0000": np.array(1, "int32")}
    write_variables({"optimizer": groups["optimizer"]}, {**read_variables(groups), **given_})
    assert int(groups["optimizer"][0]) == 1
    assert np.array(groups["model"][0])[1, 2] == 5.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model/0000": np.zeros((3, 2), "float32")},
            r"model/0000 is \(3, 2\) float32, here \(2, 3\) float32",
        ),
        (
            {"optimizer/0000": np.array(0, "int64")},
            r"optimizer/0000 is \(\) int64, here \(\) int32",
        ),
        ({"model/0001": None}, r"model/0001 is not in the state, here \(\) float32"),
        (
            {"model/0003": np.zeros(1, "float32")},
            r"model/0003 is \(1,\) float32, here not in the run",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(changes: dict, message: str) -> None:
    groups = make_groups()
    given_ = {name: array + 1 for name, array in read_variables(groups).items()} | changes
    given_ = {name: array for name, array in given_.items() if array is not None}
    with pytest.raises(CheckpointError, match=f"does not fit this run: variable {message}"):
        write_variables(groups, given_)
    assert_same_bits(read_variables(groups), read_variables(make_groups()))
