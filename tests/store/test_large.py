"""Large values: a file each, beside the vectors."""

import os

import pytest

from skembed.exceptions import StoreWarning
from skembed.store import EmbeddingStore
from skembed.store._large import write_large
from tests.store._processes import run

KEYS = [bytes([i]) * 16 for i in range(4)]


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    path = tmp_path / "store" if request.param == "folder" else None
    return EmbeddingStore(path, max_bytes=1000)


def test_a_value_is_found_by_its_key(store):
    assert store.get_large(KEYS[0]) is None
    store.put_large(KEYS[0], [b"first"])
    store.put_large(KEYS[0], [b"second"])
    assert store.get_large(KEYS[0]) == b"second"
    assert store.get_large(KEYS[1]) is None


def test_clear_drops_it(store):
    store.put_large(KEYS[0], [b"value"])
    store.clear()
    assert store.get_large(KEYS[0]) is None


def test_what_is_too_large_is_not_kept_and_takes_no_others_place(store):
    store.put_large(KEYS[0], [b"value"])
    store.put_large(KEYS[1], [bytes(1001)])
    assert store.get_large(KEYS[1]) is None
    assert store.get_large(KEYS[0]) == b"value"


def test_values_are_counted(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    assert (store.info().n_trained, store.info().n_trained_bytes) == (0, 0)
    store.put_many([b"vector"], [bytes(5)])
    store.put_large(KEYS[0], [bytes(100)])
    store.put_large(KEYS[1], [bytes(24), bytes(1000)])
    (tmp_path / "store" / "large" / ".a-draft").write_bytes(b"half")
    info = store.info()
    assert (info.n_entries, info.n_trained, info.n_trained_bytes) == (1, 2, 1124)
    assert "1 vectors, 5 B; 2 trainings, 1.1 KiB; 0 hits" in repr(info)
    store.clear()
    assert store.info().n_trained == 0


def test_another_process_finds_it(tmp_path):
    EmbeddingStore(tmp_path).put_large(KEYS[0], [b"value"])
    code = """
        import sys
        from skembed.store import EmbeddingStore
        print(EmbeddingStore(sys.argv[1]).get_large(bytes(16)))
    """
    assert run(code, tmp_path) == "b'value'"


def test_the_least_recently_used_is_dropped_first(tmp_path):
    for second, key in enumerate(KEYS[:3]):
        write_large(tmp_path, key, [bytes(100), bytes(200)], 1000)
        os.utime(tmp_path / "large" / key.hex(), (second, second))
    assert EmbeddingStore(tmp_path).get_large(KEYS[0])  # a use
    write_large(tmp_path, KEYS[3], [bytes(300)], 1000)
    left = {path.name for path in (tmp_path / "large").iterdir()}
    assert left == {KEYS[0].hex(), KEYS[2].hex(), KEYS[3].hex()}


def test_a_folder_that_fails_costs_a_warning(tmp_path):
    store = EmbeddingStore(tmp_path)
    (tmp_path / "large").write_text("not a folder")
    with pytest.warns(StoreWarning, match="store"):
        store.put_large(KEYS[0], [b"value"])
    assert store.get_large(KEYS[0]) is None


def test_callers_take_turns_and_not_for_longer_than_their_patience(store):
    with store.in_turn(KEYS[0]):
        with store.in_turn(KEYS[1]):
            pass
        with store.in_turn(KEYS[0], patience=0.01):
            assert not store.claim([KEYS[0]])[0]
    assert store.claim([KEYS[0]])[0]
