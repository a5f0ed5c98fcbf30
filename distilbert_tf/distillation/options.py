"""The settings of distillation and masked-LM training. Needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from distilbert_tf.checkpoints.hub import DEMO
from distilbert_tf.training.options import TrainingOptions, option


@dataclasses.dataclass(frozen=True)
class MaskedLMOptions(TrainingOptions):
    """Settings of `train_masked_lm`; each is a flag of `distilbert-tf pretrain-mlm` too.

    See `TrainingOptions` for what every training has.

    Example:
        MaskedLMOptions(max_steps=10_000, batch_size=64).recipe()
    """

    epochs: int = option(1, "passes over the corpus, or over max_steps steps", minimum=1)
    learning_rate: float = option(5e-4, "peak learning rate", minimum=0.0)
    warmup_ratio: float = option(
        0.05, "share of the steps with a rising rate", minimum=0.0, maximum=0.99
    )
    max_gradient_norm: float = option(
        5.0, "gradients are scaled down to this global norm", minimum=1e-6
    )
    max_steps: int | None = option(
        None, "optimizer steps of an epoch; one pass over the corpus if not given", minimum=1
    )
    validation_share: float = option(
        0.01, "share of the documents that is held out", minimum=0.0, maximum=0.5
    )
    max_validation_rows: int = option(
        2048, "how many of the rows held out are evaluated on", minimum=1
    )
    mask_probability: float = option(
        0.15, "share of the tokens to predict", minimum=0.0, maximum=1.0
    )
    whole_words: bool = option(False, "mask whole words instead of single tokens")
    word_smoothing: float = option(
        0.0, "mask a word in proportion to its count to minus this power; published: 0.7",
        minimum=0.0,
    )  # fmt: skip
    text_column: str = option("text", "column with the text, in JSON Lines and Parquet")
    corpus_dir: str | None = option(
        None, "where the corpus is prepared; OUTPUT/corpus if not given"
    )
    num_processes: int = option(1, "how many files are prepared at once", minimum=1)

    def __post_init__(self) -> None:
        if isinstance(self.corpus_dir, Path):  # JSON has no paths
            object.__setattr__(self, "corpus_dir", str(self.corpus_dir))
        super().__post_init__()
        if not 0 < self.mask_probability < 1:  # before hours of preparing a corpus
            raise ValueError(
                f"mask_probability is {self.mask_probability}; it must be above 0 and below 1, "
                "such as 0.15: something has to be predicted, from something."
            )

    def recipe(self) -> dict[str, Any]:
        """Returns the settings that the result depends on."""
        places = ("corpus_dir", "num_processes")
        return {name: value for name, value in super().recipe().items() if name not in places}


@dataclasses.dataclass(frozen=True)
class DistillOptions(MaskedLMOptions):
    """Settings of `distill`; each is a flag of `distilbert-tf distill` too.

    See `MaskedLMOptions` for the rest.

    Example:
        DistillOptions(temperature=2.0, cosine_weight=0.0).recipe()
    """

    student_layers: str = option(
        "", "layers of the teacher that the student starts from, as 0,2,4; every second if empty"
    )
    random_student: bool = option(False, "start the student from random weights")
    temperature: float = option(2.0, "softens both sides' distributions", minimum=1e-3)
    soft_targets_weight: float = option(5.0, "weight of the soft targets", minimum=0.0)
    masked_lm_weight: float = option(2.0, "weight of masked LM", minimum=0.0)
    cosine_weight: float = option(1.0, "weight of the cosine of hidden states", minimum=0.0)
    logits_mse_weight: float = option(0.0, "weight of the logits' squared distance", minimum=0.0)
    soft_targets_at: str = option(
        "masked",
        "ask the teacher about the masked tokens only, or about all as published",
        choices=("masked", "all"),
    )
    teacher_dtype: str | None = option(
        None,
        "what the teacher computes in, its weights included; that of the student if not given",
        choices=("float32", "bfloat16"),
    )


# What differs by default with the demo corpus, whose documents are few and short.
DEMO_SETTINGS: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 16,
    "max_length": 64,
    "validation_share": 0.1,
}

CorpusFiles = str | Path | Sequence[str | Path]
Options = TypeVar("Options", bound=MaskedLMOptions)


def make_options(kind: type[Options], corpus: CorpusFiles, settings: Mapping[str, Any]) -> Options:
    """Makes the settings of a run; the demo corpus has defaults of its own."""
    return kind(**{**(DEMO_SETTINGS if is_demo(corpus) else {}), **settings})


def is_demo(corpus: CorpusFiles) -> bool:
    """Returns whether the text is that of the demo."""
    return corpus == DEMO or (not isinstance(corpus, str | Path) and list(corpus) == [DEMO])
