"""Rows by content."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skembed.engine._rows import find_distinct, keys_of
from tests.engine.letters import LetterEncoder


def oracle(values):
    """Return the first row of each kind and each row's kind, the obvious way."""
    kinds = {}
    inverse = [kinds.setdefault(value, len(kinds)) for value in values]
    first = [values.index(kind) for kind in kinds]
    return first, inverse


@given(st.lists(st.text("ab", max_size=3), max_size=50))
def test_distinct_rows_are_those_of_a_dictionary(texts):
    found = find_distinct(keys_of(LetterEncoder(), texts))
    first, inverse = oracle(texts)
    assert found.first.tolist() == first
    assert found.inverse.tolist() == inverse


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=40))
def test_keys_that_agree_in_their_first_half_only_are_told_apart(pairs):
    keys = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    found = find_distinct(keys)
    first, inverse = oracle(pairs)
    assert found.first.tolist() == first
    assert found.inverse.tolist() == inverse
