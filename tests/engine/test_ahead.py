"""Work ahead in a thread."""

import threading

import pytest

from skembed.engine._ahead import TakenInTurn, run_ahead
from skembed.exceptions import SkembedWarning, warn_user


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


def test_several_sources_give_all_their_items():
    items = list(run_ahead(iter(range(500)), iter(range(500, 800)), iter([])))
    assert sorted(items) == list(range(800))
    assert [item for item in items if item < 500] == list(range(500))
    assert n_threads() == 0


def test_each_item_is_taken_by_one_thread():
    def source():  # a generator refuses to be run by two threads at once
        yield from range(1000)

    shared = TakenInTurn(source())
    assert sorted(run_ahead(iter(shared), iter(shared))) == list(range(1000))


def test_an_error_of_one_source_closes_the_others_in_their_threads():
    both_run, closed_in = threading.Barrier(2), []

    def endless():
        both_run.wait(10)
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread())

    def broken():
        both_run.wait(10)
        yield 1
        raise ValueError("broken")

    ahead = run_ahead(endless(), broken())
    with pytest.raises(ValueError, match="broken"):
        list(ahead)
    assert len(closed_in) == 1
    assert closed_in[0] is not threading.current_thread()
    assert n_threads() == 0


def test_a_warning_of_the_thread_points_at_the_users_line():
    def source():
        warn_user("told", SkembedWarning)
        yield 1

    with pytest.warns(SkembedWarning, match="told") as caught:
        assert list(run_ahead(run_ahead(source()))) == [1]
    assert [warning.filename for warning in caught] == [__file__]


def test_a_warning_that_is_an_error_is_raised_by_the_consumer():
    def source():
        warn_user("told", SkembedWarning)
        yield 1

    with pytest.raises(SkembedWarning, match="told"):
        list(run_ahead(source()))
    assert n_threads() == 0


def test_a_second_interrupt_leaves_no_thread_behind(monkeypatch):
    join, n_interrupts = threading.Thread.join, []

    def interrupted(thread, timeout=None):
        if thread.name == "skembed-prepare" and len(n_interrupts) < 2:
            n_interrupts.append(1)
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    release = threading.Event()

    def source():
        yield 1
        release.wait(10)
        yield 2

    items = run_ahead(source())
    assert next(items) == 1
    threading.Timer(0.2, release.set).start()
    with pytest.raises(KeyboardInterrupt):
        items.close()
    assert len(n_interrupts) == 2
    assert not [t for t in threading.enumerate() if t.name == "skembed-prepare"]
