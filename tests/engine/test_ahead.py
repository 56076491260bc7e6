"""Work ahead in a thread."""

import threading

import pytest

from skembed.engine._ahead import run_ahead


def n_threads():
    return sum(thread.name == "skembed-prepare" for thread in threading.enumerate())


def test_items_arrive_in_order():
    assert list(run_ahead(iter(range(1000)))) == list(range(1000))


def test_an_error_arrives_after_the_items_before_it():
    def source():
        yield 1
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for item in run_ahead(source()):
            seen.append(item)
    assert seen == [1]
    assert n_threads() == 0


def test_no_more_than_depth_items_wait():
    made = []
    gate = threading.Semaphore(0)

    def source():
        for i in range(10):
            made.append(i)
            gate.release()
            yield i

    ahead = run_ahead(source(), depth=2)
    assert next(ahead) == 0
    for _ in range(4):  # one taken, two queued, one in the thread's hand
        gate.acquire(timeout=10)
    assert not gate.acquire(timeout=0.2)
    assert made == [0, 1, 2, 3]
    ahead.close()


def test_leaving_early_ends_the_thread():
    ahead = run_ahead(iter(range(1000)))
    next(ahead)
    assert n_threads() == 1
    ahead.close()
    assert n_threads() == 0
