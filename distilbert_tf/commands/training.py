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
    UsageError,
    define_flag,
    define_max_length,
    define_model,
    say,
)
from distilbert_tf.commands.task_flags import define_task, read_task
from distilbert_tf.data.tasks import Task, get_task
from distilbert_tf.tensorflow_import import import_tensorflow
from distilbert_tf.training.launcher import LOST_WORKER, TF_CONFIG, launch
from distilbert_tf.training.options import FinetuneOptions, TrainingOptions, option_type


def define_finetune(values: flags.FlagValues) -> None:
    """Defines the flags of `finetune`."""
    define_model(values)
    define_task(
        values,
        "task: sst2, mnli or qqp, or several with commas; a .json file with the fields of a Task; "
        "or the name of a task of your own, with --text_columns and --label_column",
        "",
        "demo",
    )
    define_flag(
        values,
        "teacher",
        None,
        "fine-tuned classifier whose logits the model learns, too: a directory (of several tasks, "
        "with a subdirectory for each) or a hub repository",
        kind=str,
    )
    flags.DEFINE_string(
        "output",
        None,
        "directory of the result; runs/<task> if not given. Alone, it resumes the run there",
        flag_values=values,
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
    arguments = _read_arguments(values)
    name = _name(arguments["task"])  # before TensorFlow is imported, if there is no such task
    if starts_workers(values):
        from distilbert_tf.training.run_directory import default_output_dir

        output = values.output or default_output_dir(name)
        run_workers("finetune", values, output)
    import_tensorflow()
    from distilbert_tf.training.finetuning import finetune
    from distilbert_tf.training.plan import plan_finetuning

    if values.dry_run:
        say(plan_finetuning(**arguments).report())
        return
    with exiting_when_interrupted():
        result = finetune(**arguments, output_dir=values.output, overwrite=values.overwrite)
    say(result.report())


def _read_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the arguments of `finetune` that the flags, or an interrupted run's record, give."""
    options = read_options(values, FinetuneOptions)
    task = read_task(values)
    if task is None and (record := _interrupted_run(values.output)):
        from distilbert_tf.data.tasks import read_task as read_record

        if record["data"] is None:
            raise UsageError(f"the run in {values.output} has data in memory: resume it in Python")
        teacher = record["teacher"] and record["teacher"]["checkpoint"]
        return {
            "task": [read_record(one, values.output) for one in record["task_records"]],
            "model": record["model"],
            "data": record["data"],
            "teacher": teacher,
            **record["options"],
            **options,
        }
    if task is None:
        raise UsageError(
            "which task? Give --task=sst2, mnli, qqp or a .json file; or, for one of your own, "
            f"--data=DIR --text_columns=... --label_column=...{_columns_of(values.data)}"
        )
    has_files = any(values[f"{split}_file"].value for split in ("train", "validation", "test"))
    is_here = has_files and not values["data"].present
    return {
        "task": task,
        "model": values.model,
        "data": "." if is_here else values.data,
        "teacher": values.teacher,
        **options,
    }


def _interrupted_run(output: str | None) -> dict[str, Any]:
    """Returns the record of a run that has not ended; empty if there is none."""
    from distilbert_tf.training.run_directory import RunDirectory

    record = RunDirectory(Path(output), ()).read_run() if output else {}
    return record if record.get("status") == "running" and "task_records" in record else {}


def _columns_of(data: str) -> str:
    """Returns the end of a message: which columns the training data has, if it can be read."""
    from distilbert_tf.data.examples import list_columns

    try:
        place, columns = list_columns(data)
    except (OSError, ValueError):
        return ""
    return f" ({place} has the columns {', '.join(columns)})"


def _name(task: Any) -> str:
    """Returns the name of a task, or of several with commas."""
    if isinstance(task, str):
        task = [get_task(one) for one in task.split(",")]
    return ",".join(one.name for one in ([task] if isinstance(task, Task) else task))


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


def _define_scoring(values: flags.FlagValues) -> None:
    define_model(values, default=None)
    define_task(
        values,
        "task: sst2, mnli or qqp, or a .json file (default: the one that the checkpoint records)",
        " (default: where the fine-tuning found it)",
        None,
    )
    define_flag(values, "batch_size", 32, "rows per step", minimum=1)
    define_max_length(values)


def _read_task_and_data(values: flags.FlagValues) -> tuple[str | Task | None, Any]:
    """Returns the task and the data to score, which the checkpoint's record completes."""
    from distilbert_tf.training.classifiers import recorded_task
    from distilbert_tf.training.run_directory import recorded_data

    task = read_task(values, lambda: recorded_task(values.model, values.task))
    return task, values.data or recorded_data(values.model)


def define_evaluate(values: flags.FlagValues) -> None:
    """Defines the flags of `evaluate`."""
    _define_scoring(values)
    flags.DEFINE_string("split", "validation", "split of the task", flag_values=values)
    define_option(values, FinetuneOptions.__dataclass_fields__["bad_rows"])


def run_evaluate(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Scores a classifier."""
    import_tensorflow()
    from distilbert_tf.training.evaluation import score_pretrained

    task, data = _read_task_and_data(values)
    scores = score_pretrained(
        values.model,
        task,
        data,
        split=values.split,
        bad_rows=values.bad_rows,
        batch_size=values.batch_size,
        max_length=values.max_length,
    )
    say(json.dumps(scores.values))


def define_submit(values: flags.FlagValues) -> None:
    """Defines the flags of `submit`."""
    _define_scoring(values)
    flags.DEFINE_string("output", "submission", "directory of the files", flag_values=values)


def run_submit(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Predicts GLUE's test splits."""
    import_tensorflow()
    from distilbert_tf.training.evaluation import predict_submission

    task, data = _read_task_and_data(values)
    for path in predict_submission(
        values.model,
        task,
        data,
        values.output,
        batch_size=values.batch_size,
        max_length=values.max_length,
    ):
        say(str(path))
