"""A map shows every row once, says how far it can be trusted, and is the same again."""

import sys
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import EmbeddingMapDisplay
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    MissingDependencyError,
    SkembedWarning,
)
from skembed.inspection._thumbnails import open_picture

VECTORS, CLASSES = make_blobs(60, 8, centers=3, random_state=0)
NAMES = np.array(["cats", "dogs", "bills"])[CLASSES]


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def draw(vectors=VECTORS, y=None, **params):
    return EmbeddingMapDisplay.from_embeddings(vectors, y, **{"method": "pca", **params})


@pytest.mark.parametrize("method", ["umap", "tsne", "pca"])
def test_the_same_seed_gives_the_same_map(method):
    first, again = draw(method=method), draw(method=method)
    assert first.places.shape == (60, 2)
    np.testing.assert_array_equal(first.places, again.places)


def test_every_row_is_drawn_once_in_the_colour_of_its_class():
    display = draw(y=NAMES)
    assert [each.get_label() for each in display.points_] == ["bills", "cats", "dogs"]
    for points, name in zip(display.points_, ["bills", "cats", "dogs"], strict=True):
        np.testing.assert_allclose(points.get_offsets(), display.places[name == NAMES])
    assert len({tuple(each.get_facecolor()[0]) for each in display.points_}) == 3
    assert sorted(text.get_text() for text in display.labels_) == ["bills", "cats", "dogs"]


def test_numbers_get_a_bar_and_few_whole_numbers_are_classes():
    numbers = draw(y=np.linspace(0, 1, 60))
    (points,) = numbers.points_
    np.testing.assert_array_equal(points.get_array(), np.linspace(0, 1, 60))
    assert len(numbers.figure_.axes) == 2
    assert [each.get_label() for each in draw(y=CLASSES + 9).points_] == ["9", "10", "11"]


def test_rows_of_no_cluster_are_grey_and_rare_classes_share_a_colour():
    assert draw(y=np.where(CLASSES == 0, -1, CLASSES)).points_[0].get_label() == "none"
    many = np.array([f"class {i % 30}" for i in range(60)])
    points = draw(y=many).points_
    assert len(points) == 20
    assert points[0].get_label() == "11 other classes"
    assert sum(len(each.get_offsets()) for each in points) == 60


def test_many_whole_numbers_with_minus_one_are_clusters():
    (numbers,) = draw(y=np.arange(60) % 26).points_
    np.testing.assert_array_equal(numbers.get_array(), np.arange(60) % 26)
    y = np.arange(60) % 26 - 1
    display = draw(y=y)
    assert len(display.figure_.axes) == 1
    none, *clusters = display.points_
    assert none.get_label() == "6 other classes"
    kept = [int(each.get_label()) for each in clusters]
    assert len(kept) == 19
    np.testing.assert_allclose(none.get_offsets(), display.places[~np.isin(y, kept)])


def test_classes_come_as_a_frame_and_missing_or_blank_ones_have_names():
    y = pd.DataFrame({"class": ["a", "", pd.NA] * 20}, index=range(60, 0, -1))
    display = draw(y=y)
    names = ["none", "(blank)", "a"]
    assert [each.get_label() for each in display.points_] == names
    assert [each.get_text() for each in display.ax_.get_legend().get_texts()] == names
    with pytest.raises(InvalidInputError, match=r"y: expected one value .* got shape \(60, 2\)"):
        draw(y=np.zeros((60, 2)))


@pytest.mark.parametrize("n_classes", [3, 16])
def test_names_on_the_map_do_not_overlap(n_classes):
    names = np.array([f"a long name {i % n_classes}" for i in range(60)])
    display = draw(y=names, ax=plt.figure().subplots())
    display.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in display.labels_]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_name_stands_where_most_of_its_class_is_not_between_its_parts():
    rng = np.random.default_rng(0)
    parts = np.repeat([[0, 0], [0, 9], [9, 0]], [700, 500, 500], axis=0)
    places = rng.normal(scale=0.3, size=(1700, 2)) + parts
    display = EmbeddingMapDisplay(places=places, y=["apart"] * 1700).plot()
    assert np.abs(display.labels_[0].get_position()).max() < 0.3


def test_the_quality_is_that_of_a_slow_count():
    display = draw(metric="euclidean")
    quality, places = display.quality_, display.places

    def nearest(points):
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        return distances.argsort(axis=1)[:, :10]

    vectors = VECTORS.astype(np.float32)
    shared = [
        len(set(a) & set(b)) / 10 for a, b in zip(nearest(vectors), nearest(places), strict=True)
    ]
    assert quality.knn_recall == pytest.approx(np.mean(shared))
    expected = trustworthiness(vectors, places, n_neighbors=10)
    assert quality.trustworthiness == pytest.approx(expected)
    assert f"{quality.knn_recall:.0%} of each row's 10" in display.ax_.get_xlabel()


def test_the_recall_of_cosine_is_that_of_a_slow_count():
    vectors = VECTORS.astype(np.float32)
    vectors[5] = 0
    display = draw(vectors, y=None)

    def nearest(distances):
        np.fill_diagonal(distances, np.inf)
        return distances.argsort(axis=1, kind="stable")[:, :10]

    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    places = display.places
    near = nearest(1 - unit @ unit.T)
    near_here = nearest(np.linalg.norm(places[:, None] - places[None], axis=-1))
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(near, near_here, strict=True)]
    # A zero is as far from all, so that its neighbours are any.
    assert display.quality_.knn_recall == pytest.approx(np.mean(shared), abs=1 / 60)


def test_captions_of_maps_side_by_side_do_not_meet():
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for ax in axes:
        draw(ax=ax)
    figure.canvas.draw()
    boxes = [ax.xaxis.label.get_window_extent() for ax in axes]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_a_map_of_noise_says_that_it_lies():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(300, 64))
    assert draw(noise).quality_.knn_recall < 0.2
    flat = np.column_stack([rng.normal(size=(300, 2)), np.zeros((300, 62))])
    assert draw(flat, metric="euclidean").quality_.knn_recall > 0.99


def test_a_new_row_lands_among_its_neighbours_whatever_comes_with_it():
    display = draw(metric="euclidean")
    new = VECTORS[:5] + 0.01
    together = display.place(new)
    alone = np.concatenate([display.place(row[None]) for row in new])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(display.place(VECTORS[:5]), display.places[:5], atol=1e-4)
    spread = np.ptp(display.places, axis=0).max()
    assert np.abs(together - display.places[:5]).max() < 0.1 * spread


def test_new_rows_without_a_vector_have_no_place():
    display = draw()
    new = VECTORS[:3].copy()
    new[1, 2] = np.nan
    found = display.place(new)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], display.place(VECTORS[[0, 2]]))
    assert display.place(new[:0]).shape == (0, 2)


def test_large_sets_are_sampled_and_the_caption_says_so():
    display = draw(y=CLASSES, max_rows=20)
    assert len(display.places) == 20
    assert "PCA of 20 of 60 rows" in display.ax_.get_xlabel()
    np.testing.assert_array_equal(display.y, CLASSES[display.rows])
    np.testing.assert_allclose(display.vectors, VECTORS[display.rows].astype(np.float32))


def test_rows_without_a_vector_are_left_out_and_named():
    vectors = VECTORS.copy()
    vectors[[3, 7]] = np.nan
    with pytest.warns(SkembedWarning, match=r"2 of 60 rows have no vector .*rows 3, 7"):
        display = draw(vectors, y=NAMES)
    assert len(display.places) == 58
    assert 3 not in display.rows


def test_known_places_are_drawn_as_they_are_and_judged():
    places = VECTORS[:, :2]
    display = draw(places=places)
    np.testing.assert_allclose(display.places, places.astype(np.float32))
    assert display.ax_.get_xlabel().startswith("Map of 60 rows\ntrustworthiness")


def test_pictures_are_drawn_far_from_each_other():
    images = [np.full((9, 7, 3), i, dtype=np.uint8) for i in range(60)]
    display = draw(images=images, n_images=5)
    boxes = [a for a in display.ax_.artists if hasattr(a, "xybox")]
    assert len(boxes) == 5
    shown = {int(box.offsetbox.get_data().flat[0]) for box in boxes}
    at = {tuple(np.float32(box.xy)) for box in boxes}
    assert at == {tuple(display.places[i]) for i in shown}


def test_pictures_are_those_of_the_rows_whatever_their_index_and_may_be_missing():
    pictures = [None, *(np.full((9, 7, 3), i, dtype=np.uint8) for i in range(1, 60))]
    images = pd.Series(pictures, index=range(60)[::-1])
    display = draw(images=images, n_images=60)
    boxes = [a for a in display.ax_.artists if hasattr(a, "xybox")]
    at = {int(box.offsetbox.get_data().flat[0]): box.xy for box in boxes}
    assert sorted(at) == list(range(1, 60))
    for i, place in at.items():
        np.testing.assert_allclose(place, display.places[i])


def test_a_pipeline_is_drawn_up_to_its_classifier():
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(VECTORS, CLASSES)
    display = EmbeddingMapDisplay.from_estimator(pipe, VECTORS, CLASSES, method="pca")
    np.testing.assert_allclose(display.vectors, pipe[0].transform(VECTORS), rtol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_rows_are_drawn_too(n):
    for method in ("tsne", "pca", "umap"):
        display = draw(VECTORS[:n], y=NAMES[:n], method=method)
        assert display.places.shape == (n, 2)


def test_what_does_not_fit_is_said():
    with pytest.raises(InvalidInputError, match=r"y: expected one for each of the 60 rows, got 3"):
        draw(y=[1, 2, 3])
    with pytest.raises(InvalidInputError, match=r"images: .* 60 rows, got 1"):
        draw(images=["a.png"])
    with pytest.raises(InvalidInputError, match=r"shape \(n_rows, n_features\), got \(8,\)"):
        draw(VECTORS[0])
    with pytest.raises(InvalidParameterError, match="Did you mean 'umap'"):
        draw(method="unap")
    wrong = {"method": "unap", "metric": "cosin", "max_rows": -1}
    with pytest.raises(InvalidParameterError, match=r"method=.*\nmetric=.*'cosine'.*\nmax_rows=-1"):
        draw(**wrong)
    with pytest.raises(InvalidParameterError, match=r"max_rows='5': expected an int of at least 1"):
        draw(max_rows="5")
    with pytest.raises(InvalidInputError, match=r"vectors: .* sparse .* Use vectors\.toarray\(\)"):
        draw(sparse.csr_matrix(VECTORS))
    for vectors in (["a text", "another"], [[1, 2], [3]]):
        with pytest.raises(InvalidInputError, match="vectors: expected rows of numbers, got"):
            draw(vectors)
    with pytest.raises(InvalidParameterError, match="no transform"):
        EmbeddingMapDisplay.from_estimator(LogisticRegression(), VECTORS)
    with pytest.raises(InvalidInputError, match=r"shape \(n, 8\), got \(2, 3\)"):
        draw().place(np.zeros((2, 3)))


def test_without_umap_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingDependencyError, match=r"pip install skembed\[maps\]"):
        draw(method="umap")


def test_pictures_on_a_map_are_upright_as_they_are_embedded(tmp_path):
    picture = Image.new("RGB", (30, 10), "red")
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=orientation)
    assert open_picture(tmp_path / "a.jpg", 40).size == (10, 30)


def test_a_map_by_umap_leaves_torch_its_threads(monkeypatch):
    umap = pytest.importorskip("umap")
    n_threads = torch.get_num_threads()

    class UMAP:
        """As numba does when the first parallel function of a process runs."""

        def __init__(self, **settings):
            pass

        def fit_transform(self, vectors):
            torch.set_num_threads(n_threads + 1)
            return vectors[:, :2]

    monkeypatch.setattr(umap, "UMAP", UMAP)
    draw(method="umap")
    found = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    assert found == n_threads
