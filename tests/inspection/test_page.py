"""The file of a map: what is in it, how large it is, and what is refused."""

import base64
import fnmatch
import hashlib
import html
import json
import re
import sys
import zlib
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import polars as pl
import pytest

import skembed.inspection
from skembed import EmbeddingMapDisplay
from skembed.exceptions import InvalidInputError, InvalidParameterError, InvalidRowsError
from skembed.inspection._map import nearest_rows

if sys.version_info >= (3, 11):
    import tomllib

WEB = Path(skembed.inspection.__file__).parent / "_web"
RNG = np.random.default_rng(0)
PLACES = RNG.normal(size=(6, 2))
TEXTS = ["one", "two", None, 4.5, float("nan"), ""]


def display(n=6, **params):
    return EmbeddingMapDisplay(places=PLACES[:n], **params)


def block(path, name):
    found = re.search(f'<script type="application/json" id="{name}">([^<]*)</script>', read(path))
    return found and found[1]


def unpacked(path, name):
    return zlib.decompress(base64.b64decode(block(path, name)))


def read(path):
    return path.read_text(encoding="utf-8")


def test_ten_thousand_rows_of_text_take_less_than_five_megabytes(tmp_path):
    n = 10_000
    letters = np.array(list("etaoinshrdlucmfw"))
    words = np.array(["".join(RNG.choice(letters, RNG.integers(2, 10))) for _ in range(5_000)])
    # As in prose, some words come often and most come rarely.
    drawn = words[np.minimum(RNG.zipf(1.3, (n, 80)), 5_000) - 1]
    texts = [" ".join(row)[:430] for row in drawn.tolist()]
    assert np.mean([len(text) for text in texts]) > 400
    made = EmbeddingMapDisplay(
        places=RNG.normal(size=(n, 2)), vectors=RNG.normal(size=(n, 8)), y=np.arange(n) % 7
    )
    path = made.to_html(tmp_path / "map.html", texts=texts)
    assert path.stat().st_size < 5e6
    assert json.loads(unpacked(path, "texts")) == texts


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS, index=[9, 3, 3, 1, 0, -5], dtype=object),
        pd.DataFrame({"review": pd.Series(TEXTS, dtype=object)}, index=list("fedcba")),
    ],
    ids=["list", "array", "Series", "frame"],
)
def test_texts_come_as_any_column_of_rows(tmp_path, texts):
    frame = isinstance(texts, pd.DataFrame)
    texts = texts if not frame else texts.assign(review=TEXTS)
    path = display().to_html(tmp_path / "map.html", texts=texts)
    assert json.loads(unpacked(path, "texts")) == ["one", "two", "", "4.5", "", ""]


def test_a_column_of_polars_is_taken_too(tmp_path):
    path = display(2).to_html(tmp_path / "map.html", texts=pl.Series(["a", None]))
    assert json.loads(unpacked(path, "texts")) == ["a", ""]


def test_a_sample_has_the_texts_and_positions_of_its_rows(tmp_path):
    rows = np.array([1, 3, 4])
    made = EmbeddingMapDisplay(places=PLACES[:3], rows=rows, n_rows=6)
    path = made.to_html(tmp_path / "map.html", texts=list("abcdef"))
    assert json.loads(unpacked(path, "texts")) == ["b", "d", "e"]
    assert np.frombuffer(unpacked(path, "positions"), "<u4").tolist() == [1, 3, 4]


def test_places_keep_their_shape(tmp_path):
    path = display().to_html(tmp_path / "map.html")
    found = np.frombuffer(unpacked(path, "places"), "<f4").reshape(-1, 2)
    assert np.abs(found).max() == pytest.approx(1)
    distances = [np.linalg.norm(each[:, None] - each[None], axis=-1) for each in (found, PLACES)]
    np.testing.assert_allclose(*(each / each.max() for each in distances), atol=1e-6)


def test_the_same_map_is_the_same_file(tmp_path):
    first, again = (display().to_html(tmp_path / name, texts=TEXTS) for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()


def test_the_policy_names_the_scripts_and_nothing_else(tmp_path):
    path = display(y=["</script><script>evil()</script>"] * 6).to_html(tmp_path / "map.html")
    page = read(path)
    policy = html.unescape(re.search(r'Security-Policy" content="([^"]*)"', page)[1])
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'"
        for each in [*scripts, style]
    ]
    assert len(scripts) == 2
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src {hashes[0]} {hashes[1]} 'unsafe-eval'",
        f"style-src {hashes[2]}",
        "img-src data:",
        "media-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "evil" in block(path, "about")
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)


def test_our_scripts_set_text_and_never_html():
    for name in ("data.js", "map.js", "page.js"):
        script = (WEB / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script
        )
        assert script.isascii()


def test_the_library_is_the_one_that_was_built_and_has_its_licences():
    library = (WEB / "regl-scatterplot.min.js").read_bytes()
    readme = (WEB / "README.md").read_text()
    assert re.search("sha256 of the built file: `(.*)`", readme)[1] == (
        hashlib.sha256(library).hexdigest()
    )
    licences = (WEB / "LICENSES.txt").read_text()
    assert library.decode().startswith(f"/* {licences.rstrip()} */")
    for name in ("regl-scatterplot", "regl", "pub-sub-es"):
        assert re.search(f"^  {name} +Copyright", licences, re.MULTILINE)
        assert f"{name}@" in readme


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_wheels_have_the_files_of_the_page():
    root = Path(__file__).parents[2]
    with (root / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    patterns = project["tool"]["setuptools"]["package-data"]["skembed"]
    for path in WEB.iterdir():
        name = path.relative_to(root / "skembed").as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
    assert "skembed/inspection/_web/LICENSES.txt" in project["project"]["license-files"]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_rows_are_those_of_a_slow_search(metric):
    vectors = RNG.normal(size=(200, 5)).astype(np.float32)
    vectors[7] = 0
    given = vectors.astype(float)
    if metric == "cosine":
        norms = np.linalg.norm(given, axis=1, keepdims=True)
        unit = given / np.where(norms == 0, 1, norms)
        distances = 1 - unit @ unit.T
    else:
        distances = np.linalg.norm(given[:, None] - given[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    found = nearest_rows(vectors, metric=metric)
    assert found.shape == (200, 10)
    others = np.delete(np.arange(200), 7)  # a zero is as far from all
    np.testing.assert_array_equal(found[others], np.argsort(distances, axis=1)[others, :10])


def test_equal_rows_are_each_others_neighbours_and_none_is_its_own():
    found = nearest_rows(np.repeat(RNG.normal(size=(2, 4)), 30, axis=0), metric="cosine")
    assert not (found == np.arange(60)[:, None]).any()
    assert ((found < 30) == (np.arange(60) < 30)[:, None]).all()


def test_other_lengths_and_single_rows_are_refused(tmp_path):
    for name in ("texts", "images", "sounds"):
        message = rf"{name}: expected one for each of the 6 rows, got 2"
        with pytest.raises(InvalidInputError, match=message):
            display().to_html(tmp_path / "map.html", **{name: ["a", "b"]})
    with pytest.raises(InvalidInputError, match=r"texts: expected a list .* got a str"):
        display().to_html(tmp_path / "map.html", texts="a text")
    table = pd.DataFrame({"name": list("abcdef"), "price": range(6)})
    with pytest.raises(InvalidInputError, match=r"2 columns .*Choose one, for example X\['name'\]"):
        display().to_html(tmp_path / "map.html", texts=table)
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_no_numbers_are_named():
    places = PLACES.copy()
    places[[1, 4], 0] = np.nan, np.inf
    with pytest.raises(InvalidInputError, match=r"places: expected finite .* in rows 1, 4\."):
        EmbeddingMapDisplay(places=places)


def test_rows_whose_pictures_or_sounds_cannot_be_read_are_named(tmp_path):
    rows = np.array([1, 3, 5])
    made = EmbeddingMapDisplay(places=PLACES[:3], rows=rows, n_rows=6)
    images = [np.zeros((4, 4), np.uint8)] * 6
    images[1], images[3] = "missing.png", {}
    images[0] = "not on the map"
    with pytest.raises(
        InvalidRowsError, match=r"images: 2 of the map's 3 rows .*\n.*row 1: no"
    ) as e:
        made.to_html(tmp_path / "map.html", images=images)
    assert list(e.value.faults) == [1, 3]
    sounds = [RNG.normal(size=800)] * 6
    assert made.to_html(tmp_path / "map.html", sounds=sounds, sampling_rate=8000).exists()
    sounds[5] = b"no sound"
    with pytest.raises(InvalidRowsError, match=r"sounds: 1 of the map's 3 rows .*\n.*row 5:"):
        made.to_html(tmp_path / "map.html", sounds=sounds, sampling_rate=8000)


def test_rows_without_a_picture_or_sound_have_none(tmp_path):
    picture, tone = np.zeros((4, 4), np.uint8), RNG.normal(size=800)
    images = pd.Series(
        [None, picture, float("nan"), picture, pd.NA, "not on the map"], list("feabcd")
    )
    made = EmbeddingMapDisplay(places=PLACES[:5], rows=np.arange(5), n_rows=6)
    sounds = [tone, None, None, None, tone, None]
    path = made.to_html(tmp_path / "a.html", images=images, sounds=sounds, sampling_rate=8000)
    for name, expected in [("pictures", [0, 1, 0, 1, 0]), ("sounds", [1, 0, 0, 0, 1])]:
        assert [each is not None for each in json.loads(block(path, name))] == expected
    images.iloc[3] = "missing.png"
    with pytest.raises(InvalidRowsError, match=r"1 of the map's 5 rows(?s:.*)give None") as caught:
        made.to_html(tmp_path / "a.html", images=images)
    assert list(caught.value.faults) == [3]
    none = made.to_html(tmp_path / "none.html", images=[None] * 6)
    assert json.loads(block(none, "pictures")) == [None] * 5


def test_pictures_of_other_numbers_are_refused_with_what_helps_here(tmp_path):
    digits = np.full((6, 8, 8), 16.0)
    with pytest.raises(InvalidRowsError, match=r"no value_range: scale arrays to 0\.\.1, or to 0"):
        display().to_html(tmp_path / "map.html", images=digits)


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert display().to_html("~/map.html") == tmp_path / "map.html"


def test_files_that_would_be_too_large_are_refused_with_what_to_do(tmp_path):
    noise = RNG.integers(0, 255, (6, 64, 64, 3), np.uint8)
    path = tmp_path / "map.html"
    advice = r"max_rows=.*image_size=, sound_seconds=.*or raise max_megabytes="
    with pytest.raises(
        InvalidParameterError, match=rf"max_megabytes=0\.01: 6 of 6 images.*{advice}"
    ):
        display().to_html(path, images=noise, max_megabytes=0.01)
    with pytest.raises(InvalidParameterError, match=r"max_megabytes=0\.001: 6 of 6 texts are"):
        display().to_html(path, texts=RNG.bytes(6000).hex(" ", 1000).split(), max_megabytes=0.001)
    assert not path.exists()
    small = display().to_html(path, images=noise, image_size=16, max_megabytes=0.5)
    assert small.stat().st_size < 5e5


def test_all_parameters_that_cannot_be_are_named_at_once(tmp_path):
    wrong = {"image_size": "big", "sound_seconds": 0, "max_megabytes": None, "title": 3}
    with pytest.raises(InvalidParameterError, match="path=") as caught:
        display().to_html(tmp_path / "nowhere" / "map.html", **wrong)
    with pytest.raises(
        InvalidParameterError, match=r"image_size=0\.5: expected an int of at least"
    ):
        display().to_html(tmp_path / "map.html", image_size=0.5)
    named = [line.partition("=")[0] for line in str(caught.value).splitlines()]
    assert named == ["path", "title", "image_size", "sound_seconds", "max_megabytes"]


def test_classes_keep_their_names_and_the_colours_of_the_drawn_map(tmp_path):
    y = ["b", "a", "a", None, "b", "a"]
    about = json.loads(block(display(y=y).to_html(tmp_path / "map.html"), "about"))
    colours = [matplotlib.colors.to_hex(each) for each in matplotlib.colormaps["tab10"].colors[:2]]
    assert (about["names"], about["colours"]) == (["a", "b", "none"], [*colours, None])


def test_rare_classes_are_grey_but_keep_their_names(tmp_path):
    y = [f"class {i}" for i in [*range(40), *range(10)]]
    made = EmbeddingMapDisplay(places=RNG.normal(size=(50, 2)), y=y)
    path = made.to_html(tmp_path / "map.html")
    about = json.loads(block(path, "about"))
    assert len(about["names"]) == 40
    assert sum(colour is None for colour in about["colours"]) == 21
    codes = np.frombuffer(unpacked(path, "codes"), "<u4")
    assert [about["names"][code] for code in codes] == y
