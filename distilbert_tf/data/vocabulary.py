"""WordPiece vocabularies, trained on text files."""

import collections
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
import transformers
from absl import logging
from tokenizers import models, normalizers, pre_tokenizers, trainers

from distilbert_tf.data.corpus import find_files, read_documents, split_sentences
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.progress import Progress

# By id. Nothing needs BERT's own places (0 and 100 to 103): all look the tokens up by name, and a
# new vocabulary has no use for the words between them that BERT left unused.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = "vocab.txt"
MAX_LENGTH = 512  # the positions of a DistilBERT


def train_vocabulary(
    files: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    vocab_size: int = 30_522,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    text_column: str = "text",
) -> int:
    """Trains a lower-casing WordPiece vocabulary, and saves it as a tokenizer.

    The text is read twice, as a stream; memory grows with the number of different words. The same
    text always gives the same vocabulary: the special tokens, the characters within words and at
    their beginning, then words and their parts in the order in which they were merged.

    Args:
        files: Text files or patterns, see `read_documents`.
        output_dir: Where `vocab.txt`, `tokenizer.json` and `tokenizer_config.json` go; a directory
            that is empty or not there.
        vocab_size: How many words it has at most; fewer if the text has no more.
        min_frequency: How often a word, or a part of one, must be there.
        limit_alphabet: How many different characters it has at most; words with others are unknown.
        text_column: The name of the column of JSON Lines and Parquet.

    Returns:
        How many words the vocabulary has.

    Raises:
        DataError: A file cannot be read, or there is no text.
        FileExistsError: `output_dir` holds something.
        FileNotFoundError: There is no such file.
        ValueError: `vocab_size` leaves no room for words beside the characters.

    Example:
        train_vocabulary("wikipedia/*.jsonl.gz", "VOCABULARY", vocab_size=30_522)
        DistilBertTokenizer.from_pretrained("VOCABULARY")  # as for distilbert-base-uncased
    """
    output, paths = Path(output_dir), find_files(files)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: choose an empty directory.")
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: collections.Counter[str] = collections.Counter()
    for sentences in _read(paths, text_column, "Counting characters"):
        counts.update(itertools.chain.from_iterable(sentences))
    alphabet = _choose_alphabet(counts, normalizer, limit_alphabet)
    if not alphabet:
        raise DataError(f"There is no text in {', '.join(map(str, paths))}.")
    # The trainer numbers characters within words in the order in which it finds them, which changes
    # from run to run; and ties between words are decided by number.
    first = [*SPECIAL_TOKENS, *(f"##{character}" for character in alphabet)]
    if vocab_size <= len(first) + len(alphabet):
        raise ValueError(
            f"vocab_size is {vocab_size}: {len(SPECIAL_TOKENS)} special tokens and "
            f"{len(alphabet)} characters, alone and within words, leave no room for words. "
            f"Choose a size well above {len(first) + len(alphabet)}, or a smaller limit_alphabet."
        )
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    tokenizer.train_from_iterator(_read(paths, text_column, "Counting words"), trainer)
    numbers = tokenizer.get_vocab()
    words = sorted(numbers, key=numbers.__getitem__)
    _save(words, output)
    return len(words)


def _read(paths: Sequence[Path], text_column: str, title: str) -> Iterator[list[str]]:
    """Yields the sentences of each paragraph, and shows how far it is."""
    done = 0
    with Progress(title, "characters", lambda: f"{done}/{len(paths)}") as progress:
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"There is no file {path}.")
            for document in read_documents(path, text_column=text_column):
                for paragraph in document:
                    progress.add(len(paragraph))
                    yield split_sentences(paragraph)
            done += 1


def _choose_alphabet(
    counts: collections.Counter[str], normalizer: normalizers.Normalizer, limit: int
) -> list[str]:
    """Returns the most frequent characters of normalized text, in the order of their code points.

    Args:
        counts: How often each character is in the text.
        normalizer: Turns a character into others, each on its own.
        limit: How many there may be.
    """
    normalized: collections.Counter[str] = collections.Counter()
    for character, count in counts.items():
        for part in normalizer.normalize_str(character):
            if not part.isspace():
                normalized[part] += count
    by_count = sorted(normalized, key=lambda character: (-normalized[character], character))
    if len(by_count) > limit:
        rare = sum(normalized[character] for character in by_count[limit:])
        logging.info(
            "%d of %d characters are left out; they are %.2g of the text.",
            len(by_count) - limit,
            len(by_count),
            rare / normalized.total(),
        )
    return sorted(by_count[:limit])


def _save(words: Sequence[str], output: Path) -> None:
    """Writes a tokenizer, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as name:
        directory = Path(name) / output.name
        vocabulary = {word: number for number, word in enumerate(words)}
        transformers.DistilBertTokenizer(
            vocabulary, do_lower_case=True, model_max_length=MAX_LENGTH
        ).save_pretrained(directory)
        (directory / VOCABULARY).write_text("\n".join(words) + "\n", encoding="utf-8")
        directory.replace(output)
