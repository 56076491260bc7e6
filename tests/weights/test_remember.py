"""Facts outlive the process, and no fault of the cache folder is the user's concern."""

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skembed.weights import _remember, recalled, remember, remembered, user_cache_folder


@pytest.fixture
def forget(monkeypatch):
    """Forget what this process knows, as a new one would."""
    return lambda: monkeypatch.setattr(_remember, "_facts", {})


def fail():
    raise AssertionError("computed again")


def test_a_fact_is_computed_once(forget):
    assert remembered("probe", "key", lambda: "first") == "first"
    assert remembered("probe", "key", fail) == "first"
    forget()
    assert remembered("probe", "key", fail) == "first"


def test_a_fact_that_has_changed_replaces_what_it_was(forget):
    remember("probe", "changing", "first")
    remember("probe", "changing", "second")
    forget()
    assert recalled("probe", "changing") == "second"
    assert recalled("probe", "never told") is None


def test_facts_differ_by_namespace_and_key():
    assert remembered("a", "key", lambda: "1") == "1"
    assert remembered("b", "key", lambda: "2") == "2"
    assert remembered("a", "other", lambda: "3") == "3"


def test_the_first_process_to_write_wins(forget):
    def compute_slowly():
        forget()
        remembered("probe", "key", lambda: "first")
        forget()
        return "second"

    assert remembered("probe", "key", compute_slowly) == "first"


def _race(home, barrier, results, n):
    os.environ["SKEMBED_HOME"] = home
    barrier.wait()
    results.put(remembered("race", "key", lambda: str(n)))


def test_processes_that_race_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_race, args=(str(tmp_path), barrier, results, n)) for n in range(4)
    ]
    for worker in workers:
        worker.start()
    answers = {results.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(answers) == 1
    assert [p.suffix for p in (tmp_path / "remembered" / "race").iterdir()] == [".json"]


def test_without_hard_links_facts_are_kept_all_the_same(monkeypatch, forget):
    def refuse(self, target):
        raise OSError("not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    remembered("probe", "key", lambda: "first")
    forget()
    assert remembered("probe", "key", fail) == "first"


def test_an_error_is_not_remembered():
    with pytest.raises(AssertionError, match="computed again"):
        remembered("probe", "key", fail)
    assert remembered("probe", "key", lambda: "now") == "now"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(key=st.text(), value=st.text(), other=st.text())
def test_any_text_can_be_a_key_and_a_value(forget, key, value, other):
    namespace = f"n{abs(hash((key, value, other)))}"
    assert remembered(namespace, key, lambda: value) == value
    forget()
    assert remembered(namespace, key, fail) == value


@pytest.mark.parametrize("place", ["home", "home/remembered", "home/remembered/probe"])
def test_a_cache_folder_that_cannot_be_used_is_done_without(tmp_path, place, forget):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("a file where a folder should be")
    assert remembered("probe", "key", lambda: "1") == "1"
    assert remembered("probe", "key", fail) == "1"
    forget()
    assert remembered("probe", "key", lambda: "2") == "2"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners are those of POSIX")
def test_what_another_user_wrote_is_not_believed(monkeypatch, forget):
    remembered("probe", "key", lambda: "theirs")
    forget()
    true_uid = os.getuid()
    monkeypatch.setattr(_remember, "_is_ours", lambda folder: folder.stat().st_uid != true_uid)
    assert remembered("probe", "key", lambda: "ours") == "ours"


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SKEMBED_HOME", "~/mine")
    assert user_cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("SKEMBED_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache_folder() == tmp_path / "xdg" / "skembed"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache_folder() == tmp_path / ".cache" / "skembed"


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.delenv("SKEMBED_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert user_cache_folder().name.startswith("skembed-")
