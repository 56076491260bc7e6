"""A tiny model that the tests of this room share."""

import pytest

from skembed import EmbeddingStore, TextEmbedder
from tests.text.checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture
def embedder(folder):
    return TextEmbedder(folder, dtype="float32", cache=EmbeddingStore())
