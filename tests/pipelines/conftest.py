"""A tokenizer and models that all tests of pipelines share."""

import pytest
from tiny_pipelines import make_classifier, make_filler, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def classifier():
    return make_classifier()


@pytest.fixture(scope="session")
def filler():
    return make_filler()
