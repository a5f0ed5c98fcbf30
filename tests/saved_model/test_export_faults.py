"""Exports that are killed, run into a full disk, or meet each other."""

import os
import random
import signal
import time

import psutil
import pytest
import tensorflow as tf
from comparing import assert_close
from distilbert_serving.saved_model.publishing import (
    WORK_PREFIX,
    check_version,
    publish,
    working_directory,
)
from distilbert_serving.version_numbers import find_versions
from exporting import (
    TINY_MAX_LENGTH,
    TINY_ROUNDINGS,
    exporter_process,
    make_tiny_model,
    works,
)
from waiting import wait_until

TEXTS = ["the film was very good", "it was not", "boringly bad, and never good! " * 9, ""]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    return directory, *make_tiny_model(directory)


@pytest.fixture(scope="module")
def exporter(tiny):
    with exporter_process(tiny[0]) as exporter:
        yield exporter


def assert_answers(version, tiny):
    _, model, tokenizer = tiny
    encoding = tokenizer(
        TEXTS, truncation=True, max_length=TINY_MAX_LENGTH, padding=True, return_tensors="tf"
    )
    loaded = tf.saved_model.load(os.fspath(version))
    answer = loaded.signatures["serving_default"](text=tf.constant(TEXTS))
    assert_close(answer["logits"], model(encoding), TINY_ROUNDINGS, size=1.0)


def wait_for_stage(base, pid, name, known):
    """Waits until an export has a file of that name in its working directory, or has ended."""
    wait_until(
        lambda: (
            any((base / work / name).exists() for work in works(base) if work not in known)
            or not psutil.pid_exists(pid)
        )
    )


@pytest.mark.slow
def test_kill_at_any_moment_leaves_no_broken_version(tmp_path, exporter, tiny):
    base = tmp_path / "base"
    random_delay = random.Random(3)
    interrupted = set()
    # What to wait for, and the longest delay after it: while the files are written, while the fresh
    # process runs, and around the rename at the end.
    moments = [("written", 0.3, False)] * 2 + [("moved", 2.0, True)] * 2
    moments += [("moved", 0.03, False)] * 2
    checked = set()
    for name, longest_s, verify in moments:
        base.mkdir(exist_ok=True)
        pid, _ = exporter.start(base, verify=verify)
        wait_for_stage(base, pid, name, known=interrupted)
        time.sleep(random_delay.uniform(0, longest_s))
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
            wait_for_stage(base, pid, "no such stage", known=interrupted)
        interrupted.update(works(base))
        for version in find_versions(base).keys() - checked:
            assert_answers(base / str(version), tiny)
            checked.add(version)
    assert len(interrupted) >= 3  # the kills did hit exports half-way

    highest = max(find_versions(base), default=0)
    assert exporter.export(base) == {"version": str(base / str(highest + 1))}
    assert_answers(base / str(highest + 1), tiny)
    assert works(base) == []


@pytest.mark.parametrize(
    ("limit", "named"),
    [(3_000, "variables"), (60_000, "saved_model.pb"), (3_000_000, "File too large")],
    ids=["weights", "graph", "warm-up"],
)
def test_full_disk(tmp_path, exporter, limit, named):
    base = tmp_path / "base"
    # So large a batch makes a warm-up file larger than the graph.
    outcome = exporter.export(base, limit=limit, max_batch_size=2**15)
    assert "OSError" in outcome["error"]
    assert "is the disk full?" in outcome["error"]
    assert named in outcome["error"]
    assert os.listdir(base) == []
    assert exporter.export(base) == {"version": str(base / "1")}


def test_working_directories_in_use_stay(tmp_path):
    with working_directory(tmp_path) as first, working_directory(tmp_path) as second:
        assert first.is_dir()
        assert second.is_dir()
        abandoned = tmp_path / (WORK_PREFIX + "abandoned")
        (abandoned / "written").mkdir(parents=True)
        (tmp_path / "notes").mkdir()
        with working_directory(tmp_path):
            assert not abandoned.exists()
            assert first.is_dir()
    assert os.listdir(tmp_path) == ["notes"]


def test_version_numbers(tmp_path):
    def publish_new(version=None):
        with working_directory(tmp_path) as work:
            (work / "new").mkdir()
            (work / "new" / "file").touch()
            return publish(work / "new", tmp_path, version).name

    assert publish_new() == "1"
    assert publish_new(12) == "12"
    assert publish_new(5) == "5"
    assert publish_new() == "13"
    (tmp_path / "0020").mkdir()  # a server reads it as 20
    (tmp_path / "21").touch()
    (tmp_path / "notes").mkdir()
    assert publish_new() == "22"
    for taken in (5, 20, 21):
        with pytest.raises(FileExistsError, match=rf"has a version {taken} already.*\(23\)"):
            check_version(tmp_path, taken)
        with pytest.raises(FileExistsError):
            publish_new(taken)
    for wrong in (0, -1, 2**63, True):
        with pytest.raises(ValueError, match="integer from 1"):
            check_version(tmp_path, wrong)
    assert works(tmp_path) == []


def test_a_name_taken_at_the_last_moment(tmp_path, monkeypatch):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "file").touch()
    # As if the other export's rename came between the listing and this one's rename.
    listings = iter([set(), {1}])
    monkeypatch.setattr(
        "distilbert_serving.saved_model.publishing.taken_numbers", lambda base: next(listings)
    )
    (tmp_path / "new").mkdir()
    assert publish(tmp_path / "new", tmp_path, None) == tmp_path / "2"
    (tmp_path / "newer").mkdir()
    listings = iter([set(), {1, 2}])
    with pytest.raises(FileExistsError, match="has a version 1 already"):
        publish(tmp_path / "newer", tmp_path, 1)
