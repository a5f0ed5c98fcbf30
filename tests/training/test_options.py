import dataclasses
import json
from pathlib import Path

import pytest
from absl import flags

from distilbert_tf.commands import COMMANDS
from distilbert_tf.training.options import STRATEGIES, FinetuneOptions
from distilbert_tf.training.run_directory import default_output_dir


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", -1e-9),
        ("warmup_ratio", -0.01),
        ("weight_decay", -0.5),
        ("max_gradient_norm", 0.0),
        ("max_length", 2),
        ("max_train_examples", 0),
        ("sampling_temperature", 0.5),
        ("distill_alpha", -0.1),
        ("distill_temperature", 0.0),
        ("label_smoothing_factor", -0.1),
        ("layerwise_lr_decay", 0.0),
        ("frozen_layers", -1),
        ("seed", -1),
        ("gradient_accumulation_steps", 0),
        ("steps_per_execution", 0),
        ("eval_steps", 0),
        ("early_stopping_patience", 0),
        ("save_steps", 0),
        ("keep_states", 0),
    ],
)
def test_what_is_too_small_is_refused(name: str, below: float) -> None:
    (field,) = [field for field in dataclasses.fields(FinetuneOptions) if field.name == name]
    lowest = field.metadata["minimum"]
    with pytest.raises(ValueError, match=f"{name} must be at least {lowest}; got {below}"):
        FinetuneOptions(**{name: below})
    assert getattr(FinetuneOptions(**{name: lowest}), name) == lowest


def test_every_limit_is_tried_above() -> None:
    (mark,) = test_what_is_too_small_is_refused.pytestmark
    limited = {f.name for f in dataclasses.fields(FinetuneOptions) if "minimum" in f.metadata}
    assert {name for name, _ in mark.args[1]} == limited


def test_a_teacher_has_at_most_all_the_weight() -> None:
    assert FinetuneOptions(distill_alpha=1.0).distill_alpha == 1.0
    with pytest.raises(ValueError, match=r"distill_alpha must be at most 1\.0; got 1\.01"):
        FinetuneOptions(distill_alpha=1.01)


def test_some_steps_must_be_left_after_the_warm_up() -> None:
    assert FinetuneOptions(warmup_ratio=0.99).warmup_ratio == 0.99
    with pytest.raises(ValueError, match=r"warmup_ratio must be at most 0\.99; got 1\.0"):
        FinetuneOptions(warmup_ratio=1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["learning_rate", "warmup_ratio", "sampling_temperature"])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite; got {value}"):
        FinetuneOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("epochs", 2.5, "int"),
        ("epochs", True, "int"),
        ("batch_size", "8", "int"),
        ("learning_rate", "fast", "float"),
        ("jit_compile", 1, "bool"),
        ("dtype", 16, "str"),
        ("bad_rows", None, None),
    ],
)
def test_values_of_other_types_are_refused(name: str, value: object, kind: str | None) -> None:
    error, message = (ValueError, "a value") if kind is None else (TypeError, f"type {kind}; got")
    with pytest.raises(error, match=f"{name} must (be of|have) {message}"):
        FinetuneOptions(**{name: value})
    assert FinetuneOptions(learning_rate=1).learning_rate == 1


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        ("bad_rows", "drop", "error, skip"),
        ("dtype", "mixed_float16", "float32, mixed_bfloat16"),
        ("strategy", "gpu", ", ".join(STRATEGIES)),
    ],
)
def test_a_choice_that_is_not_offered_is_refused(name: str, wrong: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of {allowed}; got '{wrong}'"):
        FinetuneOptions(**{name: wrong})
    for choice in allowed.split(", "):
        assert getattr(FinetuneOptions(**{name: choice}), name) == choice


def test_options_without_a_value_have_no_limits() -> None:
    options = FinetuneOptions()
    none = [name for name, value in dataclasses.asdict(options).items() if value is None]
    assert set(none) == {
        "max_train_examples",
        "eval_steps",
        "early_stopping_patience",
        "frozen_layers",
        "class_weight",
        "metric_for_best_model",
    }


@pytest.mark.parametrize("name", ["epochs", "sampling_temperature", "strategy", "deterministic"])
def test_other_options_must_have_a_value(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must have a value; got None"):
        FinetuneOptions(**{name: None})


def test_the_recipe_is_what_the_result_depends_on() -> None:
    options = FinetuneOptions(strategy="none", save_steps=7, keep_states=9, epochs=5)
    everything = dataclasses.asdict(options)
    assert everything.keys() - options.recipe().keys() == {"strategy", "save_steps", "keep_states"}
    assert options.recipe() == {name: everything[name] for name in options.recipe()}


def test_differences_name_both_values() -> None:
    earlier = json.loads(json.dumps(FinetuneOptions(epochs=5, dtype="mixed_bfloat16").recipe()))
    assert (
        FinetuneOptions(epochs=5, dtype="mixed_bfloat16", save_steps=1).differences(earlier) == []
    )
    assert FinetuneOptions(epochs=5, seed=1).differences(earlier) == [
        "seed=42, now 1",
        "dtype='mixed_bfloat16', now 'float32'",
    ]
    del earlier["sampling_temperature"]  # as in a record of an older release
    assert FinetuneOptions(epochs=5, seed=1).differences(earlier) == [
        "it is of another release, without the setting sampling_temperature"
    ]


@pytest.fixture
def values() -> flags.FlagValues:
    made = flags.FlagValues()
    COMMANDS["finetune"].define(made)
    return made


def test_flags_have_the_defaults_of_the_options(values: flags.FlagValues) -> None:
    values(["program"])
    defaults = dataclasses.asdict(FinetuneOptions())
    found = {name: values[name].value for name in defaults}
    assert found == defaults
    for name, default in defaults.items():
        assert type(found[name]) is type(default), name
    for field in dataclasses.fields(FinetuneOptions):
        assert field.metadata["help"] in values[field.name].help


def test_flags_are_read_as_their_options_are_typed(values: flags.FlagValues) -> None:
    values(
        "program --epochs=2 --learning_rate=1e-4 --jit_compile --nodeterministic --dtype=float32 "
        "--eval_steps=10 --bad_rows=skip --strategy=mirrored --sampling_temperature=2".split()
    )
    names = [field.name for field in dataclasses.fields(FinetuneOptions)]
    assert FinetuneOptions(**{name: values[name].value for name in names}) == FinetuneOptions(
        epochs=2, learning_rate=1e-4, jit_compile=True, dtype="float32", eval_steps=10,
        bad_rows="skip", strategy="mirrored", sampling_temperature=2.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "flag", ["--epochs=0", "--warmup_ratio=1", "--strategy=gpu", "--seed=-1", "--eval_steps=0"]
)
def test_flags_have_the_limits_of_the_options(values: flags.FlagValues, flag: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError, match=flag.partition("=")[0].strip("-")):
        values(["program", flag])


def test_a_run_is_named_after_its_tasks() -> None:
    assert default_output_dir("sst2") == Path("runs/sst2")
    assert default_output_dir("sst2,mnli") == Path("runs/sst2-mnli")
