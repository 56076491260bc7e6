"""Damaged files end as a picture or as a named fault, whatever the damage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.image import mutants

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits of memory are Linux's"
)


@pytest.fixture(scope="module")
def result():
    """Open every damaged file in a process that has little memory to spare."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.image.mutants"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=2 * mutants.SECONDS,
    )
    # A crash or a hang ends the process, with the stack of each thread.
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_damaged_files_are_always_the_same():
    assert list(mutants.mutants("GIF"))[:50] == list(mutants.mutants("GIF"))[:50]


def test_damage_raises_nothing_but_faults(result):
    assert result["surprises"] == []
    for form, counts in result["outcomes"].items():
        assert sum(counts.values()) >= 1500, form


def test_damage_reaches_the_decoders(result):
    for form, counts in result["outcomes"].items():
        n_files = sum(counts.values())
        n_damaged = sum(n for reason, n in counts.items() if reason.startswith("damaged"))
        assert counts["image"] >= 0.1 * n_files, form
        assert n_damaged >= 0.1 * n_files, form
        assert len(counts) >= 5, form


def test_every_fault_says_what_is_wrong(result):
    starts = ("image", "not a picture that", "damaged: ", "damaged or too large", "too large: ")
    starts += ("its pixels (mode ", "some of its pixels (mode ")
    for counts in result["outcomes"].values():
        for reason in counts:
            assert reason.startswith(starts) or " files are not read, as " in reason, reason


def test_damaged_files_are_embedded_or_are_rows_of_nan_that_the_report_names(result):
    assert result["embedded"].keys() == result["outcomes"].keys()
    for form, embedded in result["embedded"].items():
        assert embedded["wrong"] == [], form
        assert embedded["unlike"] == [], form
        assert embedded["n_vectors"] >= 10, form
        assert embedded["n_faults"] >= 100, form


def test_images_of_the_user_that_are_damaged_are_faults(result):
    counts = result["images"]
    assert counts["image"] > 1000
    starts = ("image", "not opened", "a PIL image", "too large: ")
    for reason in counts:
        assert reason.startswith(starts), reason


def test_no_file_takes_memory_beyond_its_size(result):
    # 6 million pixels, the limit, are 23 MiB in RGBA; some copies of them are made.
    assert result["grown_mib"] < 250


def test_a_header_that_asks_for_more_memory_than_there_is_is_a_fault(result):
    for form, reason in result["lies"].items():
        assert reason.startswith(("damaged", "too large")), form
    assert "damaged or too large: it needs too much memory" in result["lies"].values()
