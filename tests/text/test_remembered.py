"""What is known of an encoder finds rows without torch; whatever is encoded is encoded in full."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from skembed import EmbeddingStore, TextEmbedder
from skembed.engine import _remembered
from skembed.exceptions import TruncatedRowsError
from tests.text.checkpoints import TEXTS, write_checkpoint

ROWS = [text for text in TEXTS if text]


@pytest.fixture(autouse=True)
def as_without_torch(monkeypatch, tmp_path):
    """Let embedders think that torch has not been imported; a folder of facts for each test."""
    monkeypatch.setattr("skembed._pretrained._has_torch", lambda: False)
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))


def known(embedder):
    return embedder._known_encoder()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n_components": 8, "normalize": True},
        {"pooling": "max", "prompt": "a query: ", "dtype": "bfloat16"},
        {"max_length": 8, "on_truncate": "ignore"},
        {"max_length": 8, "on_truncate": "mean_of_chunks"},
    ],
)
def test_stored_rows_are_found_by_what_is_remembered(folder, params):
    store = EmbeddingStore()
    first, second = (TextEmbedder(folder, cache=store, **params) for _ in range(2))
    expected = first.transform(ROWS)
    np.testing.assert_array_equal(second.transform(ROWS), expected)
    assert known(first).is_whole
    assert not known(second).is_whole
    assert second.report_.n_encoded == 0
    for name in ("n_rows", "n_distinct", "device", "dtype", "max_length"):
        assert getattr(second.report_, name) == getattr(first.report_, name)
    np.testing.assert_array_equal(second.report_.truncated, first.report_.truncated)
    assert second.get_feature_names_out().tolist() == first.get_feature_names_out().tolist()
    assert second.encoder_ is first.encoder_


def test_rows_that_are_not_stored_are_encoded_as_ever(folder):
    store = EmbeddingStore()
    TextEmbedder(folder, cache=store).transform(ROWS[:2])
    embedder = TextEmbedder(folder, cache=store)
    found = embedder.transform(ROWS)
    assert embedder.report_.n_encoded == len(ROWS) - 2
    np.testing.assert_allclose(found, TextEmbedder(folder, cache=None).transform(ROWS), atol=1e-6)


def test_rows_too_long_are_refused_by_what_is_remembered(folder):
    for _ in range(2):
        with pytest.raises(TruncatedRowsError, match="rows are longer than the 8 tokens"):
            TextEmbedder(folder, max_length=8, on_truncate="raise").transform(ROWS)


def test_other_files_settings_and_libraries_are_found_out_anew(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "model")
    TextEmbedder(folder).fit(ROWS)
    assert not known(TextEmbedder(folder).fit(ROWS)).is_whole
    assert known(TextEmbedder(folder, pooling="cls").fit(ROWS)).is_whole
    monkeypatch.setattr(_remembered, "_circumstances", lambda: "after an upgrade")
    assert known(TextEmbedder(folder).fit(ROWS)).is_whole
    assert not known(TextEmbedder(folder).fit(ROWS)).is_whole
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "of_no_use": 1}))
    assert known(TextEmbedder(folder).fit(ROWS)).is_whole


def test_a_damaged_memory_is_no_memory(folder, tmp_path, monkeypatch):
    home = tmp_path / "home"
    TextEmbedder(folder).fit(ROWS)
    home.rename(tmp_path / "other")  # facts that this process has not read yet
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "other"))
    (fact,) = (tmp_path / "other" / "remembered" / "encoder").iterdir()
    fact.write_text(fact.read_text()[:50])
    assert known(TextEmbedder(folder).fit(ROWS)).is_whole
    assert not known(TextEmbedder(folder).fit(ROWS)).is_whole


def test_a_process_that_finds_every_row_imports_neither_torch_nor_transformers(folder, tmp_path):
    vectors = TextEmbedder(str(folder), cache=tmp_path / "vectors").transform(ROWS)
    code = (
        "import json, sys\n"
        "from skembed import TextEmbedder\n"
        "folder, cache, *rows = sys.argv[1:]\n"
        "vectors = TextEmbedder(folder, cache=cache).fit_transform(rows)\n"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "print(json.dumps(vectors.tolist()))"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "vectors"), *ROWS]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(json.loads(printed), vectors, rtol=1e-6)


def test_nothing_is_remembered_of_files_that_changed_while_the_encoder_was_found(
    tmp_path, monkeypatch
):
    folder = write_checkpoint(tmp_path / "model")
    weights = folder / "model.safetensors"
    original = weights.read_bytes()
    copy = shutil.copytree(folder, tmp_path / "copy")
    expected = TextEmbedder(copy, cache=None).transform(ROWS)
    store = EmbeddingStore()
    find = TextEmbedder._find_backbone

    def find_another(settings):
        other = {name: 1.5 * values for name, values in load_file(weights).items()}
        save_file(other, weights, metadata={"format": "pt"})
        return find(settings)

    with monkeypatch.context() as patched:
        patched.setattr(TextEmbedder, "_find_backbone", staticmethod(find_another))
        changed = TextEmbedder(folder, cache=store, batch_size=7).transform(ROWS)
    assert not np.allclose(changed, expected, atol=1e-3)
    weights.write_bytes(original)
    again = TextEmbedder(folder, cache=store, batch_size=7).transform(ROWS)
    np.testing.assert_allclose(again, expected, atol=1e-5)
