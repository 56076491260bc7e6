"""Columns as a user meets them: told, texts by another embedder, cells that cannot be read."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from skembed import FineTune, SelfSupervised, TabularEmbedder
from skembed.exceptions import InvalidRowsError, InvalidRowsWarning
from tests.tabular.houses import FEW, N, frame, labels


def test_what_text_gives_is_taken():
    X = frame().assign(title=[f"a {i} of {['cat', 'dog', 'fox'][i % 3]}" for i in range(N)])
    text = make_pipeline(TfidfVectorizer(), TruncatedSVD(3))
    embedder = TabularEmbedder(text=text, training=SelfSupervised(**FEW)).fit(X)
    assert embedder.columns_["title"].parts == ("text of 3",)


def days(n=N):
    """Return a table with a column of dates as strings; rows are named a0, a1, ..."""
    X = frame(n)[["price", "is_new", "city"]].assign(
        day=pd.date_range("2025-01-01", periods=n).strftime("%Y-%m-%d").to_numpy(dtype=object)
    )
    return X.set_axis([f"a{i}" for i in range(n)])


def embedder(**changes):
    return TabularEmbedder(n_components=4, training=SelfSupervised(**FEW), **changes)


def test_a_bad_date_is_missing_and_named_in_fit_and_in_transform():
    X = days()
    X.loc["a7", "day"] = "soon"
    ours = embedder()
    with pytest.warns(
        InvalidRowsWarning, match=r"1 of 80 rows .*\n  row 7 \(index 'a7'\): .*'day'"
    ):
        vectors = ours.fit_transform(X)
    assert ours.report_.notes == {7: "column 'day': 'soon' is no date"}
    assert not ours.report_.faults
    assert ours.columns_["day"].kind == "date"
    assert "'soon'" in ours.columns_["day"].why
    empty = X.assign(day=X["day"].where(X.index != "a7", None))
    np.testing.assert_array_equal(embedder().fit_transform(empty), vectors)
    with pytest.warns(InvalidRowsWarning, match="'2025-02-30' is no date"):
        found = ours.transform(X.iloc[[3]].assign(day="2025-02-30"))
    np.testing.assert_array_equal(found, ours.transform(X.iloc[[3]].assign(day=None)))


def test_a_bad_date_in_any_fold_stops_no_cross_validation():
    X = days()
    X.loc["a7", "day"] = "soon"
    pipe = make_pipeline(embedder(), LogisticRegression())
    with pytest.warns(InvalidRowsWarning, match="'soon' is no date"):
        scores = cross_val_score(pipe, X, labels(frame()), cv=3, error_score="raise")
    assert np.isfinite(scores).all()


def test_a_bad_date_in_a_column_that_was_said_to_have_none_is_a_fault_of_its_row():
    X = days()
    X.loc["a7", "day"] = "soon"
    with pytest.raises(InvalidRowsError, match=r"row 7 \(index 'a7'\): column 'day': 'soon' is no"):
        embedder(columns={"day": "date"}).fit(X)
    assert embedder(columns={"day": "category"}).fit(X).columns_["day"].kind == "category"


class Fussy(TransformerMixin, BaseEstimator):
    """Counts letters, and refuses what `error` says: texts with a bang."""

    def __init__(self, error=None, in_fit=False):
        self.error = error
        self.in_fit = in_fit

    def fit(self, X, y=None):
        if self.in_fit:
            raise self.error
        return self

    def transform(self, X):
        faults = {i: "too loud" for i, text in enumerate(X) if "!" in text}
        if faults and self.error is not None:
            raise self.error
        if faults:
            raise InvalidRowsError("1 of 3 rows cannot be embedded: row 2: too loud", faults)
        return np.array([[len(text), text.count("a")] for text in X], dtype=float)


def titles(n=N):
    return [f"a {i % 50} of {['cats', 'dogs', 'banana'][i % 3]}" for i in range(n)]


@pytest.mark.parametrize(
    "error", [ValueError("no such thing"), OSError("no such thing"), InvalidRowsError("no such")]
)
@pytest.mark.parametrize("in_fit", [True, False])
def test_an_error_of_text_says_which_column(error, in_fit):
    X = frame().assign(title=titles())
    ours = embedder(text=Fussy(type(error)(str(error)), in_fit))
    with pytest.raises(type(error), match=r"column 'title'.*no such"):
        ours.fit(X) if in_fit else ours.fit(X).transform(X.assign(title="Hey!"))


def test_texts_that_are_refused_are_rows_of_the_table():
    X = frame().assign(title=titles()).set_axis([f"a{i}" for i in range(N)])
    ours = embedder(text=Fussy()).fit(X)
    X.loc[["a4", "a9"], "title"] = "Hey!"
    with pytest.raises(
        InvalidRowsError, match=r"(?s)column 'title'.*rows 4 \(index 'a4'\), 9 .*too loud"
    ) as got:
        ours.transform(X)
    assert got.value.faults == {4: "too loud", 9: "too loud"}


def test_columns_of_zeros_that_pandas_leaves_out_are_taken():
    X = pd.get_dummies(frame()[["city"]]).astype(float).assign(price=np.arange(N) / 7)
    sparse = X.astype({name: pd.SparseDtype(float, 0.0) for name in X if name != "price"})
    found = embedder().fit_transform(sparse)
    np.testing.assert_array_equal(found, embedder().fit_transform(X))


def test_a_report_does_not_say_how_many_rows_differ():
    X = frame().iloc[[0, 1, 0, 1, 2]]
    ours = embedder().fit(frame())
    ours.transform(X)
    report = ours.report_
    assert (report.n_rows, report.n_distinct, report.n_encoded, report.n_reused) == (5, None, 5, 0)
    assert str(report).startswith("5 rows: 5 encoded; ")


def test_rows_have_no_weights():
    with pytest.raises(TypeError, match="sample_weight"):
        TabularEmbedder(training=FineTune(**FEW)).fit(frame(), labels(frame()), sample_weight=[1])
