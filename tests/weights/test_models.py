"""One loaded copy per process, dropped when memory is short."""

import gc
import os
import threading
import weakref

import pytest

from skembed.weights import _memory, _models, free_memory, shared_model, unload_models

GIB = 1 << 30


alive = weakref.WeakSet()


class Model:
    """Something that takes weak references, as a torch module does."""

    def __init__(self):
        alive.add(self)


@pytest.fixture
def memory(monkeypatch):
    """Simulate a machine with room for 4 GiB; models of 1 GiB take it while they live."""

    def available():
        gc.collect()
        return (4 - len(alive)) * GIB

    monkeypatch.setattr(_models, "available_memory", available)


def fail():
    raise AssertionError("loaded again")


def test_a_model_is_loaded_once():
    model = shared_model(b"a", Model, lambda: 0)
    assert shared_model(b"a", fail, lambda: 0) is model
    assert shared_model(b"b", Model, lambda: 0) is not model


def test_a_model_may_be_of_any_type():
    for key, value in ((b"t", (1, 2)), (b"n", None), (b"f", False)):
        assert shared_model(key, lambda value=value: value, lambda: 0) is value
        assert shared_model(key, fail, lambda: 0) is value


def test_threads_that_ask_at_once_load_once():
    n_loads, models = [], []
    barrier = threading.Barrier(8)
    is_slow = threading.Event()

    def load():
        n_loads.append(1)
        is_slow.wait(0.05)
        return Model()

    def ask():
        barrier.wait()
        models.append(shared_model(b"a", load, lambda: 0))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(n_loads) == 1
    assert len({id(model) for model in models}) == 1


def test_loading_one_model_does_not_keep_another_waiting():
    is_loading, may_end = threading.Event(), threading.Event()

    def load_slowly():
        is_loading.set()
        assert may_end.wait(30)
        return Model()

    thread = threading.Thread(target=shared_model, args=(b"slow", load_slowly, lambda: 0))
    thread.start()
    assert is_loading.wait(30)
    assert isinstance(shared_model(b"quick", Model, lambda: 0), Model)
    assert thread.is_alive()
    may_end.set()
    thread.join()


def test_a_model_may_be_loaded_while_loading_another():
    inner = shared_model(b"outer", lambda: shared_model(b"inner", Model, lambda: 0), lambda: 0)
    assert shared_model(b"inner", fail, lambda: 0) is inner


def test_an_error_is_passed_on_and_not_remembered():
    with pytest.raises(AssertionError, match="loaded again"):
        shared_model(b"a", fail, lambda: 0)
    assert isinstance(shared_model(b"a", Model, lambda: 0), Model)


def test_unloading_forgets_all_and_counts():
    first = shared_model(b"a", Model, lambda: 0)
    shared_model(b"b", Model, lambda: 0)
    assert unload_models() == 2
    assert unload_models() == 0
    assert shared_model(b"a", Model, lambda: 0) is not first


def test_the_least_recently_used_models_make_room(memory):
    for key in (b"a", b"b", b"c"):
        shared_model(key, Model, lambda: GIB)
    shared_model(b"a", fail, lambda: GIB)
    shared_model(b"d", Model, lambda: GIB)
    assert list(_models._models) == [b"c", b"a", b"d"]


def test_all_make_room_for_a_model_that_needs_it(memory):
    for key in (b"a", b"b"):
        shared_model(key, Model, lambda: GIB)
    shared_model(b"huge", Model, lambda: 8 * GIB)
    assert list(_models._models) == [b"huge"]


def test_models_that_are_being_loaded_are_counted(memory):
    shared_model(b"a", Model, lambda: GIB)
    shared_model(
        b"outer", lambda: (shared_model(b"b", Model, lambda: GIB), Model())[1], lambda: GIB
    )
    # The outer needs 1.5 GiB, the inner as much again: 3 GiB fit beside one model.
    assert b"a" in _models._models
    unload_models()
    shared_model(b"a", Model, lambda: GIB)
    shared_model(
        b"outer", lambda: (shared_model(b"b", Model, lambda: GIB), Model())[1], lambda: 2 * GIB
    )
    assert b"a" not in _models._models


def test_where_memory_is_unknown_nothing_is_dropped(monkeypatch):
    monkeypatch.setattr(_models, "available_memory", lambda: None)
    shared_model(b"a", Model, lambda: GIB)
    shared_model(b"b", Model, lambda: 1 << 60)
    assert list(_models._models) == [b"a", b"b"]


def test_freeing_memory_keeps_the_model_in_use():
    for key in (b"a", b"b", b"c"):
        shared_model(key, Model, lambda: 0)
    assert free_memory(b"b") == 2
    assert list(_models._models) == [b"b"]
    assert free_memory() == 1
    assert free_memory(b"absent") == 0


def test_a_dropped_model_that_is_held_elsewhere_is_not_loaded_twice():
    held = shared_model(b"a", Model, lambda: 0)
    shared_model(b"b", Model, lambda: 0)
    free_memory()
    assert shared_model(b"a", fail, lambda: 0) is held
    with pytest.raises(AssertionError, match="loaded again"):
        shared_model(b"b", fail, lambda: 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_the_models_and_can_load_more():
    """Also when a thread of the parent, absent in the child, was loading."""
    model = shared_model(b"a", Model, lambda: 0)
    is_loading, may_end = threading.Event(), threading.Event()

    def load_slowly():
        is_loading.set()
        assert may_end.wait(30)
        return Model()

    thread = threading.Thread(target=shared_model, args=(b"slow", load_slowly, lambda: 0))
    thread.start()
    assert is_loading.wait(30)
    child = os.fork()
    if child == 0:
        is_right = False
        try:
            is_right = shared_model(b"a", fail, lambda: 0) is model
            is_right = is_right and isinstance(shared_model(b"slow", Model, lambda: 0), Model)
        finally:
            os._exit(0 if is_right else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        may_end.set()
        thread.join()


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Simulate the accounts of a Linux system."""
    monkeypatch.setattr(_memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(_memory, "_CGROUPS", tmp_path / "cgroup")

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    return write


def test_available_memory_is_what_the_system_says(system):
    assert _memory.available_memory() == 50 * 1024


def test_available_memory_is_bounded_by_the_container(system):
    system("proc/self/cgroup", "0::/job/part\n")
    system("cgroup/job/memory.max", "5000\n")
    system("cgroup/job/memory.current", "3000\n")
    system("cgroup/job/memory.stat", "anon 1000\ninactive_file 500\n")
    system("cgroup/job/part/memory.max", "max\n")
    assert _memory.available_memory() == 2500


def test_available_memory_is_unknown_where_no_one_says(monkeypatch, tmp_path):
    monkeypatch.setattr(_memory, "_PROC", tmp_path)
    monkeypatch.setattr(_memory, "_CGROUPS", tmp_path)
    assert _memory.available_memory() is None
