"""Checkpoints that several files of tests read."""

import pytest
from torchaudio import pipelines

from skembed import unload_models
from tests.audio.checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return what gives the folder of a family, written when it is first asked for."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = write_checkpoint(tmp_path_factory.mktemp("audio") / family, family)
        return made[family]

    return of


@pytest.fixture
def small_bundle(monkeypatch):
    """Make torchaudio's WAV2VEC2_BASE small enough for tests."""
    unload_models()  # backbones of the bundle as it is
    for name, value in {
        "encoder_embed_dim": 48,
        "encoder_num_layers": 2,
        "encoder_ff_interm_features": 96,
    }.items():
        monkeypatch.setitem(pipelines.WAV2VEC2_BASE._params, name, value)
    yield
    unload_models()
