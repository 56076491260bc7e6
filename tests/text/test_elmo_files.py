"""Which files are ELMo's, and what is said of those that are wrong."""

import json
import sys

import h5py
import numpy as np
import pytest

from skembed import TextEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    MissingDependencyError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from skembed.text._families import family_of
from tests.text.elmo_files import make_options, make_weights, write_elmo

ROWS = ["one text", "another"]


@pytest.fixture
def options():
    return make_options()


@pytest.fixture
def weights(options):
    return make_weights(options)


def vectors_of(model):
    return TextEmbedder(model, dtype="float32", cache=None).transform(ROWS)


def test_a_folder_and_either_file_are_the_same_model(options, weights, tmp_path, monkeypatch):
    folder = write_elmo(tmp_path / "elmo", options, weights, prefix="elmo_2x24_8_")
    expected = vectors_of(folder)
    names = ["elmo_2x24_8_options.json", "elmo_2x24_8_weights.hdf5"]
    for model in (*(folder / name for name in names), str(folder / names[0])):
        assert family_of(model) == "elmo"
        np.testing.assert_array_equal(vectors_of(model), expected)
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(vectors_of(names[0]), expected)
    np.testing.assert_array_equal(vectors_of("."), expected)


def test_files_of_different_names_that_are_alone_belong_together(options, weights, tmp_path):
    folder = write_elmo(tmp_path / "elmo", options, weights, prefix="elmo_")
    expected = vectors_of(folder)
    (folder / "elmo_options.json").rename(folder / "options.json")
    np.testing.assert_array_equal(vectors_of(folder), expected)


def test_of_several_models_in_a_folder_one_is_chosen_by_its_options(options, tmp_path):
    for seed, prefix in enumerate(("a_", "b_")):
        folder = write_elmo(tmp_path / "both", options, make_weights(options, seed), prefix)
    with pytest.raises(ModelNotFoundError, match=r"has 2 ELMo models\. Pass .*b_options\.json"):
        vectors_of(folder)
    first, second = (vectors_of(folder / f"{prefix}options.json") for prefix in ("a_", "b_"))
    assert abs(first - second).max() > 0.1


@pytest.mark.parametrize("name", ["options.json", "weights.hdf5"])
def test_one_file_without_the_other_is_named(options, weights, tmp_path, name):
    folder = write_elmo(tmp_path / "elmo", options, weights)
    (folder / ({"options.json", "weights.hdf5"} - {name}).pop()).unlink()
    for model in (folder, folder / name):
        with pytest.raises(ModelNotFoundError, match=rf"two files side by side.* has {name}\."):
            vectors_of(model)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"There is no file '.*tiny_options.json'"):
        vectors_of(tmp_path / "tiny_options.json")


def test_a_folder_with_another_model_is_not_taken_for_elmo(tmp_path):
    (tmp_path / "weights.hdf5").touch()
    assert family_of(tmp_path) == "elmo"
    (tmp_path / "config.json").touch()
    assert family_of(tmp_path) == "transformer"
    assert family_of("sentence-transformers/all-MiniLM-L6-v2") == "transformer"
    assert family_of("~no-such-user/folder") == "transformer"


def test_all_faults_of_the_options_are_told_at_once(weights, tmp_path):
    options = make_options(
        n_layers=0,
        use_skip_connections=False,
        cell_clip="3",
        char_cnn={"activation": "gelu", "filters": [[1, 2, 3]], "n_highway": None},
        more={"scalar_mix_parameters": [1.0, 2.0]},
    )
    folder = write_elmo(tmp_path / "elmo", options, weights)
    with pytest.raises(UnsupportedModelError, match=r"options\.json has no options") as caught:
        vectors_of(folder)
    told = str(caught.value)
    for name in (
        *("lstm.n_layers is 0", "use_skip_connections", "cell_clip is '3'", "'gelu'"),
        *("filters is [[1, 2, 3]]", "n_highway is None", "scalar_mix_parameters is [1.0, 2.0]"),
    ):
        assert name in told


@pytest.mark.parametrize("content", ["[]", '{"lstm": 3}'])
def test_options_of_something_else_are_refused(weights, tmp_path, content):
    folder = write_elmo(tmp_path / "elmo", {}, weights)
    (folder / "options.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match=r"lstm\.dim is None"):
        vectors_of(folder)


def test_options_that_are_no_json_are_refused(options, weights, tmp_path):
    folder = write_elmo(tmp_path / "elmo", options, weights)
    (folder / "options.json").write_text(json.dumps(options)[:-5])
    with pytest.raises(UnsupportedModelError, match=r"options\.json cannot be read as JSON"):
        vectors_of(folder)


def test_datasets_that_do_not_fit_the_options_are_named(options, weights, tmp_path):
    cell = "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell"
    weights["CNN/W_cnn_1"] = weights["CNN/W_cnn_1"][:, :1]
    weights["CNN_proj/b_proj"] = weights["CNN_proj/b_proj"].astype(int)
    del weights[f"{cell}/W_P_0"]
    weights[f"{cell}/W_P_0/inside"] = np.zeros(3)
    del weights["CNN_high_0/W_carry"]
    folder = write_elmo(tmp_path / "elmo", options, weights)
    with pytest.raises(UnsupportedModelError, match=r"weights\.hdf5 does not hold") as caught:
        vectors_of(folder)
    told = str(caught.value)
    assert "CNN/W_cnn_1 has shape (1, 1, 4, 4) where (1, 2, 4, 4) is expected" in told
    assert "CNN_proj/b_proj holds int64" in told
    assert "CNN_high_0/W_carry is missing" in told
    assert f"{cell}/W_P_0 is a Group, not a dataset" in told


def test_weights_of_other_sizes_are_named_and_counted(options, weights, tmp_path):
    folder = write_elmo(tmp_path / "elmo", make_options(dim=32), weights)
    with pytest.raises(UnsupportedModelError, match=r"LSTMCell/W_0 has shape .* and 7 more"):
        vectors_of(folder)


def test_a_damaged_file_is_refused(options, weights, tmp_path):
    folder = write_elmo(tmp_path / "elmo", options, weights)
    content = (folder / "weights.hdf5").read_bytes()
    (folder / "weights.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnsupportedModelError, match=r"cannot be read as HDF5: .*Download"):
        vectors_of(folder)


def test_weights_that_lie_in_another_file_are_refused(options, weights, tmp_path):
    folder = write_elmo(tmp_path / "elmo", options, weights)
    other = write_elmo(tmp_path / "other", options, weights)
    with h5py.File(folder / "weights.hdf5", "r+") as file:
        del file["char_embed"]
        file["char_embed"] = h5py.ExternalLink(str(other / "weights.hdf5"), "char_embed")
    with pytest.raises(UnsupportedModelError, match="char_embed lies in another file"):
        vectors_of(folder)


def test_a_missing_h5py_names_its_extra(options, tmp_path, monkeypatch):
    # No other test's weights: those may be in memory.
    folder = write_elmo(tmp_path / "elmo", options, make_weights(options, seed=7))
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = r"weights\.hdf5 needs h5py, .* pip install skembed\[elmo\]"
    with pytest.raises(MissingDependencyError, match=message):
        vectors_of(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "query: "}, "trained without prompts"),
        ({"attention": "bidirectional"}, "no attention"),
        ({"revision": "main"}, "only models on the hub have revisions"),
        ({"base_url": "http://localhost"}, "only hosted models"),
        ({"tokenizer": object()}, "only a torch.nn.Module needs one"),
    ],
)
def test_parameters_that_mean_nothing_here_are_refused(
    options, weights, tmp_path, changes, message
):
    folder = write_elmo(tmp_path / "elmo", options, weights)
    with pytest.raises(InvalidParameterError, match=message):
        TextEmbedder(folder, **changes).fit(ROWS)
    TextEmbedder(folder, prompt=None).fit(ROWS)
