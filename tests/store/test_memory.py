import threading

from hypothesis import given
from hypothesis import strategies as st

from skembed.store._memory import MemoryTier

keys = st.sampled_from([bytes([i]) * 16 for i in range(6)])
values = st.binary(max_size=40)
steps = st.lists(st.tuples(st.just("put"), keys, values) | st.tuples(st.just("get"), keys))


@given(steps, st.integers(1, 90))
def test_the_least_recently_used_is_dropped_first(steps, max_bytes):
    tier = MemoryTier(max_bytes)
    model: list[tuple[bytes, bytes]] = []  # oldest first
    for kind, key, *value in steps:
        known = dict(model)
        if kind == "put":
            model = [pair for pair in model if pair[0] != key] + [(key, value[0])]
            tier.put_many([(key, value[0])])
            while sum(len(kept) for _, kept in model) > max_bytes:
                model.pop(0)
        else:
            assert tier.get_many([key]) == [known.get(key)]
            if key in known:
                model = [pair for pair in model if pair[0] != key] + [(key, known[key])]
        assert tier.n_bytes == sum(len(kept) for _, kept in model) <= max_bytes
        assert len(tier) == len(model)
        assert {key for key, _ in model} == {k for k in known | {key: b""} if tier.has(k)}


def test_a_value_larger_than_the_bound_is_not_kept():
    tier = MemoryTier(10)
    tier.put_many([(b"small", b"x"), (b"large", b"x" * 11)])
    assert tier.get_many([b"large"]) == [None]
    assert tier.n_bytes <= 10


def test_threads_leave_the_count_of_bytes_exact():
    tier = MemoryTier(5_000)

    def work(seed: int) -> None:
        for step in range(300):
            key = bytes([(seed * 7 + step) % 50])
            tier.put_many([(key, b"x" * ((seed + step) % 200))])
            tier.get_many([key])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [value for value in tier.get_many([bytes([i]) for i in range(50)]) if value is not None]
    assert tier.n_bytes == sum(map(len, kept)) <= 5_000
