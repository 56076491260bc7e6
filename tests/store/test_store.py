import copy
import os
import pickle
import threading
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator, clone

import skembed.store
from skembed.exceptions import InvalidParameterError
from skembed.store import EmbeddingStore, StoreInfo, resolve_store
from skembed.store import _environment as environment_module
from tests.store._processes import TOO_LONG, finish, run, start
from tests.store._rows import make


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    store = EmbeddingStore(None if request.param == "memory" else tmp_path / "store")
    yield store
    store.close()


def test_what_was_put_is_read_back_and_the_rest_is_none(store):
    keys, values = make(50)
    store.put_many(keys[::2], values[::2])
    expected = [value if row % 2 == 0 else None for row, value in enumerate(values)]
    assert store.get_many(keys) == expected
    info = store.info()
    assert (info.n_entries, info.n_bytes) == (25, 2500)
    assert (info.n_hits, info.n_misses) == (25, 25)


def test_nothing_put_and_nothing_asked_is_no_fault(store):
    store.put_many([], [])
    store.release([])
    store.wait([], TOO_LONG)
    assert store.get_many([]) == []
    assert store.claim([]) == []


def test_values_of_any_length_are_kept(store):
    values = [b"", b"x", b"y" * 5000, b"z" * 100_000]
    keys, _ = make(4)
    store.put_many(keys, values)
    assert store.get_many(keys) == values


def test_a_second_put_replaces_the_first(store):
    keys, values = make(3)
    store.put_many(keys, values)
    store.put_many(keys[:1], [b"new"])
    assert store.get_many(keys) == [b"new", *values[1:]]
    assert store.info().n_bytes == 203


def test_a_cleared_store_is_empty_and_usable(store):
    keys, values = make(5)
    store.put_many(keys, values)
    store.clear()
    assert store.get_many(keys) == [None] * 5
    assert store.info().n_entries == store.info().n_bytes == 0
    store.put_many(keys, values)
    assert store.get_many(keys) == values


def test_a_folder_outlives_the_object(tmp_path):
    keys, values = make(100)
    store = EmbeddingStore(tmp_path / "a" / "b")
    store.put_many(keys, values)
    store.close()
    assert EmbeddingStore(tmp_path / "a" / "b").get_many(keys) == values
    # and the object its closing
    assert store.get_many(keys) == values


def test_two_objects_on_one_folder_share_its_files(tmp_path):
    keys, values = make(10)
    one, other = EmbeddingStore(tmp_path / "x"), EmbeddingStore(tmp_path / "y" / ".." / "x")
    (tmp_path / "y").mkdir()
    one.put_many(keys, values)
    assert other.get_many(keys) == values
    assert other._folder is one._folder
    one.close()
    assert other.get_many(keys) == values
    other.put_many([b"k" * 16], [b"v"])
    assert one.get_many([b"k" * 16]) == [b"v"]


def test_a_link_to_a_folder_is_that_folder(tmp_path):
    keys, values = make(10)
    one = EmbeddingStore(tmp_path / "x")
    one.put_many(keys, values)
    (tmp_path / "link").symlink_to(tmp_path / "x")
    other = EmbeddingStore(tmp_path / "link")
    assert other.get_many(keys) == values
    assert one.claim([b"new"]) == [True]
    assert other.claim([b"new"]) == [False]


def test_a_folder_deleted_in_use_is_made_again(tmp_path):
    keys, values = make(10)
    store = EmbeddingStore(tmp_path / "x")
    store.put_many(keys, values)
    (tmp_path / "x").rename(tmp_path / "away")
    store.put_many([b"k" * 16], [b"v"])
    store.close()
    assert store.get_many([*keys, b"k" * 16]) == [None] * 10 + [b"v"]


def test_the_map_grows_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(environment_module, "_MAP_BYTES", 1 << 16)
    store = EmbeddingStore(tmp_path / "x")
    for salt in (b"a", b"b", b"c"):
        keys, values = make(500, 2000, salt)
        store.put_many(keys, values)
        assert all(store.claim([key + b"new" for key in keys]))
    store.close()
    assert store.get_many(keys) == values
    assert store.info().n_entries == 1500


def test_growth_is_seen_by_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(environment_module, "_MAP_BYTES", 1 << 16)
    code = """
        import sys
        from skembed.store import EmbeddingStore, content_key
        from skembed.store import _environment
        _environment._MAP_BYTES = 1 << 16
        store = EmbeddingStore(sys.argv[1])
        keys = [content_key(b"big", str(i).encode()) for i in range(3000)]
        store.put_many(keys, [bytes([i % 256]) * 1000 for i in range(3000)])
        print(sum(store.claim([key + b"new" for key in keys])), flush=True)
        sys.stdin.readline()
        assert store.get_many([b"after"]) == [b"growth"]
    """
    store = EmbeddingStore(tmp_path / "x")
    store.put_many([b"before"], [b"growth"])
    other = start(code, tmp_path / "x")
    assert other.stdout.readline() == "3000\n"
    keys, values = make(3000, 1000, b"big")
    assert store.claim([key + b"new" for key in keys]) == [False] * 3000
    assert store.get_many([b"before", *keys]) == [b"growth", *values]
    store.put_many([b"after"], [b"growth"])
    finish(other)


def test_the_data_file_is_never_shorter_than_its_pages(tmp_path):
    store = EmbeddingStore(tmp_path / "x", max_bytes=40_000)
    for salt in range(60):
        keys, values = make(20 + salt, 100 + 37 * salt, str(salt).encode())
        store.put_many(keys, values)
        environment_module._check_file(tmp_path / "x" / "vectors" / "data.mdb")


def test_memory_only_drops_the_least_recently_used():
    store = EmbeddingStore(max_bytes=1000)
    keys, values = make(12)
    store.put_many(keys[:10], values[:10])
    store.get_many(keys[:2])
    store.put_many(keys[10:], values[10:])
    kept = [value is not None for value in store.get_many(keys)]
    assert kept == [True, True, False, False] + [True] * 8
    assert store.info().n_evicted == 2


class Estimator(BaseEstimator):
    def __init__(self, cache="run"):
        self.cache = cache


def test_clones_and_copies_share_the_store(store):
    assert clone(Estimator(store)).cache is store
    assert copy.deepcopy(store) is store
    assert copy.copy(store) is store


def test_a_pickled_store_is_its_path_and_its_bound(tmp_path):
    keys, values = make(1000)
    store = EmbeddingStore(tmp_path / "x", max_bytes=10**6)
    store.put_many(keys, values)
    raw = pickle.dumps(store)
    assert len(raw) < 300
    other = pickle.loads(raw)
    assert (other.path, other.max_bytes) == (store.path, store.max_bytes)
    assert other.get_many(keys) == values


def test_skops_saves_what_pickle_does(tmp_path):
    io = pytest.importorskip("skops.io")
    raw = io.dumps(EmbeddingStore(tmp_path / "store", max_bytes=1000))
    other = io.loads(raw, trusted=io.get_untrusted_types(data=raw))
    assert (other.path, other.max_bytes) == (tmp_path / "store", 1000)


def test_a_pickled_store_in_memory_arrives_empty():
    store = EmbeddingStore(max_bytes=1000)
    store.put_many([b"k"], [b"v"])
    other = pickle.loads(pickle.dumps(store))
    assert other.max_bytes == 1000
    assert other.get_many([b"k"]) == [None]


def test_reprs_are_short(tmp_path):
    assert repr(EmbeddingStore()) == "EmbeddingStore()"
    assert repr(EmbeddingStore("/x", max_bytes=5)) == "EmbeddingStore('/x', max_bytes=5)"
    info = StoreInfo(Path("/x"), 1200, 5 << 20, 1 << 30, 3, 2, 1, 0)
    assert repr(info) == (
        "StoreInfo(/x: 1,200 vectors, 5.0 MiB of 1.0 GiB; 3 hits, 2 misses, 1 evicted, 0 damaged)"
    )


@pytest.mark.parametrize("path", ["", 3, ["x"], True])
def test_a_path_that_names_no_folder_is_refused(path):
    with pytest.raises(InvalidParameterError, match="path must be None or the name of a folder"):
        EmbeddingStore(path)


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, "1GB", True])
def test_a_bound_that_is_no_number_of_bytes_is_refused(max_bytes):
    with pytest.raises(InvalidParameterError, match="max_bytes must be None or a positive number"):
        EmbeddingStore(max_bytes=max_bytes)


def test_a_relative_path_means_the_folder_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = EmbeddingStore("x")
    monkeypatch.chdir("/")
    assert store.path == tmp_path / "x"


def test_making_a_store_touches_no_disk(tmp_path):
    EmbeddingStore(tmp_path / "x")
    resolve_store(tmp_path / "y")
    assert list(tmp_path.iterdir()) == []


def test_cache_parameters_resolve_to_stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = EmbeddingStore()
    assert resolve_store(None) is None
    assert resolve_store(store) is store
    assert resolve_store("run") is resolve_store("run")
    assert resolve_store("run").path != tmp_path / "run"
    assert resolve_store("./run").path == tmp_path / "run"
    assert resolve_store("x") is resolve_store(tmp_path / "x")
    assert resolve_store("x").path == tmp_path / "x"
    assert pickle.loads(pickle.dumps(resolve_store("run"))) is resolve_store("run")


@pytest.mark.parametrize("cache", ["", 0, 1.5, False, True, ["x"], object()])
def test_other_cache_parameters_are_refused(cache):
    with pytest.raises(InvalidParameterError, match='cache must be "run", the name of a folder'):
        resolve_store(cache)


def test_threads_may_share_a_store(store):
    keys, values = make(400)
    faults = []

    def work(seed: int) -> None:
        mine = keys[seed::4]
        for first in range(0, 100, 10):
            store.put_many(mine[first : first + 10], values[seed::4][first : first + 10])
            found = store.get_many(keys)
            faults.extend(
                v for v, right in zip(found, values, strict=True) if v not in (None, right)
            )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert store.get_many(keys) == values
    assert store.info().n_entries == 400


def test_the_public_names_are_those_listed():
    assert all(hasattr(skembed.store, name) for name in skembed.store.__all__)
    assert set(skembed.store.__all__) <= set(dir(skembed.store))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        skembed.store.missing  # noqa: B018


def test_importing_the_package_of_the_store_loads_no_database():
    code = """
        import sys
        import skembed.store
        skembed.store.announce_run()
        print("lmdb" in sys.modules, "torch" in sys.modules)
    """
    assert run(code) == "False False"


def test_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        EmbeddingStore(tmp_path / "x").put_many([b"k"], [b"v"])
    finally:
        os.umask(old)
    assert (tmp_path / "x" / "vectors" / "data.mdb").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o750
