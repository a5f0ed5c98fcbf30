"""The subcommands that train on text without labels."""

from collections.abc import Sequence

from absl import flags

from distilbert_tf.commands.common_flags import define_flag, required, say
from distilbert_tf.commands.corpus import define_text
from distilbert_tf.commands.training import (
    define_options,
    exiting_when_interrupted,
    read_options,
)
from distilbert_tf.distillation.options import DistillOptions, MaskedLMOptions


def _define_corpus(values: flags.FlagValues) -> None:
    define_text(values, "; or the directory of a prepared corpus")
    define_flag(values, "output", None, "directory of the result", kind=str)
    define_flag(values, "overwrite", False, "replace an earlier result")
    define_flag(values, "dry_run", False, "prepare the corpus, say what would be done, and end")


def define_distill(values: flags.FlagValues) -> None:
    """Defines the flags of `distill`."""
    define_flag(
        values, "teacher", None, "masked-LM checkpoint: a directory or a hub repository", kind=str
    )
    _define_corpus(values)
    define_options(values, DistillOptions)


def run_distill(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Distils a student."""
    _run(values, DistillOptions, required(values, "teacher"))


def define_pretrain_mlm(values: flags.FlagValues) -> None:
    """Defines the flags of `pretrain-mlm`."""
    define_flag(
        values, "model", None, "checkpoint: a directory, a hub repository, or 'demo'", kind=str
    )
    _define_corpus(values)
    define_options(values, MaskedLMOptions)


def run_pretrain_mlm(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Trains masked LM."""
    _run(values, MaskedLMOptions, required(values, "model"))


def _run(values: flags.FlagValues, options: type[MaskedLMOptions], checkpoint: str) -> None:
    files, output = required(values, "corpus"), required(values, "output")
    from distilbert_tf.distillation import distilling

    settings = read_options(values, options)
    if values.dry_run:
        say(distilling.plan_distillation(checkpoint, files, output, options(**settings)))
        return
    train = distilling.distill if options is DistillOptions else distilling.train_masked_lm
    with exiting_when_interrupted():
        result = train(checkpoint, files, output, overwrite=values.overwrite, **settings)
    say(result.report())
