"""`warm_up` loads the model of any room, runs it on one row, and leaves nothing behind."""

import pytest

from skembed import AudioEmbedder, EmbeddingStore, ImageEmbedder, TextEmbedder
from tests.image.networks import TinyNetwork, to_pixels
from tests.text.checkpoints import write_checkpoint


def text_embedder(folder, store):
    return TextEmbedder(write_checkpoint(folder / "model"), cache=store)


def image_embedder(folder, store):
    return ImageEmbedder(TinyNetwork(), preprocess=to_pixels, cache=store)


def audio_embedder(folder, store):
    return AudioEmbedder("logmel", cache=store, sampling_rate=8000)


@pytest.mark.parametrize("make", [text_embedder, image_embedder, audio_embedder])
def test_a_warm_embedder_has_run_its_model_and_stored_nothing(make, tmp_path, monkeypatch):
    store = EmbeddingStore()
    embedder = make(tmp_path, store)
    runs = []
    encoder_type = type(make(tmp_path, store).fit([]).encoder_)
    encode = encoder_type.encode
    monkeypatch.setattr(
        encoder_type, "encode", lambda self, batch: runs.append(batch) or encode(self, batch)
    )
    assert embedder.warm_up() is embedder
    assert len(runs) == 1
    assert embedder.encoder_.is_loaded
    assert store.info().n_entries == 0
    assert not hasattr(embedder, "report_")
