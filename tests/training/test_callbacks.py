"""scikit-learn's callbacks see each epoch of a training, and may stop it."""

import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import FineTune, FunctionEmbedder, ImageEmbedder
from skembed.training import _learn
from tests.image.networks import TinyNetwork, pictures, to_pixels
from tests.training.conftest import X, Y

HEAD = FineTune("head", n_epochs=3, learning_rate=0.01, validation_fraction=None)


class Recording:
    """Records what it is told, and asks to stop at the end of the epoch with this number."""

    def __init__(self, stops_at=None):
        self.seen, self.fitted, self.stops_at = [], [], stops_at

    def setup(self, estimator, context):
        self.seen.append("setup")

    def teardown(self, estimator, context):
        self.seen.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.seen.append(f"{context.task_name} {context.task_id} begins")

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.seen.append(f"{context.task_name} {context.task_id} ends")
        if context.task_name == "epoch":
            self.fitted.append((estimator, X, y, metadata, fitted_estimator))
            return context.task_id == self.stops_at
        return None

    @property
    def n_epochs(self):
        return sum(each.startswith("epoch") and each.endswith("ends") for each in self.seen)


class Propagated(Recording):
    """Is handed on by pipelines and searches to what they fit."""

    max_propagation_depth = None


@pytest.fixture(autouse=True, scope="module")
def callback():
    return pytest.importorskip("sklearn.callback")


def test_a_scorer_embeds_with_a_models_own_preparation_of_rows():
    seen = Recording()
    rows = pictures(8, sizes=((12, 20),))
    embedder = ImageEmbedder(TinyNetwork(), preprocess=to_pixels, training=HEAD, cache=None)
    embedder.set_callbacks(seen).fit(rows, [0, 1] * 4)
    assert [each[-1].transform(rows).shape[0] for each in seen.fitted] == [8] * 3


# What they are told --------------------------------------------------------------------------


def epoch(number):
    return [f"epoch {number} begins", f"epoch {number} ends"]


def test_epochs_are_tasks_of_the_training_which_is_one_of_the_fit(embedder):
    recording = Recording()
    embedder(HEAD).set_callbacks(recording).fit(X, Y)
    epochs = [each for number in range(3) for each in epoch(number)]
    assert recording.seen == [
        *("setup", "fit 0 begins", "train 0 begins"),
        *(*epochs, "train 0 ends", "fit 0 ends", "teardown"),
    ]


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_each_epoch_gives_the_embedder_as_it_is_then(embedder, method):
    training, recording = clone(HEAD).set_params(method=method), Recording()
    whole = embedder(training).set_callbacks(recording).fit(X, Y)
    estimators, rows, y, metadata, fitted = zip(*recording.fitted, strict=True)
    assert all(each is whole for each in estimators)
    assert all(each is X for each in rows)
    assert all(each is Y for each in y)
    assert metadata == (None,) * 3
    digests = [each.trained_.digest for each in fitted]
    assert len(set(digests)) == 3
    assert digests[-1] == whole.trained_.digest
    assert [each.history_["epoch"][-1] for each in fitted] == [1, 2, 3]
    np.testing.assert_array_equal(fitted[-1].transform(X), whole.transform(X))
    assert abs(fitted[0].transform(X) - whole.transform(X)).max() > 1e-4
    assert fitted[0].get_feature_names_out()[0] == "textembedder0"


def test_they_are_told_the_weights_of_rows(embedder):
    recording, weights = Recording(), np.ones(len(X))
    embedder(HEAD).set_callbacks(recording).fit(X, Y, sample_weight=weights)
    assert recording.fitted[0][3] == {"sample_weight": weights}


def test_they_change_nothing_of_what_is_learned(embedder):
    watched = embedder(FineTune("lora", n_epochs=2)).set_callbacks(Recording()).fit(X, Y)
    alone = embedder(FineTune("lora", n_epochs=2)).fit(X, Y)
    assert watched.trained_.digest == alone.trained_.digest
    assert watched.history_["loss"] == alone.history_["loss"]


def test_the_module_that_was_trained_is_freed_after_fit(embedder, monkeypatch):
    seen, finished = [], _learn.Finished

    def seen_when_made(module, *args):
        seen.append(weakref.ref(module))
        return finished(module, *args)

    monkeypatch.setattr(_learn, "Finished", seen_when_made)
    gc.collect()
    gc.disable()
    try:
        embedder(clone(HEAD).set_params(method="full")).set_callbacks(Recording()).fit(X, Y)
        assert [ref() for ref in seen] == [None]
    finally:
        gc.enable()


def test_a_step_is_one_epoch(embedder):
    recording = Recording()
    stepping = embedder(HEAD).set_callbacks(recording).partial_fit(X, Y)
    stepping.partial_fit(X, Y)
    assert recording.n_epochs == 2
    assert [each[-1].history_["epoch"] for each in recording.fitted] == [[0, 1], [0, 1, 2]]


def test_a_training_that_goes_on_from_a_checkpoint_tells_of_the_epochs_that_are_left(
    embedder, tmp_path
):
    training = clone(HEAD).set_params(checkpoint=tmp_path)
    embedder(training).set_callbacks(Recording(stops_at=0)).fit(X, Y)
    rest = Recording()
    resumed = embedder(training).set_callbacks(rest).fit(X, Y)
    assert rest.n_epochs == 2
    assert resumed.trained_.digest == embedder(HEAD).fit(X, Y).trained_.digest


@pytest.mark.parametrize("training", [None, HEAD])
def test_a_fit_that_fails_tears_them_down(embedder, training):
    recording = Recording()
    with pytest.raises(ValueError, match="cannot be embedded"):
        embedder(training).set_callbacks(recording).fit([*X, None], [*Y, "pet"])
    assert recording.seen == ["setup", "fit 0 begins", "teardown"]


# Stopping ------------------------------------------------------------------------------------


def test_a_callback_stops_the_training(embedder):
    recording = Recording(stops_at=1)
    stopped = embedder(HEAD).set_callbacks(recording).fit(X, Y)
    assert stopped.history_["epoch"] == [0, 1, 2]
    assert recording.n_epochs == 2
    assert recording.seen[-3:] == ["train 0 ends", "fit 0 ends", "teardown"]
    assert stopped.trained_.digest == recording.fitted[-1][-1].trained_.digest


def test_of_a_training_that_was_stopped_the_best_epoch_is_kept(embedder):
    training = FineTune("head", n_epochs=3, learning_rate=30.0, validation_fraction=0.5)
    y = np.random.default_rng(0).permutation(Y)  # by chance: no epoch is better than none
    stopped = embedder(training).set_callbacks(Recording(stops_at=1)).fit(X, y)
    assert stopped.history_["epoch"] == [0, 1, 2]
    frozen = embedder(None).transform(X)
    np.testing.assert_allclose(stopped.transform(X), frozen, atol=1e-5)


def test_a_training_that_was_stopped_is_not_taken_for_a_whole_one(embedder, tmp_path):
    cached = {"cache": tmp_path}
    stopped = embedder(HEAD, **cached).set_callbacks(Recording(stops_at=0)).fit(X, Y)
    whole = embedder(HEAD, **cached).fit(X, Y)
    again = embedder(HEAD, **cached).set_callbacks(Recording(stops_at=0)).fit(X, Y)
    assert [each.trained_.n_epochs for each in (stopped, whole, again)] == [1, 3, 1]


# Where embedders stand -----------------------------------------------------------------------


def test_a_pipeline_hands_them_on(embedder):
    recording = Propagated()
    make_pipeline(embedder(HEAD), LogisticRegression()).set_callbacks(recording).fit(X, Y)
    start = recording.seen.index("train 0 begins")
    assert recording.seen[start + 1 : start + 7] == [e for n in range(3) for e in epoch(n)]
    assert recording.seen.count("setup") == recording.seen.count("teardown") == 1


def test_a_search_hands_them_on(embedder):
    recording = Propagated(stops_at=1)
    pipe = make_pipeline(embedder(HEAD), LogisticRegression())
    grid = {"textembedder__training__learning_rate": [0.01, 0.1]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").set_callbacks(recording)
    search.fit(X, Y)
    assert recording.n_epochs == 2 * (2 * 2 + 1)
    assert search.best_estimator_[0].history_["epoch"] == [0, 1, 2]
    assert recording.seen.count("setup") == recording.seen.count("teardown") == 1


def test_the_candidates_of_a_search_share_callbacks_that_are_the_embedders(embedder):
    recording = Recording()
    pipe = make_pipeline(embedder(HEAD).set_callbacks(recording), LogisticRegression())
    grid = {"logisticregression__C": [0.1, 1]}
    GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, Y)
    assert recording.n_epochs == 3 * (2 * 2 + 1)
    assert recording.seen.count("setup") == recording.seen.count("teardown") == 5


def test_the_trainings_of_cross_fit_beside_the_whole_one_are_not_told_of(embedder):
    recording = Propagated()
    training = clone(HEAD).set_params(cross_fit=2)
    pipe = make_pipeline(embedder(training), LogisticRegression()).set_callbacks(recording)
    pipe.fit(X, Y)
    assert recording.n_epochs == 3
    assert recording.seen.count("setup") == recording.seen.count("teardown") == 1


@pytest.mark.parametrize("copied", [clone, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_keep_them_as_those_of_scikit_learns_estimators_do(embedder, copied):
    ours = embedder(HEAD).set_callbacks(Recording()).fit(X, Y)
    theirs = LogisticRegression().set_callbacks(Recording()).fit([[0], [1]], [0, 1])
    for each in (ours, theirs):
        (kept,) = copied(each)._skl_callbacks
        assert isinstance(kept, Recording)
        assert (kept is each._skl_callbacks[0]) == (copied is clone)
    state, known = (set(each.__getstate__()) for each in (ours, theirs))
    assert {n for n in state if "callback" in n} == {n for n in known if "callback" in n}


def test_no_callbacks_are_set_again_by_none(embedder):
    recording = Recording()
    embedder(HEAD).set_callbacks(recording).set_callbacks().fit(X, Y)
    assert recording.seen == []


# scikit-learn's own --------------------------------------------------------------------------


def separation(embedder, X, y):
    return {"separation": silhouette_score(embedder.transform(X), y)}


def test_a_scoring_monitor_scores_each_epoch(embedder, callback):
    monitor = callback.ScoringMonitor(scoring=separation)
    trained = embedder(HEAD).set_callbacks(monitor).fit(X, Y)
    log = monitor.get_logs().data
    assert [row["task_name"] for row in log] == ["fit", "epoch", "epoch", "epoch"]
    assert log[0]["separation"] == log[-1]["separation"] == separation(trained, X, Y)["separation"]
    assert log[1]["separation"] < log[-1]["separation"]


def test_a_progress_bar_shows_the_epochs(embedder, callback, capsys):
    pytest.importorskip("rich")
    pipe = make_pipeline(embedder(FineTune("head")), LogisticRegression())
    pipe.set_callbacks(callback.ProgressBar()).fit(X, Y)
    shown = [
        line for line in capsys.readouterr().out.splitlines() if "TextEmbedder - train" in line
    ]
    assert shown
    assert "100%" in shown[-1]


def test_a_progress_bar_has_nothing_trained_twice(embedder, callback, tmp_path, monkeypatch):
    pytest.importorskip("rich")
    n_trainings, train = [], _learn._trained
    monkeypatch.setattr(_learn, "_trained", lambda *args: n_trainings.append(1) or train(*args))
    for _ in range(2):
        embedder(HEAD, cache=tmp_path).set_callbacks(callback.ProgressBar()).fit(X, Y)
    assert len(n_trainings) == 1


# Without ---------------------------------------------------------------------------------------


def test_a_frozen_embedder_is_one_task(embedder):
    recording = Recording()
    embedder(None).set_callbacks(recording).fit(X)
    FunctionEmbedder(len_of).set_callbacks(recording).fit(X)
    assert recording.seen == ["setup", "fit 0 begins", "fit 0 ends", "teardown"] * 2


def len_of(rows):
    return np.array([[len(row)] for row in rows], dtype=np.float32)


def test_where_scikit_learn_has_no_callbacks_embedders_train_as_ever(folder, embedder):
    code = f"""
    import sys
    import sklearn

    present = sklearn.callback, sys.modules["sklearn.callback"]
    del sklearn.callback
    sys.modules["sklearn.callback"] = None
    import skembed._sklearn
    sklearn.callback, sys.modules["sklearn.callback"] = present  # what scikit-learn itself needs

    from skembed import FineTune, TextEmbedder
    from tests.training.test_callbacks import HEAD, X, Y

    embedder = TextEmbedder({folder!r}, training=HEAD, dtype="float32", cache=None).fit(X, Y)
    print(hasattr(embedder, "set_callbacks"), embedder.trained_.digest.hex())
    embedder.set_params(training__cross_fit=2, training__n_epochs=1).fit_transform(X, Y)
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert not done.returncode, done.stderr
    assert done.stdout.split() == ["False", embedder(HEAD).fit(X, Y).trained_.digest.hex()]
