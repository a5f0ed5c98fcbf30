"""The sentences of the demo data as text without labels."""

from pathlib import Path

from distilbert_tf.data.examples import load_examples
from distilbert_tf.data.places import DEMO, DEMO_DATA
from distilbert_tf.data.tasks import TASKS
from distilbert_tf.files import replacing


def write_demo_corpus(path: str | Path) -> None:
    """Writes the texts of all demo tasks, labels aside.

    Args:
        path: A text file as `read_documents` takes it: each example is a document, and of a pair
            each text a paragraph. It is left alone if it holds them already.

    Example:
        write_demo_corpus("demo.txt")
    """
    texts = [
        "\n".join(texts)
        for task in TASKS.values()
        if (DEMO_DATA / task.name).is_dir()
        for split in ("train", "validation")
        for texts in zip(*load_examples(task, DEMO, split).texts, strict=True)
    ]
    path = Path(path)
    content = ("\n\n".join(texts) + "\n").encode()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
