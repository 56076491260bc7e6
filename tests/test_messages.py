"""What users are told: once, by the names they know, with what to write instead."""

import pickle
import re
import shutil
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import skembed
from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    ModelNotFoundError,
    QualityWarning,
    TruncatedRowsError,
    TruncationWarning,
    describe_rows,
    warn_user,
)
from tests.text.checkpoints import write_checkpoint

LONG = "word " * 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def recorded(function, action="always"):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        function()
    return [warning.category for warning in seen]


class TestWarnings:
    def test_a_model_is_said_to_cut_texts_once_for_each_limit(self, folder):
        def embed(**settings):
            return recorded(lambda: TextEmbedder(folder, cache=None, **settings).transform([LONG]))

        assert embed() == [TruncationWarning]
        assert embed() == embed(pooling="cls") == []
        assert embed(max_length=9) == [TruncationWarning]

    def test_rows_that_are_only_found_are_not_said_to_be_cut(self, folder):
        store = skembed.EmbeddingStore()
        embedder = TextEmbedder(folder, cache=store, on_truncate="ignore").fit(["a"])
        embedder.transform([LONG])
        embedder.set_params(on_truncate="warn")
        assert recorded(lambda: embedder.transform([LONG])) == []
        assert embedder.report_.truncated.tolist() == [0]

    def test_rows_that_a_worker_of_this_run_encoded_are_told_where_the_user_looks(self, folder):
        TextEmbedder(folder, on_truncate="ignore").transform([LONG])  # as a worker does, elsewhere
        assert recorded(lambda: TextEmbedder(folder).transform([LONG])) == [TruncationWarning]

    def test_a_warning_that_is_an_error_is_raised_each_time(self, folder):
        embedder = TextEmbedder(folder, cache=None)
        assert recorded(lambda: embedder.transform([LONG])) == [TruncationWarning]
        for _ in range(2):
            with warnings.catch_warnings(), pytest.raises(TruncationWarning, match="1 of 1 rows"):
                warnings.simplefilter("error")
                embedder.transform([LONG])

    def test_a_warning_that_was_ignored_comes_when_it_is_not(self, folder):
        embedder = TextEmbedder(folder, cache=None)
        assert recorded(lambda: embedder.transform([LONG]), "ignore") == []
        assert recorded(lambda: embedder.transform([LONG])) == [TruncationWarning]

    def test_rows_of_nan_are_told_in_every_call(self, folder):
        embedder = TextEmbedder(folder, on_error="nan")
        for _ in range(2):
            assert recorded(lambda: embedder.transform(["a", None])) == [InvalidRowsWarning]

    def test_poor_clips_are_told_once_for_a_model(self):
        embedder = AudioEmbedder("logmel", sampling_rate=16000, on_quality="warn", cache=None)
        silence = [np.zeros(8000)]
        assert recorded(lambda: embedder.transform(silence)) == [QualityWarning]
        assert recorded(lambda: embedder.transform(silence)) == []

    def test_workers_tell_what_no_other_process_of_the_run_has_told(self, monkeypatch, tmp_path):
        from skembed.store import _run

        def say():
            return recorded(lambda: warn_user("the same", TruncationWarning, once="key"))

        monkeypatch.setenv(_run.VARIABLE, str(tmp_path))
        monkeypatch.setattr(_run, "_owned", None)  # this is a worker
        monkeypatch.setattr(skembed.exceptions, "_is_told_in_run", _run._is_told)
        assert say() == [TruncationWarning]
        monkeypatch.setattr(skembed.exceptions, "_told", set())  # this is another worker
        assert say() == []


class TestRows:
    def test_bad_rows_are_named_by_position_and_index(self, folder):
        rows = pd.Series(["a", None], index=["cust-17", "cust-18"])
        for X in (rows, rows.to_frame()):
            with pytest.raises(
                InvalidRowsError, match=r"row 1 \(index 'cust-18'\): miss"
            ) as caught:
                TextEmbedder(folder).transform(X)
            assert list(caught.value.faults) == [1]
        with pytest.raises(InvalidRowsError, match=r"row 1 \(index 7\): missing"):
            TextEmbedder(folder).transform(pd.Series(["a", None], index=[3, 7]))
        with pytest.raises(InvalidRowsError, match=r"row 1: missing"):
            TextEmbedder(folder).transform(pd.Series(["a", None]))
        with pytest.raises(InvalidRowsError, match=r"row 1 \(index 'b'\): .*nothere.png"):
            ImageEmbedder("squeezenet1_1", weights=None, on_error="raise").transform(
                pd.Series([np.zeros((8, 8), dtype="uint8"), "nothere.png"], index=["a", "b"])
            )

    def test_rows_that_are_too_long_are_named_by_index(self, folder):
        rows = pd.Series(["a", LONG], index=["x", "y"])
        with pytest.raises(TruncatedRowsError, match=r"row 1 \(index 'y'\): 1,602 tokens"):
            TextEmbedder(folder, on_truncate="raise").transform(rows)
        with pytest.warns(TruncationWarning, match=r"\(row 1 \(index 'y'\); all"):
            TextEmbedder(folder).transform(rows)

    def test_what_rows_share_is_said_once(self):
        faults = dict.fromkeys(range(0, 14, 2), "missing (None)") | {3: "empty"}
        assert describe_rows(faults) == (
            "\n  rows 0, 2, 4, 6, 8 and 2 more: missing (None)\n  row 3: empty"
        )

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            ([["a"], ["b"]], r"rows 0, 1: expected a str, got list; use \[row\[0\] for row in X\]"),
            ([("a", "b"), ("c", "d")], r'got tuple; use \[" ".join\(row\)'),
            (np.arange(3), r"rows 0, 1, 2: .* got int; use \[str\(row\) for row in X\] if they"),
            (pd.Series([1.5, np.nan, 2.5]), r"rows 0, 2: expected a str, got float; use"),
            (np.array([b"a", b"b"]), r"got bytes; use \[row.decode\(\) for row in X\]"),
            ([{"text": "a"}] * 2, r"got dict; use \[row\['text'\] for row in X\]"),
            (["a", 1, None], r"row 1: expected a str, got int: 1\n  row 2: missing"),
            ([None, None], r"rows 0, 1: missing"),
        ],
    )
    def test_a_column_of_other_things_is_told_once_with_the_fix(self, folder, X, message):
        with pytest.raises(InvalidRowsError, match=message):
            TextEmbedder(folder).transform(X)

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            (None, r"got None\."),
            (scipy.sparse.csr_array(np.eye(2)), "a csr_array, a sparse matrix. Pass the rows as"),
            (pl.LazyFrame({"a": ["x"]}), r"a LazyFrame. Use X.collect\(\)"),
            ((x for x in "ab"), r"a generator. Use list\(X\)"),
            ({"a", "b"}, r"a set, which has no order. Use sorted\(X\)"),
            ({"a": "b"}, r"a dict. If its values are the rows, use list\(X.values\(\)\)"),
            (Path("a.txt"), "a PosixPath. Read the file"),
            (np.array([["a", "b"]]), r"shape \(1, 2\). Choose one column, for example X\[:, 0\]"),
            (pd.DataFrame({"a": ["x"], "b": ["y"]}), r"2 columns \('a', 'b'\). Choose .* X\['a'\]"),
            (pd.DataFrame(index=[1]), "a DataFrame without columns"),
        ],
    )
    def test_what_is_no_column_is_refused_with_what_to_give(self, folder, X, message):
        with pytest.raises(InvalidInputError, match=message):
            TextEmbedder(folder).transform(X)


class TestParameters:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"pooling": "meen"},
                r"^TextEmbedder\(pooling='meen'\): expected 'auto', 'cls', 'last_token', 'max', "
                r"'mean', 'mean_sqrt_len' or 'weighted_mean'. Did you mean 'mean'\?$",
            ),
            ({"max_length": 0}, r"\(max_length=0\): expected an int of at least 1 or None\.$"),
            ({"normalize": "yes"}, r"expected 'auto' or True or False|expected 'auto', True or F"),
            ({"cache": True}, r"expected a str, a path, an EmbeddingStore or None"),
            ({"device": "gpu"}, r"Did you mean 'cuda'\?"),
            ({"device": "GPU:0"}, r"Did you mean 'cuda'\?"),
            ({"device": "CPU"}, r"Did you mean 'cpu'\?"),
            ({"model": BaseException}, r"model=<class BaseException>\).* This is a class"),
            ({"model": make_pipeline(TextEmbedder())}, "This is an estimator: use it in place of"),
            ({"model": {"a": torch.zeros(9)}}, r"model=<dict>\).*save the whole model"),
            ({"model": object()}, "use FunctionEmbedder"),
        ],
    )
    def test_a_wrong_value_is_named_with_what_is_right(self, settings, message):
        with pytest.raises(InvalidParameterError, match=message):
            TextEmbedder(**settings).fit(["a"])

    def test_all_wrong_values_are_told_at_once(self):
        with pytest.raises(InvalidParameterError, match=r"mean 'warn'\?\n.*pooling='avg'"):
            AudioEmbedder("logmel", pooling="avg", on_quality="wrn").fit([])


class TestModels:
    @pytest.mark.parametrize(
        ("embedder", "name", "meant"),
        [
            (TextEmbedder, "all-MiniLM-L6-v3", "sentence-transformers/all-MiniLM-L6-v2"),
            (TextEmbedder, "intfloat/e5-smal-v2", "intfloat/e5-small-v2"),
            (ImageEmbedder, "facebook/dinov2-smal", "facebook/dinov2-small"),
            (ImageEmbedder, "ResNet50", "resnet50"),
            (ImageEmbedder, "dinov2", "facebook/dinov2-small"),
            (AudioEmbedder, "facebook/wav2vec2-bas", "facebook/wav2vec2-base"),
            (AudioEmbedder, "log-mel", "logmel"),
        ],
    )
    def test_a_near_miss_is_suggested(self, embedder, name, meant):
        errors = (ModelNotFoundError, InvalidParameterError)
        with pytest.raises(errors, match=f"Did you mean .*'{meant}'") as caught:
            embedder(name).fit([])
        assert caught.value.__cause__ is None
        assert len(caught.traceback) < 8

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("glove.6B.50d.txt", "would be a file of word vectors"),
            ("wiki.vec", "a file of word vectors"),
            ("model.onnx", "an ONNX model. skembed runs PyTorch models"),
            ("model.gguf", "a GGUF file"),
            ("model.safetensors", "weights without their model.*config.json.*`weights`"),
            ("model.keras", "TensorFlow or Keras"),
            ("models/absent/x", r"(?s)there.*start from the working directory, "),
            ("./absent", "there is no .*absent. The working directory is "),
        ],
    )
    @pytest.mark.parametrize("embedder", [TextEmbedder, ImageEmbedder, AudioEmbedder])
    def test_what_is_another_thing_is_named(self, embedder, name, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelNotFoundError, match=message):
            embedder(name).fit([])
        if "/" not in name:
            Path(name).write_text("")
            with pytest.raises(ModelNotFoundError, match=message.replace("would be ", "")):
                embedder(name).fit([])

    def test_a_folder_of_other_things_says_what_to_do(self, folder, tmp_path):
        def told(place):
            with pytest.raises(ModelNotFoundError, match="No model in the folder") as caught:
                TextEmbedder(place).fit(["a"])
            return str(caught.value)

        assert f"Pass one of the models in it, for example '{folder.parent}" in told(folder.parent)
        (tmp_path / "tokenizer.json").write_text("{}")
        assert "It is a tokenizer: save its model there too" in told(tmp_path)
        (tmp_path / "saved_model.pb").write_text("")
        assert "It is a TensorFlow model" in told(tmp_path)

    def test_names_that_the_package_lacks_are_told_with_those_it_has(self):
        with pytest.raises(AttributeError, match=r"'GraphEmbedder'.* It has AudioEmbedder, "):
            skembed.GraphEmbedder  # noqa: B018
        with pytest.raises(ImportError, match=r"Did you mean 'TextEmbedder'\?"):
            from skembed import TextEmbeder  # noqa: F401
        assert not hasattr(skembed, "TextEmbeder")


class TestShown:
    def test_modules_and_long_paths_are_shortened_alone_and_in_pipelines(self):
        module = torch.nn.Sequential(*(torch.nn.Linear(9, 9) for _ in range(9)))
        embedder = ImageEmbedder(module, preprocess=len)
        for each in (embedder, make_pipeline(embedder, "passthrough")):
            assert "model=Sequential(...)" in repr(each)
            assert "Sequential(...)" in each._repr_html_()
            assert "in_features" not in repr(each)
        path = "/home/somebody/" + "deep/" * 20 + "model"
        assert len(repr(TextEmbedder(path))) < 90
        assert repr(TextEmbedder(pooling="cls")) == "TextEmbedder(pooling='cls')"

    @pytest.mark.parametrize("embedder", [TextEmbedder, ImageEmbedder, AudioEmbedder])
    def test_notebooks_show_what_every_parameter_is(self, embedder):
        # Of a model that is nowhere: showing an embedder looks for none.
        html = embedder("nowhere/model")._repr_html_()
        described = re.findall(r'param-doc-description"[^>]*>\s*(\w+): ', html)
        assert sorted(described) == sorted(embedder().get_params())
        assert f'href="{Path(embedder.fit.__globals__["__file__"]).parent.as_uri()}' in html


class TestSaved:
    @pytest.mark.parametrize("dumps", [pickle.dumps, joblib.dump, "skops"])
    def test_a_relative_path_is_found_again_elsewhere(self, dumps, folder, tmp_path, monkeypatch):
        shutil.copytree(folder, tmp_path / "here" / "model")
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        embedder = TextEmbedder("./model", cache=None)
        expected = embedder.transform(["a text"])
        if dumps is pickle.dumps:
            load, saved = pickle.loads, pickle.dumps(embedder)
        elif dumps is joblib.dump:
            joblib.dump(embedder, saved := tmp_path / "saved")
            load = joblib.load
        else:
            skops_io = pytest.importorskip("skops.io")
            saved = skops_io.dumps(embedder)
            trusted = skops_io.get_untrusted_types(data=saved)
            load = lambda data: skops_io.loads(data, trusted=trusted)  # noqa: E731
        assert load(saved).model == "./model"
        assert clone(embedder).model == "./model"
        monkeypatch.chdir(tmp_path / "there")
        found = load(saved)
        assert Path(found.model) == tmp_path / "here" / "model"
        np.testing.assert_allclose(found.transform(["a text"]), expected, atol=1e-6)
        shutil.copytree(folder, "model")
        assert load(saved).model == "./model"
