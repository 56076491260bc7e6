import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from skembed.store import EmbeddingStore, content_key
from tests.store._processes import TOO_LONG, finish, run, start

KEYS = [content_key(b"claims", str(i).encode()) for i in range(20)]


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    store = EmbeddingStore(None if request.param == "memory" else tmp_path / "store")
    yield store
    store.close()


def test_a_key_is_claimed_once(store):
    assert store.claim(KEYS[:3]) == [True, True, True]
    assert store.claim(KEYS[1:5]) == [False, False, True, True]


def test_a_key_named_twice_in_one_call_is_claimed_once(store):
    assert store.claim([KEYS[0], KEYS[0]]) == [True, False]


def test_a_released_key_is_free(store):
    store.claim(KEYS[:2])
    store.release([*KEYS[:1], b"never claimed"])
    assert store.claim(KEYS[:2]) == [True, False]


def test_a_stored_key_is_not_claimed_and_its_claim_is_gone(store):
    assert store.claim(KEYS[:2]) == [True, True]
    store.put_many(KEYS[:2], [b"x", b"y"])
    assert store.claim(KEYS[:3]) == [False, False, True]
    store.clear()
    assert store.claim(KEYS[:2]) == [True, True]


def test_threads_claim_each_key_exactly_once(store):
    claimed: Counter[bytes] = Counter()
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        for key in KEYS:
            claimed.update(k for k, ours in zip([key], store.claim([key]), strict=True) if ours)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claimed == Counter(KEYS)


@pytest.mark.parametrize("end", ["put", "release"])
def test_a_thread_that_waits_wakes_when_the_claim_ends(store, end):
    store.claim(KEYS)
    done = threading.Event()

    def work() -> None:
        store.wait(KEYS, 60.0)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.05)
    if end == "put":
        store.put_many(KEYS[7:8], [b"x"])
    else:
        store.release(KEYS[7:8])
    thread.join(30)
    assert done.is_set()


def test_waiting_ends_at_once_for_a_free_key_and_at_the_timeout_for_a_claimed_one(store):
    store.claim(KEYS[:1])
    store.wait(KEYS[:2], TOO_LONG)
    store.wait(KEYS[:1], 0.01)
    store.put_many(KEYS[:1], [b"x"])
    store.wait(KEYS[:1], TOO_LONG)


CLAIM_AND_STAY = """
    import sys
    from skembed.store import EmbeddingStore, content_key
    keys = [content_key(b"claims", str(i).encode()) for i in range(20)]
    store = EmbeddingStore(sys.argv[1])
    print(store.claim(keys[:10]).count(True), flush=True)
    if sys.stdin.readline() == "put\\n":
        store.put_many(keys[:10], [b"x"] * 10)
    print("done", flush=True)
    sys.stdin.readline()
"""


def test_a_claim_of_another_process_is_waited_for_until_it_puts(tmp_path):
    other = start(CLAIM_AND_STAY, tmp_path / "x")
    assert other.stdout.readline() == "10\n"
    store = EmbeddingStore(tmp_path / "x")
    assert store.claim(KEYS) == [False] * 10 + [True] * 10
    store.wait(KEYS[:10], 0.05)
    assert store.get_many(KEYS[:10]) == [None] * 10
    other.stdin.write("put\n")
    other.stdin.flush()
    assert other.stdout.readline() == "done\n"
    store.wait(KEYS[:10], TOO_LONG)
    assert store.get_many(KEYS[:10]) == [b"x"] * 10
    finish(other)


def test_the_claims_of_a_killed_process_lapse_at_once(tmp_path):
    other = start(CLAIM_AND_STAY, tmp_path / "x")
    assert other.stdout.readline() == "10\n"
    store = EmbeddingStore(tmp_path / "x")
    assert store.claim(KEYS[:10]) == [False] * 10
    other.send_signal(signal.SIGKILL)
    other.wait()
    store.wait(KEYS[:10], TOO_LONG)
    assert store.claim(KEYS[:10]) == [True] * 10
    other.communicate()


def test_the_claims_of_an_exited_process_lapse_at_once(tmp_path):
    other = start(CLAIM_AND_STAY, tmp_path / "x")
    assert other.stdout.readline() == "10\n"
    finish(other)
    assert EmbeddingStore(tmp_path / "x").claim(KEYS) == [True] * 20
    signs = list((tmp_path / "x" / "alive").iterdir())
    assert len(signs) == 1


def test_a_process_killed_between_put_and_release_leaves_its_value(tmp_path):
    code = """
        import os, signal, sys
        from skembed.store import EmbeddingStore
        store = EmbeddingStore(sys.argv[1])
        store.claim([b"k"])
        store._give_back = lambda keys, holder: os.kill(os.getpid(), signal.SIGKILL)
        store.put_many([b"k"], [b"v"])
    """
    other = start(code, tmp_path / "x")
    other.communicate(timeout=60)
    assert other.returncode == -signal.SIGKILL
    store = EmbeddingStore(tmp_path / "x")
    assert store.claim([b"k"]) == [False]
    assert store.get_many([b"k"]) == [b"v"]


def test_four_processes_claim_each_key_exactly_once(tmp_path):
    code = """
        import sys
        from skembed.store import EmbeddingStore, content_key
        keys = [content_key(b"many", str(i).encode()) for i in range(1000)]
        store = EmbeddingStore(sys.argv[1])
        store.get_many(keys[:1])
        print("ready", flush=True)
        sys.stdin.readline()
        for first in range(0, 1000, 50):
            batch = keys[first:first + 50]
            ours = [key for key, is_ours in zip(batch, store.claim(batch)) if is_ours]
            store.put_many(ours, [key * 3 for key in ours])
            print(*[key.hex() for key in ours])
            while None in store.get_many(batch):
                store.wait([k for k, v in zip(batch, store.get_many(batch)) if v is None], 5.0)
        assert store.get_many(keys) == [key * 3 for key in keys]
    """
    others = [start(code, tmp_path / "x") for _ in range(4)]
    for other in others:
        assert other.stdout.readline() == "ready\n"
    for other in others:
        other.stdin.write("go\n")
        other.stdin.flush()
    claimed = Counter(key for other in others for key in finish(other).split())
    assert set(claimed.values()) == {1}
    assert len(claimed) == 1000


def test_claims_reach_loky_workers_only_through_the_store(tmp_path):
    from joblib import Parallel, delayed

    store = EmbeddingStore(tmp_path / "x")
    store.claim(KEYS[:5])
    signs = [tmp_path / "first", tmp_path / "second"]
    taken = Parallel(n_jobs=2)(delayed(_claim_in_worker)(store, signs, mine) for mine in range(2))
    assert taken[0][:5] == taken[1][:5] == [False] * 5
    assert [a + b for a, b in zip(taken[0][5:], taken[1][5:], strict=True)] == [1] * 15


def _claim_in_worker(store: EmbeddingStore, signs: list[Path], mine: int) -> list[bool]:
    # Until both are here: else one worker could do both tasks, one after the other.
    signs[mine].touch()
    deadline = time.monotonic() + 60
    while not all(sign.exists() for sign in signs) and time.monotonic() < deadline:
        time.sleep(0.01)
    return store.claim(KEYS)


def test_a_folder_keeps_no_claims_when_nobody_is_left(tmp_path):
    run(CLAIM_AND_STAY, tmp_path / "x")
    store = EmbeddingStore(tmp_path / "x")
    store.get_many(KEYS)
    assert not (tmp_path / "x" / "claims").exists()
