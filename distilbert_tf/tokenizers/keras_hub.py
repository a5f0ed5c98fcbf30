"""Between KerasHub's `DistilBertTokenizer` and this package's.

KerasHub (`keras_nlp`) is imported only when one of these functions is called. Both have the same
words and ids, but KerasHub's splits some Unicode text otherwise than transformers', and its presets
do not strip accents where transformers' uncased tokenizers do: what is read from KerasHub here
tokenizes as transformers does.
"""

import os
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def load_preset(preset: str | os.PathLike[str]) -> Any:
    """Loads the tokenizer of a KerasHub preset."""
    import keras_nlp

    return keras_nlp.models.DistilBertTokenizer.from_preset(os.fspath(preset))


def write_files(tokenizer: Any, directory: Path) -> dict[str, Any]:
    """Writes the vocabulary of a KerasHub tokenizer as `vocab.txt`.

    Args:
        tokenizer: A `keras_nlp.models.DistilBertTokenizer`.
        directory: Where it goes.

    Returns:
        Settings for `DistilBertTokenizer.from_pretrained`.

    Raises:
        TypeError: It is another kind of object.
    """
    import keras_nlp

    if not isinstance(tokenizer, keras_nlp.models.DistilBertTokenizer):
        raise TypeError(
            "Only a keras_nlp.models.DistilBertTokenizer can become a DistilBertTokenizer; got "
            f"{type(tokenizer).__name__}."
        )
    lines = "".join(f"{word}\n" for word in tokenizer.get_vocabulary())
    (directory / "vocab.txt").write_text(lines, encoding="utf-8")
    return {
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents or None,  # transformers': as do_lower_case
        "tokenize_chinese_chars": tokenizer.split_on_cjk,
    }


def make_tokenizer(tokenizer: Any) -> Any:
    """Makes a KerasHub tokenizer of a `DistilBertTokenizer`: see its `to_keras_hub`."""
    import keras_nlp

    for name, token in SPECIAL_TOKENS.items():
        if getattr(tokenizer, name) != token:
            raise ValueError(
                f"{name} is {getattr(tokenizer, name)!r}, but KerasHub's DistilBERT always has "
                f"{token!r}."
            )
    words = tokenizer.words()
    if added := sorted(tokenizer.get_vocab().keys() - words.keys()):
        raise ValueError(
            f"The tokenizer has added tokens ({', '.join(added[:5])}), for which KerasHub's "
            "DistilBERT has no place."
        )
    strips = tokenizer.do_lower_case if tokenizer.strip_accents is None else tokenizer.strip_accents
    return keras_nlp.models.DistilBertTokenizer(
        vocabulary=list(words),
        lowercase=tokenizer.do_lower_case,
        strip_accents=strips,
        split_on_cjk=tokenizer.tokenize_chinese_chars,
    )
