"""What is measured of one embedder in a comparison: scores fold by fold, and what it costs."""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, check_scoring, r2_score
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import _safe_indexing, get_tags

from skembed.exceptions import InvalidInputError, InvalidRowsError, describe_rows, name_rows

__all__ = ["FACTS", "N_NEIGHBORS", "Found", "Task", "measure"]

N_NEIGHBORS = 10
FACTS = ("load_seconds", "rows_per_second", "again_per_second", "width", "model_mib")


@dataclass(frozen=True)
class Task:
    """Rows, what is to be told of them, and how: the same for all embedders."""

    X: Any
    y: NDArray[Any]
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
    probes: Mapping[str, BaseEstimator]
    scoring: Any
    random_state: int | None


@dataclass
class Found:
    """What is measured of one embedder."""

    scores: dict[str, list[float]] = field(default_factory=dict)  # by probe, one of each fold
    agreement: list[float] = field(default_factory=list)
    clusters: list[float] = field(default_factory=list)
    fit_seconds: list[float] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


def measure(name: str, embedder: Any, task: Task) -> Found:
    """Embed the rows of each fold, and look at the vectors in each way."""
    found = Found()
    is_frozen = not get_tags(embedder).requires_fit
    if is_frozen:  # the vectors are the same in all folds
        all_vectors = _embed_all(name, clone(embedder), task, found.facts)
    for train, test in task.folds:
        if is_frozen:
            vectors, others = all_vectors[train], all_vectors[test]
            found.fit_seconds.append(0.0)
        else:
            vectors, others = _embed_fold(name, clone(embedder), task, train, test, found)
        _look(found, vectors, others, task, train, test)
    return found


def _embed_all(name: str, each: Any, task: Task, facts: dict[str, float]) -> Any:
    if hasattr(each, "warm_up"):
        _, facts["load_seconds"] = _timed(each.warm_up)
    rows = range(len(task.y))
    vectors, seconds = _timed(lambda: _checked(name, lambda: each.transform(task.X), rows))
    facts.update(_costs(each, vectors, seconds, task.X))
    return vectors


def _embed_fold(
    name: str,
    each: Any,
    task: Task,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    found: Found,
) -> tuple[Any, Any]:
    """Return the vectors of training and test rows, of an embedder fitted on the former."""
    ours, theirs = _safe_indexing(task.X, train), _safe_indexing(task.X, test)
    y = task.y[train]
    vectors, seconds = _timed(lambda: _checked(name, lambda: each.fit_transform(ours, y), train))
    found.fit_seconds.append(seconds)
    others, seconds = _timed(lambda: _checked(name, lambda: each.transform(theirs), test))
    if not found.facts:
        found.facts.update(_costs(each, others, seconds, theirs))
    return vectors, others


def _checked(name: str, embed: Callable[[], Any], rows: Iterable[int]) -> Any:
    """Return vectors; bad rows are named as rows of X, of which a fold has some."""
    rows = np.fromiter(rows, dtype=np.int64)
    try:
        vectors = embed()
    except InvalidRowsError as error:
        faults = {int(rows[i]): why for i, why in error.faults.items()}
        raise InvalidRowsError(
            f"{name!r} cannot embed {len(faults):,} rows of X.{describe_rows(faults)}\n"
            "Leave these out of X and y.",
            faults,
        ) from error
    vectors = vectors.tocsr() if issparse(vectors) else np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[0] != len(rows):
        raise InvalidInputError(
            f"{name!r}: expected vectors of shape ({len(rows)}, width), got {vectors.shape}."
        )
    if not issparse(vectors):
        bad = rows[~np.isfinite(vectors).all(axis=1)].tolist()
        if bad:
            raise InvalidRowsError(
                f"{name!r} has no finite vector for {len(bad):,} rows of X ({name_rows(bad)}). "
                "Leave these out of X and y.",
                dict.fromkeys(bad, "no finite vector"),
            )
    return vectors


def _costs(each: Any, vectors: Any, seconds: float, rows: Any) -> dict[str, float]:
    """Return what `transform` took, takes once more, and what the embedder weighs."""
    steps = [step for _, step in getattr(each, "steps", [("", each)])]
    reports = [getattr(step, "report_", None) for step in steps]
    # Rows that the store had already say nothing of the model.
    n_encoded = min((r.n_encoded for r in reports if r is not None), default=vectors.shape[0])
    _, again = _timed(lambda: each.transform(rows))
    n_bytes = sum(map(_n_bytes, steps))
    return {
        "rows_per_second": n_encoded / seconds if n_encoded else np.nan,
        "again_per_second": vectors.shape[0] / again,
        "width": int(vectors.shape[1]),
        "model_mib": n_bytes / 2**20 if n_bytes else np.nan,
    }


def _n_bytes(step: Any) -> float:
    """Return the size of a model's weights, of what has none that of its pickle."""
    source = getattr(getattr(getattr(step, "encoder_", None), "backbone", None), "source", None)
    if source is not None:
        return float(source.n_bytes())
    try:
        return float(len(pickle.dumps(step)))
    except (pickle.PicklingError, AttributeError, TypeError):  # a function of a notebook
        return 0.0


def _look(
    found: Found,
    vectors: Any,
    others: Any,
    task: Task,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> None:
    """Fit the probes to vectors of training rows; score them, neighbours and clusters."""
    known, asked = task.y[train], task.y[test]
    for name, probe in task.probes.items():
        with warnings.catch_warnings():
            # Of the probe's own folds; the user hears it of the comparison's.
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            fitted = clone(probe).fit(vectors, known)
        score = check_scoring(fitted, task.scoring)(fitted, others, asked)
        found.scores.setdefault(name, []).append(float(score))
    n_neighbors = min(N_NEIGHBORS, len(train))
    search = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute")
    near = known[search.fit(vectors).kneighbors(others, return_distance=False)]
    if task.y.dtype.kind == "f":
        found.agreement.append(float(r2_score(asked, near.mean(axis=1))))
        return
    found.agreement.append(float((near == asked[:, None]).mean()))
    n_classes = len(np.unique(asked))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters")  # rows may be equal
        clusters = KMeans(n_classes, n_init=3, random_state=task.random_state).fit_predict(others)
    found.clusters.append(float(adjusted_rand_score(asked, clusters)))


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = run()
    return found, time.perf_counter() - started
