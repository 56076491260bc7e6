import gc
import shutil
import threading
from pathlib import Path

import pytest

from skembed.store import EmbeddingStore, resolve_store
from tests.store._processes import run
from tests.store._rows import make

DESCRIPTORS = Path("/proc/self/fd")
needs_proc = pytest.mark.skipif(not DESCRIPTORS.exists(), reason="needs /proc")


def n_open():
    gc.collect()
    return len(list(DESCRIPTORS.iterdir()))


@pytest.mark.parametrize("max_bytes", [None, 1000])
def test_a_folder_removed_before_the_close_stays_away(tmp_path, max_bytes):
    keys, values = make(10)
    store = EmbeddingStore(tmp_path / "x", max_bytes=max_bytes)
    store.put_many(keys, values)
    # Bounded, it would now have uses to write.
    store.get_many(keys)
    shutil.rmtree(tmp_path / "x")
    store.close()
    store.close()
    assert not (tmp_path / "x").exists()
    assert store.get_many(keys) == [None] * 10
    store.put_many(keys, values)
    store.close()
    assert store.get_many(keys) == values


def test_a_file_in_place_of_the_folder_is_left_alone_by_the_close(tmp_path):
    keys, values = make(10)
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    store.put_many(keys, values)
    store.get_many(keys)
    shutil.rmtree(tmp_path / "x")
    (tmp_path / "x").write_text("not a folder")
    store.close()
    assert (tmp_path / "x").read_text() == "not a folder"


def test_another_folder_in_the_same_place_gets_no_uses_at_the_close(tmp_path):
    keys, values = make(10)
    store = EmbeddingStore(tmp_path / "x", max_bytes=1000)
    store.put_many(keys, values)
    store.get_many(keys)
    (tmp_path / "x").rename(tmp_path / "away")
    other = EmbeddingStore(tmp_path / "x")
    other.put_many([b"k" * 16], [b"v"])
    store.close()
    assert other.get_many([b"k" * 16]) == [b"v"]
    assert other.info().n_entries == 1


@pytest.mark.parametrize("is_bounded", [False, True])
def test_a_run_removed_before_the_close_is_over(tmp_path, is_bounded):
    code = """
        import shutil, sys
        from collections import namedtuple
        if sys.argv[1] == "True":
            shutil.disk_usage = lambda path: namedtuple("Usage", "free")(20)
        from skembed.store import resolve_store
        store = resolve_store("run")
        store.put_many([b"k"], [b"value"])
        store.put_many([b"l"], [b"value"])
        store.get_many([b"k", b"l"])
        shutil.rmtree(store.path)
        store.close()
        store.put_many([b"m"], [b"w"])
        print(store.get_many([b"k", b"m"]), store.claim([b"k", b"m"]), store.path.exists())
        store.clear()
        store.put_many([b"m"], [b"w"])
        print(store.get_many([b"m"]), store.path.exists())
    """
    out = run(code, is_bounded, TMPDIR=str(tmp_path)).splitlines()
    assert out == ["[None, b'w'] [True, False] False", "[b'w'] False"]


def test_a_run_that_was_closed_goes_on(tmp_path):
    code = """
        from skembed.store import resolve_store
        store = resolve_store("run")
        store.put_many([b"k"], [b"v"])
        store.close()
        print(store.get_many([b"k"]))
    """
    assert run(code, TMPDIR=str(tmp_path)) == "[b'v']"


@needs_proc
def test_threads_go_on_with_a_store_that_another_thread_closes(tmp_path):
    keys, values = make(100)
    store = EmbeddingStore(tmp_path / "x", max_bytes=10**6)
    store.put_many(keys, values)
    store.close()
    before = n_open()
    faults = []
    is_over = threading.Event()

    def work(seed: int) -> None:
        mine, right = keys[seed::4], values[seed::4]
        try:
            while not is_over.is_set():
                store.put_many(mine, right)
                store.release([k for k, ok in zip(mine, store.claim(mine), strict=True) if ok])
                # None: closed under it, again and again.
                found = store.get_many(mine)
                faults.extend(v for v in found if v not in (None, right[found.index(v)]))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        store.close()
    is_over.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert store.get_many(keys) == values
    store.close()
    assert n_open() == before
    assert list((tmp_path / "x" / "alive").iterdir()) == []


@needs_proc
def test_few_of_many_stores_named_by_folders_stay_open(tmp_path):
    keys, values = make(18)
    counts = []
    for row in range(18):
        store = resolve_store(tmp_path / str(row))
        store.put_many(keys[row : row + 1], values[row : row + 1])
        store.claim([b"new"])
        counts.append(n_open())
    assert max(counts[10:]) == min(counts[10:])
    for row in range(18):
        assert resolve_store(tmp_path / str(row)).get_many(keys) == [
            value if row == at else None for at, value in enumerate(values)
        ]
    assert n_open() <= max(counts)


def test_a_store_in_use_stays_open_beside_many_others(tmp_path):
    store = resolve_store(tmp_path / "x")
    store.put_many([b"k"], [b"v"])
    store.claim([b"claimed"])
    folder = store._folder
    for row in range(20):
        resolve_store(tmp_path / str(row)).put_many([b"k"], [b"other"])
    assert store.get_many([b"k"]) == [b"v"]
    again = resolve_store(tmp_path / "x")
    assert again.get_many([b"k"]) == [b"v"]
    assert again.claim([b"claimed"]) == [False]
    assert store._folder is again._folder is folder


def test_a_store_named_again_and_again_keeps_its_memory(tmp_path):
    names = [tmp_path / "x", *(tmp_path / str(row) for row in range(20))]
    resolve_store(names[0]).put_many([b"k"], [b"v"])
    for name in names[1:]:
        resolve_store(name)
        assert resolve_store(names[0])._memory.has(b"k")


def test_threads_may_name_more_folders_than_stay_open(tmp_path):
    keys, values = make(20)
    faults = []

    def work(seed: int) -> None:
        try:
            for step in range(100):
                row = (7 * step + seed) % 20
                store = resolve_store(tmp_path / str(row))
                if store.get_many([keys[row]]) == [None]:
                    store.put_many([keys[row]], [values[row]])
                if store.get_many([keys[row]]) != [values[row]]:
                    faults.append(row)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    for row in range(20):
        assert EmbeddingStore(tmp_path / str(row)).get_many([keys[row]]) == [values[row]]
