"""Checks of what comes out: the array, its feature names, its frame, its use in a pipeline."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.utils.multiclass import type_of_target

from skembed.testing._case import Case, fail, import_backend, odd_index, skip, take

# scikit-learn 1.6 takes over the index of frames, not of Series.
_KEEPS_INDEX = not sklearn.__version__.startswith("1.6")


def check_output_format(case: Case) -> None:
    """Check that the output is a 2-D float array with one row per row."""
    if (dtype := case.reference.dtype) not in (np.float32, np.float64):
        fail(f"expected dtype float32 or float64, got {dtype}")
    output = case.fitted().transform(case.rows)
    if not (output.flags.c_contiguous or output.flags.f_contiguous):
        fail("expected a contiguous array, got a slice that keeps a larger array alive")


def check_output_finite(case: Case) -> None:
    """Check that the output has no NaN and no infinity."""
    if bad := np.flatnonzero(~np.isfinite(case.reference).all(axis=1)).tolist():
        fail(f"expected finite numbers, got NaN or infinity in rows {bad[:10]}")


def check_output_deterministic(case: Case) -> None:
    """Check that the same rows give the same output, from one instance and from equal instances."""
    estimator = case.fitted()
    case.assert_all(estimator, "equal instance")
    case.assert_all(estimator, "second call")


def check_output_is_the_callers(case: Case) -> None:
    """Check that writing to an output, or embedding again, changes no other output."""
    estimator = case.fitted()
    first = estimator.transform(case.rows)
    estimator.transform(take(case.rows, reversed(range(case.n_rows))))
    case.assert_same(first, case.reference, "first output, after other rows were embedded")
    if not first.flags.writeable:
        fail("expected an array that can be written to, got a read-only one")
    first[:] = -12345.0
    case.assert_all(estimator, "after the first output was overwritten")


def check_feature_names_out(case: Case) -> None:
    """Check that there is one unique feature name, a string, for each column of the output."""
    names = np.asarray(case.fitted().get_feature_names_out())
    width = case.reference.shape[1]
    if names.shape != (width,):
        fail(f"expected {width} names, got shape {names.shape}")
    if not all(isinstance(name, str) for name in names):
        fail(f"expected names that are strings, got {names[:3].tolist()}")
    if len(set(names)) < width:
        fail(f"expected unique names, got only {len(set(names))} of {width}")


def check_set_output(case: Case) -> None:
    """Check that `set_output` gives frames with feature names and the index of the input."""
    estimator = case.fitted()
    if not hasattr(estimator, "set_output"):
        fail("expected set_output; derive from TransformerMixin and have get_feature_names_out")
    backends = [name for name in ("pandas", "polars") if import_backend(name)]
    if not backends:
        skip("neither pandas nor polars is installed")
    for name in backends:
        estimator.set_output(transform=name)
        _assert_frame(case, estimator, case.rows, name)
        if name == "pandas" and not case.is_table:
            pd = import_backend("pandas")
            index = odd_index(case.n_rows)
            rows = pd.Series(case.rows, dtype=object, index=pd.Index(index, dtype=object))
            frame = _assert_frame(case, estimator, rows, name)
            if _KEEPS_INDEX and list(frame.index) != index:
                fail(f"expected the index of the input {index}, got {list(frame.index)}")
    estimator.set_output(transform="default")
    case.assert_all(estimator, "set back to default")


def _assert_frame(case: Case, estimator: Any, rows: Any, backend: str) -> Any:
    frame = estimator.transform(rows)
    if not isinstance(frame, import_backend(backend).DataFrame):
        fail(f"expected a DataFrame of {backend}, got {type(frame).__name__}")
    names, columns = list(estimator.get_feature_names_out()), list(frame.columns)
    if columns != names:
        fail(f"{backend} output: expected columns {names[:3]}..., got {columns[:3]}...")
    case.assert_same(frame.to_numpy(), case.reference, f"{backend} output")
    return frame


def check_pipeline(case: Case) -> None:
    """Check that a pipeline with the embedder can be cross-validated."""
    y = [row % 2 for row in range(case.n_rows)] if case.y is None else case.y
    is_classes = type_of_target(y) in ("binary", "multiclass")
    if is_classes and min(Counter(np.asarray(y).tolist()).values()) < 2:
        skip("a class of y has fewer than two rows")
    predictor = KNeighborsClassifier if is_classes else KNeighborsRegressor
    pipeline = make_pipeline(case.unfitted(), predictor(n_neighbors=1))
    scores = cross_val_score(pipeline, case.rows, y, cv=2, error_score="raise")
    if not np.isfinite(scores).all():
        fail(f"expected finite scores, got {scores}")


def check_column_transformer(case: Case) -> None:
    """Check that a `ColumnTransformer` embeds one column of a frame among others."""
    pd = import_backend("pandas")
    if case.is_table:
        skip("the rows are a table already")
    if pd is None:
        skip("pandas is not installed")
    frame = pd.DataFrame({"row": pd.Series(case.rows, dtype=object), "number": 0.0})
    frame.index = pd.Index(odd_index(case.n_rows), dtype=object)
    columns = ColumnTransformer([("row", case.unfitted(), "row"), ("n", "passthrough", ["number"])])
    got = columns.fit_transform(frame, *case.targets)
    case.assert_same(got[:, :-1], case.reference, "column of a frame")
    prefixed = [f"row__{name}" for name in case.fitted().get_feature_names_out()]
    if (names := list(columns.get_feature_names_out())[:-1]) != prefixed:
        fail(f"expected the feature names {prefixed[:3]}..., got {names[:3]}...")
