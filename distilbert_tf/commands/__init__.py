"""The subcommands of `distilbert-tf`.

Each imports what it needs when it runs, so `--help` and wrong flags answer immediately.
"""

from distilbert_tf.commands.check_export import define_check_export, run_check_export
from distilbert_tf.commands.common_flags import Command
from distilbert_tf.commands.corpus import (
    define_prepare_corpus,
    define_vocab,
    run_prepare_corpus,
    run_vocab,
)
from distilbert_tf.commands.demo import define_demo, run_demo
from distilbert_tf.commands.distill import (
    define_distill,
    define_pretrain_mlm,
    run_distill,
    run_pretrain_mlm,
)
from distilbert_tf.commands.export import define_export, run_export
from distilbert_tf.commands.pipelines import (
    define_fill_mask,
    define_predict,
    run_fill_mask,
    run_predict,
)
from distilbert_tf.commands.query import define_query, run_query
from distilbert_tf.commands.serve import define_serve, run_serve
from distilbert_tf.commands.serving_config import define_serving_config, run_serving_config
from distilbert_tf.commands.training import (
    define_evaluate,
    define_finetune,
    define_submit,
    run_evaluate,
    run_finetune,
    run_submit,
)

COMMANDS = {
    "finetune": Command(
        "fine-tune one or several classifiers on one encoder, and keep the best checkpoint",
        run_finetune,
        define_finetune,
        "--data=tickets.csv --text_columns=subject,body --label_column=queue "
        "--model=distilbert-base-uncased --output=OUT",
    ),
    "evaluate": Command(
        "score a fine-tuned classifier on a split of its task",
        run_evaluate,
        define_evaluate,
        "--model=OUT --split=test",
        ("model",),
    ),
    "predict": Command(
        "classify texts with a checkpoint: arguments, or rows of a file or of standard input",
        run_predict,
        define_predict,
        '--model=OUT "A film that knows exactly what it wants."',
        ("model",),
        "[TEXT ...]",
    ),
    "export": Command(
        "write a SavedModel for TF Serving with the tokenizer inside, and verify it",
        run_export,
        define_export,
        "--model=OUT --output=served",
        ("model", "output"),
    ),
    "check-export": Command(
        "report what a SavedModel holds, and which TF Serving releases can serve it",
        run_check_export,
        define_check_export,
        "served/1",
        words="DIR",
    ),
    "serve": Command(
        "serve an export over gRPC on this machine (production: TF Serving)",
        run_serve,
        define_serve,
        "--model_base_path=served",
    ),
    "query": Command(
        "query a server with texts: arguments, or rows of a file or of standard input",
        run_query,
        define_query,
        "--input=reviews.csv --output=answers.csv --format=csv",
        words="[TEXT ...]",
    ),
    "serving-config": Command(
        "write the files that run TF Serving: models, labels, batching, metrics, containers",
        run_serving_config,
        define_serving_config,
        "--model_base_path=served --docker --kubernetes --output=serving_config",
        ("model_base_path", "output"),
    ),
    "distill": Command(
        "distil a student from a masked-LM teacher, on text files",
        run_distill,
        define_distill,
        "--teacher=bert-base-uncased --corpus=wikipedia.txt.xz,books.txt.xz --output=OUT",
        ("corpus", "output"),
    ),
    "pretrain-mlm": Command(
        "continue masked-LM pre-training on text files of your own",
        run_pretrain_mlm,
        define_pretrain_mlm,
        "--model=distilbert-base-uncased --corpus=tickets.jsonl --output=OUT",
        ("corpus", "output"),
    ),
    "fill-mask": Command(
        "fill in the [MASK] of texts: arguments, or rows of a file or of standard input",
        run_fill_mask,
        define_fill_mask,
        '--model=distilbert-base-uncased "Hello I\'m a [MASK] model."',
        ("model",),
        "[TEXT ...]",
    ),
    "vocab": Command(
        "train a WordPiece vocabulary on text files",
        run_vocab,
        define_vocab,
        "--corpus='text/*.txt.gz' --output=VOCABULARY",
        ("corpus", "output"),
    ),
    "prepare-corpus": Command(
        "prepare text files for distill and pretrain-mlm, on this machine or with Apache Beam",
        run_prepare_corpus,
        define_prepare_corpus,
        "--corpus='wikipedia/*.jsonl.gz' --model=bert-base-uncased --output=CORPUS",
        ("corpus", "model", "output"),
        "[-- --BEAM_FLAG=VALUE ...]",
    ),
    "submit": Command(
        "predict GLUE's test splits of a task, in the format of its submission files",
        run_submit,
        define_submit,
        "--task=sst2 --model=OUT --data=DIR",
        ("model",),
    ),
    "demo": Command(
        "go the whole way on data that comes with the package: fine-tune, export, serve, query",
        run_demo,
        define_demo,
        "--output=demo_run",
    ),
}
