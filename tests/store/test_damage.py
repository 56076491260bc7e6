import errno
import os
import re
import shutil
import subprocess
import warnings
from collections import namedtuple

import lmdb
import pytest

from skembed.exceptions import StoreWarning
from skembed.store import EmbeddingStore, content_key
from skembed.store._environment import Environment
from tests.store._processes import TOO_LONG, run

KEYS = [content_key(b"damage", str(i).encode()) for i in range(300)]
VALUES = [key * 60 for key in KEYS]


@pytest.fixture
def path(tmp_path):
    store = EmbeddingStore(tmp_path / "x")
    store.put_many(KEYS, VALUES)
    store.close()
    return tmp_path / "x"


def data_of(path):
    return path / "vectors" / "data.mdb"


def change(path, old, new):
    raw = data_of(path).read_bytes()
    assert old in raw
    data_of(path).write_bytes(raw.replace(old, new))


def works_in_memory(store):
    """Once it has warned, a store that failed goes on, without another word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put_many(KEYS, VALUES)
        assert store.get_many(KEYS) == VALUES
        assert store.claim([*KEYS[:2], b"new"]) == [False, False, True]
        assert store.claim([b"new"]) == [False]
        store.wait([b"new"], 0.01)
        store.release([b"new"])
        store.wait([b"new"], TOO_LONG)
        assert store.claim([b"new"]) == [True]
        assert store.info().n_entries == len(KEYS)
        store.close()


def test_a_flipped_bit_makes_a_miss_that_is_counted_and_stored_again(path):
    value = VALUES[17]
    change(path, value, value[:400] + bytes([value[400] ^ 4]) + value[401:])
    store = EmbeddingStore(path)
    with pytest.warns(StoreWarning, match="1 stored vectors in .* were damaged") as caught:
        assert store.get_many(KEYS) == [*VALUES[:17], None, *VALUES[18:]]
    assert len(caught) == 1
    assert store.info().n_damaged == 1
    assert store.claim(KEYS[16:18]) == [False, True]
    store.put_many(KEYS[17:18], VALUES[17:18])
    store.close()
    assert store.get_many(KEYS) == VALUES
    assert store.info().n_entries == 300


def test_a_value_in_the_place_of_another_is_damage(path):
    raw = data_of(path).read_bytes()
    one, other = (raw.index(VALUES[i]) - 4 for i in (1, 2))
    length = len(VALUES[1]) + 4
    swapped = bytearray(raw)
    swapped[one : one + length] = raw[other : other + length]
    data_of(path).write_bytes(swapped)
    store = EmbeddingStore(path)
    with pytest.warns(StoreWarning, match="1 stored vectors"):
        assert store.get_many(KEYS[:3]) == [VALUES[0], None, VALUES[2]]


def test_a_second_damaged_value_is_counted_without_another_warning(path):
    for value in VALUES[:2]:
        change(path, value, value[:-1] + b"\0" if value[-1] else value[:-1] + b"\1")
    store = EmbeddingStore(path)
    with pytest.warns(StoreWarning, match="1 stored vectors") as caught:
        store.get_many(KEYS[:1])
        store.get_many(KEYS[1:2])
    assert len(caught) == 1
    assert store.info().n_damaged == 2


def garbage(path):
    data_of(path).write_bytes(os.urandom(50_000))


def truncated(path):
    os.truncate(data_of(path), 3 * 4096)


def headless(path):
    os.truncate(data_of(path), 100)


def page_size(path):
    raw = bytearray(data_of(path).read_bytes())
    raw[40:44] = b"\3\0\0\0"
    data_of(path).write_bytes(raw)


@pytest.mark.parametrize("harm", [garbage, truncated, headless, page_size])
def test_a_damaged_file_costs_one_warning_and_clear_repairs_it(path, harm):
    harm(path)
    store = EmbeddingStore(path)
    with pytest.warns(StoreWarning, match="is damaged .* call clear") as caught:
        assert store.get_many(KEYS) == [None] * 300
    assert len(caught) == 1
    works_in_memory(store)
    store.clear()
    store.put_many(KEYS, VALUES)
    store.close()
    assert store.get_many(KEYS) == VALUES
    assert EmbeddingStore(path).info().n_entries == 300


@pytest.mark.parametrize("seed", range(6))
def test_damage_anywhere_never_crashes_hangs_or_gives_a_wrong_value(path, seed):
    code = """
        import random, sys, warnings
        from pathlib import Path
        from skembed.store import EmbeddingStore, content_key
        warnings.simplefilter("ignore")
        keys = [content_key(b"damage", str(i).encode()) for i in range(300)]
        data = Path(sys.argv[1]) / "vectors" / "data.mdb"
        raw = bytearray(data.read_bytes())
        chance = random.Random(int(sys.argv[2]))
        for _ in range(20):
            at = 4096 * chance.randrange(2, len(raw) // 4096)
            if chance.random() < 0.2:
                raw[at:at + 4096] = chance.randbytes(4096)
            else:
                raw[at + chance.randrange(4096)] ^= 1 << chance.randrange(8)
        data.write_bytes(raw)
        store = EmbeddingStore(sys.argv[1], max_bytes=288_000)
        found = store.get_many(keys)
        assert all(v in (None, k * 60) for k, v in zip(keys, found))
        store.put_many(keys, [k * 60 for k in keys])
        assert store.get_many(keys) == [k * 60 for k in keys]
        print("alive")
    """
    assert run(code, path, seed) == "alive"


def test_eviction_ends_when_the_order_of_use_is_damaged(path):
    raw = bytearray(data_of(path).read_bytes())
    # The oldest stamp becomes the largest, where it stands: it can no longer be found by name.
    at = raw.index(bytes(8) + KEYS[0])
    raw[at : at + 8] = b"\xff" * 8
    data_of(path).write_bytes(raw)
    store = EmbeddingStore(path, max_bytes=96_000)
    store.put_many([b"new" * 5], [b"x"])
    store.put_many([b"newer" * 3], [b"x"])
    assert store.info().n_bytes <= 96_000


def test_a_file_cut_while_in_use_costs_one_warning(path):
    store = EmbeddingStore(path)
    assert store.get_many(KEYS[:1]) == VALUES[:1]
    truncated(path)
    with pytest.warns(StoreWarning, match="cut short while in use"):
        assert store.get_many(KEYS[1:]) == [None] * 299
    works_in_memory(store)


def test_a_file_in_place_of_the_folder_costs_one_warning(tmp_path):
    (tmp_path / "x").write_text("not a folder")
    store = EmbeddingStore(tmp_path / "x")
    with pytest.warns(StoreWarning, match="is not a folder .* Name another folder"):
        assert store.get_many(KEYS) == [None] * 300
    works_in_memory(store)
    assert (tmp_path / "x").read_text() == "not a folder"


@pytest.mark.parametrize(
    "error",
    [
        lmdb.DiskError("No space left on device"),
        OSError(errno.ENOSPC, "No space left on device"),
        lmdb.MapFullError("limit reached"),
    ],
)
def test_a_full_disk_ends_writing_and_not_reading(path, monkeypatch, error):
    def fail(self, work, n_bytes=0):
        raise error

    store = EmbeddingStore(path)
    store.claim([b"held"])
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "write", fail)
        with pytest.warns(StoreWarning, match="is full .* Free disk space") as caught:
            store.put_many([b"new"], [b"value"])
    assert len(caught) == 1
    assert store.get_many([b"new", *KEYS]) == [b"value", *VALUES]
    store.put_many([b"newer"], [b"value"])
    store._memory.clear()
    assert store.get_many([b"new", b"newer", *KEYS]) == [None, None, *VALUES]
    # Nobody waits for claims that could not be given back.
    code = """
        import sys
        from skembed.store import EmbeddingStore
        print(EmbeddingStore(sys.argv[1]).claim([b"held"]))
    """
    assert run(code, path) == "[True]"


def test_an_input_output_error_on_a_disk_without_room_means_that_it_is_full(path, monkeypatch):
    usage = namedtuple("usage", "free")

    def fail(self, work, n_bytes=0):
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    store = EmbeddingStore(path)
    monkeypatch.setattr(Environment, "write", fail)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(4096))
    with pytest.warns(StoreWarning, match="is full .* Free disk space"):
        store.put_many([b"new"], [b"value"])
    assert store.get_many([b"new", *KEYS]) == [b"value", *VALUES]


def test_a_warning_points_to_the_line_that_called_the_store(path):
    garbage(path)
    for act in (
        lambda store: store.get_many(KEYS),
        lambda store: store.put_many(KEYS, VALUES),
        lambda store: store.claim(KEYS),
        lambda store: store.info(),
    ):
        with pytest.warns(StoreWarning, match="is damaged") as caught:
            act(EmbeddingStore(path))
        assert caught[0].filename == __file__


def test_where_warnings_are_errors_the_claims_are_still_given_back(path, monkeypatch):
    def fail(self, work, n_bytes=0):
        raise lmdb.Error("trouble")

    store = EmbeddingStore(path)
    store.claim([b"new"])
    monkeypatch.setattr(Environment, "write", fail)
    with pytest.raises(StoreWarning, match="cannot be used"):
        store.put_many([b"new"], [b"value"])
    assert store.get_many([b"new"]) == [b"value"]
    store.release([b"new"])
    store._memory.clear()
    assert store.claim([b"new"]) == [True]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_another_users_folder_costs_one_warning(path, tmp_path, mode):
    # That user may not be able to read the interpreter's own files, from which LMDB and others
    # still import when first used: a store of root's own is used first.
    code = """
        import os, sys, warnings
        import skembed.store._resolve
        from skembed.store import EmbeddingStore, content_key
        first = EmbeddingStore(sys.argv[2])
        first.claim([b"a"])
        first.put_many([b"a"], [b"x"])
        assert first.get_many([b"a"]) == [b"x"]
        first.close()
        os.setgid(65534); os.setuid(65534)
        keys = [content_key(b"damage", str(i).encode()) for i in range(300)]
        store = EmbeddingStore(sys.argv[1])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = store.get_many(keys)
            print(found == [None] * 300, store.claim([b"a", keys[0]]))
            store.put_many([b"a", *keys], [b"x", *[key * 60 for key in keys]])
            assert store.get_many([b"a", *keys]) == [b"x", *[key * 60 for key in keys]]
        print(len(caught), caught[0].message)
    """
    for parent in [path, *path.parents]:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    path.chmod(mode)
    path.parent.chmod(0o755)
    expected = r"True \[True, True\]\n1 .* may not be used by this user"
    assert re.match(expected, run(code, path, tmp_path / "first"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    mount = shutil.which("mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [str(mount), "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("n_free", [0, 4096, 16_384, 40_000, 70_000, 100_000, 150_000, 1 << 20])
def test_a_full_file_system_costs_one_warning(small_disk, n_free):
    code = """
        import sys, warnings
        from skembed.store import EmbeddingStore, content_key
        keys = [content_key(b"", str(i).encode()) for i in range(2000)]
        values = [key * 60 for key in keys]
        store = EmbeddingStore(sys.argv[1])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for first in range(0, 2000, 20):
                part = slice(first, first + 20)
                ours = store.claim(keys[part])
                assert ours == [True] * 20, ours
                store.put_many(keys[part], values[part])
                assert store.get_many(keys[part]) == values[part]
            assert store.get_many(keys) == values
        print(len(caught), caught[0].message)
    """
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - n_free))
    assert re.match("1 .* is full .* Free disk space", run(code, small_disk / "x"))
