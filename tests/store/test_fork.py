import faulthandler
import os
import sys
import threading
import traceback
from contextlib import contextmanager

import pytest

from skembed.store import EmbeddingStore, content_key
from tests.store._processes import run

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

KEYS = [content_key(b"fork", str(i).encode()) for i in range(100)]
VALUES = [key * 10 for key in KEYS]


@contextmanager
def forked():
    """Run the body in a child (which yields True) and fail if it does."""
    child = os.fork()
    if child:
        yield False
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        return
    code = 1
    # A child that hangs says where, and fails.
    faulthandler.dump_traceback_later(30, exit=True, file=sys.__stderr__)
    try:
        yield True
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@pytest.mark.parametrize("is_in_memory", [True, False])
def test_a_child_uses_the_store_of_its_parent(tmp_path, is_in_memory):
    store = EmbeddingStore(None if is_in_memory else tmp_path / "x")
    store.put_many(KEYS[:50], VALUES[:50])
    with forked() as is_child:
        if is_child:
            store._memory.clear() if not is_in_memory else None
            assert store.get_many(KEYS[:50]) == VALUES[:50]
            store.put_many(KEYS[50:], VALUES[50:])
            assert store.get_many(KEYS) == VALUES
            store.close()
    expected = VALUES[:50] + ([None] * 50 if is_in_memory else VALUES[50:])
    assert store.get_many(KEYS) == expected
    store.put_many(KEYS, VALUES)
    store.close()
    assert store.get_many(KEYS) == ([None] * 100 if is_in_memory else VALUES)


def test_the_claims_of_a_parent_are_not_its_childs(tmp_path):
    store = EmbeddingStore(tmp_path / "x")
    assert store.claim(KEYS[:5]) == [True] * 5
    with forked() as is_child:
        if is_child:
            assert store.claim(KEYS[:10]) == [False] * 5 + [True] * 5
            store.release(KEYS[:5])
            assert store.claim(KEYS[:5]) == [False] * 5
    # The child has ended, its claims with it; the parent's stand.
    assert store.claim(KEYS[:10]) == [False] * 5 + [True] * 5


def test_a_parent_lives_on_when_its_child_ends(tmp_path):
    """A descriptor closed in a child must not free the lock that shows that the parent lives."""
    code = """
        import sys
        from skembed.store import EmbeddingStore, content_key
        keys = [content_key(b"fork", str(i).encode()) for i in range(5)]
        print(EmbeddingStore(sys.argv[1]).claim(keys).count(True))
    """
    store = EmbeddingStore(tmp_path / "x")
    store.claim(KEYS[:5])
    with forked() as is_child:
        if is_child:
            store.claim(KEYS[5:])
            store.close()
    with forked():
        pass
    assert run(code, tmp_path / "x") == "0"


def test_children_of_busy_threads_meet_no_lock(tmp_path):
    store = EmbeddingStore(tmp_path / "x")
    is_over = threading.Event()

    def work(seed: int) -> None:
        while not is_over.is_set():
            keys = KEYS[seed::3]
            store.claim(keys)
            store.put_many(keys, VALUES[seed::3])
            store.get_many(KEYS)
            store.info()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with forked() as is_child:
                if is_child:
                    found = store.get_many(KEYS)
                    pairs = zip(found, VALUES, strict=True)
                    assert all(value in (None, right) for value, right in pairs)
                    ours = [
                        k for k, is_ours in zip(KEYS, store.claim(KEYS), strict=True) if is_ours
                    ]
                    store.put_many(ours, [key * 10 for key in ours])
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    store.close()
    assert store.get_many(KEYS) == VALUES
