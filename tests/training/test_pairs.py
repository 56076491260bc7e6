"""Pairs and triplets of rows: their containers, and those that are none."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skembed import Contrastive
from skembed.exceptions import InvalidInputError, InvalidRowsError, InvalidRowsWarning
from tests.training.conftest import X as TEXTS

PAIRS = [(f"{a} {b}", f"{b} {a}") for a in TEXTS[:10] for b in TEXTS[:10] if a < b]


@pytest.fixture
def embedder_of(embedder):
    def make(*args, **params):
        return embedder(Contrastive(*args, **{"n_epochs": 2, "learning_rate": 1e-3, **params}))

    return make


@pytest.mark.parametrize(
    "container",
    [
        list,
        lambda pairs: [list(pair) for pair in pairs],
        np.array,
        pd.DataFrame,
        lambda pairs: pl.DataFrame(pairs, schema=["row", "partner"], orient="row"),
        lambda pairs: pa.table(pd.DataFrame(pairs, columns=["row", "partner"])),
    ],
    ids=["tuples", "lists", "array", "pandas", "polars", "Arrow"],
)
def test_pairs_come_in_any_container(embedder_of, container):
    expected = embedder_of(method="head").fit(PAIRS).trained_
    assert (
        embedder_of("pairs", method="head").fit(container(PAIRS)).trained_.digest == expected.digest
    )
    assert embedder_of(method="head").fit(container(PAIRS)).trained_.digest == expected.digest


@pytest.mark.parametrize("as_column", [np.vstack, lambda y: pd.DataFrame({"similarity": y})])
def test_similarities_may_be_a_column_of_a_table(embedder_of, as_column):
    scores = [0.5, 1.0, -1.0, 0.0]
    plain, table = (
        embedder_of(method="head").fit(PAIRS[:4], y) for y in (scores, as_column(scores))
    )
    assert table.trained_.digest == plain.trained_.digest


def test_bad_sides_are_named_by_pair_and_side(embedder_of):
    rows = [PAIRS[0], ("a fox", None), PAIRS[1], (3, "a dog"), ("a dog",), None]
    message = (
        r"4 of 6 pairs cannot be learned from:(\n.*)*"
        r"row 1: second of the pair: missing \(None\)(\n.*)*"
        r"row 3: first of the pair: expected a str, got int: 3(\n.*)*"
        r"row 4: expected a pair, got 1 rows(\n.*)*row 5: expected a pair, got NoneType\n"
        r"Fix or drop them \(.*\), or set on_error='nan' to leave them out\.$"
    )
    with pytest.raises(InvalidRowsError, match=message) as caught:
        embedder_of().fit(rows)
    assert list(caught.value.faults) == [1, 3, 4, 5]
    frame = pd.DataFrame(rows[:2] + rows[2:3], index=["x", "y", "z"])
    with pytest.raises(InvalidRowsError, match=r"row 1 \(index 'y'\): second of the pair: missing"):
        embedder_of().fit(frame)


def test_bad_sides_of_triplets_are_named_as_such(embedder_of):
    rows = [("a fox", "a dog", "a cat"), ("a fox", "a dog", None)]
    with pytest.raises(InvalidRowsError, match=r"1 of 2 triplets .*\n.* third of the triplet: mis"):
        embedder_of().fit(rows)


def test_bad_pairs_are_left_out_if_the_user_says_so(embedder_of):
    bad = [*PAIRS[:7], ("a fox", None), *PAIRS[7:]]
    embedder = embedder_of(method="head").set_params(on_error="nan")
    with pytest.warns(InvalidRowsWarning, match="1 of 46 pairs were not learned from"):
        embedder.fit(bad)
    assert embedder.trained_.digest == embedder_of(method="head").fit(PAIRS).trained_.digest


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (PAIRS, [0.5] * 44, r"expected one similarity for each of 45 pairs, got 44"),
        (PAIRS, [0.5] * 44 + [3.0], r"from -1 to 1; 1 of 45 are not:\n  row 44: 3\.0"),
        (PAIRS, np.full(45, 3.0), r"45 of 45 are not:\n  rows 0, 1, .*: 3\.0"),
        (PAIRS, ["same"] * 45, r"from -1 to 1; 45 of 45 are not"),
        (PAIRS, [np.nan] + [0.5] * 44, r"from -1 to 1; 1 of 45 are not:\n  row 0: nan"),
        ([(*pair, "x") for pair in PAIRS], [0.5] * 45, r"triplets have no similarities"),
        (PAIRS[:1], None, r"expected two pairs or more, got 1"),
        (TEXTS, None, r"Expected pairs or triplets of rows, as a list of tuples"),
    ],
)
def test_pairs_that_are_none_are_refused(embedder_of, X, y, message):
    with pytest.raises((InvalidInputError, InvalidRowsError), match=message):
        embedder_of("pairs").fit(X, y)


def test_fit_transform_of_pairs_says_what_to_do(embedder_of):
    with pytest.raises(InvalidInputError, match=r"Call fit\(pairs\), then transform\(rows\)"):
        embedder_of().fit_transform(PAIRS)
    with pytest.raises(InvalidRowsError, match=r"expected a str, got tuple"):
        embedder_of(method="head").fit(PAIRS).transform(PAIRS)
