"""State dicts are read, and nothing in the files is run."""

import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skembed.exceptions import ModelNotFoundError, UnsafeModelError, UnsupportedModelError
from skembed.weights import check_weights, load_state

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.n": torch.tensor(3)}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def assert_same(state, expected=STATE):
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    assert_same(dict(sorted(load_state(tmp_path / "a.safetensors").items(), reverse=True)))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_state_dicts_of_torch_save_are_read(tmp_path, suffix, is_zip):
    path = tmp_path / f"a{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=is_zip)
    assert_same(load_state(path))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model_state", "model"])
def test_a_state_dict_within_a_training_checkpoint_is_found(tmp_path, key):
    torch.save({"epoch": 3, key: STATE, "loss": 0.5}, tmp_path / "a.pt")
    assert_same(load_state(tmp_path / "a.pt"))


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {}, {"epoch": 3}, {"w": "text"}])
def test_what_is_no_state_dict_is_refused_with_what_it_is(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UnsupportedModelError, match=r"holds no state dict: .* got a"):
        load_state(tmp_path / "a.pt")


@pytest.mark.parametrize("kwargs", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path, kwargs, protocol):
    target = tmp_path / "written"
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": Bomb(target)}, path, pickle_protocol=protocol, **kwargs)
    with pytest.raises(UnsafeModelError, match=r"is not loaded: .* run code .*safetensors"):
        load_state(path)
    assert not target.exists()


def test_the_refusal_names_what_would_be_called(tmp_path):
    torch.save({"w": Bomb(tmp_path / "written")}, tmp_path / "pytorch_model.bin")
    for read in (
        lambda: load_state(tmp_path / "pytorch_model.bin"),
        lambda: check_weights(tmp_path),
    ):
        with pytest.raises(UnsafeModelError, match=rf"it names {os.mkdir.__module__}\.mkdir"):
            read()


def test_a_bare_pickle_is_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": Bomb(tmp_path / "written")}))
    with pytest.raises(UnsafeModelError, match="is not loaded"):
        load_state(tmp_path / "a.pt")
    assert not (tmp_path / "written").exists()


def test_objects_that_are_no_tensors_are_refused_by_name(tmp_path):
    torch.save({"best": np.float64(3)}, tmp_path / "a.pt")
    with pytest.raises(UnsafeModelError, match=r"names numpy\S*\.scalar"):
        load_state(tmp_path / "a.pt")


def test_a_torchscript_archive_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(UnsafeModelError, match="a TorchScript archive"):
        load_state(tmp_path / "a.pt")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("n_kept", [0, 1, 20, 200, -4, -40])
def test_a_file_cut_short_is_damaged_not_unsafe(tmp_path, is_zip, n_kept):
    path = tmp_path / "a.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[:n_kept])
    with pytest.raises(UnsupportedModelError, match="is damaged, or was not written") as caught:
        load_state(path)
    assert not isinstance(caught.value, UnsafeModelError)


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes().replace(b"F32", b"F33"))
    with pytest.raises(UnsupportedModelError, match="is damaged"):
        load_state(path)


def test_other_formats_and_absent_files_are_told_apart(tmp_path):
    (tmp_path / "a.h5").write_text("")
    with pytest.raises(UnsupportedModelError, match=r"expected one of \.bin"):
        load_state(tmp_path / "a.h5")
    with pytest.raises(ModelNotFoundError, match="There is no weight file"):
        load_state(tmp_path / "a.pt")
