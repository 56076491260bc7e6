"""Batches by cost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skembed.engine._plan import plan_batches

COSTS = st.lists(st.integers(1, 60), max_size=80).map(lambda costs: np.array(costs, dtype=np.int64))


@given(
    costs=COSTS,
    budget=st.integers(1, 200),
    layout=st.sampled_from(["packed", "padded", "equal"]),
    max_parts=st.none() | st.integers(1, 7),
)
def test_every_part_is_planned_once_and_limits_hold(costs, budget, layout, max_parts):
    batches = plan_batches(costs, budget=budget, layout=layout, max_parts=max_parts)
    planned = np.concatenate([*batches, np.empty(0, np.int64)])
    assert sorted(planned) == list(range(len(costs)))
    assert all(np.diff(costs[planned.astype(int)]) <= 0)
    for batch in batches:
        inside = costs[batch]
        cost = inside.sum() if layout == "packed" else inside.max() * len(batch)
        assert cost <= budget or len(batch) == 1
        assert max_parts is None or len(batch) <= max_parts
        if layout == "equal":
            assert len(set(inside)) == 1
        if layout == "padded":
            assert inside.sum() >= 0.85 * cost


def test_packed_batches_are_filled_to_the_budget():
    batches = plan_batches(np.full(100, 10), budget=100, layout="packed")
    assert [len(batch) for batch in batches] == [10] * 10


def test_parts_of_equal_cost_keep_their_order():
    (batch,) = plan_batches(np.array([3, 5, 3, 5]), budget=100)
    assert batch.tolist() == [1, 3, 0, 2]
