import enum
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skembed.store import content_key, digest_of
from tests.store._processes import run

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def spelled(value):
    """An independent canonical spelling: type names and reprs, dictionaries sorted."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{spelled(k)}:{spelled(v)}" for k, v in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return type(value).__name__ + "(" + ",".join(map(spelled, value)) + ")"
    return f"{type(value).__name__}={value!r}"


@given(st.tuples(st.binary(), st.binary()), st.tuples(st.binary(), st.binary()))
def test_keys_are_equal_only_for_equal_digest_and_content(one, other):
    assert (content_key(*one) == content_key(*other)) == (one == other)


@given(st.binary(), st.integers(0, 40), st.integers(0, 40))
def test_a_byte_moved_from_digest_to_content_changes_the_key(joined, at, other):
    at, other = min(at, len(joined)), min(other, len(joined))
    same = content_key(joined[:at], joined[at:]) == content_key(joined[:other], joined[other:])
    assert same == (at == other)


def test_keys_are_16_bytes_and_never_change_between_releases():
    assert content_key(b"model", b"row").hex() == "6a1200583a0e04496a4e0eaa9d1d34eb"


@given(plain, plain)
def test_digests_are_equal_only_for_equal_values_of_equal_types(one, other):
    same = digest_of({"x": one}) == digest_of({"x": other})
    assert same == (spelled(one) == spelled(other))


def test_a_new_vector_format_changes_every_digest(monkeypatch):
    before = digest_of({"x": 1})
    monkeypatch.setattr("skembed.store._keys.VECTOR_FORMAT", 0)
    assert digest_of({"x": 1}) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        ("a", b"a"),
        ([1], (1,)),
        (["ab"], ["a", "b"]),
        ([[1], 2], [[1, 2]]),
        ({"a": {}}, {"a": None}),
        ({1: 2}, {"1": 2}),
    ],
)
def test_values_that_python_or_text_would_confuse_differ(one, other):
    assert digest_of({"x": one}) != digest_of({"x": other})


def test_the_order_of_a_mapping_does_not_matter():
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_digests_are_the_same_in_another_process():
    code = """
        from skembed.store import digest_of
        print(digest_of({"pooling": "mean", "layers": [1, 2.5, None], "raw": b"x"}).hex())
    """
    here = digest_of({"pooling": "mean", "layers": [1, 2.5, None], "raw": b"x"}).hex()
    assert run(code, PYTHONHASHSEED="1") == run(code, PYTHONHASHSEED="2") == here


class Pooling(str, enum.Enum):
    MEAN = "mean"


@pytest.mark.parametrize("value", [np.float32(1), {1}, object(), Pooling.MEAN, np.zeros(2)])
def test_other_types_are_refused_by_place(value):
    with pytest.raises(TypeError, match=re.escape("settings['layers'][1] is ")):
        digest_of({"layers": [0, value]})
