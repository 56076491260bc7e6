import errno

from hypothesis import given, settings
from hypothesis import strategies as st

from skembed.store import EmbeddingStore, content_key
from skembed.store import _vectors as vectors_module
from skembed.store._environment import Environment
from tests.store._processes import run
from tests.store._rows import make


def oldest_kept(store, keys):
    return [value is not None for value in store._folder.vectors.get_many(keys)[0]]


def test_beyond_its_bound_a_folder_drops_the_least_recently_used(tmp_path):
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    keys, values = make(12)
    store.put_many(keys[:10], values[:10])
    store._memory.clear()
    store.get_many(keys[:2])
    store.put_many(keys[10:], values[10:])
    assert oldest_kept(store, keys) == [True, True, False, False] + [True] * 8
    info = store.info()
    assert (info.n_entries, info.n_bytes, info.n_evicted) == (10, 1000, 2)


def test_uses_are_remembered_by_the_next_process(tmp_path):
    keys, values = make(12)
    code = """
        import sys
        from skembed.store import EmbeddingStore, content_key
        keys = [content_key(b"", str(i).encode()) for i in range(2)]
        store = EmbeddingStore(sys.argv[1], max_bytes=1000)
        assert None not in store.get_many(keys)
    """
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    store.put_many(keys[:10], values[:10])
    run(code, tmp_path / "x")
    store.put_many(keys[10:], values[10:])
    assert oldest_kept(store, keys) == [True, True, False, False] + [True] * 8


def test_a_bound_applies_to_what_was_put_without_one(tmp_path):
    keys, values = make(20)
    EmbeddingStore(tmp_path / "x").put_many(keys, values)
    store = EmbeddingStore(tmp_path / "x", max_bytes=500)
    store.put_many([b"k" * 16], [b"x" * 100])
    assert oldest_kept(store, keys) == [False] * 16 + [True] * 4
    assert store.info().n_bytes == 500


def test_rows_read_over_and_over_from_memory_outlive_those_that_are_not(tmp_path):
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    keys, values = make(60)
    store.put_many(keys[:10], values[:10])
    hot = keys[:3]
    for row in range(10, 60):
        assert store.get_many(hot) == values[:3]
        store.put_many([keys[row]], [values[row]])
    # The oldest of all, and read from the disk not once.
    assert oldest_kept(store, keys) == [True] * 3 + [False] * 50 + [True] * 7
    info = store.info()
    assert (info.n_entries, info.n_bytes, info.n_evicted) == (10, 1000, 50)


def test_a_row_read_from_memory_is_spared_once_for_many_reads(tmp_path):
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    keys, values = make(30)
    store.put_many(keys[:10], values[:10])
    for _ in range(5):
        store.get_many(keys[:1])
    store.put_many(keys[10:19], values[10:19])
    assert oldest_kept(store, keys[:20]) == [True] + [False] * 9 + [True] * 9 + [False]
    store.put_many(keys[19:29], values[19:29])
    assert oldest_kept(store, keys) == [False] * 19 + [True] * 10 + [False]


def test_where_every_row_was_read_from_memory_the_oldest_makes_room_for_the_new(tmp_path):
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    keys, values = make(12)
    store.put_many(keys[:10], values[:10])
    store.get_many(keys[:10])
    store.put_many(keys[10:], values[10:])
    assert oldest_kept(store, keys) == [False] * 2 + [True] * 10


def test_of_more_rows_than_fit_the_last_are_kept(tmp_path):
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    keys, values = make(25)
    store.put_many(keys[:10], values[:10])
    store.get_many(keys[:3])
    store.put_many(keys[5:], values[5:])
    assert oldest_kept(store, keys) == [False] * 15 + [True] * 10
    assert store.info().n_bytes == 1000


def test_uses_from_memory_are_remembered_by_the_next_process(tmp_path):
    keys, values = make(12)
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    store.put_many(keys[:10], values[:10])
    store.get_many(keys[:2])
    store.close()
    code = """
        import sys
        from skembed.store import EmbeddingStore, content_key
        keys = [content_key(b"", str(i).encode()) for i in range(10, 12)]
        store = EmbeddingStore(sys.argv[1], max_bytes=1000)
        store.put_many(keys, [b"x" * 100] * 2)
    """
    run(code, tmp_path / "x")
    store.get_many(keys)
    assert oldest_kept(store, keys) == [True, True, False, False] + [True] * 8


def test_reading_from_memory_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors_module, "_N_NOTED", 4)
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    keys, values = make(12)
    store.put_many(keys[:10], values[:10])
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "write", None)
        for _ in range(3):
            assert store.get_many(keys[:10]) == values[:10]
    # Of more notes than are kept, the first are forgotten.
    store.put_many(keys[10:], values[10:])
    assert oldest_kept(store, keys) == [False] * 2 + [True] * 10


actions = st.lists(
    st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 7), st.integers(0, 300)), max_size=25
)


@settings(max_examples=25, deadline=None)
@given(actions=actions)
def test_a_folder_agrees_with_a_model_of_it(actions, tmp_path_factory):
    """The order of use is exact in a process that reads nothing from memory."""
    store = EmbeddingStore(tmp_path_factory.mktemp("store") / "x", max_bytes=600)
    model: dict[bytes, bytes] = {}  # oldest first
    for kind, number, size in actions:
        key = content_key(b"", str(number).encode())
        store._memory.clear()
        if kind == "put":
            value = bytes([number]) * size
            store.put_many([key], [value])
            model.pop(key, None)
            model[key] = value
            while sum(map(len, model.values())) > 600:
                model.pop(next(iter(model)))
        else:
            is_noted = 2 * sum(map(len, model.values())) > 600
            assert store.get_many([key]) == [model.get(key)]
            if key in model and is_noted:
                model[key] = model.pop(key)
        assert store.info().n_bytes == sum(map(len, model.values()))
    store.close()
    assert store.get_many(list(model)) == list(model.values())


busy = st.lists(
    st.tuples(st.sampled_from(["put", "get", "get"]), st.integers(0, 9), st.just(100)),
    min_size=15,
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(actions=busy)
def test_what_was_read_from_memory_outlives_what_was_not(actions, tmp_path_factory):
    store = EmbeddingStore(tmp_path_factory.mktemp("store") / "x", max_bytes=600)
    sizes: dict[bytes, int] = {}
    read: set[bytes] = set()  # since the last write
    for kind, number, size in actions:
        key = content_key(b"", str(number).encode())
        if kind == "put":
            store.put_many([key], [bytes([number]) * size])
            sizes[key] = size
            wanted = read | {key}
            if sum(sizes[key] for key in wanted) <= 600:
                assert all(oldest_kept(store, list(wanted)))
            read.clear()
        else:
            store.get_many([key])
            # What the folder dropped, memory may still have for a while.
            is_noted = 2 * store.info().n_bytes > 600
            if is_noted and oldest_kept(store, [key]) == [True]:
                read.add(key)
        assert store.info().n_bytes <= 600
    store.close()


def fail(self, work, n_bytes=0):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_uses_that_cannot_be_written_cost_no_reading(tmp_path, monkeypatch):
    keys, values = make(10)
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    store.put_many(keys, values)
    store.close()
    monkeypatch.setattr(Environment, "write", fail)
    for _ in range(3):
        assert store.get_many(keys) == values
        store.close()
