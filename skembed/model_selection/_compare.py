"""Embedders side by side on the user's own rows: same folds, same probes, differences that count.

Knows estimators and scores, not how vectors come about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import indexable
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import _num_samples

from skembed.exceptions import InvalidInputError, InvalidParameterError, did_you_mean, name_rows
from skembed.model_selection._comparison import Comparison, summarize
from skembed.model_selection._measure import N_NEIGHBORS, Task, measure

__all__ = ["compare_embedders"]

PROBES = ("linear", "neighbors")
_STRENGTHS = np.logspace(-3, 1, 5)
_FEWEST_ROWS = 10
_PENALTIES = np.logspace(-1, 5, 7)


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

    All see the same folds. In each, an embedder is fitted on the training rows, probes learn from
    its vectors of these, and are scored on its vectors of the others. A frozen model embeds each
    row once for all folds; what is trained learns anew in each.

    Parameters
    ----------
    embedders : dict of str to transformer
        By a name of yours: embedders, frozen or trained, pipelines that end in vectors, and
        baselines such as a TfidfVectorizer, or a FunctionTransformer of pixels.
    X : collection of n_rows rows
        As the embedders take them.
    y : array-like of shape (n_rows,)
        Classes (names, whole numbers, or two values), or numbers (of a floating-point type).
    probe : {"linear", "neighbors"}, tuple of these, or dict of str to estimator, \
            default=("linear", "neighbors")
        What learns from vectors: a logistic or ridge regression whose penalty is chosen by
        cross-validation, the 10 nearest neighbours by cosine, or estimators of yours by name.
    cv : int, cross-validation generator or iterable, default=5
        As of scikit-learn's `cross_val_score`; of a number the folds are shuffled. For groups pass
        the splits: ``GroupKFold().split(X, y, groups)``.
    scoring : str or callable, default=None
        As of `cross_val_score`; None is the probe's own: accuracy, or R2.
    random_state : int or None, default=0
        Seed of folds and clusters.

    Returns
    -------
    comparison : Comparison
        `frame` is a DataFrame with a row for each embedder and probe, `plot` draws it, and printed
        it says which one is better than the others by more than noise.

    Raises
    ------
    InvalidParameterError
        If `embedders` or `probe` are not what is expected.
    InvalidInputError
        If y is not one class or number for each row of X, or has a single class.
    InvalidRowsError
        If an embedder has no vector for some rows, which are named.

    Notes
    -----
    Intervals are of 95%, of Student's t over the folds, with the variance enlarged because folds
    share rows [1]_. Those of differences are of pairs, fold by fold, and hold for all embedders
    together (Bonferroni): with more candidates it takes more to be better than noise.

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
    X = indexable(X)[0]
    y = _check_targets(y, _num_samples(X), cv)
    is_classes = y.dtype.kind != "f"
    splitter = check_cv(cv, y, classifier=is_classes)
    if isinstance(cv, (int, np.integer)):
        splitter = type(splitter)(int(cv), shuffle=True, random_state=random_state)
    folds = list(splitter.split(np.zeros(len(y)), y))
    probes = _probes(probe, is_classes, min(N_NEIGHBORS, *(len(train) for train, _ in folds)))
    task = Task(X, y, folds, probes, scoring, random_state)
    found = {name: measure(name, embedder, task) for name, embedder in embedders.items()}
    share = float(np.mean([len(test) / len(train) for train, test in folds]))
    n_test = float(np.mean([len(test) for _, test in folds]))
    return summarize(found, share, n_test, _name_of(scoring, is_classes))


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


def _check_targets(given: Any, n_rows: int, cv: Any) -> NDArray[Any]:
    """Return y as an array: of numbers if its type is floating-point, else of classes."""
    y: NDArray[Any] = np.asarray(given)
    if y.ndim == 2 and y.shape[1] == 1:  # a frame of one column
        y = y[:, 0]
    if y.ndim != 1:
        raise InvalidInputError(
            f"y: expected a class or a number for each row, got an array of shape {y.shape}."
        )
    if len(y) != n_rows:
        raise InvalidInputError(f"y: expected one for each of the {n_rows:,} rows, got {len(y):,}.")
    if n_rows < _FEWEST_ROWS:
        raise InvalidInputError(f"y: expected at least {_FEWEST_ROWS} rows, got {n_rows}.")
    missing = [i for i, each in enumerate(y.tolist()) if _is_missing(each)]
    if missing:
        raise InvalidInputError(
            f"y: expected a class or a number for each row, got none for {len(missing):,} "
            f"({name_rows(missing)}). Leave these out of X and y."
        )
    if y.dtype.kind != "f" and type_of_target(y) not in ("binary", "multiclass"):
        raise InvalidInputError(f"y: expected classes or numbers, got {y[0]!r:.100}, for example.")
    found, counts = np.unique(y, return_counts=True)
    if len(found) < 2:
        raise InvalidInputError(
            f"y: expected two classes or more, got {y.tolist()[0]!r:.100} alone."
        )
    if y.dtype.kind == "f" and len(found) == 2:  # such as 0.0 and 1.0
        y = (y == found[1]).astype(np.int64)
    if y.dtype.kind != "f" and isinstance(cv, (int, np.integer)) and counts.max() < cv:
        raise InvalidInputError(
            f"y: expected at least cv={cv} rows of a class, got {len(found):,} classes of at most "
            f"{counts.max()}. If y are numbers, pass them as floats."
        )
    return y


def _is_missing(value: Any) -> bool:
    return value is None or str(value) == "<NA>" or bool(value != value)  # pandas' NA, NaN


def _probes(probe: Any, is_classes: bool, n_neighbors: int) -> dict[str, BaseEstimator]:
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
            made[name] = kind(n_neighbors, metric="cosine", algorithm="brute")
        elif is_classes:
            search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": _STRENGTHS}, cv=3)
            made[name] = make_pipeline(StandardScaler(with_mean=False), search)
        else:
            made[name] = make_pipeline(StandardScaler(with_mean=False), RidgeCV(_PENALTIES))
    return made


def _name_of(scoring: Any, is_classes: bool) -> str:
    if scoring is None:
        return "accuracy" if is_classes else "R2"
    name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    return "score" if name == "<lambda>" else name
