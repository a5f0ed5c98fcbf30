"""What a distillation leaves beside its checkpoint: JSON, pictures and a model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distilbert_tf.files import replacing
from distilbert_tf.training.model_card import describe_origin
from distilbert_tf.training.report import write_json
from distilbert_tf.training.run_directory import CARD, CURVES, METRICS, RUN, RunDirectory
from distilbert_tf.training.state import Progress

_TEMPLATE = """
# {title}

{summary}

## Scores

{scores}

Measured on {rows:,} rows of documents that were held out of training, before and after it. The
weights are those of the best of {evaluations} evaluations, by masked LM.

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
    "soft_targets": "soft targets: KL divergence x temperature\N{SUPERSCRIPT TWO}",
    "masked_lm": "masked LM: cross-entropy",
    "cosine": "hidden states: 1 - cosine",
    "logits_mse": "logits: squared distance",
    "perplexity": "perplexity of masked LM",
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
    (before,) = record["scores_before"].values()
    evaluations = [{"step": 0, **before}, *progress.evaluations]
    plot_curves(directory.path / CURVES, evaluations, progress.losses, record["best"]["step"])
    write_card(directory.path / CARD, metrics, before, len(progress.evaluations), record)
    write_json(directory.path / RUN, record)
    content = {
        "metrics": dict(metrics),
        "best": record["best"],
        "evaluations": progress.evaluations,
        "losses": progress.losses,
    }
    write_json(directory.path / METRICS, content)  # last: it says that the run is finished


def plot_curves(
    path: Path,
    evaluations: Sequence[Mapping[str, float]],
    losses: Sequence[tuple[int, float]],
    best_step: int,
) -> None:
    """Draws losses and scores of the evaluations over the steps, and the training loss.

    Args:
        path: The PNG file.
        evaluations: Each with its `step` and figures, from before the training on.
        losses: Pairs of a step and the mean training loss up to it since the pair before.
        best_step: The step of the evaluation whose weights were kept.
    """
    from matplotlib.figure import Figure  # without pyplot, which wants a display and one thread
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

    names = [name for name in _TITLES if name in evaluations[0]]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    steps = [found["step"] for found in evaluations]
    for axes, name in zip(grid, names, strict=False):
        if name == "loss":
            axes.plot(*zip(*losses, strict=True), color="C0", lw=1, alpha=0.7, label="training")
        axes.plot(steps, [found[name] for found in evaluations], "o-C1", ms=4, label="held out")
        axes.axvline(best_step, color="grey", linestyle=":", label="kept")
        axes.set_title(_TITLES[name], fontsize=11)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.3)
        if name == "perplexity":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            continue
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        if name == "agreement":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in grid[len(names) :]:
        axes.remove()
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def write_card(
    path: Path,
    metrics: Mapping[str, float],
    before: Mapping[str, float],
    evaluations: int,
    run: Mapping[str, Any],
) -> None:
    """Writes the model card: what the model is, its measured scores, how it was made.

    Args:
        path: The Markdown file.
        metrics: The best evaluation.
        before: The evaluation before the training.
        evaluations: Of how many it is the best.
        run: What `run.json` holds.
    """
    is_student = "teacher" in run
    origin = run["teacher" if is_student else "model"]
    data = ModelCardData(
        **describe_origin(origin),
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["distilbert", "tensorflow", *(["distillation"] if is_student else [])],
        model_name=f"{Path(origin).name}-{'student' if is_student else 'masked-lm'}",
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
    rows = [
        f"| {title} | {_format(name, before[name])} | {_format(name, metrics[name])} |"
        for name, title in _TITLES.items()
        if name in metrics
    ]
    text = _TEMPLATE.format(
        title=data.model_name,
        summary=(
            f"A DistilBERT, distilled from `{origin}` with distilbert-tf."
            if is_student
            else f"`{origin}`, pre-trained further by masked LM with distilbert-tf."
        ),
        scores="\n".join(["| | before | after |", "|---|---:|---:|", *rows]),
        rows=run["corpus"]["validation_rows"],
        evaluations=evaluations,
        curves=CURVES,
        training=_describe_training(run),
    )
    with replacing(path) as temporary:
        ModelCard(f"---\n{data}\n---\n{text}").save(temporary)


def _format(name: str, value: float) -> str:
    return f"{value:.2%}" if name == "agreement" else f"{value:,.4f}"


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
        layers = options["student_layers"]
        start = f"the teacher's layers {layers}" if layers else "every second layer of the teacher"
        if options["random_student"]:
            start = f"random weights, with as many layers as {start}"
        lines.append(
            f"- Weights of the losses: soft targets {options['soft_targets_weight']:g} "
            f"(temperature {options['temperature']:g}, at {options['soft_targets_at']} tokens), "
            f"masked LM {options['masked_lm_weight']:g}, cosine {options['cosine_weight']:g}, "
            f"squared distance of logits {options['logits_mse_weight']:g}."
        )
        lines.append(f"- Started from {start}.")
        if head := run.get("head_trained_in"):
            lines.append(
                "- The teacher had no masked-LM head and was given one first, on the same text: "
                f"see `{Path(head).name}/{CARD}`."
            )
    lines += [
        f"- {run['train_time_s']:.0f} s, {run['tokens_per_s']:,.0f} tokens/s on "
        f"{'; '.join(run['devices'])} ({run['replicas']} replica(s), {run['dtype']}).",
        f"- TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, distilbert-tf "
        f"{versions['distilbert_tf']}.",
    ]
    return "\n".join(lines)
