"""The model card of a classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilbert_tf.checkpoints.tensor_files import replacing
from distilbert_tf.data.tasks import Task
from distilbert_tf.training.evaluation import Scores

CARD, CURVES, CONFUSION = "README.md", "learning_curves.png", "confusion_matrix.png"


def write_card(
    path: Path, task: Task, scores: Mapping[str, Scores], run: Mapping[str, Any]
) -> None:
    """Writes the model card of a classifier: what it is, its measured scores, how it was made.

    Args:
        path: The Markdown file.
        task: What the classifier is for.
        scores: Those measured, by split.
        run: The record of the run.
    """
    options = run["options"]
    columns = list(next(iter(scores.values())).values)
    texts = " and ".join(f"`{column}`" for column in task.text_columns)
    lines = [
        "---",
        "pipeline_tag: text-classification",
        "tags: [distilbert, tensorflow]",
        f"metrics: [{', '.join(name for name in columns if name != 'loss')}]",
        "---",
        "",
        f"# {task.name}: {', '.join(task.labels)}",
        "",
        f"A DistilBERT classifier of {texts}, fine-tuned from `{run['model']}` with distilbert-tf.",
        "",
        "## Scores",
        "",
        f"| split | rows | {' | '.join(columns)} |",
        f"|---|---:|{'---:|' * len(columns)}",
        *(
            f"| {split} | {found.rows:,} | "
            + " | ".join(f"{value:.4f}" for value in found.values.values())
            + " |"
            for split, found in scores.items()
        ),
        "",
        "Measured on the data below at the end of the run. The weights kept are those with the "
        "best score on the validation split, so that score is a little flattering.",
        "",
        f"![confusion matrix]({CONFUSION})",
        "",
        "## Training",
        "",
        f"![learning curves]({CURVES})",
        "",
        *([f"One encoder, trained for {', '.join(run['tasks'])} together.", ""]
          if len(run["tasks"]) > 1 else []),
        f"- {options['epochs']} epochs of {run['steps_per_epoch']:,} steps, "
        f"{options['batch_size']} rows each; AdamW, peak rate {options['learning_rate']:g}, "
        f"warm-up {options['warmup_ratio']:g}, weight decay {options['weight_decay']:g}, "
        f"seed {options['seed']}, at most {options['max_length']} tokens.",
        f"- {run['train_time_s']:.0f} s, {run['examples_per_s']:.1f} examples/s on "
        f"{'; '.join(run['devices'])} ({run['replicas']} replica(s), {run['dtype']}).",
        *(
            f"- {split}: {', '.join(found['files'])}, {found['rows']:,} rows"
            + (f" ({found['skipped']:,} left out)" if found["skipped"] else "")
            + f", sha256 `{found['sha256']}`"
            for split, found in run["data_files"][task.name].items()
        ),
        f"- TensorFlow {run['versions']['tensorflow']}, Keras {run['versions']['keras']}, "
        f"distilbert-tf {run['versions']['distilbert_tf']}.",
        "",
        "## Use",
        "",
        "```python",
        "from distilbert_tf import pipeline  # or transformers: the files are PyTorch's too",
        "",
        'classify = pipeline("text-classification", model="path/to/this/directory")',
        'classify({"text": "...", "text_pair": "..."})' if task.is_pair else 'classify("...")',
        "```",
        "",
    ]  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
