"""The settings of a run: one list for Python, command line and record."""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

from distilbert_tf.data.file_formats import BadRows
from distilbert_tf.spelling import suggest

SCHEDULES = ("linear", "cosine", "constant_with_warmup")
STRATEGIES = ("auto", "none", "mirrored", "multi_worker", "tpu")


def option(default: Any, text: str, **limits: Any) -> Any:
    """Makes the field of a setting, with its help, `minimum`, `maximum` and `choices`."""
    return dataclasses.field(default=default, metadata={"help": text, **limits})


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """Settings of every training; those of a kind of training are a subclass.

    `batch_size` is that of an optimizer step, over all devices and all
    `gradient_accumulation_steps`: these change how a step is computed, and not the recipe. In
    transformers, a step has as many times the batch instead.

    Raises:
        TypeError: A value of another type.
        ValueError: A value out of its range.
    """

    epochs: int = option(3, "passes over the data", minimum=1)
    batch_size: int = option(32, "rows of an optimizer step, over all devices", minimum=1)
    learning_rate: float = option(5e-5, "peak learning rate", minimum=0.0)
    warmup_ratio: float = option(
        0.1, "share of the steps with a rising rate", minimum=0.0, maximum=0.99
    )
    lr_scheduler_type: str = option(
        "linear", "how the rate falls after that (or that it does not)", choices=SCHEDULES
    )
    weight_decay: float = option(0.01, "decoupled weight decay", minimum=0.0)
    max_gradient_norm: float = option(
        1.0, "gradients are scaled down to this global norm", minimum=1e-6
    )
    max_length: int = option(128, "longest row in tokens; longer text is truncated", minimum=3)
    seed: int = option(42, "seed of new weights, shuffles and dropout", minimum=0)
    dtype: str = option(
        "float32",
        "what to compute in; weights are float32 always",
        choices=("float32", "mixed_bfloat16"),
    )
    jit_compile: bool = option(
        False, "compile with XLA, all rows padded to max_length (for GPUs and TPUs)"
    )
    strategy: str = option("auto", "devices to train on", choices=STRATEGIES)
    gradient_accumulation_steps: int = option(
        1,
        "compute each device's rows of a batch in this many parts, to save memory; batch_size "
        "stays that of the whole step",
        minimum=1,
    )
    steps_per_execution: int = option(1, "optimizer steps between two returns to Python", minimum=1)
    deterministic: bool = option(
        False, "only repeatable kernels, also on GPUs (slower; a CPU has no others)"
    )
    eval_steps: int | None = option(
        None, "evaluate every this many steps as well as after each epoch", minimum=1
    )
    early_stopping_patience: int | None = option(
        None, "stop early after this many evaluations without a better score", minimum=1
    )
    save_steps: int = option(500, "save the state every this many steps", minimum=1)
    keep_states: int = option(2, "how many of these states to keep", minimum=1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                _check(field, value)

    def recipe(self) -> dict[str, Any]:
        """Returns the settings that the result depends on."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in ("strategy", "save_steps", "keep_states")
        }

    def differences(self, recipe: dict[str, Any]) -> list[str]:
        """Lists how the recipe of another run differs from these settings."""
        ours = self.recipe()
        if missing := sorted(ours.keys() - recipe.keys()):
            return [f"it is of another release, without the setting {', '.join(missing)}"]
        return [
            f"{name}={recipe[name]!r}, now {value!r}"
            for name, value in ours.items()
            if recipe[name] != value
        ]


@dataclasses.dataclass(frozen=True)
class FinetuneOptions(TrainingOptions):
    """Settings of `finetune`; each is a flag of `distilbert-tf finetune` too.

    See `TrainingOptions` for what every training has. `class_weight` may be a dict here.

    Example:
        FinetuneOptions(epochs=4, learning_rate=3e-5).recipe()
    """

    max_train_examples: int | None = option(
        None, "use only the first rows of each task, this many", minimum=1
    )
    sampling_temperature: float = option(
        1.0,
        "for several tasks: 1 samples each in proportion to its size, more evens the shares out",
        minimum=1.0,
    )
    distill_alpha: float = option(
        0.5, "weight of the teacher's soft targets; the labels have the rest", minimum=0.0,
        maximum=1.0,
    )  # fmt: skip
    distill_temperature: float = option(
        2.0, "softens teacher's and student's distributions", minimum=1e-3
    )
    metric_for_best_model: str | None = option(
        None,
        "which of the tasks' metrics, or loss, chooses the checkpoint; their first if not given",
    )
    label_smoothing_factor: float = option(
        0.0, "share of a label's probability that is spread over all labels", minimum=0.0,
        maximum=0.99,
    )  # fmt: skip
    class_weight: str | None = option(
        None, 'factors of the labels\' losses: balanced, or JSON such as {"billing": 2.0}'
    )
    layerwise_lr_decay: float = option(
        1.0,
        "learning rate of a layer as a share of that of the layer above it; the head has all of it",
        minimum=1e-6,
        maximum=1.0,
    )
    frozen_layers: int | None = option(
        None, "train neither the embeddings nor this many of the first layers", minimum=0
    )
    freeze_encoder: bool = option(False, "train the head alone")
    fresh_head: bool = option(False, "start with new heads even if the checkpoint has one")
    bad_rows: BadRows = option(  # noqa: RUF009  (a field as the others; its type is an alias)
        "error", "what to do with rows that cannot be read", choices=typing.get_args(BadRows)
    )

    def __post_init__(self) -> None:
        if isinstance(self.class_weight, Mapping):
            text = json.dumps(dict(self.class_weight), ensure_ascii=False)
            object.__setattr__(self, "class_weight", text)
        super().__post_init__()


def read_finetune_options(options: Mapping[str, Any]) -> FinetuneOptions:
    """Makes the settings of a fine-tuning of keyword arguments.

    Raises:
        TypeError: There is no such setting; also see `FinetuneOptions`.
        ValueError: See there.
    """
    known = [field.name for field in dataclasses.fields(FinetuneOptions)]
    for name in options:
        if name not in known:
            raise TypeError(
                f"There is no setting {name!r}{suggest(name, known)}; there are "
                f"{', '.join(known)}. Validation data is part of data: "
                '{"train": ..., "validation": ...}.'
            )
    return FinetuneOptions(**options)


def option_type(field: dataclasses.Field[Any]) -> type:
    """Returns the type of a setting: `int` of `int | None`, `str` of choices."""
    kind = (typing.get_args(field.type) or (field.type,))[0]
    return kind if isinstance(kind, type) else type(kind)


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    name, limits, kind = field.name, field.metadata, option_type(field)
    if value is None:
        raise ValueError(f"{name} must have a value; got None.")
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} must be of type {kind.__name__}; got {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite; got {value!r}.")
    if "choices" in limits and value not in limits["choices"]:
        raise ValueError(f"{name} must be one of {', '.join(limits['choices'])}; got {value!r}.")
    if "minimum" in limits and value < limits["minimum"]:
        raise ValueError(f"{name} must be at least {limits['minimum']}; got {value!r}.")
    if "maximum" in limits and value > limits["maximum"]:
        raise ValueError(f"{name} must be at most {limits['maximum']}; got {value!r}.")
