"""What a distillation leaves beside its checkpoint: JSON, pictures and a model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distilbert_tf.files import replacing
from distilbert_tf.training.report import write_json
from distilbert_tf.training.run_directory import CARD, CURVES, METRICS, RUN, RunDirectory
from distilbert_tf.training.state import Progress

_TEMPLATE = """
# {title}

{summary}

## Scores

{scores}

Measured on documents that were held out of training. The weights are those of the best of
{evaluations} evaluations.

![curves]({curves})

## Training

{training}

## Use

```python
from distilbert_tf import pipeline  # transformers and PyTorch can load this directory, too

fill_mask = pipeline("fill-mask", model="path/to/this/directory")
fill_mask("The kettle is [MASK].")
```
"""

# In the order of their plots.
_TITLES = {
    "loss": "weighted sum of the losses",
    "soft_targets": "soft targets: KL, times temperature squared",
    "masked_lm": "masked LM: cross-entropy",
    "cosine": "1 - cosine of hidden states",
    "logits_mse": "squared distance of logits",
    "perplexity": "masked-LM perplexity",
    "agreement": "same best word as the teacher",
}


def write_results(
    directory: RunDirectory,
    progress: Progress,
    record: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> None:
    """Writes all that a finished run leaves beside its checkpoint.

    Args:
        directory: The run's directory.
        progress: What happened.
        record: What `run.json` holds.
        metrics: The best evaluation.
    """
    plot_losses(directory.path / CURVES, progress.evaluations, progress.losses)
    write_card(directory.path / CARD, metrics, len(progress.evaluations), record)
    write_json(directory.path / RUN, record)
    content = {
        "metrics": dict(metrics),
        "best": record["best"],
        "evaluations": progress.evaluations,
        "losses": progress.losses,
    }
    write_json(directory.path / METRICS, content)  # last: it says that the run is finished


def plot_losses(
    path: Path,
    evaluations: Sequence[Mapping[str, float]],
    losses: Sequence[tuple[int, float]],
) -> None:
    """Draws the losses and scores of the evaluations over the steps, and the training loss.

    Args:
        path: The PNG file.
        evaluations: Each with its `step` and figures.
        losses: Pairs of a step and the mean training loss up to it since the pair before.
    """
    from matplotlib.figure import Figure  # without pyplot, which wants a display and one thread

    names = [name for name in _TITLES if name in evaluations[0]]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    steps = [found["step"] for found in evaluations]
    for axes, name in zip(grid, names, strict=False):
        if name == "loss" and losses:
            axes.plot(*zip(*losses, strict=True), linewidth=1, label="training")
        axes.plot(steps, [found[name] for found in evaluations], "o-", ms=3, label="held out")
        axes.set(title=_TITLES[name], xlabel="step")
        axes.grid(alpha=0.3)
    grid[0].legend()
    for axes in grid[len(names) :]:
        axes.remove()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def write_card(
    path: Path, metrics: Mapping[str, float], evaluations: int, run: Mapping[str, Any]
) -> None:
    """Writes the model card: what the model is, its measured scores, how it was made."""
    teacher = run.get("teacher")
    origin = Path(teacher or run["model"]).name
    data = ModelCardData(
        base_model=None if Path(teacher or run["model"]).is_dir() else teacher or run["model"],
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["distilbert", "tensorflow", *(["distillation"] if teacher else [])],
        model_name=f"{origin}-{'student' if teacher else 'masked-lm'}",
        eval_results=[
            EvalResult(
                task_type="fill-mask",
                dataset_type="text",
                dataset_name="held-out documents of the corpus",
                metric_type=name,
                metric_value=value,
            )
            for name, value in metrics.items()
        ],
    )
    before = run["scores_before"]["student"]
    rows = [
        f"| {_TITLES.get(name, name)} | {before[name]:.4f} | {value:.4f} |"
        for name, value in metrics.items()
    ]
    text = _TEMPLATE.format(
        title=data.model_name,
        summary=(
            f"A DistilBERT, distilled from `{teacher}` with distilbert-tf."
            if teacher
            else f"`{run['model']}`, pre-trained further by masked LM with distilbert-tf."
        ),
        scores="\n".join(["| | before | after |", "|---|---:|---:|", *rows]),
        evaluations=evaluations,
        curves=CURVES,
        training=_describe_training(run),
    )
    with replacing(path) as temporary:
        ModelCard(f"---\n{data}\n---\n{text}").save(temporary)


def _describe_training(run: Mapping[str, Any]) -> str:
    options, corpus, versions = run["options"], run["corpus"], run["versions"]
    lines = [
        f"- {run['steps']:,} steps of {options['batch_size']} rows with at most "
        f"{options['max_length']} tokens; AdamW, peak learning rate {options['learning_rate']:g}, "
        f"warmup ratio {options['warmup_ratio']:g}, seed {options['seed']}; "
        f"{options['mask_probability']:.0%} of the tokens masked.",
        f"- {corpus['train_tokens']:,} tokens of text in {corpus['train_rows']:,} rows:",
    ]
    lines += [f"  - {file['name']}, sha256 `{file['sha256']}`" for file in run["data_files"]]
    if "teacher" in run:
        start = "random weights" if options["random_student"] else "the teacher's layers"
        layers = options["student_layers"] or "every second one"
        lines.append(
            f"- Weights of the losses: soft targets {options['soft_targets_weight']:g} "
            f"(temperature {options['temperature']:g}, at {options['soft_targets_at']} tokens), "
            f"masked LM {options['masked_lm_weight']:g}, cosine {options['cosine_weight']:g}, "
            f"squared distance of logits {options['logits_mse_weight']:g}. Started from {start} "
            f"({layers})."
        )
    lines += [
        f"- {run['train_time_s']:.0f} s, {run['tokens_per_s']:,.0f} tokens/s on "
        f"{'; '.join(run['devices'])} ({run['replicas']} replica(s), {run['dtype']}).",
        f"- TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, distilbert-tf "
        f"{versions['distilbert_tf']}.",
    ]
    return "\n".join(lines)
