"""Fine-tunes a task with PyTorch transformers by `distilbert-tf finetune`'s recipe.

The peer of

    distilbert-tf finetune --task=sst2 --model=demo --data=DIR --output=OUT --epochs=1

from the same checkpoint, with the same optimizer, schedule, clipping, batch size, and batches of
rows of about one length, padded to the longest. Needs the extra `parity`:

    python benchmarks/finetune_torch.py --task=sst2 --data=DIR --epochs=1
"""

import json
import resource
import tempfile
import time

import numpy as np
import torch
import tqdm
from absl import app, flags
from sklearn.metrics import accuracy_score, f1_score
from transformers import DistilBertForSequenceClassification

from distilbert_tf import DistilBertTokenizer, TFDistilBertModel, get_task, load_examples
from distilbert_tf.data.examples import Examples
from distilbert_tf.data.sampler import SORTED_BATCHES
from distilbert_tf.training.optimizer import NO_WEIGHT_DECAY

FLAGS = flags.FLAGS
flags.DEFINE_string("task", "sst2", "sst2, mnli or qqp")
flags.DEFINE_string("data", "demo", "directory with the task's files, or 'demo'")
flags.DEFINE_string("model", "demo", "checkpoint to start from")
flags.DEFINE_integer("epochs", 1, "passes over the data")
flags.DEFINE_integer("batch_size", 32, "rows per step")
flags.DEFINE_integer("max_length", 128, "longest row in tokens")
flags.DEFINE_float("learning_rate", 5e-5, "peak learning rate")
flags.DEFINE_integer("max_train_examples", None, "use only the first so many")
flags.DEFINE_integer("seed", 42, "seed of head, shuffles and dropout")

WARMUP_RATIO, WEIGHT_DECAY, MAX_GRADIENT_NORM = 0.1, 0.01, 1.0


def encode(tokenizer: DistilBertTokenizer, examples: Examples, rows: np.ndarray) -> dict:
    """Tokenizes some rows, padded to the longest of them."""
    texts = [[column[row] for row in rows] for column in examples.texts]
    return tokenizer(
        *texts, truncation=True, max_length=FLAGS.max_length, padding=True, return_tensors="pt"
    )


def count_characters(examples: Examples, row: int) -> int:
    """Counts the characters of a row's texts."""
    return sum(len(column[row]) for column in examples.texts)


def even_batches(examples: Examples, random: np.random.Generator) -> list[np.ndarray]:
    """Draws an epoch's batches much as `make_dataset` does: sorted by characters within windows."""
    order = random.permutation(len(examples))
    window = SORTED_BATCHES * FLAGS.batch_size
    batches = []
    for start in range(0, len(order), window):
        rows = sorted(
            order[start : start + window], key=lambda row: count_characters(examples, row)
        )
        batches += [
            np.array(rows[i : i + FLAGS.batch_size]) for i in range(0, len(rows), FLAGS.batch_size)
        ]
    random.shuffle(batches)
    return batches


@torch.no_grad()
def predict(
    model: torch.nn.Module, tokenizer: DistilBertTokenizer, examples: Examples
) -> np.ndarray:
    """Returns the label ids of all rows, in file order."""
    model.eval()
    predictions = []
    for rows in np.array_split(np.arange(len(examples)), -(-len(examples) // FLAGS.batch_size)):
        logits = model(**encode(tokenizer, examples, rows)).logits
        predictions.append(logits.argmax(-1).numpy())
    return np.concatenate(predictions)


def main(argv: list[str]) -> None:
    """Trains and reports."""
    del argv
    task = get_task(FLAGS.task)
    train = load_examples(task, FLAGS.data, "train")
    if FLAGS.max_train_examples:
        train = train.take(FLAGS.max_train_examples)
    validation = load_examples(task, FLAGS.data, "validation")
    tokenizer = DistilBertTokenizer.from_pretrained(FLAGS.model)
    torch.manual_seed(FLAGS.seed)
    with tempfile.TemporaryDirectory() as directory:
        TFDistilBertModel.from_pretrained(FLAGS.model).save_pretrained(directory)
        model = DistilBertForSequenceClassification.from_pretrained(
            directory, id2label=task.id2label
        )
    decayed: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        decayed[not any(part in name for part in NO_WEIGHT_DECAY)].append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed[True], "weight_decay": WEIGHT_DECAY},
            {"params": decayed[False], "weight_decay": 0.0},
        ],
        lr=FLAGS.learning_rate,
    )
    total = FLAGS.epochs * -(-len(train) // FLAGS.batch_size)
    warmup = int(WARMUP_RATIO * total)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: max(0.0, min((i + 1) / max(warmup, 1), (total - i) / (total - warmup)))
    )
    random = np.random.default_rng(FLAGS.seed)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    with tqdm.tqdm(total=total, mininterval=30) as progress:
        for _ in range(FLAGS.epochs):
            model.train()
            for rows in even_batches(train, random):
                labels = torch.tensor(train.labels[rows], dtype=torch.long)
                loss = model(**encode(tokenizer, train, rows), labels=labels).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                progress.update()
    train_time_s = time.monotonic() - started_s
    cpu_time_s = time.process_time() - started_cpu_s
    predictions = predict(model, tokenizer, validation)
    result = {
        "task": task.name,
        "seed": FLAGS.seed,
        "accuracy": accuracy_score(validation.labels, predictions),
        "macro_f1": f1_score(validation.labels, predictions, average="macro"),
        "f1_by_label": f1_score(validation.labels, predictions, average=None).tolist(),
        "train_time_s": train_time_s,
        "train_cpu_time_s": cpu_time_s,
        "examples_per_s": FLAGS.epochs * len(train) / train_time_s,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
