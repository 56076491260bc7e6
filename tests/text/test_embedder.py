"""TextEmbedder as its users meet it, on a tiny checkpoint and on MiniLM."""

import copy
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import skops.io
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from skembed import EmbeddingStore, TextEmbedder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    ModelNotFoundError,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.text._models import DEFAULT_MODEL, MODELS
from skembed.weights import FolderSource
from tests.text.checkpoints import SHORT, write_checkpoint
from tests.text.reference import embeddings


class TestRows:
    @pytest.mark.parametrize(
        "container",
        [
            tuple,
            np.array,
            lambda rows: np.array(rows, dtype=object),
            lambda rows: np.array(rows)[:, None],
            lambda rows: pd.Series(rows, index=[7, 7, "x", -1]),
            lambda rows: pd.Series(rows, dtype="category"),
            lambda rows: pd.DataFrame({"text": rows}, index=[3, 1, 3, 0]),
            pl.Series,
            lambda rows: pl.DataFrame({"text": rows}),
            pa.array,
            lambda rows: pa.table({"text": rows}),
        ],
    )
    def test_every_container_gives_the_vectors_of_a_list(self, embedder, container):
        expected = embedder.transform(SHORT)
        np.testing.assert_array_equal(embedder.transform(container(SHORT)), expected)

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            ("one text", r"got a single str\. Put it in a list"),
            (b"bytes", "got a single bytes"),
            (3.5, "got a float"),
            (None, "got None"),
            ({"a": 1}, "got a dict. If its values are the rows"),
            ((text for text in SHORT), r"got a generator. Use list\(X\)"),
            (np.array([["a", "b"]]), r"got an array of shape \(1, 2\)"),
            (np.array("a"), r"got an array of shape \(\)"),
            (pd.DataFrame({"a": ["x"], "b": ["y"]}), "got a DataFrame of 2 columns"),
        ],
    )
    def test_what_is_not_a_collection_of_rows_is_refused(self, embedder, X, message):
        with pytest.raises(InvalidInputError, match=message):
            embedder.transform(X)

    def test_bad_rows_are_named_all_at_once(self, embedder):
        rows = ["a", None, b"bytes", float("nan"), "b", 3, pd.NA, pd.NaT]
        with pytest.raises(InvalidRowsError, match="6 of 8 rows cannot be embedded") as caught:
            embedder.transform(rows)
        assert sorted(caught.value.faults) == [1, 2, 3, 5, 6, 7]
        assert "row 1: missing (None)" in str(caught.value)
        assert "row 2: expected a str, got bytes, decode it first: b'bytes'" in str(caught.value)
        assert isinstance(caught.value, ValueError)

    def test_bad_rows_become_nan_when_asked(self, folder):
        embedder = TextEmbedder(folder, dtype="float32", on_error="nan")
        good = embedder.transform(["a", "b"])
        with pytest.warns(InvalidRowsWarning, match="2 of 4 rows cannot be embedded"):
            vectors = embedder.transform(["a", None, 7, "b"])
        assert np.isnan(vectors[1:3]).all()
        np.testing.assert_array_equal(vectors[[0, 3]], good)
        assert sorted(embedder.report_.faults) == [1, 2]
        assert embedder.report_.n_tokens.tolist() == [3, 0, 0, 3]

    def test_text_that_is_not_unicode_is_a_bad_row(self, embedder):
        with pytest.raises(InvalidRowsError, match=r"2 of 4 rows(.|\n)*row 1: not valid Unicode"):
            embedder.transform(["fine", "half a pair: \ud83d", "schön \U0001f600", None])
        with pytest.raises(InvalidRowsError, match="row 0: not valid Unicode"):
            embedder.fit(["half a pair: \ud83d"])

    def test_one_row_and_zero_rows(self, embedder):
        assert embedder.transform(["a"]).shape == (1, 32)
        assert embedder.transform([]).shape == (0, 32)
        assert embedder.transform(pd.Series([], dtype=object)).shape == (0, 32)

    def test_rows_that_fail_at_either_step_keep_their_numbers(self, folder, tmp_path):
        copied = shutil.copytree(folder, tmp_path / "model")
        tokenizer = json.loads((copied / "tokenizer.json").read_text())
        tokenizer["post_processor"] = None  # no special tokens: an empty text has none at all
        (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
        rows = [None, "", "gradient descent", 3, ""]
        embedder = TextEmbedder(copied, dtype="float32", on_error="nan", cache=None)
        with pytest.warns(InvalidRowsWarning, match="4 of 5 rows cannot be embedded"):
            vectors = embedder.transform(rows)
        assert np.isnan(vectors).all(axis=1).tolist() == [True, True, False, True, True]
        faults = embedder.report_.faults
        assert sorted(faults) == [0, 1, 3, 4]
        assert (
            faults[1] == faults[4] == ("no tokens: the model's tokenizer finds none in this text")
        )
        with pytest.raises(InvalidRowsError, match=r"2 of 3 rows .*\n.*rows 0, 2: no tokens"):
            embedder.set_params(on_error="raise").transform(["", "gradient descent", ""])

    def test_a_str_subclass_is_a_text(self, embedder):
        rows = np.array(["gaussian kernel"])
        np.testing.assert_array_equal(embedder.transform([rows[0]]), embedder.transform(rows))


class TestParameters:
    def test_all_faults_are_told_at_once(self):
        embedder = TextEmbedder(3, pooling="median", batch_size=0, on_truncate="cut")
        with pytest.raises(InvalidParameterError) as caught:
            embedder.fit(["a"])
        for name in ("model", "pooling", "batch_size", "on_truncate"):
            assert f"TextEmbedder({name}=" in str(caught.value)

    def test_set_params_takes_effect_at_once(self, folder, tmp_path):
        other = write_checkpoint(tmp_path / "roberta", "roberta")
        embedder = TextEmbedder(folder, dtype="float32").fit(SHORT)
        before = embedder.transform(SHORT)
        embedder.set_params(model=other)
        np.testing.assert_allclose(
            embedder.transform(SHORT), embeddings(other, SHORT), atol=1e-5, rtol=0
        )
        embedder.set_params(model=folder)
        np.testing.assert_array_equal(embedder.transform(SHORT), before)

    @pytest.mark.parametrize(
        "change",
        [
            {"pooling": "cls"},
            {"prompt": "find: "},
            {"dtype": "bfloat16"},
            pytest.param({"dtype": "int8"}, marks=pytest.mark.int8),
        ],
    )
    def test_every_setting_that_changes_a_vector_is_part_of_the_key(self, folder, change):
        store = EmbeddingStore()
        common = {"on_truncate": "ignore", "dtype": "float32"}
        plain = TextEmbedder(folder, cache=store, **common).transform(SHORT)
        changed = TextEmbedder(folder, cache=store, **common | change)
        vectors = changed.transform(SHORT)
        fresh = TextEmbedder(folder, cache=None, **common | change).transform(SHORT)
        np.testing.assert_array_equal(vectors, fresh)
        assert changed.report_.n_encoded == len(SHORT)
        assert abs(vectors - plain).max() > 1e-4

    @pytest.mark.parametrize(
        "change",
        [
            {"normalize": True},
            {"n_components": 8},
            {"n_components": 8, "normalize": True},
            {"max_length": 5},
            {"max_length": 5, "on_truncate": "mean_of_chunks", "normalize": True},
        ],
    )
    def test_slices_scalings_and_rows_that_fit_are_found_not_encoded(self, folder, change):
        store = EmbeddingStore()
        common = {"on_truncate": "ignore", "dtype": "float32"}
        before = TextEmbedder(folder, cache=store, **common).fit(SHORT)
        before.transform(SHORT)
        n_cut = int((before.report_.n_tokens > change.get("max_length", 1000)).sum())
        changed = TextEmbedder(folder, cache=store, **common | change)
        vectors = changed.transform(SHORT)
        assert changed.report_.n_encoded == n_cut < len(SHORT)
        fresh = TextEmbedder(folder, cache=None, **common | change).transform(SHORT)
        np.testing.assert_allclose(vectors, fresh, atol=1e-6)
        changed.transform(SHORT)
        assert changed.report_.n_encoded == 0

    def test_new_weights_in_the_same_folder_are_seen_at_once(self, folder, tmp_path):
        path = shutil.copytree(folder, tmp_path / "model")
        embedder = TextEmbedder(path, dtype="float32")
        before = embedder.transform(SHORT)
        weights = load_file(path / "model.safetensors")
        save_file(
            {k: v * 1.5 for k, v in weights.items()}, path / "model.safetensors", {"format": "pt"}
        )
        after = embedder.transform(SHORT)
        assert abs(after - before).max() > 1e-1
        # Stronger weights, larger states: rounding grows with them.
        np.testing.assert_allclose(after, embeddings(path, SHORT), atol=1e-3, rtol=0)

    def test_equal_models_in_two_folders_share_vectors(self, folder, tmp_path):
        store = EmbeddingStore()
        TextEmbedder(folder, cache=store).transform(SHORT)
        moved = TextEmbedder(shutil.copytree(folder, tmp_path / "copy"), cache=store)
        moved.transform(SHORT)
        assert moved.report_.n_encoded == 0

    def test_a_model_that_is_not_there_says_what_was_tried(self):
        with pytest.raises(ModelNotFoundError, match="no-one/no-model"):
            TextEmbedder("no-one/no-model").fit(["a"])

    def test_a_checkpoint_that_lacks_weights_is_refused(self, folder, tmp_path):
        path = shutil.copytree(folder, tmp_path / "model")
        weights = load_file(path / "model.safetensors")
        lost = next(name for name in weights if "attention" in name)
        del weights[lost]
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UnsupportedModelError, match=r"lacks 1 weights of its own architecture"):
            TextEmbedder(path).transform(["a"])

    def test_prompts_of_the_table_stand_in_where_the_folder_names_none(self, folder, monkeypatch):
        source = FolderSource("intfloat/e5-small-v2", folder, "hub")
        monkeypatch.setattr("skembed.text._backbones.resolve_model", lambda *a, **k: source)
        settings = {"dtype": "float32", "on_truncate": "ignore", "cache": None}
        for prompt, text in [("auto", "query: "), ("passage", "passage: "), (None, "")]:
            vectors = TextEmbedder(source.name, prompt=prompt, **settings).transform(SHORT)
            prompted = [text + row for row in SHORT]
            np.testing.assert_allclose(vectors, embeddings(folder, prompted), atol=1e-5, rtol=0)

    def test_the_table_tells_the_truth_of_the_packaged_model(self):
        row = MODELS[DEFAULT_MODEL]
        encoder = TextEmbedder(DEFAULT_MODEL).fit(["a"]).encoder_
        assert (encoder.width, encoder.limit) == (row.width, row.max_length)

    def test_a_short_name_is_the_packaged_model(self):
        short = TextEmbedder("all-MiniLM-L6-v2").fit(["a"]).encoder_
        assert short.digest == TextEmbedder().fit(["a"]).encoder_.digest

    def test_more_components_than_features_are_refused(self, folder):
        with pytest.raises(InvalidParameterError, match=r"n_components=33, but .* gives 32"):
            TextEmbedder(folder, n_components=33).fit(["a"])

    def test_a_model_that_needs_its_own_code_is_refused(self, folder, tmp_path):
        path = shutil.copytree(folder, tmp_path / "model")
        config = json.loads((path / "config.json").read_text())
        config |= {
            "model_type": "bespoke",
            "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"},
        }
        (path / "config.json").write_text(json.dumps(config))
        (path / "code.py").write_text("raise SystemExit('foreign code ran')")
        with pytest.raises(UnsafeModelError, match="trust it, set trust_remote_code=True"):
            TextEmbedder(path).fit(["a"])

    def test_code_of_a_model_runs_when_the_user_says_so(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
        path = shutil.copytree(folder, tmp_path / "model")
        config = json.loads((path / "config.json").read_text())
        names = {"AutoConfig": "bespoke.BespokeConfig", "AutoModel": "bespoke.BespokeModel"}
        config |= {"model_type": "bespoke", "auto_map": names}
        (path / "config.json").write_text(json.dumps(config))
        (path / "bespoke.py").write_text(
            "from transformers import BertConfig, BertModel\n"
            "class BespokeConfig(BertConfig):\n    model_type = 'bespoke'\n"
            "class BespokeModel(BertModel):\n    config_class = BespokeConfig\n"
        )
        trusted = TextEmbedder(path, trust_remote_code=True, dtype="float32")
        expected = TextEmbedder(folder, dtype="float32").transform(SHORT)
        np.testing.assert_allclose(trusted.transform(SHORT), expected, atol=1e-5, rtol=0)


class TestEstimator:
    def test_transform_works_without_fit(self, folder):
        fitted = TextEmbedder(folder).fit(SHORT)
        np.testing.assert_array_equal(
            TextEmbedder(folder).transform(SHORT), fitted.transform(SHORT)
        )

    @pytest.mark.parametrize("on_error", ["raise", "nan"])
    def test_tags_say_what_scikit_learn_may_expect(self, on_error):
        tags = get_tags(TextEmbedder(on_error=on_error))
        assert not tags.requires_fit
        assert not tags.target_tags.required
        assert tags.transformer_tags.preserves_dtype == []  # float32, whatever comes in
        inputs = tags.input_tags
        assert (inputs.one_d_array, inputs.two_d_array, inputs.string) == (True, False, True)
        assert inputs.allow_nan is (on_error == "nan")

    def test_fitted_attributes_follow_the_parameters(self, folder):
        embedder = TextEmbedder(folder)
        with pytest.raises(AttributeError, match="call fit or transform first"):
            _ = embedder.encoder_
        embedder.fit(SHORT)
        assert (embedder.n_features_out_, embedder.dtype_) == (32, embedder.encoder_.dtype)
        embedder.set_params(n_components=4)
        assert not hasattr(embedder, "n_features_out_")
        assert embedder.fit(SHORT).n_features_out_ == 4

    @pytest.mark.parametrize(
        "trip",
        [
            clone,
            copy.deepcopy,
            lambda e: pickle.loads(pickle.dumps(e)),
            lambda e: skops.io.loads(
                skops.io.dumps(e), trusted=["skembed.text._embedder.TextEmbedder"]
            ),
        ],
    )
    def test_round_trips_are_exact_and_small(self, folder, trip):
        embedder = TextEmbedder(str(folder), dtype="float32", cache=None, n_components=9)
        expected = embedder.fit_transform(SHORT * 50)
        again = trip(embedder)
        assert again.get_params() == embedder.get_params()
        assert len(pickle.dumps(embedder)) < 2000
        np.testing.assert_array_equal(again.transform(SHORT * 50), expected)

    def test_joblib_files_are_small(self, embedder, tmp_path):
        embedder.set_params(cache="run").fit_transform(SHORT * 50)
        joblib.dump(embedder, tmp_path / "embedder.joblib")
        assert (tmp_path / "embedder.joblib").stat().st_size < 5000
        again = joblib.load(tmp_path / "embedder.joblib")
        np.testing.assert_array_equal(again.transform(SHORT), embedder.transform(SHORT))

    def test_pandas_output_keeps_the_index(self, embedder):
        embedder.set_output(transform="pandas")
        out = embedder.fit_transform(pd.Series(SHORT, index=[9, 9, "z", 0]))
        assert out.index.tolist() == [9, 9, "z", 0]
        assert out.columns[:2].tolist() == ["textembedder0", "textembedder1"]
        assert (out.dtypes == np.float32).all()

    def test_polars_output(self, embedder):
        out = embedder.set_output(transform="polars").fit_transform(pl.Series(SHORT))
        assert isinstance(out, pl.DataFrame)
        assert out.shape == (len(SHORT), 32)

    def test_the_html_view_loads_nothing(self):
        embedder = TextEmbedder("no-one/no-model")
        assert "TextEmbedder" in embedder._repr_html_()
        assert "no-one/no-model" in repr(embedder)
        assert "_present" not in vars(embedder)

    def test_a_column_of_a_frame(self, folder):
        frame = pd.DataFrame({"review": SHORT, "stars": [1, 2, 3, 4]})
        columns = ColumnTransformer(
            [("review", TextEmbedder(folder), "review")], remainder="passthrough"
        )
        out = columns.fit_transform(frame)
        assert out.shape == (4, 33)
        assert columns.get_feature_names_out()[0] == "review__textembedder0"

    def test_a_search_over_models_really_switches_them(self, folder, tmp_path):
        other = write_checkpoint(tmp_path / "electra", "electra")
        texts, labels = SHORT * 6, [0, 1, 0, 1] * 6
        pipeline = make_pipeline(TextEmbedder(folder), LogisticRegression())
        grid = {"textembedder__model": [folder, other], "logisticregression__C": [0.1, 1, 10]}
        search = GridSearchCV(pipeline, grid, cv=3).fit(texts, labels)
        switched = search.best_estimator_[0].set_params(model=other).transform(SHORT)
        assert abs(switched - embeddings(other, SHORT)).max() < 0.1
        assert len(search.cv_results_["params"]) == 6

    def test_scikit_learns_callbacks_see_the_fit(self, embedder):
        callback = pytest.importorskip("sklearn.callback")
        seen = []

        class Watch:
            def setup(self, estimator, context):
                seen.append("setup")

            def teardown(self, estimator, context):
                seen.append("teardown")

            def on_fit_task_begin(self, estimator, context):
                seen.append("begin")

            def on_fit_task_end(self, estimator, context):
                seen.append("end")

        assert isinstance(Watch(), callback.FitCallback)
        embedder.set_callbacks(Watch()).fit(SHORT)
        assert seen == ["setup", "begin", "end", "teardown"]

    def test_the_report_tells_what_was_done(self, embedder):
        embedder.transform(SHORT)
        embedder.transform([*SHORT, SHORT[0], "new"])
        report = embedder.report_
        assert (report.n_rows, report.n_distinct, report.n_encoded, report.n_reused) == (6, 5, 1, 4)
        assert "6 rows, 5 distinct: 1 encoded, 4 reused" in str(report)


def test_the_global_random_state_is_left_alone(folder):
    import torch

    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    TextEmbedder(folder, prompt="not loaded before: ").transform(["a text"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_device_that_embeds_nothing_is_refused(folder):
    with pytest.raises(InvalidParameterError, match="device='meta': skembed runs on"):
        TextEmbedder(folder, device="meta").fit(["a"])


def test_threads_that_load_models_leave_transformers_settings_alone(tmp_path):
    from transformers.utils import logging

    folders = [write_checkpoint(tmp_path / f"{n}", hidden_dropout_prob=n / 10) for n in range(4)]
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with ThreadPoolExecutor(4) as pool:
        vectors = list(pool.map(lambda f: TextEmbedder(f, cache=None).transform(["a"]), folders))
    assert len(vectors) == 4
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
