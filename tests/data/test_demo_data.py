"""The demo data: enough, balanced, valid, and no two rows alike."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from distilbert_tf.data.corpus import read_documents
from distilbert_tf.data.demo_corpus import write_demo_corpus
from distilbert_tf.data.examples import Examples, load_examples
from distilbert_tf.data.tasks import TASKS

ENOUGH = {"sst2": 600, "mnli": 300, "qqp": 300}


def splits(name: str) -> dict[str, Examples]:
    return {split: load_examples(TASKS[name], "demo", split) for split in ("train", "validation")}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("name", TASKS)
def test_there_is_enough_and_it_is_balanced(name: str) -> None:
    data = splits(name)
    assert sum(map(len, data.values())) >= ENOUGH[name]
    for examples in data.values():
        counts = Counter(examples.labels.tolist())
        assert set(counts) == set(range(len(TASKS[name].labels)))
        assert max(counts.values()) == min(counts.values())


@pytest.mark.parametrize("name", TASKS)
def test_no_text_stands_in_both_splits(name: str) -> None:
    train, validation = (
        {text for column in examples.texts for text in column} for examples in splits(name).values()
    )
    assert not train & validation


@pytest.mark.parametrize("name", TASKS)
def test_texts_are_tidy(name: str) -> None:
    for examples in splits(name).values():
        for column in examples.texts:
            for text in column:
                assert text == text.strip()
                assert "  " not in text
                assert 2 <= len(text.split()) <= 60, text


@pytest.mark.parametrize("name", TASKS)
def test_there_are_no_near_duplicates(name: str) -> None:
    rows = [
        (row, set(words(" ".join(row))))
        for examples in splits(name).values()
        for row in zip(*examples.texts, strict=True)
    ]
    for (first, first_words), (second, second_words) in combinations(rows, 2):
        similarity = len(first_words & second_words) / len(first_words | second_words)
        shared_premise = len(first) == 2 and first[0] == second[0]
        assert similarity < (0.7 if shared_premise else 0.5), (first, second)


def test_sentiment_is_written_without_templates() -> None:
    sentences = [text for examples in splits("sst2").values() for text in examples.texts[0]]
    openings = Counter(tuple(words(sentence)[:2]) for sentence in sentences)
    assert openings.most_common(1)[0][1] <= 0.03 * len(sentences)
    runs = Counter(
        run
        for sentence in sentences
        for run in {tuple(words(sentence)[i : i + 6]) for i in range(len(words(sentence)) - 5)}
    )
    assert runs.most_common(1)[0][1] == 1, runs.most_common(1)


def test_every_example_is_a_document_of_the_demo_corpus(tmp_path: Path) -> None:
    path = tmp_path / "demo.txt"
    write_demo_corpus(path)
    documents = {tuple(document) for document in read_documents(path)}
    expected = {
        texts
        for name in TASKS
        for examples in splits(name).values()
        for texts in zip(*examples.texts, strict=True)
    }
    assert documents == expected
    written = path.stat().st_mtime_ns
    write_demo_corpus(path)  # which a resumed run does
    assert path.stat().st_mtime_ns == written
