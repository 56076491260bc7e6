"""Training on pairs of rows: of one class, given, or two views of a row."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from skembed import AudioEmbedder, Contrastive, ImageEmbedder, TextEmbedder
from skembed._inputs import CheckedRows
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
)
from skembed.training._contrast import check_contrast, make_contrast
from skembed.training._similarity import class_cosine_loss
from tests.text.checkpoints import write_checkpoint

WORDS = ["fit", "curve", "data", "bounds", "metric", "space", "kernel", "density", "fox", "dog"]
HALVES = [WORDS[:5], WORDS[5:]]
TEXTS = [f"{a} {b} {c}" for half in HALVES for a in half for b in half for c in half[:2]]
CLASSES = [False] * 50 + [True] * 50
PAIRS = [(f"{a} {b}", f"{b} {a}") for a in WORDS for b in WORDS if a < b]
FAST = {"n_epochs": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a small random BERT."""
    folder = tmp_path_factory.mktemp("bert") / "model"
    return write_checkpoint(folder, num_hidden_layers=1, initializer_range=0.05)


@pytest.fixture
def embedder_of(folder):
    def make(*args, **params):
        training = Contrastive(*args, **{**FAST, **params})
        return TextEmbedder(folder, training=training, device="cpu", dtype="float32", cache=None)

    return make


def cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


class Rows:
    """Rows of which only who equals whom counts."""

    def __init__(self, keys):
        self.keys = np.asarray(keys)


def objective_of(strategy, y, n_rows, *, n_sides=1, keys=None):
    positions = np.repeat(np.arange(n_rows), n_sides)
    rows = CheckedRows(list(positions), positions, n_rows, n_sides=n_sides)
    targets = check_contrast(strategy, y, rows, "It", None)
    return make_contrast(
        strategy, targets, Rows(np.arange(len(positions)) if keys is None else keys), 0
    )


# Labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["auto", "supervised_contrastive"])
@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_rows_of_a_class_come_nearer_to_each_other_than_to_others(embedder_of, method, loss):
    params = {"n_epochs": 20, "learning_rate": 1e-2 if method == "head" else 1e-3}
    embedder = embedder_of(
        method=method, loss=loss, temperature=0.2, validation_fraction=None, **params
    )
    is_same = np.equal.outer(CLASSES, CLASSES)

    def gap(found):
        return found[is_same].mean() - found[~is_same].mean()

    after = cosines(embedder.fit(TEXTS, CLASSES).transform(TEXTS))
    before = cosines(embedder.set_params(training=None).transform(TEXTS))
    assert gap(after) > gap(before) + 0.05


@pytest.mark.parametrize("n_classes", [2, 5, 40])
def test_a_batch_has_several_rows_of_each_class_that_it_has(n_classes):
    y = np.random.default_rng(0).permutation(np.arange(320) % n_classes)
    objective = objective_of(Contrastive(validation_fraction=None), y, len(y))
    batches = list(objective.batches(np.random.default_rng(1)))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(320))
    assert len(batches) == objective.n_batches()
    for batch in batches:
        _, counts = np.unique(y[batch.rows], return_counts=True)
        assert np.median(counts) >= 2
        assert len(counts) > 1


@pytest.mark.parametrize("batch_size", [2, 3, 4, 8, 32])
@pytest.mark.parametrize("counts", [(7, 7, 7), (3, 5, 90, 11), (2,) * 20, (5,) * 40, (130, 9)])
def test_no_row_is_alone_of_its_class_in_a_batch(counts, batch_size):
    y = np.repeat(np.arange(len(counts)), counts)
    strategy = Contrastive(batch_size=batch_size, validation_fraction=None)
    objective = objective_of(strategy, y, len(y))
    n_of_one_class = n_batches = 0
    for seed in range(5):
        batches = [batch.rows for batch in objective.batches(np.random.default_rng(seed))]
        assert sorted(np.concatenate(batches)) == list(range(len(y)))
        assert len(batches) == objective.n_batches()
        for rows in batches:
            of_class = np.unique(y[rows], return_counts=True)[1]
            assert of_class.min() >= 2
            n_of_one_class += len(of_class) == 1
            n_batches += 1
            assert len(rows) <= 1.5 * batch_size + 7
    # Rows of one class alone have nothing to be told from.
    assert n_of_one_class < 0.2 * n_batches or max(counts) > 5 * min(counts)


def test_a_rare_class_comes_into_batches_with_others():
    y = np.array([0] * 300 + [1] * 4)
    objective = objective_of(Contrastive(validation_fraction=None), y, len(y))
    batches = [y[b.rows] for b in objective.batches(np.random.default_rng(0)) if y[b.rows].any()]
    assert [sum(batch) for batch in batches] == [4]


def test_the_first_loss_is_that_of_the_published_vectors(tmp_path):
    """Rows of all lengths keep their classes, in whatever order they are run."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    folder = write_checkpoint(tmp_path / "model", **still)
    texts = [" ".join([*WORDS[: 1 + 7 * i % 10], WORDS[i]]) for i in range(10)]
    classes = np.arange(10) % 3
    embedder = TextEmbedder(folder, device="cpu", dtype="float32", cache=None)
    vectors = torch.from_numpy(embedder.transform(texts))
    is_same = torch.from_numpy(np.equal.outer(classes, classes))
    training = Contrastive(n_epochs=1, dtype="float32")
    history = embedder.set_params(training=training).fit(texts, classes).history_
    expected = class_cosine_loss(vectors, is_same).item()
    assert history["loss"][1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["cosine", "supervised_contrastive"])
def test_equal_rows_are_no_pair_whatever_their_classes(loss):
    strategy = Contrastive(loss=loss, validation_fraction=None)
    y, keys = [0, 0, 1, 1, 0], [0, 1, 2, 3, 2]  # the last row is the third again
    vectors = torch.randn((5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors[4] = vectors[2]
    vectors.requires_grad_()
    objective = objective_of(strategy, y, 5, keys=keys)
    other = objective_of(strategy, y, 5)
    batch = next(objective.batches(np.random.default_rng(0)))
    order = torch.from_numpy(batch.rows)
    assert objective.loss(vectors[order], batch) < other.loss(vectors[order], batch)


def test_epochs_are_compared_by_a_probe_and_epoch_0_is_among_them(embedder_of):
    embedder = embedder_of(method="head", validation_fraction=0.3, scoring="accuracy")
    history = embedder.fit(TEXTS, CLASSES).history_
    assert history["epoch"] == [0, 1, 2]
    assert all(0 <= score <= 1 for score in history["score"])
    again = embedder.set_params(training__scoring="loss").fit(TEXTS, CLASSES).history_
    assert all(score < 0 for score in again["score"])


def test_too_few_rows_to_hold_out_keep_the_last_epoch(embedder_of):
    embedder = embedder_of(method="head").fit(TEXTS[:16] + TEXTS[-16:], [0] * 16 + [1] * 16)
    assert np.isnan(embedder.history_["score"]).all()
    assert embedder.history_["n_rows"] == [0, 32, 32]
    assert np.abs(embedder.trained_.arrays["projection.weight"] - np.eye(32)).max() > 1e-4


@pytest.mark.parametrize("n_batches", [2, 8, 60])
def test_few_rows_are_seen_often_and_many_once(embedder_of, n_batches):
    embedder = embedder_of(method="head", n_epochs="auto", batch_size=4, validation_fraction=None)
    texts = [f"{text} {word}" for word in WORDS[:3] for text in TEXTS][: 4 * n_batches]
    embedder.fit(texts, [0, 1, 1, 0] * n_batches)
    assert embedder.history_["epoch"][-1] == -(-Contrastive._least_steps // n_batches)


def test_a_search_in_a_pipeline_passes_labels(folder):
    embedder = TextEmbedder(folder, training=Contrastive(method="head", **FAST), device="cpu")
    pipe = make_pipeline(embedder, LogisticRegression())
    grid = {"textembedder__training__loss": ["cosine", "supervised_contrastive"]}
    search = GridSearchCV(pipe, grid, cv=2).fit(TEXTS, CLASSES)
    assert search.score(TEXTS, CLASSES) > 0.8


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            np.linspace(0, 1, 100),
            r"expected one class per row, got numbers\. Use training=FineTune",
        ),
        (np.eye(100, 3), r"expected one class per row, got several labels a row"),
        (np.arange(100).astype(str), r"expected two rows of one class, got one of each"),
        (None, r"requires y to be passed, but the target y is None"),
    ],
)
def test_labels_that_are_none_are_refused(embedder_of, y, message):
    with pytest.raises(InvalidInputError, match=message):
        embedder_of("labels").fit(TEXTS, y)


# Pairs ----------------------------------------------------------------------------------------


def test_partners_find_each_other(embedder_of):
    pairs = list(zip(TEXTS[:50], TEXTS[50:], strict=True))  # word by word
    embedder = embedder_of(n_epochs=20, validation_fraction=None).fit(pairs)
    first, second = (list(side) for side in zip(*pairs, strict=True))

    def found():
        similarity = cosines(embedder.transform(first + second))[:50, 50:]
        return (similarity.argmax(1) == np.arange(50)).mean()

    after = found()
    embedder.set_params(training=None)
    assert after > found() + 0.1


def test_similarities_are_learned(embedder_of):
    rows = np.random.default_rng(0).permutation(100)
    scores = [float(a // 50 == b // 50) for a, b in rows.reshape(-1, 2)]
    pairs = np.array(TEXTS)[rows].reshape(-1, 2)
    embedder = embedder_of(n_epochs=20, validation_fraction=None).fit(pairs, scores)
    first, second = (embedder.transform(list(side)) for side in pairs.T)
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    assert np.corrcoef((first * second).sum(1), scores)[0, 1] > 0.8


@pytest.mark.parametrize("loss", ["auto", "triplet"])
def test_the_third_row_of_a_triplet_goes_away(embedder_of, loss):
    triplets = [(a, b, TEXTS[(7 * i) % 100]) for i, (a, b) in enumerate(PAIRS)]
    embedder = embedder_of(loss=loss, n_epochs=10, validation_fraction=None).fit(triplets)

    def gap():
        sides = [embedder.transform(list(side)) for side in zip(*triplets, strict=True)]
        a, p, n = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in sides)
        return (a * p).sum(1).mean() - (a * n).sum(1).mean()

    after = gap()
    embedder.set_params(training=None)
    assert after > gap() + 0.05


def test_equal_rows_of_other_pairs_are_no_negatives():
    """Pairs (q, d), (q, e), (r, d): e is no negative of q, nor d of r's own partner."""
    objective = objective_of(
        Contrastive(validation_fraction=None), None, 3, n_sides=2, keys=[0, 1, 0, 2, 3, 1]
    )
    batch = objective._batch(np.arange(3))
    vectors = torch.randn((6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, _, r, d, e, _ = vectors / vectors.norm(dim=1, keepdim=True)
    vectors = torch.stack([q, q, r, d, e, d])
    t = objective.strategy.temperature
    expected = torch.log1p(torch.exp((r @ e - r @ d) / t)) / 3  # q has no negative at all
    torch.testing.assert_close(objective.loss(vectors, batch), expected)


def test_pairs_are_held_out_and_their_loss_compares_epochs(embedder_of):
    embedder = embedder_of(method="head", validation_fraction=0.5, n_epochs=3).fit(PAIRS)
    assert len(PAIRS) == 45
    assert embedder.history_["n_rows"] == [0, 46, 46, 46]
    assert np.isfinite(embedder.history_["score"]).all()


# Views ----------------------------------------------------------------------------------------


def test_texts_without_labels_spread_out_by_dropout(embedder_of):
    embedder = embedder_of(validation_fraction=0.3, n_epochs=3).fit(TEXTS)
    scores = embedder.history_["score"]
    assert max(scores[1:]) > scores[0]
    after = cosines(embedder.transform(TEXTS)).mean()
    assert after < cosines(embedder.set_params(training=None).transform(TEXTS)).mean() - 0.03


def test_a_refit_gives_equal_weights_and_a_pickle_equal_vectors(embedder_of):
    embedder = embedder_of(validation_fraction=0.3).fit(TEXTS)
    again = embedder_of(validation_fraction=0.3).fit(TEXTS)
    assert again.trained_.digest == embedder.trained_.digest
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(embedder)).transform(TEXTS), embedder.transform(TEXTS)
    )


def test_views_of_stored_vectors_are_refused(embedder_of):
    with pytest.raises(InvalidParameterError, match=r"training__method='head': stored vectors"):
        embedder_of(method="head").fit(TEXTS)


def test_pictures_without_labels_learn_from_their_views():
    pictures = list(np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8))
    training = Contrastive(n_epochs=2, batch_size=6, learning_rate=1e-4)
    embedder = ImageEmbedder("squeezenet1_1", weights=None, training=training, cache=None)
    assert np.isfinite(embedder.fit(pictures).transform(pictures)).all()
    before = embedder.set_params(training=None).transform(pictures)
    assert np.abs(embedder.set_params(training=training).transform(pictures) - before).max() > 1e-5


class Spectra(nn.Module):
    """A small network on samples, with dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 400, stride=160), nn.ReLU(), nn.Dropout(0.2), nn.Conv1d(8, 16, 3)
        )

    def forward(self, samples):
        return self.layers(samples[:, None]).mean(2)


def test_sounds_without_labels_learn_from_their_views():
    rng = np.random.default_rng(0)
    sounds = [(rng.normal(size=8000).astype(np.float32) * 0.1, 16_000) for _ in range(12)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Spectra()
    training = Contrastive(n_epochs=2, batch_size=6)
    embedder = AudioEmbedder(model, training=training, on_quality="ignore", cache=None)
    after = embedder.fit(sounds).transform(sounds)
    before = embedder.set_params(training=None).transform(sounds)
    assert np.abs(after - before).max() > 1e-5


# Parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "y", "loss", "message"),
    [
        (TEXTS, CLASSES, "info_nce", r"no such loss of labels; expected 'cosine' or 'superv"),
        (PAIRS, None, "cosine", r"no such loss of pairs; expected 'info_nce', or 'auto'"),
        (PAIRS, None, "triplet", r"no such loss of pairs"),
        (PAIRS, [0.1] * 45, "info_nce", r"no such loss of pairs with similarities; expected 'cos"),
        (TEXTS, None, "triplet", r"no such loss of views; expected 'info_nce'"),
    ],
)
def test_a_loss_of_other_rows_is_refused(embedder_of, X, y, loss, message):
    with pytest.raises(InvalidParameterError, match=message):
        embedder_of(loss=loss).fit(X, y)


def test_scorers_need_classes(embedder_of):
    with pytest.raises(InvalidParameterError, match=r"pairs have no classes that a scorer could"):
        embedder_of(scoring="accuracy").fit(PAIRS)


def test_sample_weights_are_refused(embedder_of):
    with pytest.raises(InvalidInputError, match=r"learns from pairs, which have no weights"):
        embedder_of().fit(TEXTS, CLASSES, sample_weight=np.ones(100))


@pytest.mark.parametrize("positives", ["auto", "labels", "pairs", "views"])
def test_labels_alone_need_y(positives):
    embedder = TextEmbedder(training=Contrastive(positives))
    assert embedder.__sklearn_tags__().target_tags.required == (positives == "labels")
