"""Fine-tuning: plan, train, evaluate, save and resume.

`finetune` is imported when it is first used, since TensorFlow takes seconds to import.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "finetune":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from distilbert_tf.training.finetuning import finetune

    return finetune
