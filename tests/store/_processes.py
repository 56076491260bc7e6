"""Starting other Python processes that use a store, and waiting for them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

TOO_LONG = 3600.0
"""Seconds, more than a test may take: waiting where nothing is to wait for fails the test."""


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that belongs to no run."""
    kept = {name: value for name, value in os.environ.items() if name != "SKEMBED_RUN"}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **changes}


def start(code: str, *args: object, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env=environment(**changes),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], answer: str = "") -> str:
    out, err = process.communicate(answer, timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def run(code: str, *args: object, **changes: str) -> str:
    return finish(start(code, *args, **changes))
