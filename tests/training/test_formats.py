"""Number formats of training: what "auto" falls back to where a model does not run in bfloat16."""

import pytest

from skembed import FineTune, TextEmbedder
from skembed.engine import _frozen
from skembed.exceptions import ModelWarning
from skembed.training import _formats
from tests.text.checkpoints import write_checkpoint
from tests.text.test_unusual_folders import IN_FLOAT32, write
from tests.training.conftest import X, Y


@pytest.fixture
def in_bfloat16(monkeypatch):
    """Let "auto" begin with bfloat16, whatever the machine is faster in."""
    monkeypatch.setattr(_formats, "is_bfloat16_faster_on_cpu", lambda: True)


def test_a_model_that_autocast_breaks_is_trained_in_float32_with_a_word(tmp_path, in_bfloat16):
    path = write_checkpoint(tmp_path / "deberta", "deberta")
    training = FineTune(n_epochs=1)
    embedder = TextEmbedder(path, training=training, device="cpu", dtype="float32", cache=None)
    with pytest.warns(ModelWarning, match="cannot be trained in bfloat16 .*It is trained in fl"):
        found = embedder.fit(X, Y).trained_
    exact = embedder.set_params(training__dtype="float32").fit(X, Y).trained_
    assert found.digest == exact.digest
    with pytest.raises(RuntimeError, match="BFloat16"):
        embedder.set_params(training__dtype="bfloat16").fit(X, Y)


def test_a_model_that_does_not_serve_bfloat16_is_trained_all_the_same(tmp_path, monkeypatch):
    # A model of the same weights, that of another test, may have run here before.
    monkeypatch.setattr(_frozen, "_in_float32", set())
    path = write(tmp_path / "gpt", IN_FLOAT32["openai-gpt"])
    embedder = TextEmbedder(path, training=FineTune("lora", n_epochs=1), cache=None)
    if TextEmbedder().fit([]).dtype_ == "float32":
        embedder.fit(X, Y)
    else:
        with pytest.warns(ModelWarning, match="does not run in bfloat16 .*It runs in float32"):
            embedder.fit(X, Y)
    assert embedder.transform(X[:2]).shape == (2, 32)
    assert embedder.dtype_ == "float32"
    embedder.set_params(training__method="head").fit(X, Y)
