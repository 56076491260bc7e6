"""What models are read from: a digest, a size, and whether it is still the same."""

import hashlib

import pytest
import torch

from skembed.exceptions import UnsupportedModelError
from skembed.weights import FileSource, FolderSource, RandomSource, folder_digest, resolve_model


def test_a_folder_has_the_digest_of_its_files_and_one_copy_of_its_weights(tmp_path, write_model):
    folder = write_model(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"the same again")
    source = resolve_model(folder)
    assert source == FolderSource(str(folder), folder, "folder")
    assert source.digest == folder_digest(folder)
    assert source.n_bytes() == (folder / "model.safetensors").stat().st_size
    source.check_unchanged()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"model changed while.*Call again"):
        source.check_unchanged()


def test_a_file_is_its_sha256(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"weights")
    source = FileSource("resnet50", path)
    assert source.digest == hashlib.sha256(b"weights").digest()
    assert source.n_bytes() == 7
    source.check_unchanged()
    path.write_bytes(b"others")
    with pytest.raises(UnsupportedModelError, match=r"model\.pth changed while.*Call again"):
        source.check_unchanged()


def test_random_weights_are_those_of_a_release_of_torch(monkeypatch):
    source = RandomSource("resnet50", lambda: 64)
    assert source.n_bytes() == 64
    source.check_unchanged()
    digest = source.digest
    monkeypatch.setattr(torch, "__version__", "1.0.0")
    assert RandomSource("resnet50", lambda: 0).digest != digest


def test_random_weights_are_those_of_one_model():
    names = ("resnet18", "resnet34")  # whose vectors have the same width
    assert len({RandomSource(name, lambda: 0).digest for name in names}) == 2
