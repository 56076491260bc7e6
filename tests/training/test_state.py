"""What was learned: saved and loaded, gone on from, told apart, and let go."""

import gc
import io
import os
import pickle
import threading
import weakref
from dataclasses import replace
from functools import partial

import joblib
import numpy as np
import pytest
import skops.io
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import FineTune, TextEmbedder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    UnsupportedModelError,
)
from skembed.training import _learn
from skembed.weights import _models, unload_models
from tests.store._processes import run
from tests.training.conftest import X, Y

METHODS = ["head", "lora", "full"]

TRUSTED = [
    "skembed.text._embedder.TextEmbedder",
    "skembed.training._fine_tune.FineTune",
    "skembed.training._state.TrainedState",
]


def by_joblib(embedder):
    file = io.BytesIO()
    joblib.dump(embedder, file)
    return joblib.load(file)


TRIPS = {
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
    "joblib": by_joblib,
    "skops": lambda e: skops.io.loads(skops.io.dumps(e), trusted=TRUSTED),
}


@pytest.fixture(scope="module", params=METHODS)
def trained(request, folder):
    training = FineTune(request.param, n_epochs=1)
    return TextEmbedder(folder, training=training, cache=None).fit(X, Y)


class ShareRight:
    def __call__(self, factor, classifier, vectors, y):
        return factor * classifier.score(vectors, y)


share_right = ShareRight()


def copied(embedder):
    return pickle.loads(pickle.dumps(embedder))


class TestRoundTrips:
    @pytest.mark.parametrize("trip", TRIPS)
    def test_they_are_exact(self, trained, trip):
        expected = trained.transform(X)  # also takes its digests, which are not to be saved
        again = TRIPS[trip](trained)
        assert again.trained_.digest == trained.trained_.digest
        assert repr(again.history_) == repr(trained.history_)
        assert again.trained_.classes.tolist() == ["money", "pet"]
        np.testing.assert_array_equal(again.transform(X), expected)

    @pytest.mark.parametrize("labels", [["a", "b"], [0, 1], np.array(["a", "b"], object)])
    def test_skops_saves_classes_of_any_kind(self, embedder, labels):
        made = embedder(FineTune("head", n_epochs=1)).fit(X[:8], np.repeat(labels, 4))
        again = TRIPS["skops"](made)
        assert again.trained_.classes.tolist() == list(labels)

    def test_a_scorer_that_is_an_object_is_known_again(self, embedder):
        training = FineTune("head", n_epochs=1, validation_fraction=0.25)
        training.set_params(scoring=partial(share_right, 1.0))
        made = embedder(training).fit(X, Y)
        again = copied(made)
        assert repr(again.training.scoring) != repr(made.training.scoring)
        np.testing.assert_array_equal(again.transform(X), made.transform(X))

    def test_a_state_is_made_of_arrays_of_numpy(self, trained):
        state = trained.trained_
        for array in [*state.arrays.values(), *state.head.values()]:
            assert type(array) is np.ndarray
            assert array.dtype == np.float32
        assert set(state.__getstate__()) == set(state.__dataclass_fields__)

    def test_files_on_a_disk_are_read_where_they_are(self, trained, tmp_path):
        joblib.dump(trained, tmp_path / "embedder")
        again = joblib.load(tmp_path / "embedder", mmap_mode="r")
        assert not next(iter(again.trained_.arrays.values())).flags.writeable
        np.testing.assert_array_equal(again.transform(X), trained.transform(X))

    def test_they_need_no_network_and_no_training_library(self, folder, tmp_path):
        embedder = TextEmbedder(folder, training=FineTune("lora", n_epochs=1), cache=None)
        expected = embedder.fit(X, Y).transform(X)
        (tmp_path / "embedder").write_bytes(pickle.dumps(embedder))
        np.save(tmp_path / "rows.npy", np.array(X))
        code = """
            import pickle, socket, sys
            from pathlib import Path
            def refuse(*args):
                raise AssertionError("the network was asked")
            socket.socket.connect = refuse
            for name in ("peft", "accelerate", "datasets", "setfit"):
                sys.modules[name] = None
            import numpy as np
            folder = Path(sys.argv[1])
            vectors = pickle.loads((folder / "embedder").read_bytes()).transform(
                np.load(folder / "rows.npy").tolist()
            )
            np.save(folder / "vectors.npy", vectors)
        """
        threads = str(torch.get_num_threads())
        run(code, tmp_path, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS=threads)
        np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), expected)


class TestOtherReleases:
    @pytest.mark.parametrize("method", ["lora", "full"])
    def test_weights_by_other_names_are_an_error_that_says_the_releases(self, embedder, method):
        made = embedder(FineTune(method, n_epochs=1)).fit(X, Y)
        arrays = made.trained_.arrays
        for name in list(arrays):
            arrays[name.replace("layer.0.", "block.0.")] = arrays.pop(name)
        with pytest.raises(UnsupportedModelError, match=r"no weights .*block\.0.* torch \d"):
            copied(made).transform(X)

    def test_weights_of_another_shape_are_an_error(self, embedder):
        made = embedder(FineTune("full", n_epochs=1)).fit(X, Y)
        name = next(name for name, array in made.trained_.arrays.items() if array.ndim == 1)
        made.trained_.arrays[name] = made.trained_.arrays[name][:1]
        with pytest.raises(UnsupportedModelError, match=r"are of shape \(32,\), and of \(1,\)"):
            copied(made).transform(X)

    def test_another_model_is_an_error(self, embedder, tmp_path):
        from tests.text.checkpoints import write_checkpoint

        made = embedder(FineTune("full", n_epochs=1)).fit(X, Y)
        made.set_params(model=str(write_checkpoint(tmp_path / "other", "electra")))
        with pytest.raises(InvalidParameterError, match="not those that this TextEmbedder was"):
            made.transform(X)


class TestPartialFit:
    def test_each_call_is_an_epoch_more(self, trained):
        embedder, before = copied(trained), trained.trained_
        first = embedder.partial_fit(X, Y).trained_
        second = embedder.partial_fit(X, Y).trained_
        assert embedder.history_["epoch"] == [0, 1, 2, 3]
        assert len({before.digest, first.digest, second.digest}) == 3

    def test_it_begins_from_the_published_model(self, embedder):
        made = embedder(FineTune("full")).partial_fit(X, Y)
        assert made.history_["epoch"] == [0, 1]
        assert made.history_["n_rows"] == [0, len(X)]  # none is held out
        assert made.history_["learning_rate"][1] == 5e-5

    @pytest.mark.parametrize("method", METHODS)
    def test_it_takes_the_steps_of_one_training(self, embedder, method):
        # An epoch from the state before is AdamW's first steps from these weights: without
        # momentum from before, a step of rate zero changes nothing.
        made = embedder(FineTune(method, learning_rate=1e-12, weight_decay=0)).partial_fit(X, Y)
        before = made.trained_
        after = made.partial_fit(X, Y).trained_
        assert before is not after
        for name, array in before.arrays.items():
            np.testing.assert_allclose(after.arrays[name], array, atol=1e-9, rtol=0)

    def test_the_head_goes_on_too(self, embedder):
        made = embedder(FineTune("full", learning_rate=1e-12)).partial_fit(X, Y)
        head = made.trained_.head["weight"].copy()
        # Fitted anew on labels the other way round, it would have the other sign.
        made.partial_fit(X[:8], ["money"] * 4 + ["pet"] * 4)
        assert np.sign((head * made.trained_.head["weight"]).sum()) == 1

    def test_classes_may_be_named_before_they_are_seen(self, embedder):
        made = embedder(FineTune("head"))
        made.partial_fit(X[:4], Y[:4], classes=["money", "pet", "weather"])
        made.partial_fit(X[4:8], Y[4:8])
        assert made.trained_.classes.tolist() == ["money", "pet", "weather"]
        made.partial_fit(["rain"], ["weather"])

    def test_classes_that_were_not_named_are_an_error(self, embedder):
        made = embedder(FineTune("head")).partial_fit(X, Y)
        before = made.trained_
        with pytest.raises(InvalidRowsError, match=r"not named .*\n  row 1: 'weather'"):
            made.partial_fit(["a cat", "rain"], ["pet", "weather"])
        assert made.trained_ is before
        with pytest.raises(InvalidInputError, match=r"trained on the classes \['money', 'pet'\]"):
            made.partial_fit(X, Y, classes=["money", "pet", "weather"])

    def test_numbers_stay_numbers(self, embedder):
        made = embedder(FineTune("head")).partial_fit(X, np.linspace(0.5, 9.7, len(X)))
        made.partial_fit(X[:4], [1.0, 2.0, 2.0, 1.0])  # would be classes on their own
        with pytest.raises(InvalidInputError, match=r"1 output\(s\), got numbers with 2"):
            made.partial_fit(X[:4], np.random.default_rng(0).random((4, 2)))

    def test_other_parameters_ask_for_a_fit(self, trained):
        embedder = copied(trained).set_params(training__weight_decay=0.5)
        with pytest.raises(NotFittedError, match=r"training__weight_decay was 0\.01\. Fit again"):
            embedder.partial_fit(X, Y)

    def test_rows_that_cannot_be_prepared_are_named(self, embedder):
        made = embedder(FineTune("full"), on_error="raise").partial_fit(X, Y)
        with pytest.raises(InvalidRowsError, match="row 2"):
            made.partial_fit(["a", "b", None, "c"], ["pet", "money", "pet", "money"])

    def test_without_training_nothing_is_learned(self, folder):
        made = TextEmbedder(folder).partial_fit(X)
        assert not hasattr(made, "trained_")


class TestWarmStart:
    @pytest.mark.parametrize("method", METHODS)
    def test_fit_goes_on(self, embedder, method):
        made = embedder(FineTune(method, n_epochs=2, warm_start=True, validation_fraction=0.25))
        first = made.fit(X, Y).history_
        second = made.fit(X, Y).history_
        assert second["score"][0] == pytest.approx(max(first["score"]), abs=1e-5)
        assert made.trained_.n_epochs == 2

    def test_without_it_fit_begins_anew(self, trained):
        embedder = copied(trained)
        assert embedder.fit(X, Y).trained_.digest == trained.trained_.digest

    def test_what_is_frozen_now_stays_as_it_was_learned(self, embedder):
        training = FineTune(n_epochs=2, learning_rate=1e-3, warm_start=True)
        trained = embedder(training).fit(X, Y)
        before, expected = trained.trained_, trained.transform(X)
        trained.set_params(training__freeze=2, training__learning_rate=1e-12).fit(X, Y)
        assert trained.trained_.arrays.keys() == before.arrays.keys()
        np.testing.assert_allclose(trained.transform(X), expected, atol=1e-5)

    def test_it_is_told_by_the_classes_of_the_head_too(self, trained):
        state = trained.trained_
        other = replace(state, classes=np.array(["dog", "money"]))
        assert other.start_digest != state.start_digest
        assert other.digest == state.digest

    def test_other_classes_get_another_head(self, embedder):
        made = embedder(FineTune("full", n_epochs=1, warm_start=True)).fit(X, Y)
        made.fit(X, np.arange(len(X)) % 3)
        assert made.trained_.head["weight"].shape == (3, 32)

    def test_another_method_is_an_error(self, embedder):
        made = embedder(FineTune("full", n_epochs=1, warm_start=True)).fit(X, Y)
        made.set_params(training__method="head")
        with pytest.raises(InvalidParameterError, match="cannot go on with method='head'"):
            made.fit(X, Y)
        made.set_params(training__method="full").transform(X)  # nothing was lost

    def test_another_rank_is_an_error(self, embedder):
        made = embedder(FineTune("lora", n_epochs=1, warm_start=True)).fit(X, Y)
        with pytest.raises(InvalidParameterError, match=r"lora_rank=4 .* of rank \[8\]"):
            made.set_params(training__lora_rank=4).fit(X, Y)

    def test_fewer_layers_with_matrices_are_an_error_that_says_why(self, embedder):
        made = embedder(FineTune("lora", n_epochs=1, warm_start=True)).fit(X, Y)
        with pytest.raises(InvalidParameterError, match=r"layer\.0\..* freeze and lora_targets"):
            made.set_params(training__freeze=1).fit(X, Y)


def n_trained_cores():
    """How many cores live that are neither those of a frozen model nor its copies."""
    return sum(isinstance(each, torch.nn.Module) for each in _models._models.values())


class TestMemory:
    def test_candidates_of_a_search_free_their_predecessors_weights(self, embedder):
        unload_models()
        alive = []

        class Watched(TextEmbedder):
            def fit_transform(self, X, y=None, sample_weight=None):
                vectors = super().fit_transform(X, y, sample_weight)
                gc.collect()
                cores = {e.model_key for e in (self._encoder, frozen._encoder)}
                alive.append(len(set(_models._models) - cores))
                return vectors

        frozen = TextEmbedder(embedder(None).model, dtype="float32").fit(X)
        made = Watched(frozen.model, training=FineTune("full"), dtype="float32", cache=None)
        rates = [1e-5, 2e-5, 3e-5, 4e-5]
        grid = {"watched__training__learning_rate": rates, "watched__training__n_epochs": [1]}
        GridSearchCV(make_pipeline(made, LogisticRegression()), grid, cv=2).fit(X, Y)
        assert alive == [0] * 9  # no other trained core beside the one at work
        assert n_trained_cores() <= 2

    @pytest.mark.parametrize("method", ["lora", "full"])
    def test_the_module_that_was_trained_is_freed_after_fit(self, embedder, method, monkeypatch):
        seen = []
        finished = _learn.Finished

        def watched(module, *args):
            seen.append(weakref.ref(module))
            return finished(module, *args)

        monkeypatch.setattr(_learn, "Finished", watched)
        gc.collect()
        gc.disable()
        try:
            embedder(FineTune(method, n_epochs=1)).fit(X, Y)
            assert [ref() for ref in seen] == [None]
        finally:
            gc.enable()

    # Each with a seed of its own: where float32 is "auto", others have learned the same.
    def test_an_embedder_takes_its_core_with_it(self, embedder):
        made = embedder(FineTune("full", n_epochs=1, random_state=7)).fit(X, Y)
        made.transform(X)
        key = made.encoder_.model_key
        core = weakref.ref(_models._models[key])
        gc.collect()
        gc.disable()
        try:
            del made
            assert key not in _models._models
            assert core() is None
        finally:
            gc.enable()

    def test_a_core_stays_while_another_embedder_has_learned_the_same(self, embedder):
        made = embedder(FineTune("full", n_epochs=1, random_state=7)).fit(X, Y)
        other = copied(made)
        other.transform(X), made.transform(X)
        key = other.encoder_.model_key
        del made
        gc.collect()
        assert key in _models._models
        del other
        gc.collect()
        assert key not in _models._models


class TestThreadsAndForks:
    def test_threads_learn_what_they_learn_alone(self, embedder):
        made = [embedder(FineTune("full", n_epochs=1, random_state=i)) for i in range(3)]
        alone = [clone(each).fit(X, Y).trained_.digest for each in made]
        fit = lambda each: each.fit(X, Y).trained_.digest  # noqa: E731
        together = joblib.Parallel(3, prefer="threads")(joblib.delayed(fit)(e) for e in made)
        assert together == alone

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
    def test_a_child_forked_while_its_parent_trains_can_train(self, embedder, monkeypatch):
        made = embedder(FineTune("full", n_epochs=1))
        is_training, may_end = threading.Event(), threading.Event()
        loop_run, parent = _learn.Loop.run, os.getpid()

        def slowly(self):
            if os.getpid() == parent:
                is_training.set()
                assert may_end.wait(60)
            loop_run(self)

        monkeypatch.setattr(_learn.Loop, "run", slowly)
        thread = threading.Thread(target=lambda: clone(made).fit(X, Y))
        thread.start()
        assert is_training.wait(60)
        child = os.fork()
        if not child:
            try:
                clone(made).fit(X, Y).transform(X)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        may_end.set()
        thread.join(60)
        assert status == 0
        assert not thread.is_alive()
