"""The subcommands that train on text without labels."""

from collections.abc import Sequence

from absl import flags

from distilbert_tf.commands.common_flags import define_flag, define_model, say
from distilbert_tf.commands.corpus import define_text
from distilbert_tf.commands.training import (
    define_options,
    exiting_when_interrupted,
    read_options,
    run_workers,
    starts_workers,
)
from distilbert_tf.distillation.options import (
    DEMO_SETTINGS,
    DistillOptions,
    MaskedLMOptions,
    make_options,
)
from distilbert_tf.tensorflow_import import import_tensorflow


def _define_corpus(values: flags.FlagValues) -> None:
    demo = ", ".join(f"{name} {value}" for name, value in DEMO_SETTINGS.items())
    define_text(
        values,
        "; the directory of a prepared corpus; or 'demo', the package's own sentences, for which "
        f"other settings are the default: {demo}",
    )
    define_flag(values, "output", None, "directory of the result", kind=str)
    define_flag(values, "overwrite", False, "replace an earlier result")
    define_flag(values, "dry_run", False, "prepare the corpus, say what would be done, and end")


def define_distill(values: flags.FlagValues) -> None:
    """Defines the flags of `distill`."""
    text = "masked-LM checkpoint: a directory, a hub repository, or 'demo', which gets a head first"
    define_flag(values, "teacher", "demo", text)
    _define_corpus(values)
    define_options(values, DistillOptions)


def run_distill(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Distils a student."""
    _run("distill", values, DistillOptions, values.teacher)


def define_pretrain_mlm(values: flags.FlagValues) -> None:
    """Defines the flags of `pretrain-mlm`."""
    define_model(values)
    _define_corpus(values)
    define_options(values, MaskedLMOptions)


def run_pretrain_mlm(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Trains masked LM."""
    _run("pretrain-mlm", values, MaskedLMOptions, values.model)


def _run(
    command: str, values: flags.FlagValues, kind: type[MaskedLMOptions], checkpoint: str
) -> None:
    files, output = values.corpus, values.output
    if starts_workers(values):
        run_workers(command, values, output)
    import_tensorflow()
    from distilbert_tf.distillation import distilling

    settings = read_options(values, kind)
    if values.dry_run:
        options = make_options(kind, files, settings)
        say(distilling.plan_distillation(checkpoint, files, output, options))
        return
    train = distilling.distill if kind is DistillOptions else distilling.train_masked_lm
    with exiting_when_interrupted():
        result = train(checkpoint, files, output, overwrite=values.overwrite, **settings)
    say(result.report())
