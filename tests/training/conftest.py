"""A tiny random model, and rows of two classes that it can tell apart."""

import pytest

from skembed import TextEmbedder
from tests.text.checkpoints import write_checkpoint

PETS = ["a cat", "a kitten", "a dog", "a puppy"]
MONEY = ["a bill", "a tax return", "a fee", "a fine"]
X = [f"{row} {i}" for i in range(4) for row in PETS + MONEY]
Y = (["pet"] * 4 + ["money"] * 4) * 4


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("bert")))


@pytest.fixture
def embedder(folder):
    """Make an embedder of the tiny model with a strategy; without a cache by default."""

    def make(training, **parameters):
        return TextEmbedder(
            folder, training=training, **{"dtype": "float32", "cache": None, **parameters}
        )

    return make
