"""export_projector writes what TensorBoard's projector plugin gives back as it was."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client

from skembed.exceptions import InvalidInputError, InvalidParameterError, InvalidRowsError
from skembed.inspection import export_projector
from skembed.inspection._sprite import side_of

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
NAMES = ["a", "b", "c", "d", "e", "f"]
HOSTILE = ["tab\there", "line\nbreak", "\r\n", "nul\0", "", "\u2028\x85\x0b\x0c\x1c\ud800end"]


def served(folder):
    """Return a function that asks TensorBoard's plugin for a file of the folder."""
    provider = MultiplexerDataProvider(EventMultiplexer(), str(folder))
    plugin = ProjectorPlugin(SimpleNamespace(data_provider=provider, logdir=str(folder)))
    apps = plugin.get_plugin_apps()

    def get(route):
        answer = Client(apps[route]).get(f"{route}?run=.&name=embeddings&num_rows=100000")
        assert answer.status_code == 200, answer.data
        return answer.data

    return get


def tensor_of(get):
    config = json.loads(get("/info"))["embeddings"][0]
    return np.frombuffer(get("/tensor"), dtype=np.float32).reshape(config["tensorShape"])


def table_of(get):
    """Return names and rows as the projector's page reads them: blank lines are skipped."""
    lines = [line for line in get("/metadata").decode().split("\n") if line.strip()]
    cells = [line.split("\t") for line in lines]
    return (cells[0], cells[1:]) if len(cells[0]) > 1 else (None, cells)


def test_tensorboard_gives_back_numbers_metadata_and_pictures(tmp_path):
    images = [np.full((8, 8, 3), 40 * i, dtype=np.uint8) for i in range(6)]
    get = served(export_projector(tmp_path / "new" / "one", X, NAMES, images, image_size=8))
    np.testing.assert_array_equal(tensor_of(get), X)
    assert table_of(get) == (None, [[name] for name in NAMES])
    config = json.loads(get("/info"))["embeddings"][0]
    assert config["sprite"]["singleImageDim"] == [8, 8]
    sheet = np.asarray(Image.open(io.BytesIO(get("/sprite_image"))))
    assert sheet.shape == (16, 24, 3)
    for i in range(6):
        line, column = divmod(i, 3)
        tile = sheet[line * 8 : line * 8 + 8, column * 8 : column * 8 + 8]
        np.testing.assert_array_equal(tile, images[i])


def test_the_configuration_is_a_protocol_buffer_with_nothing_unknown(tmp_path):
    folder = export_projector(tmp_path / "one", X, NAMES, [None] * 6)
    text = (folder / "projector_config.pbtxt").read_text(encoding="utf-8")
    (found,) = text_format.Parse(text, ProjectorConfig()).embeddings
    assert (found.tensor_path, list(found.tensor_shape)) == ("tensors.tsv", [6, 4])
    assert (found.metadata_path, found.sprite.image_path) == ("metadata.tsv", "sprite.png")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2))
def test_any_float32_is_read_back_as_it_is(tmp_path_factory, numbers):
    vectors = np.array([numbers, numbers], dtype=np.float32)
    get = served(export_projector(tmp_path_factory.mktemp("one"), vectors))
    np.testing.assert_array_equal(tensor_of(get), vectors)


def test_numbers_that_are_text_as_bytes_are_read_back_too(tmp_path):
    vectors = np.array([[2.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    assert vectors.tobytes().decode() == "\0\0\0@" + "\0" * 8 + "\0\0\0@"
    np.testing.assert_array_equal(tensor_of(served(export_projector(tmp_path, vectors))), vectors)


def test_hostile_texts_keep_one_line_a_row(tmp_path):
    get = served(export_projector(tmp_path, X, {"text\n": HOSTILE, "n\t": range(6)}))
    names, rows = table_of(get)
    assert names == ["text ", "n "]
    assert [row[1] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [row[0] for row in rows] == [
        *("tab here", "line break", "", "nul ", ""),
        "     ?end",
    ]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), min_size=2, max_size=2), st.lists(st.text(), min_size=2, max_size=2))
def test_any_texts_keep_one_line_a_row(tmp_path_factory, first, second):
    for metadata in (first, {"a": first, "b": second}):
        get = served(export_projector(tmp_path_factory.mktemp("one"), X[:2], metadata))
        assert len(table_of(get)[1]) == 2


def test_a_row_of_nothing_gets_a_column_of_positions_so_that_no_line_is_blank(tmp_path):
    get = served(export_projector(tmp_path, X, pd.Series([None, "b", " ", "d", np.nan, "f"])))
    names, rows = table_of(get)
    assert names == ["row", "label"]
    assert rows == [[str(i), text] for i, text in enumerate(["", "b", "", "d", "", "f"])]
    get = served(export_projector(tmp_path, X, {"row": [None] * 6, "x": [1.5, None] * 3}))
    assert table_of(get)[0] == ["row_", "row", "x"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": NAMES, "n": [1.5, 2.0, None, 4.0, 5.0, 6.0]},
        pd.DataFrame({"name": NAMES, "n": [1.5, 2, None, 4, 5, 6]}, index=[9, 9, 8, 7, 1, 0]),
        pl.DataFrame({"name": NAMES, "n": [1.5, 2, None, 4, 5, 6]}),
        {"name": pl.Series(NAMES), "n": pd.Series([1.5, 2, None, 4, 5, 6], index=range(6, 0, -1))},
    ],
    ids=["dict", "pandas", "polars", "dict of Series"],
)
def test_any_table_is_written_alike(tmp_path, metadata):
    names, rows = table_of(served(export_projector(tmp_path, X, metadata)))
    assert names == ["name", "n"]
    assert rows[:3] == [["a", "1.5"], ["b", "2.0"], ["c", ""]]


@pytest.mark.parametrize(
    "metadata",
    [NAMES, np.array(NAMES), pd.Series(NAMES, index=range(6, 0, -1)), pl.Series(NAMES)],
    ids=["list", "array", "pandas", "polars"],
)
def test_one_column_has_no_header(tmp_path, metadata):
    assert table_of(served(export_projector(tmp_path, X, metadata))) == (None, [[n] for n in NAMES])
    frame = pd.DataFrame({"name": NAMES})
    assert table_of(served(export_projector(tmp_path, X, frame)))[0] is None


def test_pictures_of_any_shape_stand_in_the_middle_and_none_is_blank(tmp_path):
    images = [Image.new("L", (20, 10), 0), None, np.zeros((20, 10), dtype=np.uint8)]
    get = served(export_projector(tmp_path, X[:3], images=images, image_size=10))
    sheet = np.asarray(Image.open(io.BytesIO(get("/sprite_image"))))
    assert sheet.shape == (20, 20, 3)
    dark = sheet[..., 0] == 0
    assert dark[:10, :10].sum() == 50
    assert dark[2:7, :10].all() or dark[3:8, :10].all()
    assert not dark[:10, 10:].any()
    assert dark[10:, 3:8].all() or dark[10:, 2:7].all()


def test_small_pictures_grow_to_their_size(tmp_path):
    images = [np.full((2, 2, 3), 7, dtype=np.uint8)] * 2
    get = served(export_projector(tmp_path, X[:2], images=images, image_size=9))
    sheet = np.asarray(Image.open(io.BytesIO(get("/sprite_image"))))
    np.testing.assert_array_equal(sheet, np.full((9, 18, 3), 7))


def test_pictures_shrink_until_all_fit_in_what_the_projector_shows():
    assert side_of(1, 64) == side_of(128**2, 64) == 64
    for n in (128**2 + 1, 60_000, 100_000, 2**20):
        side = side_of(n, 64)
        assert 8 <= side < 64
        assert (8192 // side) ** 2 >= n > (8192 // (side + 1)) ** 2
    assert side_of(10, 3) == 3
    with pytest.raises(InvalidInputError, match=r"8 pixels a side 1,048,576 do. Export fewer"):
        side_of(2**20 + 1, 64)


def test_an_earlier_export_is_replaced_and_nothing_else_is(tmp_path):
    folder = export_projector(tmp_path / "one", X, NAMES, [None] * 6)
    export_projector(folder, X[:2])
    assert sorted(each.name for each in folder.iterdir()) == [
        "projector_config.pbtxt",
        "tensors.tsv",
    ]
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match=r"it holds notes.txt. Nothing is overwritten"):
        export_projector(folder, X)
    (tmp_path / "metadata.tsv").write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match=r"it holds metadata.tsv, one. Nothing"):
        export_projector(tmp_path, X)


def test_a_failed_export_leaves_the_earlier_one(tmp_path):
    folder = export_projector(tmp_path / "one", X)
    broken = [*[np.zeros((2, 2), np.uint8)] * 4, "nowhere.png", {}]
    with pytest.raises(InvalidRowsError, match=r"2 of 6 pictures(?s:.*)row 4: images: 'nowhere"):
        export_projector(folder, X, images=broken)
    np.testing.assert_array_equal(tensor_of(served(folder)), X)
    assert list(tmp_path.iterdir()) == [folder]


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    bad = X.copy()
    bad[[1, 4]] = np.nan
    with pytest.raises(InvalidInputError) as caught:
        export_projector(tmp_path, bad, {"a": [1], "b": NAMES, "b ": NAMES[:2]}, images=[None])
    for line in (
        "metadata: expected a value for each of the 6 rows, got 1 in 'a'",
        "got 2 in 'b '",
        "images: expected one for each of the 6 rows, got 1",
        "rows 1, 4: NaN, or beyond float32",
    ):
        assert line in str(caught.value)
    with pytest.raises(InvalidRowsError, match=r"2 of 6 rows(?s:.*)rows 1 .index 'b'., 4"):
        export_projector(tmp_path, pd.DataFrame(bad, index=NAMES))
    with pytest.raises(InvalidInputError, match="different names, got 'b' twice"):
        export_projector(tmp_path, X, pd.DataFrame([[1, 2]] * 6, columns=["b", "b"]))
    with pytest.raises(InvalidInputError, match="a name for each column, got a blank one"):
        export_projector(tmp_path, X, {"a": NAMES, "\n": NAMES})
    with pytest.raises(InvalidInputError, match="at least one column, got none"):
        export_projector(tmp_path, X, {})


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (X[0], r"got \(4,\)"),
        (X[:0], r"got \(0, 4\)"),
        (X[:, :1], r"two features, got \(6, 1\)"),
        ([["a", "b"]], r"rows of numbers, got \[\['a', 'b'\]\]"),
    ],
)
def test_what_is_no_vectors_is_said(tmp_path, vectors, said):
    with pytest.raises(InvalidInputError, match=said):
        export_projector(tmp_path, vectors)
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_no_column_are_said(tmp_path):
    with pytest.raises(InvalidInputError, match=r"of pictures, .* got a generator. Use list"):
        export_projector(tmp_path, X, images=(None for _ in X))


def test_a_size_that_is_none_is_said(tmp_path):
    with pytest.raises(InvalidParameterError, match="image_size=0: expected pixels, from 1 to 8"):
        export_projector(tmp_path, X, image_size=0)
