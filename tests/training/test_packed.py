"""Arrays and facts in one file: what comes back is what was given, or an error."""

import numpy as np
import pytest
import safetensors.numpy

from skembed.training._packed import facts_in, pack, unpack

ARRAYS = {
    "a scalar": np.float32(3.5) * np.ones(()),
    "a matrix: by columns": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "nothing": np.zeros((0, 3), np.float32),
    "numbers": np.array([1, -(1 << 60)]),
    "answers": np.array([True, False]),
    "odd": np.array([1, 2, 3], np.uint8),
}
FACTS = {"losses": [0.1 + 0.2, float("inf")], "name": "é", "none": None}
DATA = b"".join(pack(ARRAYS, FACTS))


def test_what_was_packed_comes_back():
    arrays, facts = unpack(DATA)
    assert facts == FACTS
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_others_can_read_it(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    arrays = safetensors.numpy.load_file(tmp_path / "file")
    np.testing.assert_array_equal(arrays["numbers"], ARRAYS["numbers"])
    assert facts_in(tmp_path / "file") == FACTS


@pytest.mark.parametrize("place", [0, 9, 40, 200, -1])
def test_a_changed_byte_is_damage(place):
    data = bytearray(DATA)
    data[place] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        unpack(bytes(data))


@pytest.mark.parametrize("n_bytes", [0, 3, 8, 100, len(DATA) - 1])
def test_a_file_that_was_cut_is_damage(n_bytes):
    with pytest.raises(ValueError, match="damaged"):
        unpack(DATA[:n_bytes])
