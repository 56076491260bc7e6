"""Pictures that change, vanish or take too much memory while they are being embedded."""

import io
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skembed import EmbeddingStore, ImageEmbedder
from skembed.exceptions import InvalidRowsError, InvalidRowsWarning
from skembed.image import _encoder
from skembed.image._encoder import ImageEncoder
from tests.image.networks import TinyNetwork, pictures, to_pixels, to_small_pixels, write_files


def embedder_of(store, **params):
    return ImageEmbedder(
        TinyNetwork(), preprocess=to_pixels, dtype="float32", cache=store, **params
    )


@pytest.fixture
def before_decoding(monkeypatch):
    """Return a list; what is put there is called once, when rows are decoded for the first time."""
    actions = []
    prepare = ImageEncoder.prepare

    def act_and_prepare(self, items):
        while actions:
            actions.pop()()
        return prepare(self, items)

    monkeypatch.setattr(ImageEncoder, "prepare", act_and_prepare)
    return actions


def stack_of(arrays):
    return np.stack(arrays)


def tensors_of(arrays):
    return [torch.from_numpy(each).permute(2, 0, 1) for each in arrays]


def images_of(arrays):
    return [Image.fromarray(each) for each in arrays]


def blacken(row):
    """Make a picture in memory black, wherever it lies."""
    if isinstance(row, Image.Image):
        row.paste((0, 0, 0), (0, 0, *row.size))
    else:
        row[...] = 0


@pytest.mark.parametrize("make", [list, stack_of, tensors_of, images_of])
def test_what_is_overwritten_meanwhile_is_a_fault_not_a_wrong_vector(make, before_decoding):
    arrays = pictures(3, sizes=[(12, 20)])
    store = EmbeddingStore()
    rows = make([each.copy() for each in arrays])
    before_decoding.append(lambda: blacken(rows[1]))
    with pytest.raises(InvalidRowsError, match=r"row 1: .*: it changed while it was being") as e:
        embedder_of(store).transform(rows)
    assert list(e.value.faults) == [1]
    # Neither the old content nor the new one has a vector that is not its own.
    np.testing.assert_allclose(
        embedder_of(store).transform(make(arrays)),
        embedder_of(None).transform(make(arrays)),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        embedder_of(store).transform(rows), embedder_of(None).transform(rows), atol=1e-6
    )


def test_an_image_whose_file_is_overwritten_meanwhile_is_a_fault(before_decoding):
    file = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(file, "BMP")
    other = io.BytesIO()
    Image.fromarray(pictures(2)[1][:12, :9]).resize((20, 12)).save(other, "BMP")

    def overwrite():
        file.seek(0)
        file.write(other.getvalue())

    before_decoding.append(overwrite)
    with pytest.raises(InvalidRowsError, match=r"row 0: a PIL image: it changed while"):
        embedder_of(None).transform([Image.open(file)])


def test_copies_of_a_file_that_is_gone_are_embedded_and_so_is_it(tmp_path, before_decoding):
    a, b = pictures(2)
    paths = write_files(tmp_path, [a, b, a, a])
    expected = embedder_of(None).transform(paths)
    before_decoding.append(lambda: [Path(paths[i]).unlink() for i in (0, 1, 2)])
    embedder = embedder_of(EmbeddingStore(), on_error="nan")
    with pytest.warns(InvalidRowsWarning, match=r"1 of 4 rows") as caught:
        found = embedder.transform(paths)
    assert len(caught) == 1
    assert embedder.report_.faults == {
        1: f"{paths[1]!r}: it can no longer be read: No such file or directory"
    }
    np.testing.assert_allclose(found[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-6)
    assert np.isnan(found[1]).all()
    assert (embedder.report_.n_distinct, embedder.report_.n_encoded) == (1, 1)


def test_each_of_several_damaged_files_goes_by_its_own_name(tmp_path):
    data = Path(write_files(tmp_path, pictures(1))[0]).read_bytes()[:-40]
    paths = [str(tmp_path / name) for name in ("x.png", "y.png")]
    for path in paths:
        Path(path).write_bytes(data)
    with pytest.raises(InvalidRowsError, match=r"x\.png': damaged") as caught:
        embedder_of(None).transform(paths)
    assert [repr(path) in caught.value.faults[i] for i, path in enumerate(paths)] == [True, True]


class _Peak:
    """Counts the prepared pictures that are alive, and the most there ever were."""

    def __init__(self):
        self.n, self.most, self._lock = 0, 0, threading.Lock()

    def _add(self, n):
        with self._lock:
            self.n += n
            self.most = max(self.most, self.n)

    def watch(self, tensor):
        self._add(1)
        weakref.finalize(tensor, self._add, -1)
        return tensor


@pytest.fixture
def peak(monkeypatch):
    peak = _Peak()
    prepare_one = ImageEncoder._prepare_one

    def watched(self, item):
        found = prepare_one(self, item)
        for part in found.parts:
            peak.watch(part)
        return found

    monkeypatch.setattr(ImageEncoder, "_prepare_one", watched)
    return peak


def distinct_stack(n):
    stack = np.zeros((n, 8, 8, 3), np.uint8)
    stack[:, 0, 0, 0], stack[:, 0, 0, 1] = np.arange(n) // 256, np.arange(n) % 256
    return stack


def test_ten_thousand_pictures_are_not_prepared_at_once(peak):
    embedder = ImageEmbedder(
        TinyNetwork(), preprocess=to_small_pixels, dtype="float32", cache=None
    ).fit(distinct_stack(1))
    assert len(embedder.transform(distinct_stack(10_000))) == 10_000
    assert 2 <= peak.most <= 2 * embedder.encoder_.policy.n_ahead


def test_large_prepared_pictures_are_fewer_at_once(peak, monkeypatch):
    monkeypatch.setattr(_encoder, "_MOST_BYTES", 10 * 4 * 3 * 16 * 16)
    expected_of = distinct_stack(300)
    embedder = ImageEmbedder(
        TinyNetwork(), preprocess=to_small_pixels, dtype="float32", cache=None
    ).fit(expected_of[:1])
    found = embedder.transform(expected_of)
    assert 2 <= peak.most <= 10 + 2 * torch.get_num_threads()
    monkeypatch.undo()
    np.testing.assert_allclose(found, embedder.transform(expected_of), atol=1e-5)
