"""Whole runs of masked-LM training and of distillation, on a tiny teacher and a tiny corpus."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from interruptions import finish, wait_for_step
from safetensors.numpy import load_file, save_file
from tiny_task import BAD, GOOD, THINGS, tiny_checkpoint, tiny_classifier, tiny_data

from benchmarks import equality
from distilbert_tf import cli
from distilbert_tf.checkpoints import hub
from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.data.corpus_records import MANIFEST
from distilbert_tf.distillation.distilling import (
    DistillResult,
    distill,
    plan_distillation,
    set_up,
    train_masked_lm,
)
from distilbert_tf.distillation.options import DEMO_SETTINGS, DistillOptions
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import export_tensors
from distilbert_tf.pipelines import pipeline
from distilbert_tf.training.finetuning import finetune

SETTINGS: dict[str, Any] = {
    "max_length": 16, "batch_size": 16, "learning_rate": 1e-2, "validation_share": 0.1,
    "strategy": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences that can be guessed: good things are warm teas, bad ones are cold."""
    random = np.random.default_rng(0)
    documents = []
    for _ in range(200):
        things = random.choice(THINGS, 3)
        documents.append(
            "\n".join(
                f"The {thing} was {(GOOD, BAD)[THINGS.index(thing) % 2][0]}." for thing in things
            )
        )
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> DistillResult:
    """An encoder without a head, which masked-LM training gives one."""
    directory = tmp_path_factory.mktemp("teacher")
    encoder = tiny_checkpoint(directory / "encoder", n_layers=4, dropout=0.0)
    return train_masked_lm(
        encoder, corpus, directory / "out", max_steps=200, eval_steps=100, **SETTINGS
    )


def test_masked_lm_is_learnt(teacher: DistillResult) -> None:
    before = teacher.run["scores_before"]["student"]
    assert teacher.metrics["masked_lm"] < 0.5 * before["masked_lm"]
    assert teacher.metrics["perplexity"] == pytest.approx(np.exp(teacher.metrics["masked_lm"]))
    assert [found["step"] for found in teacher.evaluations] == [100, 200]
    fill = pipeline("fill-mask", model=teacher.output_dir)
    (best, *_) = fill("the tea was [MASK].")
    assert best["token_str"] == GOOD[0]
    names = {path.name for path in teacher.output_dir.iterdir()}
    assert names == {
        "README.md", "config.json", "corpus", "learning_curves.png", "metrics.json",
        "model.safetensors", "run.json", "tensorboard", "tokenizer.json", "tokenizer_config.json",
        "vocab.txt",
    }  # fmt: skip
    card = (teacher.output_dir / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    assert f"| {teacher.metrics['perplexity']:.4f} |" in card


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "mixed_bfloat16"}, {"jit_compile": True, "gradient_accumulation_steps": 2}],
    ids=["float32", "bfloat16", "XLA"],
)
def test_every_loss_of_a_student_falls(
    teacher: DistillResult, corpus: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    result = distill(
        teacher.output_dir,
        teacher.output_dir / "corpus",
        tmp_path / "out",
        max_steps=60,
        **SETTINGS,
        **options,
    )
    before = result.run["scores_before"]["student"]
    for name in ("loss", "soft_targets", "masked_lm", "cosine"):
        assert result.metrics[name] < 0.7 * before[name], name
    assert result.metrics["agreement"] > before["agreement"]
    assert result.model.config.n_layers == 2
    saved = TFDistilBertForMaskedLM.from_pretrained(tmp_path / "out")
    ours, theirs = export_tensors(result.model), export_tensors(saved)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name])
    assert f"distilled from `{teacher.output_dir}`" in (tmp_path / "out/README.md").read_text()
    assert "saved in" in result.report()

    # The second step: the student learns a task from the teacher, which was fine-tuned for it.
    labels = {0: "negative", 1: "positive"}
    tuned = tiny_classifier(tmp_path / "tuned", teacher.output_dir, labels)
    data = tiny_data(tmp_path / "data")
    run = finetune(
        "sst2", tmp_path / "out", data, tmp_path / "small", teacher=tuned, epochs=3, batch_size=8,
        learning_rate=1e-2, max_length=12, distill_alpha=1.0,
    )  # fmt: skip
    assert run.model.config.n_layers == 2
    learnt = run.history["val_agreement"][-1]  # the best are chosen by their accuracy
    assert learnt > run.run["scores_before"]["sst2"]["agreement"] + 0.2


class Stop(keras.callbacks.Callback):
    """Ends a run as Control-C does."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == self.step:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    teacher: DistillResult, tmp_path: Path
) -> None:
    settings = SETTINGS | {"max_steps": 12, "save_steps": 5, "eval_steps": 6, "cosine_weight": 0.5}
    corpus = teacher.output_dir / "corpus"
    whole = distill(teacher.output_dir, corpus, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        distill(teacher.output_dir, corpus, tmp_path / "cut", callbacks=[Stop(8)], **settings)
    resumed = distill(teacher.output_dir, corpus, tmp_path / "cut", **settings)
    assert resumed.run["resumed_at_step"] == 5
    assert resumed.evaluations == whole.evaluations
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        distill(teacher.output_dir, corpus, tmp_path / "cut", **settings)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_of_which_one_is_killed_end_as_two_devices_do(
    teacher: DistillResult, tmp_path: Path
) -> None:
    """Bit for bit; the encoder of the student has dropout."""
    student = teacher.model.get_config()["config"] | {"dropout": 0.1, "attention_dropout": 0.1}
    model = shutil.copytree(teacher.output_dir, tmp_path / "teacher")
    (model / "config.json").write_text(json.dumps(student))
    settings = SETTINGS | {"max_steps": 12, "save_steps": 2}
    del settings["strategy"]
    arguments = ["distill", f"--teacher={model}", f"--corpus={model / 'corpus'}"]
    arguments += [f"--{name}={value}" for name, value in settings.items()]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(equality.start("two devices", [*arguments, f"--output={whole}"]))
    process = equality.start("two processes", [*arguments, f"--output={killed}"])
    wait_for_step(killed, 4, process)
    psutil.Process(process.pid).children()[1].kill()
    printed = finish(process)
    assert "A worker was killed or lost (SIGKILL). All 2 are restarted from the last" in printed
    assert json.loads((killed / "run.json").read_text())["resumed_at_step"] >= 4
    weights = [(directory / "model.safetensors").read_bytes() for directory in (whole, killed)]
    assert weights[0] == weights[1]


def test_the_teachers_dtype_is_a_setting(teacher: DistillResult, tmp_path: Path) -> None:
    """By default its weights are of the dtype that the student computes in; the student's never."""
    for options, expected in (
        ({"dtype": "mixed_bfloat16"}, "bfloat16"),
        ({"dtype": "mixed_bfloat16", "teacher_dtype": "float32"}, "float32"),
        ({"teacher_dtype": "bfloat16"}, "bfloat16"),
        ({}, "float32"),
    ):
        settings = DistillOptions(**SETTINGS, **options)
        corpus = teacher.output_dir / "corpus"
        trainer = set_up(teacher.output_dir, corpus, tmp_path, settings).model
        matrices = [weight for weight in trainer.teacher.weights if len(weight.shape) == 2]
        assert {str(weight.dtype) for weight in matrices} == {expected}
        assert trainer.teacher.compute_dtype == expected
        ours, theirs = export_tensors(trainer.student), export_tensors(teacher.model)
        for name in ("vocab_transform.weight", "distilbert.embeddings.word_embeddings.weight"):
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_plan_says_what_would_be_done(
    teacher: DistillResult, corpus: Path, tmp_path: Path
) -> None:
    options = DistillOptions(max_steps=30, **SETTINGS)
    plan = plan_distillation(teacher.output_dir, [corpus], tmp_path, options)
    rows = json.loads((tmp_path / "corpus" / MANIFEST).read_text())["shards"][0]["rows"]
    assert f"{rows} rows" in plan
    assert "teacher: 4 layers of width 16" in plan
    assert "model: 2 layers of width 16" in plan
    assert "steps: 30 of 16 rows" in plan


def test_only_a_missing_head_is_made_anew(teacher: DistillResult, tmp_path: Path) -> None:
    """A teacher keeps its head for a student without soft targets; a damaged one is refused."""
    corpus, settings = teacher.output_dir / "corpus", SETTINGS | {"max_steps": 1}
    without = settings | {"soft_targets_weight": 0.0, "learning_rate": 0.0}
    student = distill(teacher.output_dir, corpus, tmp_path / "student", **without).model
    ours, theirs = export_tensors(student), export_tensors(teacher.model)
    np.testing.assert_array_equal(ours["vocab_transform.weight"], theirs["vocab_transform.weight"])
    damaged = shutil.copytree(teacher.output_dir, tmp_path / "damaged")
    del theirs["vocab_transform.bias"]
    save_file(theirs, damaged / "model.safetensors")
    for train in (distill, train_masked_lm):
        with pytest.raises(CheckpointError, match=r"vocab_transform\.bias") as caught:
            train(damaged, corpus, tmp_path / "new", **settings)
        assert "Soft targets need" not in str(caught.value)


def test_the_demo_encoder_gets_a_head_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tiny one in its place: the steps, what is kept of them, and the demo corpus."""
    encoder = tiny_checkpoint(tmp_path / "encoder", n_layers=4)
    monkeypatch.setattr(hub, "demo_directory", lambda: encoder)
    out, settings = tmp_path / "out", {"epochs": 1, "max_steps": 4, "save_steps": 2}
    cli.main(["distill", "--corpus=demo", f"--output={out}", "--dry_run", "--max_steps=4"])
    printed = capsys.readouterr().out
    assert f"width 16; as many steps first give it a head, in {out / 'teacher'}" in printed
    assert f"steps: {DEMO_SETTINGS['epochs'] * 4} of 16 rows" in printed

    with pytest.raises(KeyboardInterrupt):
        distill("demo", "demo", out, callbacks=[Stop(3)], **settings)
    head = (out / "teacher" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="teacher already holds a finished run"):
        distill("demo", "demo", out, learning_rate=1e-4, **settings)
    result = distill("demo", ["demo"], out, **settings)
    assert result.run["resumed_at_step"] == 2
    assert (out / "teacher" / "model.safetensors").read_bytes() == head
    assert result.model.config.n_layers == 2
    options = result.run["options"]
    assert options["validation_share"] == DEMO_SETTINGS["validation_share"]
    assert [file["name"] for file in result.run["data_files"]] == ["demo.txt"]
    card = (out / "README.md").read_text()
    assert "distilled from `demo`" in card
    assert "see `teacher/README.md`" in card
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in card


def test_the_commands(
    teacher: DistillResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--corpus={teacher.output_dir / 'corpus'}", "--max_length=16", "--batch_size=16"]
    flags += ["--max_steps=7", "--validation_share=0.1", "--dry_run"]
    output = f"--output={tmp_path / 'out'}"
    cli.main(["distill", f"--teacher={teacher.output_dir}", output, *flags])
    assert "steps: 7 of 16 rows" in capsys.readouterr().out
    cli.main(["pretrain-mlm", f"--model={teacher.output_dir}", output, *flags[:-1]])
    assert "kept: step 7 of 7" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["distill", f"--teacher={teacher.output_dir}", *flags])
    assert "--output is required" in capsys.readouterr().err


def test_what_cannot_be_distilled_is_refused(
    teacher: DistillResult, corpus: Path, tmp_path: Path
) -> None:
    encoder = tiny_checkpoint(tmp_path / "encoder")
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="Soft targets need a teacher with a masked-LM head"):
        distill(encoder, corpus, out, **SETTINGS)
    for settings, message in (
        ({"mask_probability": 0.0}, "mask_probability is 0.0; it must be above 0"),
        ({"mask_probability": 1.0}, "mask_probability is 1.0; it must be above 0"),
        ({"student_layers": "0,9"}, "The student's layers are"),
        ({"student_layers": "0;2"}, "student_layers is '0;2'; it must be numbers with commas"),
        ({"max_length": 200}, "max_length is 200, but .* has 128 positions"),
        ({"batch_size": 4096}, "do not fill one batch of 4096"),
    ):
        with pytest.raises(ValueError, match=message):
            distill(teacher.output_dir, corpus, tmp_path / "new", **(SETTINGS | settings))
    with pytest.raises(ValueError, match="No document of the corpus in .* is held out"):
        distill(
            teacher.output_dir, corpus, tmp_path / "all", **(SETTINGS | {"validation_share": 0.0})
        )
    prepared = teacher.output_dir / "corpus"
    with pytest.raises(ValueError, match="has rows of up to 16 tokens; max_length is 32"):
        distill(teacher.output_dir, prepared, out, **(SETTINGS | {"max_length": 32}))
    with pytest.raises(FileNotFoundError, match="There is no file nowhere.txt"):
        distill(teacher.output_dir, "nowhere.txt", out, **SETTINGS)
    assert not (out / "config.json").exists()
