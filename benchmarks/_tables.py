"""Real tables, what is to be told of their rows, and ways to turn the rows into vectors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "examples")]

__all__ = ["EMBEDDERS", "TABLES", "heads", "is_of_numbers", "load", "score"]

_TARGETS = {
    "ames": "Sale_Price",
    "attrition": "Attrition",
    "wa_churn": "churn",
    "credit_data": "Status",
    "lending_club": "Class",
    "stackoverflow": "Remote",
    "spam": "type",
    "income": "INCOME",
}
_OF_KERNLAB = ("spam", "income")
_BUNDLED = ("breast_cancer", "wine", "diabetes", "digits")
TABLES = (*_TARGETS, *_BUNDLED)


def load(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table and what is to be told of its rows: classes, or numbers."""
    if name in _BUNDLED:
        found = getattr(datasets, f"load_{name}")(as_frame=True)
        return found.data, found.target.to_numpy()
    frame = kernlab(name) if name in _OF_KERNLAB else modeldata(name)
    y = frame.pop(_TARGETS[name])
    # scikit-learn's transformers know no missing values of pandas' integers.
    integers = frame.select_dtypes("Int32").columns
    frame = frame.astype(dict.fromkeys(integers, np.float64))
    if name == "income":  # nine brackets, from the lowest to the highest
        return frame, y.cat.codes.to_numpy(float)
    return frame, np.log(y.to_numpy(float)) if name == "ames" else y.astype(str).to_numpy()


def modeldata(name: str) -> pd.DataFrame:
    """Return a table of R's modeldata."""
    from _modeldata import modeldata

    return modeldata(name)


def kernlab(name: str) -> pd.DataFrame:
    """Return a table of R's kernlab, as `python tests/materials.py` fetched it."""
    import rdata

    from tests.materials import material

    return rdata.read_rda(material("kernlab") / f"{name}.rda")[name].reset_index(drop=True)


def is_of_numbers(y: np.ndarray) -> bool:
    """Return whether numbers are to be told, not classes."""
    return y.dtype.kind == "f"


def one_hot(seed: int) -> Any:
    """Return scikit-learn's columns: scaled numbers, one column for each category."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    words = OneHotEncoder(handle_unknown="ignore", min_frequency=2, sparse_output=False)
    return make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (words, make_column_selector(dtype_exclude="number")),
    )


def skrub(seed: int) -> Any:
    """Return skrub's columns, filled and scaled."""
    from skrub import TableVectorizer

    return make_pipeline(TableVectorizer(), SimpleImputer(), StandardScaler())


def self_supervised(seed: int) -> Any:
    """Return vectors learned from the rows alone."""
    from skembed import SelfSupervised, TabularEmbedder

    return TabularEmbedder(training=SelfSupervised(random_state=seed), random_state=seed)


def supervised(seed: int) -> Any:
    """Return vectors learned from labels: those of the rows in `fit` out of fold."""
    from skembed import FineTune, TabularEmbedder

    return TabularEmbedder(training=FineTune(cross_fit=5, random_state=seed), random_state=seed)


EMBEDDERS: dict[str, Callable[[int], Any]] = {
    "skrub": skrub,
    "one-hot": one_hot,
    "self-supervised": self_supervised,
    "supervised": supervised,
}


def heads(y: np.ndarray) -> dict[str, Any]:
    """Return a linear model, its penalty chosen in an inner cross-validation, and neighbours."""
    if is_of_numbers(y):
        return {"linear": RidgeCV(np.logspace(-2, 4, 13)), "neighbours": KNeighborsRegressor(15)}
    linear = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7), cv=3, scoring="neg_log_loss", max_iter=500, l1_ratios=(0,)
    )
    return {"linear": linear, "neighbours": KNeighborsClassifier(15)}


def score(model: Any, X: Any, y: np.ndarray) -> float:
    """Return R2 of numbers, the area under the ROC curve of classes (each against the rest)."""
    if is_of_numbers(y):
        return float(r2_score(y, model.predict(X)))
    shares = model.predict_proba(X)
    if shares.shape[1] == 2:
        return float(roc_auc_score(y == model.classes_[1], shares[:, 1]))
    return float(roc_auc_score(y, shares, multi_class="ovr", labels=model.classes_))
