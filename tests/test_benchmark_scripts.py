"""Every benchmark runs, at a tiny size; and one whose own side fails has failed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from tiny_task import tiny_checkpoint, tiny_classifier, tiny_data

from benchmarks.peers import DISTILLATION, INFERENCE, LOAD, TOKENIZATION, TRAINING
from distilbert_tf import DistilBertTokenizer, TFDistilBertForMaskedLM
from distilbert_tf.data.corpus_records import CorpusSettings
from distilbert_tf.data.corpus_writer import prepare_corpus

ROOT = Path(__file__).parents[1]
TAUGHT = "distilled student, taught by the fine-tuned teacher"
ELSEWHERE = {"finetune_torch"}  # tests/parity/test_torch_benchmark.py

Run = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scripts make once: checkpoints and exports."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(cache: Path, tmp_path: Path, demo: str) -> Run:
    """Runs a script; its results go to `tmp_path`."""

    def run(script: str, *flags: str, code: int = 0) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{script}", *flags],
            cwd=ROOT,
            env={
                **os.environ,
                "BENCHMARK_CACHE": str(cache),
                "BENCHMARK_VENVS": str(cache / "venvs"),  # peers are left out
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return processes.finish(process, code, timeout_s=250.0)[0]

    return run


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_script_has_a_test() -> None:
    is_script = '\nif __name__ == "__main__":\n'
    scripts = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if is_script in path.read_text()
    }
    tested = {name.removeprefix("test_") for name in globals()} | ELSEWHERE
    assert scripts
    assert scripts - tested == set()


def test_inference(run: Run, tmp_path: Path) -> None:
    printed = run(
        "inference", "--models=tiny", "--peers=ours,openvino", "--cases=b1_t8,mnli_b32,sst2_merged",
        "--rounds=1", "--min_time_s=0", "--batches=1", "--noinstall", f"--output={tmp_path}",
    )  # fmt: skip
    assert "FAILED openvino" in printed
    part = read(tmp_path / "inference.json")["models"]["tiny"]
    assert list(part["failures"]) == ["openvino"]
    names = ("b1_t8", "mnli_b32", "sst2_merged")
    assert set(part["cases"]) == {f"{name}:{mode}" for name in names for mode in ("ids", "text")}
    merged = part["cases"]["sst2_merged:ids"]
    assert merged["batches"] == 50
    assert merged["rows"] == part["cases"]["sst2_merged:text"]["rows"] > 50 * 2
    for case in part["cases"].values():
        assert case["times"]["ours"]["median_s"] > 0
    assert "**openvino failed**" in (tmp_path / "inference.md").read_text()


def test_accuracy(run: Run, tmp_path: Path) -> None:
    flags = ["--classifiers=tiny", "--rounds=1", "--noinstall", f"--output={tmp_path}"]
    run("accuracy", "--peers=ours,ours_bfloat16,onnxruntime_int8", *flags)
    part = read(tmp_path / "accuracy.json")["models"]["tiny"]
    assert list(part["failures"]) == ["onnxruntime_int8"]
    rows = part["case"]["rows"]
    assert set(part["scores"]) == {"ours", "ours_bfloat16"}
    exact, rounded = part["scores"]["ours"], part["scores"]["ours_bfloat16"]
    assert 0 < exact["accuracy"] < 1
    assert exact["changed_labels"] == exact["max_abs_difference"] == 0
    assert 0 <= rounded["changed_labels"] < rows
    assert rounded["max_abs_difference"] > 0
    assert part["times"]["ours_bfloat16"]["median_s"] > 0
    assert f"{rows} sentences" in (tmp_path / "accuracy.md").read_text()


def test_growth(run: Run, tmp_path: Path) -> None:
    flags = ["--model=tiny", "--rounds=1", "--min_time_s=0", "--examples=32", "--steps=1"]
    run("growth", *flags, f"--output={tmp_path}")
    part = read(tmp_path / "growth.json")["models"]["tiny"]
    assert len(part["cases"]) == 9
    assert [memory["examples"] for memory in part["memory"]] == [32, 320]
    assert min(memory["peak_mib"] for memory in part["memory"]) > 100


def test_ops(run: Run, tmp_path: Path) -> None:
    run("ops", "--models=tiny", "--cases=b1_t8", "--calls=2", f"--output={tmp_path}")
    cases = read(tmp_path / "ops.json")["models"]["tiny"]["cases"]
    assert list(cases) == ["b1_t8:ids, float32", "b1_t8:ids, bfloat16"]
    for case in cases.values():
        assert sum(time_s for _, _, time_s in case["ops"]) > 0


TRAINING_FLAGS = (
    "--models=tiny", "--tasks=mnli", "--steps=2", "--block=1", "--warmup=1", "--batch_size=8",
    "--max_examples=64", "--noinstall",
)  # fmt: skip


def test_training(run: Run, tmp_path: Path) -> None:
    flags = [*TRAINING_FLAGS, "--peers=ours,ours_fit,torch", "--max_length=16"]
    run("training", *flags, f"--output={tmp_path}")
    part = read(tmp_path / "training.json")["models"]["tiny, mnli"]
    assert list(part["failures"]) == ["torch"]
    for name in ("ours", "ours_fit"):
        assert len(part["examples_per_s"][name]) == 2
        assert 0.5 < part["mean_loss"][name] < 0.9  # two labels, hardly trained
        assert 3 < part["padded_tokens_per_example"][name] <= 16
    # Both draw the same batches.
    assert len(set(map(part["padded_tokens_per_example"].get, ("ours", "ours_fit")))) == 1


def test_a_failure_of_ours_fails_the_run(run: Run, tmp_path: Path) -> None:
    """The checkpoint has 512 positions, which `finetune` sees before its first step."""
    flags = [*TRAINING_FLAGS, "--peers=ours", "--max_length=600"]
    printed = run("training", *flags, f"--output={tmp_path}", code=1)
    assert "tiny, mnli: ours failed: ValueError: max_length is 600, but" in printed
    assert "**ours failed**" in (tmp_path / "training.md").read_text()


def test_tokenization(run: Run, tmp_path: Path) -> None:
    flags = ["--tasks=sst2", "--peers=ours", "--rounds=1", "--max_examples=64", "--min_time_s=0"]
    run("tokenization", *flags, f"--output={tmp_path}")
    part = read(tmp_path / "tokenization.json")["models"]["sst2"]
    assert min(part["single_s"]["ours"]) > 0


def test_gpu(run: Run, tmp_path: Path) -> None:
    run("gpu", "--tiny", "--dtypes=float32", "--layouts=true_tokens", f"--output={tmp_path}")
    (variant,) = read(tmp_path / "gpu.json")["models"]["tiny"]["variants"].values()
    assert variant["runs"][0]["examples_per_s"] > 0


def test_weight_quantization(run: Run, tmp_path: Path) -> None:
    flags = ["--models=tiny", "--rounds=1", "--weights=fp32,int8", "--loaders=session"]
    run("weight_quantization", *flags, f"--output={tmp_path}")
    rows = read(tmp_path / "weight_quantization.json")["models"]["tiny"]["rows"]
    assert [row["weights"] for row in rows] == ["fp32", "int8"]
    assert rows[0]["largest_difference"] == 0 < rows[1]["largest_difference"]


def test_corpus(run: Run, tmp_path: Path) -> None:
    """With Beam where it is installed."""
    run("corpus", "--rounds=1", "--part_mb=0", f"--output={tmp_path}")
    ways = read(tmp_path / "corpus.json")["models"]["all text"]["ways"]
    assert {"one", "two"} <= ways.keys()
    assert len({way["tokens"] for way in ways.values()}) == 1
    for way in ways.values():
        assert way["records_that_differ"] == 0
    # The processes of a pool count, too: each imports TensorFlow.
    assert ways["two"]["peak_mib"][0] > 1.5 * ways["one"]["peak_mib"][0]


def test_equality(run: Run, tmp_path: Path) -> None:
    encoder, data = tiny_checkpoint(tmp_path / "encoder"), tiny_data(tmp_path / "data", rows=640)
    printed = run(
        "equality", f"--model={encoder}", f"--data={data}", "--epochs=1", "--kill_before=6",
        "--devices=one device", "--dropout=yes",
    )  # fmt: skip
    assert printed.splitlines()[-1].startswith("| yes | one device, kill -9 once step ")
    assert printed.splitlines()[-1].endswith(" the same, uninterrupted | 0.0e+00 | 0.0e+00 |")


def test_equality_of_distillation(run: Run, tmp_path: Path, teacher: Path) -> None:
    (corpus := tmp_path / "corpus.txt").write_text("the tea was warm .\n\n" * 400)
    printed = run(
        "equality", f"--model={teacher}", f"--corpus={corpus}", "--max_steps=40",
        "--max_length=16", "--kill_before=6", "--devices=one device", "--dropout=no",
    )  # fmt: skip
    assert printed.splitlines()[-1].startswith("| no | one device, kill -9 once step ")
    assert printed.splitlines()[-1].endswith(" uninterrupted | 0.0e+00 | 0.0e+00 |")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A masked-LM checkpoint of two layers that has learnt nothing."""
    directory = tiny_checkpoint(tmp_path / "teacher", n_layers=2)
    TFDistilBertForMaskedLM.from_pretrained(directory, fresh_head=True).save_pretrained(directory)
    return directory


def test_students(run: Run, tmp_path: Path, teacher: Path) -> None:
    data = tiny_data(tmp_path / "sst2")
    (tmp_path / "qqp").mkdir()
    for name in ("train", "dev"):
        _, *rows = (data / f"{name}.tsv").read_text().splitlines()
        pairs = [f"{row.partition(chr(9))[0]}\t{row}" for row in rows[:32]]
        lines = ["question1\tquestion2\tis_duplicate", *pairs]
        (tmp_path / "qqp" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    run(
        "students", f"--teacher={teacher}", f"--student={teacher}", f"--data={data.parent}",
        f"--work={tmp_path / 'work'}", "--tasks=sst2,qqp", "--students=teacher",
        "--students=random weights", f"--students={TAUGHT}", "--epochs=1", "--rounds=1",
        f"--output={tmp_path}",
    )  # fmt: skip
    part, pairs = read(tmp_path / "students.json")["models"].values()
    assert pairs["speed"]["teacher"]["median_ratio"] == 1
    assert part["speed"]["teacher"]["median_ratio"] == 1
    counts = [found["parameters"]["without_embeddings"] for found in part["students"].values()]
    assert counts[0] == counts[2] > counts[1] > 0
    taught = read(tmp_path / "work" / "sst2" / "4-seed1" / "run.json")["teacher"]
    assert taught["checkpoint"] == str(tmp_path / "work" / "sst2" / "0-seed1")
    assert "| teacher | " in (tmp_path / "students.md").read_text()


def test_ablation(run: Run, tmp_path: Path, teacher: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the tea was warm .\n\n" * 200)
    run(
        "ablation", f"--teacher={teacher}", f"--corpus={corpus}", f"--work={tmp_path / 'work'}",
        "--steps=2", "--evaluations=1", "--batch_size=8", "--max_length=16",
        "--variants=without cosine", "--variants=random start", f"--output={tmp_path}",
    )  # fmt: skip
    found = read(tmp_path / "ablation.json")["variants"]
    assert [one["steps"] for one in found.values()] == [2, 2]
    start = [one["scores_before"]["student"]["cosine"] for one in found.values()]
    assert start[1] > 2 * start[0]
    assert "| random start | 2 |" in (tmp_path / "ablation.md").read_text()


def test_distillation(run: Run, tmp_path: Path, demo: str) -> None:
    (text := tmp_path / "corpus.txt").write_text("The tea was warm. A song!\n\n" * 200)
    tokenizer = DistilBertTokenizer.from_pretrained(demo)
    prepare_corpus([text], tmp_path / "corpus", tokenizer, CorpusSettings(16))
    run(
        "distillation", f"--corpus_dir={tmp_path / 'corpus'}", "--layers=2", "--dim=16",
        "--heads=2", "--batch_size=4", "--batches=2", "--rounds=2", "--steps=1", "--warmup=1",
        "--soft_targets_at=masked", "--peers=ours,torch", "--noinstall", f"--output={tmp_path}",
    )  # fmt: skip
    cases = read(tmp_path / "distillation.json")["models"]
    assert len(cases) == 2
    for part in cases.values():
        assert list(part["failures"]) == ["torch"]
        assert [len(times_s) for times_s in part["times_s"]["ours"]] == [1, 1]
        assert 10 < part["losses"]["ours"]["masked_lm"] < 11  # of 30,522 words, nothing learnt
        assert 0 <= part["padding"] < 1
    assert "| distilbert-tf |" in (tmp_path / "distillation.md").read_text()


def test_load(run: Run, tmp_path: Path) -> None:
    encoder = tiny_checkpoint(tmp_path / "encoder")
    model = tiny_classifier(tmp_path / "model", encoder, {0: "negative", 1: "positive"})
    run(
        "load", f"--model={model}", "--servers=ours,ours_bfloat16", "--rounds=1", "--seconds=1",
        "--warmup_s=0.2", "--clients=4", "--noinstall", f"--output={tmp_path}",
    )  # fmt: skip
    turns = read(tmp_path / "load.json")["models"]["load"]["turns"]
    for name in ("ours", "ours_bfloat16"):
        (turn,) = turns[name]
        assert (turn["errors"], turn["wrong"]) == ({}, 0)
    assert "distilbert-tf serve, --compute=bfloat16 |" in (tmp_path / "load.md").read_text()


def test_peers_have_workers_and_requirements() -> None:
    for peer in (*INFERENCE, *TRAINING, *DISTILLATION, *TOKENIZATION, *LOAD):
        assert (
            peer.worker == "serve" or (ROOT / "benchmarks/workers" / f"{peer.worker}.py").is_file()
        )
        if peer.venv is not None:
            assert (ROOT / "benchmarks/requirements" / f"{peer.venv}.txt").is_file()
