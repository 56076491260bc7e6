"""Bars are shown when asked for, for what takes time, and one at a time."""

import contextlib
import os

import pytest

from skembed.engine import _progress, embed
from skembed.engine._progress import Progress
from skembed.store import lock_in_run
from tests.engine.letters import LetterEncoder

ROWS = ["a", "b", "c", "a"]


@pytest.fixture
def no_delay(monkeypatch):
    monkeypatch.setattr(_progress, "_DELAY_SECONDS", 0.0)


def embed_by_row(title):
    embed(LetterEncoder(), ROWS, batch_size=1, progress=title)


def test_a_bar_ends_as_one_whole_line(capfd, no_delay):
    embed_by_row("Letters")
    last = capfd.readouterr().err.replace("\n", "\r").rstrip("\r").split("\r")[-1]
    assert last.startswith("Letters: 100%")
    assert " 3/3 " in last


@pytest.mark.usefixtures("no_delay")
def test_no_bar_is_shown_unless_asked_for(capfd):
    embed_by_row(None)
    assert capfd.readouterr().err == ""


def test_work_of_less_than_a_second_shows_none(capfd):
    embed_by_row("Letters")
    assert capfd.readouterr().err == ""


def test_beside_a_bar_no_other_is_shown_until_it_is_done(capfd, no_delay):
    with contextlib.closing(Progress("first", 9)) as first:
        first.update(1)
        embed_by_row("second")
        first.update(8)
    embed_by_row("third")
    shown = capfd.readouterr().err
    assert "first: 100%" in shown
    assert "second" not in shown
    assert "third: 100%" in shown


def test_beside_the_bar_of_another_worker_none_is_shown(capfd, no_delay, monkeypatch):
    monkeypatch.setattr(_progress, "lock_in_run", lambda name: None)
    embed_by_row("second")
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(_progress, "lock_in_run", lock_in_run)
    os.close(lock_in_run("bar"))
    embed_by_row("third")
    assert "third: 100%" in capfd.readouterr().err
