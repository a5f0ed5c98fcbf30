"""The model card of a classifier: text for people, and metadata that the Hugging Face hub reads."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distilbert_tf.checkpoints.hub import DEMO
from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from distilbert_tf.data.places import HUB
from distilbert_tf.data.tasks import GLUE_ON_THE_HUB, Task
from distilbert_tf.files import replacing
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.options import FinetuneOptions
from distilbert_tf.training.run_directory import CARD, CONFUSION, CURVES, VALIDATION

# Settings that the card names in a sentence.
_NAMED = (
    "epochs", "batch_size", "learning_rate", "warmup_ratio", "weight_decay", "seed", "max_length",
    "dtype", "distill_alpha", "distill_temperature",
)  # fmt: skip
_KINDS = {
    SINGLE_LABEL: "classifier",
    MULTI_LABEL: "multi-label classifier",
    REGRESSION: "regression",
}
_PICTURE = f"\n![confusion matrix]({CONFUSION})\n"
_TEMPLATE = """
# {title}

A DistilBERT {kind} of {texts}, fine-tuned from `{model}` with distilbert-tf.

## Scores

{scores}

Measured on the data below at the end of the run. The weights are those of the best evaluation on
the validation split, so its scores are slightly optimistic.

{scores_by_label}
{confusion}
## Training

![learning curves]({curves})

{training}

## Use

```python
from distilbert_tf import pipeline  # transformers and PyTorch can load this directory, too

classify = pipeline("text-classification", model="path/to/this/directory")
classify({example})
```
"""


def write_card(
    path: Path, task: Task, scores: Mapping[str, Scores], run: Mapping[str, Any]
) -> None:
    """Writes the model card of a classifier: what it is, its measured scores, how it was made.

    Args:
        path: The Markdown file.
        task: What the classifier is for.
        scores: Those measured, by split.
        run: What `run.json` holds.
    """
    text = _TEMPLATE.format(
        title=f"{task.name}: {', '.join(task.labels)}",
        texts=" and ".join(f"`{column}`" for column in task.text_columns),
        kind=_KINDS[task.problem_type],
        model=run["model"],
        scores=_score_table(scores),
        scores_by_label="\n\n".join(
            _label_table(task, split, found)
            for split, found in scores.items()
            if task.problem_type != REGRESSION
        ),
        confusion=_PICTURE if task.problem_type == SINGLE_LABEL else "",
        curves=CURVES,
        training=_describe_training(task, run),
        example='{"text": "...", "text_pair": "..."}' if task.is_pair else '"..."',
    )
    card = ModelCard(f"---\n{_metadata(task, scores, run)}\n---\n{text}")
    with replacing(path) as temporary:
        card.save(temporary)


def _metadata(task: Task, scores: Mapping[str, Scores], run: Mapping[str, Any]) -> ModelCardData:
    language = {"language": "en"} if task.hub_dataset == GLUE_ON_THE_HUB else {}
    return ModelCardData(
        **(describe_origin(run["model"]) | language),
        datasets=[task.hub_dataset] if run["data"] == HUB else None,
        library_name="transformers",
        metrics=list(task.metrics),
        model_name=f"distilbert-{task.name}",
        eval_results=[
            _evaluation_result(task, split, name, found.values[name], run)
            for split, found in scores.items()
            for name in task.metrics
        ],
        pipeline_tag="text-classification",
        tags=["distilbert", "tensorflow"],
    )


def describe_origin(model: str) -> dict[str, Any]:
    """Returns what is known of a base model: its name on the hub, its license and language."""
    if model == DEMO:
        return {"base_model": "sentence-transformers/all-MiniLM-L6-v2", "license": "apache-2.0"}
    if Path(model).expanduser().is_dir():
        with contextlib.suppress(Exception):  # a foreign card, or none: not worth the run's end
            card = ModelCard.load(Path(model).expanduser() / CARD)
            return {name: card.data.get(name) for name in ("license", "language")}
        return {}
    is_ours = model.removeprefix("distilbert/").startswith("distilbert-base-")
    return {"base_model": model, **({"license": "apache-2.0"} if is_ours else {})}


def _evaluation_result(
    task: Task, split: str, metric: str, value: float, run: Mapping[str, Any]
) -> EvalResult:
    # Files in a directory may be any part of a dataset, so only the hub's own go by its name.
    data, files = run["data"], run["data_files"][task.name][split]
    is_hub = data == HUB
    return EvalResult(
        task_type="text-classification",
        dataset_type=task.hub_dataset if is_hub else task.name,
        dataset_name=f"{task.name}, demo data of distilbert-tf" if data == DEMO else task.name,
        dataset_config=task.hub_config if is_hub else None,
        dataset_split=task.splits[split][-1] if is_hub else split,
        dataset_args={name: files[name] for name in ("files", "sha256", "rows")},
        metric_type=metric.removeprefix("macro_").removeprefix("micro_"),
        metric_name=metric,
        metric_args={"average": metric[:5]} if metric[5:] == "_f1" else None,
        metric_value=value,
    )


def _score_table(scores: Mapping[str, Scores]) -> str:
    columns = list(next(iter(scores.values())).values)
    lines = [f"| split | rows | {' | '.join(columns)} |", f"|---|---:|{'---:|' * len(columns)}"]
    for split, found in scores.items():
        values = " | ".join(f"{value:.4f}" for value in found.values.values())
        lines.append(f"| {split} | {found.rows:,} | {values} |")
    return "\n".join(lines)


def _label_table(task: Task, split: str, scores: Scores) -> str:
    lines = [f"| {split}: label | rows | precision | recall | F1 |", "|---|---:|---:|---:|---:|"]
    columns = zip(*scores.by_label.values(), strict=True)
    for label, rows, values in zip(task.labels, scores.rows_by_label, columns, strict=True):
        lines.append(f"| {label} | {rows:,} | {' | '.join(f'{value:.4f}' for value in values)} |")
    return "\n".join(lines)


def _describe_training(task: Task, run: Mapping[str, Any]) -> str:
    options, versions = run["options"], run["versions"]
    others = [
        f"{field.name}={options[field.name]}"
        for field in dataclasses.fields(FinetuneOptions)
        if field.name not in _NAMED and options.get(field.name, field.default) != field.default
    ]
    lines = []
    if len(run["tasks"]) > 1:
        lines += [f"One encoder, trained for {', '.join(run['tasks'])} together.", ""]
    if run["teacher"]:
        lines += [
            f"Learned from the logits of `{run['teacher']['checkpoint']}` (sha256 "
            f"`{run['teacher']['sha256'][task.name]}`), softened by a temperature of "
            f"{options['distill_temperature']:g}, with weight {options['distill_alpha']:g}, and "
            f"from the labels with weight {1 - options['distill_alpha']:g}. `agreement` is the "
            "share of rows for which both predict the same label. The training loss in the curves "
            "is that mix, the validation loss the labels' alone.",
            "",
        ]
    lines += [
        f"- {options['epochs']} epochs of {run['steps_per_epoch']:,} steps, "
        f"{options['batch_size']} rows each; AdamW, peak learning rate "
        f"{options['learning_rate']:g}, warmup ratio {options['warmup_ratio']:g}, weight decay "
        f"{options['weight_decay']:g}, seed {options['seed']}, at most {options['max_length']} "
        "tokens.",
        *([f"- Other settings: {', '.join(others)}."] if others else []),
        f"- {run['train_time_s']:.0f} s, {run['examples_per_s']:.1f} examples/s on "
        f"{'; '.join(run['devices'])} ({run['replicas']} replica(s), {run['dtype']}).",
    ]
    files = run["data_files"][task.name]
    for split, found in files.items():
        skipped = f" ({found['skipped']:,} skipped)" if found["skipped"] else ""
        if split == VALIDATION and found["files"] and found["sha256"] == files["train"]["sha256"]:
            skipped += f", held out of the training rows ({task.validation_share:g} of each label)"
        names = ", ".join(found["files"]) or "in memory"
        lines.append(
            f"- {split}: {names}, {found['rows']:,} rows{skipped}, sha256 `{found['sha256']}`"
        )
    lines.append(
        f"- TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, distilbert-tf "
        f"{versions['distilbert_tf']}."
    )
    return "\n".join(lines)
