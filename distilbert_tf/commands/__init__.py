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
    ),
    "distill": Command(
        "distil a student from a masked-LM teacher, on text files", run_distill, define_distill
    ),
    "pretrain-mlm": Command(
        "continue masked-LM pre-training on text files of your own",
        run_pretrain_mlm,
        define_pretrain_mlm,
    ),
    "vocab": Command("train a WordPiece vocabulary on text files", run_vocab, define_vocab),
    "prepare-corpus": Command(
        "prepare text files for distill and pretrain-mlm: on this machine, or with Apache Beam",
        run_prepare_corpus,
        define_prepare_corpus,
        "[-- --BEAM_FLAG=VALUE ...]",
    ),
    "evaluate": Command(
        "score a saved classifier on a split of a task", run_evaluate, define_evaluate
    ),
    "submit": Command(
        "predict GLUE's test splits of a task, in the format of its submission files",
        run_submit,
        define_submit,
    ),
    "predict": Command(
        "classify texts (arguments, or lines of standard input)",
        run_predict,
        define_predict,
        "[TEXT ...]",
    ),
    "fill-mask": Command(
        "fill in the [MASK] of texts (arguments, or lines of standard input)",
        run_fill_mask,
        define_fill_mask,
        "[TEXT ...]",
    ),
    "export": Command(
        "write a SavedModel for TF Serving with the tokenizer inside, and verify it",
        run_export,
        define_export,
    ),
    "check-export": Command(
        "report what a SavedModel holds, and which TF Serving releases can serve it",
        run_check_export,
        define_check_export,
        "DIR",
    ),
    "serve": Command(
        "serve an export over gRPC on this machine (production: TF Serving)",
        run_serve,
        define_serve,
    ),
    "serving-config": Command(
        "write TF Serving's configuration files: models, labels, batching, metrics",
        run_serving_config,
        define_serving_config,
    ),
    "query": Command(
        "query a server with texts (arguments, or lines of a file or of standard input)",
        run_query,
        define_query,
        "[TEXT ...]",
    ),
    "demo": Command(
        "the whole path on data that comes with the package: fine-tune, export, serve, query",
        run_demo,
        define_demo,
    ),
}
