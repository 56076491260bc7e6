import gc
import os
import threading
import time

import pytest

from skembed._forks import after_fork_in_child, fork_safe_lock

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


def in_child(is_right):
    """Say whether a function returns true in a forked child."""
    child = os.fork()
    if not child:
        os._exit(0 if is_right() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_a_child_resets_what_asked_for_it_and_the_parent_does_not():
    calls = []
    after_fork_in_child(lambda: calls.append(1))
    assert in_child(lambda: calls == [1])
    assert calls == []


def test_a_method_is_called_while_its_object_lives():
    calls = []

    class Owner:
        def __init__(self, name):
            self.name = name
            after_fork_in_child(self.reset)

        def reset(self):
            calls.append(self.name)

    kept = Owner("kept")
    Owner("dropped")
    gc.collect()
    assert in_child(lambda: calls == [kept.name])


def test_a_fork_waits_for_a_lock_and_leaves_it_free_on_both_sides():
    lock = fork_safe_lock()
    state = []
    is_held = threading.Event()

    def work():
        with lock:
            state.append("begun")
            is_held.set()
            time.sleep(0.05)
            state.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    is_held.wait()
    assert in_child(lambda: state == ["begun", "done"] and lock.acquire(blocking=False))
    thread.join()
    assert lock.acquire(blocking=False)
