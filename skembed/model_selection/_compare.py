"""Embedders side by side on the user's own rows: same folds, same probes, differences that count.

Knows estimators and scores, not how vectors come about.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import adjusted_rand_score, check_scoring, r2_score
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import _num_samples

from skembed.exceptions import InvalidInputError, InvalidParameterError, did_you_mean
from skembed.model_selection._comparison import Comparison

__all__ = ["compare_embedders"]

PROBES = ("linear", "neighbors")
_N_NEIGHBORS = 10
_PENALTIES = np.logspace(-1, 5, 7)
_CONFIDENCE = 0.95
_FACTS = ("load_seconds", "rows_per_second", "again_per_second", "width", "weights_mib")


@dataclass
class _Found:
    """What is measured of one embedder."""

    scores: dict[str, list[float]] = field(default_factory=dict)  # by probe, one of each fold
    agreement: list[float] = field(default_factory=list)
    clusters: list[float] = field(default_factory=list)
    fit_seconds: list[float] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


def compare_embedders(
    embedders: Mapping[str, Any],
    X: Any,
    y: Any,
    *,
    probe: str | Mapping[str, Any] | tuple[str, ...] = PROBES,
    cv: Any = 5,
    scoring: Any = None,
    random_state: int | None = 0,
) -> Comparison:
    """Compare embedders on rows with labels or numbers: how good each is, and what it costs.

    Each embedder is fitted on the rows of a fold and gives vectors of these and of the others; all
    see the same folds. On the vectors of the one each probe is fitted, and scored on the others.
    Frozen models embed each row once for all folds; trained ones learn anew in each.

    Parameters
    ----------
    embedders : dict of str to transformer
        By a name of yours: embedders, with a `training` or without, pipelines that end in vectors,
        or other transformers as a baseline, such as a TfidfVectorizer.
    X : collection of n_rows rows
        As the embedders take them.
    y : array-like of shape (n_rows,)
        Classes, or numbers.
    probe : {"linear", "neighbors"}, tuple of these, or dict of str to estimator, \
            default=("linear", "neighbors")
        What learns from vectors: a logistic or ridge regression whose penalty is chosen by
        cross-validation, the 10 nearest neighbours by cosine, or estimators of yours by name.
    cv : int, cross-validation generator or iterable, default=5
        As of scikit-learn's `cross_val_score`.
    scoring : str or callable, default=None
        As of `cross_val_score`; None is the probe's own: accuracy, or R2.
    random_state : int or None, default=0
        Seed of the clusters, and of the folds if `cv` is a number: they are shuffled.

    Returns
    -------
    comparison : Comparison
        `frame` is a DataFrame with a row for each embedder and probe, `plot` draws it, and printed
        it says in a sentence which one is better than the others by more than noise.

    Raises
    ------
    InvalidParameterError
        If `embedders` or `probe` are not what is expected.
    InvalidInputError
        If X and y are not of one length.

    Notes
    -----
    Intervals are of 95%, of Student's t over the folds, with the variance enlarged because folds
    share rows [1]_; those of differences are of pairs, fold by fold. `agreement` is the share of
    the 10 nearest training rows that are of a row's class (of numbers: R2 of their mean);
    `clusters` the adjusted Rand index of k-means on the vectors of the rows left out, with as many
    clusters as classes. `rows_per_second` is that of the first `transform` of all rows, of those
    that had to be encoded, once the model was loaded; `again_per_second` that of a second one.

    References
    ----------
    .. [1] C. Nadeau and Y. Bengio, "Inference for the Generalization Error", Machine Learning 52,
       2003, doi:10.1023/A:1024068626366.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from skembed import TextEmbedder
    >>> from skembed.model_selection import compare_embedders
    >>> X = ["a cat", "a kitten", "a dog", "a bill", "a tax", "a fee"] * 2
    >>> y = (["pet"] * 3 + ["money"] * 3) * 2
    >>> found = compare_embedders(
    ...     {"MiniLM": TextEmbedder(), "TF-IDF": TfidfVectorizer()}, X, y, cv=2, probe="neighbors"
    ... )  # doctest: +SKIP
    >>> print(found)  # doctest: +SKIP
    """
    _check_embedders(embedders)
    X, y = indexable(X)[0], np.asarray(y)
    if _num_samples(X) != len(y):
        raise InvalidInputError(
            f"y: expected one for each of the {_num_samples(X):,} rows, got {len(y):,}."
        )
    if len(y) < 4:
        raise InvalidInputError(f"y: expected at least 4 rows, got {len(y)}.")
    is_classes = type_of_target(y) in ("binary", "multiclass") and y.dtype.kind != "f"
    probes = _probes(probe, is_classes)
    splitter = check_cv(cv, y, classifier=is_classes)
    if isinstance(cv, (int, np.integer)):
        splitter = type(splitter)(int(cv), shuffle=True, random_state=random_state)
    folds = list(splitter.split(np.zeros(len(y)), y))
    found = {name: _Found() for name in embedders}
    for name, embedder in embedders.items():
        found[name].facts.update(_costs(embedder, X, y))
        for train, test in folds:
            _measure(found[name], embedder, probes, X, y, train, test, scoring, random_state)
    share = float(np.mean([len(test) / len(train) for train, test in folds]))
    return _summary(found, share, "accuracy" if is_classes else "R2", scoring)


def _check_embedders(embedders: Any) -> None:
    is_dict = isinstance(embedders, Mapping) and len(embedders) > 0
    if not is_dict or not all(isinstance(name, str) for name in embedders):
        raise InvalidParameterError(
            "embedders: expected a dict of names to embedders, such as "
            f"{{'MiniLM': TextEmbedder()}}, got {embedders!r:.200}."
        )
    faults = [
        f"{name!r}: {each!r:.100} has no fit and transform"
        for name, each in embedders.items()
        if not (hasattr(each, "fit") and hasattr(each, "transform")) or isinstance(each, type)
    ]
    if faults:
        raise InvalidParameterError("embedders: " + "; ".join(faults) + ".")


def _probes(probe: Any, is_classes: bool) -> dict[str, BaseEstimator]:
    if isinstance(probe, Mapping):
        return dict(probe)
    names = (probe,) if isinstance(probe, str) else tuple(probe)
    for name in names:
        if name not in PROBES:
            raise InvalidParameterError(
                f"probe={name!r}: expected 'linear', 'neighbors', or a dict of estimators by name."
                f"{did_you_mean(name, PROBES)}"
            )
    made: dict[str, BaseEstimator] = {}
    for name in names:
        if name == "neighbors":
            kind = KNeighborsClassifier if is_classes else KNeighborsRegressor
            made[name] = kind(_N_NEIGHBORS, metric="cosine", algorithm="brute")
        elif is_classes:
            logistic = LogisticRegression(max_iter=1000)
            search = GridSearchCV(logistic, {"C": [1e-3, 1e-2, 0.1, 1.0, 10.0]}, cv=3)
            made[name] = make_pipeline(StandardScaler(with_mean=False), search)
        else:
            made[name] = make_pipeline(StandardScaler(with_mean=False), RidgeCV(_PENALTIES))
    return made


def _costs(embedder: Any, X: Any, y: NDArray[Any]) -> dict[str, float]:
    """Return what embedding all rows takes, the model loaded, for the first time and again."""
    each = clone(embedder)
    facts: dict[str, float] = {}
    is_trained = getattr(each, "training", None) is not None
    if is_trained or not hasattr(each, "warm_up"):
        each.fit(X, y)
    else:
        started = time.perf_counter()
        each.warm_up()
        facts["load_seconds"] = time.perf_counter() - started
    started = time.perf_counter()
    vectors = each.transform(X)
    seconds = time.perf_counter() - started
    report = getattr(each, "report_", None)
    n_encoded = len(y) if report is None else report.n_encoded
    facts["rows_per_second"] = n_encoded / seconds if n_encoded else np.nan
    started = time.perf_counter()
    each.transform(X)
    facts["again_per_second"] = len(y) / (time.perf_counter() - started)
    facts["width"] = int(vectors.shape[1])
    backbone = getattr(getattr(each, "encoder_", None), "backbone", None)
    source = getattr(backbone, "source", None)
    n_bytes = 0 if source is None else source.n_bytes()
    facts["weights_mib"] = n_bytes / 2**20 if n_bytes else np.nan
    return facts


def _measure(
    found: _Found,
    embedder: Any,
    probes: Mapping[str, BaseEstimator],
    X: Any,
    y: NDArray[Any],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    scoring: Any,
    random_state: int | None,
) -> None:
    """Fit an embedder to the rows of a fold, and look at its vectors in each way."""
    each = clone(embedder)
    started = time.perf_counter()
    vectors = each.fit_transform(_safe_indexing(X, train), y[train])
    found.fit_seconds.append(time.perf_counter() - started)
    others = each.transform(_safe_indexing(X, test))
    for name, probe in probes.items():
        fitted = clone(probe).fit(vectors, y[train])
        score = check_scoring(fitted, scoring)(fitted, others, y[test])
        found.scores.setdefault(name, []).append(float(score))
    n_neighbors = min(_N_NEIGHBORS, len(train))
    search = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute")
    near = y[train][search.fit(vectors).kneighbors(others, return_distance=False)]
    if y.dtype.kind == "f":
        found.agreement.append(float(r2_score(y[test], near.mean(axis=1))))
        return
    found.agreement.append(float((near == y[test][:, None]).mean()))
    n_classes = len(np.unique(y[test]))
    clusters = KMeans(n_classes, n_init=3, random_state=random_state).fit_predict(others)
    found.clusters.append(float(adjusted_rand_score(y[test], clusters)))


def interval(values: NDArray[np.float64], share: float) -> float:
    """Return half the width of a mean's interval; `share` is that of test to training rows."""
    n = len(values)
    if n < 2:
        return np.nan
    variance = values.var(ddof=1) * (1 / n + share)
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1) * np.sqrt(variance))


def _summary(found: Mapping[str, _Found], share: float, score: str, scoring: Any) -> Comparison:
    """Return all as rows of a table, the best first for each probe."""
    rows: list[dict[str, Any]] = []
    for probe in next(iter(found.values())).scores:
        scores = {name: np.array(each.scores[probe]) for name, each in found.items()}
        order = sorted(scores, key=lambda name: -scores[name].mean())
        best = scores[order[0]]
        for name in order:
            each, behind = found[name], scores[name] - best
            rows.append(
                {
                    "probe": probe,
                    "embedder": name,
                    "score": float(scores[name].mean()),
                    "score_interval": interval(scores[name], share),
                    "behind_best": float(behind.mean()),
                    "behind_interval": interval(behind, share) if name != order[0] else 0.0,
                    "agreement": float(np.mean(each.agreement)),
                    "clusters": float(np.mean(each.clusters)) if each.clusters else np.nan,
                    "fit_seconds": float(np.mean(each.fit_seconds)),
                    **{key: each.facts.get(key, np.nan) for key in _FACTS},
                }
            )
    folds = {name: each.scores for name, each in found.items()}
    return Comparison(rows, folds, scoring if isinstance(scoring, str) else score)
