"""The subcommands that make vocabularies and corpora of text files."""

from collections.abc import Sequence

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_flag, say
from distilbert_tf.commands.training import define_option
from distilbert_tf.distillation.options import MaskedLMOptions
from distilbert_tf.tensorflow_import import import_tensorflow


def define_text(values: flags.FlagValues, more: str = "") -> None:
    """Defines the flag that names text files."""
    define_flag(
        values,
        "corpus",
        None,
        "text files or patterns with commas (.txt, .jsonl, .parquet; .gz, .xz): a paragraph a "
        f"line, a blank line between documents{more}",
        kind=list,
    )


def define_prepare_corpus(values: flags.FlagValues) -> None:
    """Defines the flags of `prepare-corpus`."""
    define_text(values)
    define_flag(values, "model", None, "checkpoint, or directory of a vocabulary", kind=str)
    define_flag(values, "output", None, "directory of the corpus", kind=str)
    define_flag(
        values,
        "max_length",
        MaskedLMOptions.max_length,
        "longest row in tokens, as in the training to come",
        minimum=3,
    )
    for name in ("validation_share", "text_column", "num_processes"):
        define_option(values, MaskedLMOptions.__dataclass_fields__[name])
    define_flag(
        values,
        "runner",
        None,
        "prepare it with Apache Beam, a file an element: DirectRunner, DataflowRunner, "
        "FlinkRunner, ...; Beam's own flags follow after --",
        kind=str,
    )


def run_prepare_corpus(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Prepares a corpus."""
    if values.runner is None and words:
        raise UsageError(f"{words[0]!r} is a flag for Beam, which --runner selects")
    if values.runner is not None and values.num_processes > 1:
        raise UsageError("--num_processes is for this machine; a --runner has its own flags")
    import_tensorflow()
    from distilbert_tf.data.corpus_records import CorpusSettings
    from distilbert_tf.data.corpus_writer import prepare_corpus
    from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

    tokenizer = DistilBertTokenizer.from_pretrained(values.model)
    settings = CorpusSettings(values.max_length, values.validation_share, values.text_column)
    if values.runner is None:
        processes = values.num_processes
        corpus = prepare_corpus(
            values.corpus, values.output, tokenizer, settings, num_processes=processes
        )
        shards: Sequence = corpus.shards
    else:
        try:
            from distilbert_tf.data.corpus_beam import prepare_corpus_with_beam
        except ImportError as error:
            raise RuntimeError(
                "--runner needs Apache Beam: run `pip install distilbert-tf[beam]`."
            ) from error
        options = [f"--runner={values.runner}", *words]
        shards = prepare_corpus_with_beam(
            values.corpus, values.output, tokenizer, settings, options=options
        )
    for split in ("train", "validation"):
        own = [shard for shard in shards if shard.split == split]
        rows, tokens = sum(shard.rows for shard in own), sum(shard.tokens for shard in own)
        say(f"{split}: {rows:,} rows with {tokens:,} tokens, {len(own)} shards")
    say(f"prepared in {values.output}")


def define_vocab(values: flags.FlagValues) -> None:
    """Defines the flags of `vocab`."""
    define_text(values)
    define_flag(values, "output", None, "directory of the vocabulary", kind=str)
    define_flag(values, "vocab_size", 30_522, "how many words it has at most", minimum=1)
    define_flag(values, "min_frequency", 2, "how often a word or a part must be there", minimum=1)
    define_flag(
        values, "limit_alphabet", 1000, "how many different characters it has at most", minimum=1
    )
    define_option(values, MaskedLMOptions.__dataclass_fields__["text_column"])


def run_vocab(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Trains a vocabulary."""
    from distilbert_tf.data.vocabulary import train_vocabulary

    count = train_vocabulary(
        values.corpus,
        values.output,
        vocab_size=values.vocab_size,
        min_frequency=values.min_frequency,
        limit_alphabet=values.limit_alphabet,
        text_column=values.text_column,
    )
    say(f"{count:,} words, saved in {values.output}")
