"""Nothing is trained twice, and nothing that was learned from something else is served."""

import threading
from itertools import combinations

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import EmbeddingStore, FineTune
from skembed.exceptions import StoreWarning
from skembed.training import _learn
from tests.text.checkpoints import write_checkpoint
from tests.training.conftest import X, Y

METHODS = ["head", "lora", "full"]


@pytest.fixture
def trainings(monkeypatch):
    """What was trained in this process, in this test."""
    seen, train = [], _learn._train

    def watched(*args):
        seen.append(args)
        return train(*args)

    monkeypatch.setattr(_learn, "_train", watched)
    return seen


def seconds_of(pipe, X, y):
    """Tell trainings apart by the time that they took."""
    return sum(pipe[0].history_["seconds"])


class TestSearch:
    @pytest.mark.parametrize("cache", ["run", "folder", "memory"])
    def test_what_follows_is_searched_with_one_training_a_fold(
        self, embedder, tmp_path, trainings, cache
    ):
        cache = {"folder": str(tmp_path), "memory": EmbeddingStore()}.get(cache, cache)
        made = embedder(FineTune("full", n_epochs=1, random_state=id(tmp_path) % 1000), cache=cache)
        pipe = make_pipeline(made, LogisticRegression())
        GridSearchCV(pipe, {"logisticregression__C": [0.1, 1, 10]}, cv=2).fit(X, Y)
        assert len(trainings) == 3  # two folds, and all rows

    def test_without_a_cache_each_candidate_is_trained(self, embedder, trainings):
        pipe = make_pipeline(embedder(FineTune("head", n_epochs=1)), LogisticRegression())
        GridSearchCV(pipe, {"logisticregression__C": [0.1, 1]}, cv=2, refit=False).fit(X, Y)
        assert len(trainings) == 4

    @pytest.mark.parametrize("cache", ["run", "folder"])
    def test_workers_share_what_they_learn(self, embedder, tmp_path, cache):
        cache = str(tmp_path) if cache == "folder" else cache
        made = embedder(FineTune("full", n_epochs=1, random_state=11), cache=cache)
        pipe = make_pipeline(made, LogisticRegression())
        grid = {"logisticregression__C": [0.1, 1, 10]}
        search = GridSearchCV(pipe, grid, cv=2, n_jobs=2, scoring=seconds_of, refit=False)
        results = search.fit(X, Y).cv_results_
        for fold in range(2):
            assert len(set(results[f"split{fold}_test_score"])) == 1


class TestWhatIsReused:
    @pytest.mark.parametrize("method", METHODS)
    def test_it_is_what_was_learned(self, embedder, trainings, method):
        made = embedder(FineTune(method, n_epochs=1), cache=EmbeddingStore())
        first, again = made.fit(X, Y).trained_, clone(made).fit(X, Y).trained_
        assert len(trainings) == 1
        assert again is not first
        assert again.start_digest == first.start_digest
        for name in ("method", "base", "kind", "made_with", "lora_scale", "versions"):
            assert getattr(again, name) == getattr(first, name), name
        assert repr(again.history) == repr(first.history)
        assert again.classes.tolist() == first.classes.tolist()

    def test_threads_train_once(self, embedder, trainings):
        made = embedder(FineTune("full", n_epochs=1), cache=EmbeddingStore())
        fit = joblib.delayed(lambda each: each.fit(X, Y).trained_.digest)
        digests = joblib.Parallel(3, prefer="threads")(fit(clone(made)) for _ in range(3))
        assert len(set(digests)) == 1
        assert len(trainings) == 1

    def test_a_training_that_failed_is_left_to_the_next(self, embedder, monkeypatch):
        made = embedder(FineTune("head", n_epochs=1), cache=EmbeddingStore())
        train = _learn._train
        monkeypatch.setattr(_learn, "_train", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division"):
            clone(made).fit(X, Y)
        monkeypatch.setattr(_learn, "_train", train)
        thread = threading.Thread(target=clone(made).fit, args=(X, Y), daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()  # nobody holds its turn

    def test_going_on_is_told_from_beginning(self, embedder, trainings):
        training = FineTune("head", n_epochs=1, warm_start=True, validation_fraction=None)
        made = embedder(training, cache=EmbeddingStore())
        first = made.fit(X, Y).trained_
        second = made.fit(X, Y).trained_
        assert len({first.digest, second.digest}) == 2
        made.partial_fit(X, Y)
        assert len(trainings) == 3


def with_other_weights(made, tmp_path):
    if not (tmp_path / "other").exists():
        write_checkpoint(tmp_path / "other", initializer_range=0.2)
    return made.set_params(model=str(tmp_path / "other"))


CHANGES = {
    "a label": lambda made, _: made.fit(X, ["money", *Y[1:]]),
    "a row": lambda made, _: made.fit(["a tiger", *X[1:]], Y),
    "the order": lambda made, _: made.fit(X[::-1], Y),
    "weights": lambda made, _: made.fit(X, Y, sample_weight=np.arange(1, 33)),
    "names of classes": lambda made, _: made.fit(X, [f"the {y}" for y in Y]),
    "the rate": lambda made, _: made.set_params(training__learning_rate=0.1).fit(X, Y),
    "the seed": lambda made, _: made.set_params(training__random_state=1).fit(X, Y),
    "class weights": lambda made, _: made.set_params(
        training__class_weight={"pet": 2, "money": 1}
    ).fit(X, Y),
    "a scorer": lambda made, _: made.set_params(training__scoring="accuracy").fit(X, Y),
    "unit length": lambda made, _: made.set_params(normalize=True).fit(X, Y),
    "components": lambda made, _: made.set_params(n_components=8).fit(X, Y),
    "pooling": lambda made, _: made.set_params(pooling="cls").fit(X, Y),
    "the format": lambda made, _: made.set_params(training__dtype="bfloat16").fit(X, Y),
    "the model": lambda made, path: with_other_weights(made, path).fit(X, Y),
}


class TestWhatIsNot:
    @pytest.mark.parametrize("change", CHANGES)
    def test_whatever_changes_is_trained_anew(self, embedder, tmp_path, trainings, change):
        store = EmbeddingStore()
        training = FineTune("full", n_epochs=1, validation_fraction=0.25)
        made = embedder(training, cache=store).fit(X, Y)
        found = CHANGES[change](clone(made), tmp_path)
        assert len(trainings) == 2
        alone = CHANGES[change](clone(made).set_params(cache=None), tmp_path)
        # Vectors that were computed among other rows may round otherwise.
        np.testing.assert_allclose(found.transform(X), alone.transform(X), rtol=0, atol=1e-4)

    def test_what_changes_nothing_is_found(self, embedder, tmp_path, trainings):
        made = embedder(FineTune("full", n_epochs=1), cache=EmbeddingStore()).fit(X, Y)
        clone(made).set_params(batch_size=3, verbose=True, on_error="nan").fit(X, Y)
        clone(made).set_params(training__warm_start=True, training__cross_fit=3).fit(X, Y)
        assert len(trainings) == 1

    def test_without_a_seed_each_fit_is_another(self, embedder, trainings):
        made = embedder(FineTune("full", n_epochs=1, random_state=None), cache=EmbeddingStore())
        digests = {clone(made).fit(X, Y).trained_.digest for _ in range(2)}
        assert len(digests) == len(trainings) == 2

    def test_functions_are_known_by_what_they_do(self, embedder, trainings):
        store = EmbeddingStore()

        def fit(sign):
            scorer = make_scorer(lambda y, predicted: sign * np.mean(y == predicted))
            training = FineTune("head", n_epochs=1, scoring=scorer, validation_fraction=0.25)
            return embedder(training, cache=store).fit(X, Y)

        fit(1), fit(1)
        assert len(trainings) == 1
        fit(-1)
        assert len(trainings) == 2


class TestDamage:
    @pytest.mark.parametrize("n_bytes", [0, 5, -1])
    def test_a_damaged_file_is_trained_again(self, embedder, tmp_path, trainings, n_bytes):
        made = embedder(FineTune("head", n_epochs=1), cache=str(tmp_path)).fit(X, Y)
        (path,) = (tmp_path / "large").iterdir()
        whole = path.read_bytes()
        path.write_bytes(whole[:n_bytes])
        with pytest.warns(StoreWarning, match=r"damaged: .*\. The model is trained again"):
            again = clone(made).fit(X, Y)
        assert again.trained_.digest == made.trained_.digest
        assert len(trainings) == 2
        clone(made).fit(X, Y)  # what was damaged has been written again
        assert len(trainings) == 2


class TestVectors:
    def test_frozen_and_trained_vectors_never_mix(self, embedder, tmp_path):
        cache, new = str(tmp_path), ["a tiger", "a loan", *X]
        strategies = [None, *(FineTune(m, n_epochs=1) for m in METHODS)]
        strategies += [FineTune("full", n_epochs=1, random_state=1)]
        made = [embedder(each, cache=cache).fit(X, Y) for each in strategies]
        expected = [embedder(each).fit(X, Y).transform(new) for each in strategies]
        for one, other in combinations(expected, 2):
            assert abs(one - other).max() > 1e-3
        for _ in range(2):  # computed, then found
            for one, vectors in zip(made, expected, strict=True):
                # Rows among others round otherwise in the last bit.
                np.testing.assert_allclose(one.transform(new), vectors, rtol=0, atol=2e-6)
        assert all(one.report_.n_encoded == 0 for one in made)

    def test_a_head_takes_frozen_vectors_from_the_store(self, embedder, tmp_path):
        embedder(None, cache=str(tmp_path)).fit_transform(X)
        made = embedder(FineTune("head", n_epochs=1), cache=str(tmp_path))
        made.fit_transform(X, Y)
        assert made.report_.n_encoded == 0
