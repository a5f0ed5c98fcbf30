"""The subcommands that train and score."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from distilbert_tf.commands.common_flags import (
    define_data,
    define_flag,
    define_max_length,
    define_model,
    define_task,
    required,
    say,
)
from distilbert_tf.training.launcher import LOST_WORKER, TF_CONFIG, launch
from distilbert_tf.training.options import FinetuneOptions, TrainingOptions, option_type


def define_finetune(values: flags.FlagValues) -> None:
    """Defines the flags of `finetune`."""
    define_model(values)
    define_task(values, "task, or several with commas: sst2, mnli, qqp")
    define_flag(
        values,
        "teacher",
        None,
        "fine-tuned classifier whose logits the model learns, too: a directory (of several tasks, "
        "with a subdirectory for each) or a hub repository",
        kind=str,
    )
    flags.DEFINE_string(
        "output", None, "directory of the result; runs/<task> if not given", flag_values=values
    )
    flags.DEFINE_boolean("overwrite", False, "replace an earlier result", flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "say what would be done, and end", flag_values=values)
    define_options(values, FinetuneOptions)


def define_options(values: flags.FlagValues, options: type[TrainingOptions]) -> None:
    """Defines a flag for each setting of a training, and that for its processes."""
    flags.DEFINE_integer(
        "num_workers",
        1,
        "train in this many processes of this machine, restarted if one dies",
        1,
        flag_values=values,
    )
    for field in dataclasses.fields(options):
        define_option(values, field)


def read_options(values: flags.FlagValues, options: type[TrainingOptions]) -> dict[str, Any]:
    """Returns the settings of a training whose flags were given."""
    names = [field.name for field in dataclasses.fields(options)]
    return {name: values[name].value for name in names if values[name].present}


def define_option(values: flags.FlagValues, field: dataclasses.Field[Any]) -> None:
    """Defines the flag of one setting."""
    limits = dict(field.metadata)
    define_flag(
        values, field.name, field.default, limits.pop("help"), kind=option_type(field), **limits
    )


def run_finetune(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Fine-tunes."""
    options = read_options(values, FinetuneOptions)
    if starts_workers(values):
        from distilbert_tf.training.run_directory import default_output_dir

        run_workers("finetune", values, values.output or default_output_dir(values.task))
    from distilbert_tf.training.finetuning import finetune
    from distilbert_tf.training.plan import plan_finetuning

    if values.dry_run:
        plan = plan_finetuning(
            values.task, values.model, values.data, teacher=values.teacher, **options
        )
        say(plan.report())
        return
    with exiting_when_interrupted():
        result = finetune(
            values.task,
            values.model,
            values.data,
            values.output,
            teacher=values.teacher,
            overwrite=values.overwrite,
            **options,
        )
    say(result.report())


def starts_workers(values: flags.FlagValues) -> bool:
    """Returns whether this process only starts those that train."""
    return values.num_workers > 1 and not os.environ.get(TF_CONFIG) and not values.dry_run


def run_workers(command: str, values: flags.FlagValues, output: str | Path) -> NoReturn:
    """Runs a command in several processes, and ends with their exit code.

    Args:
        command: The subcommand.
        values: Its flags.
        output: The run's directory.
    """
    from distilbert_tf.training.run_directory import LOGS

    raise SystemExit(launch([command, *_spelled(values)], values.num_workers, Path(output) / LOGS))


@contextlib.contextmanager
def exiting_when_interrupted() -> Iterator[None]:
    """Ends the process with the right code if a run is stopped, or loses a worker."""
    from tensorflow import errors

    from distilbert_tf.training.interruption import InterruptedRunError

    try:
        yield
    except InterruptedRunError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(128 + error.signal_number) from None
    except (errors.UnavailableError, errors.AbortedError, errors.CancelledError) as error:
        if not os.environ.get(TF_CONFIG):
            raise
        sys.stderr.write(
            f"{error}\nAnother worker can no longer be reached. The same command, given to all "
            "workers, resumes from the last saved state.\n"
        )
        raise SystemExit(LOST_WORKER) from None


def _spelled(values: flags.FlagValues) -> list[str]:
    """Returns the flags that were given as they would be typed."""
    return [
        values[name].serialize()
        for name in values
        if values[name].present and name not in ("num_workers", "strategy")
    ]


def define_evaluate(values: flags.FlagValues) -> None:
    """Defines the flags of `evaluate`."""
    define_model(values, default=None)
    define_data(values)
    define_max_length(values)
    flags.DEFINE_string("split", "validation", "split of the task", flag_values=values)
    define_option(values, FinetuneOptions.__dataclass_fields__["bad_rows"])


def run_evaluate(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Scores a classifier."""
    from distilbert_tf.training.evaluation import score_pretrained

    scores = score_pretrained(
        required(values, "model"),
        values.task,
        values.data,
        split=values.split,
        bad_rows=values.bad_rows,
        batch_size=values.batch_size,
        max_length=values.max_length,
    )
    say(json.dumps(scores.values))


def define_submit(values: flags.FlagValues) -> None:
    """Defines the flags of `submit`."""
    define_model(values, default=None)
    define_data(values)
    define_max_length(values)
    flags.DEFINE_string("output", "submission", "directory of the files", flag_values=values)


def run_submit(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Predicts GLUE's test splits."""
    from distilbert_tf.training.evaluation import predict_submission

    for path in predict_submission(
        required(values, "model"),
        values.task,
        values.data,
        values.output,
        batch_size=values.batch_size,
        max_length=values.max_length,
    ):
        say(str(path))
