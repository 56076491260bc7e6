"""Ways of embedding that are compared, each in a process of its own.

A way is made in its process, told what to do through a pipe, and answers with vectors or seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from _common import least_cosine, peak_rss_bytes
from _profile import profile_forward

__all__ = ["Embed", "Made", "Way", "check_parity", "start_ways"]

Embed = Callable[[list[str]], np.ndarray]


class Made(NamedTuple):
    """A way that is ready: what embeds, in which number format, and skembed's embedder."""

    embed: Embed
    dtype: str
    embedder: Any = None


def serve(make: Callable[[], Made], first_rows: list[str], pipe: Any) -> None:
    """Do what comes through the pipe and send back the answer, until None comes."""
    try:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        made = make()
        made.embed(first_rows)
        pipe.send((made.dtype, made.embedder is not None, None))
    except Exception as error:  # a peer that cannot run is left out, and said to be
        reason = (str(error).splitlines() or [""])[0]
        pipe.send((None, False, f"{type(error).__name__}: {reason}"))
        return
    while (request := pipe.recv()) is not None:
        wanted, argument = request
        if wanted == "vectors":
            pipe.send(np.asarray(made.embed(argument)))
        elif wanted == "seconds":
            pipe.send([time_call(made.embed, rows) for rows in argument])
        elif wanted == "profile":
            pipe.send(profile_forward(made.embedder, argument))
        else:
            pipe.send(peak_rss_bytes())


def time_call(embed: Embed, rows: list[str]) -> float:
    """Embed rows and return the seconds."""
    started = time.perf_counter()
    embed(rows)
    return time.perf_counter() - started


class Way:
    """A way of embedding, in its process."""

    def __init__(self, name: str, make: Callable[[], Made], first_rows: list[str]) -> None:
        self.name = name
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(make, first_rows, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.dtype, self.is_skembed, self.trouble = self.pipe.recv()

    def vectors(self, rows: list[str]) -> np.ndarray:
        """Return the vectors of rows."""
        return self._ask("vectors", rows)

    def seconds(self, rows: list[str]) -> float:
        """Return how long it takes to embed rows in one call."""
        return self.seconds_of_each([rows])[0]

    def seconds_of_each(self, calls: list[list[str]]) -> list[float]:
        """Return how long each of some calls takes, one after the other."""
        return self._ask("seconds", calls)

    def profile(self, rows: list[str]) -> dict[str, Any]:
        """Return where the forward pass spends its time; skembed's own ways only."""
        return self._ask("profile", rows)

    def peak_rss(self) -> int:
        """Return the most memory that the process has had resident, in bytes."""
        return self._ask("peak_rss", None)

    def stop(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join()

    def _ask(self, wanted: str, argument: Any) -> Any:
        self.pipe.send((wanted, argument))
        return self.pipe.recv()


def start_ways(
    makers: Mapping[str, Callable[[], Made]], first_rows: list[str], *, has_bfloat16: bool
) -> list[Way]:
    """Start the ways that this machine can run, and say why the others are left out.

    `first_rows` are embedded to load the weights.
    """
    ways = []
    for name, make in makers.items():
        if name.endswith("bfloat16") and not has_bfloat16:
            print(f"{name}: left out, this processor is not faster in bfloat16")
            continue
        way = Way(name, make, first_rows)
        if way.trouble:
            print(f"{name}: left out, {way.trouble}")
            way.stop()
            continue
        ways.append(way)
    return ways


def check_parity(
    ways: list[Way], rows: list[str], least: Mapping[str, float]
) -> tuple[list[Way], dict[str, float]]:
    """Return the ways whose vectors agree with the first one's, and the least cosine of each."""
    reference = ways[0].vectors(rows)
    cosines = {way.name: least_cosine(way.vectors(rows), reference) for way in ways}
    equal = [way for way in ways if cosines[way.name] >= least[way.dtype]]
    for way in ways:
        if way not in equal:
            print(f"{way.name}: NOT TIMED, least cosine {cosines[way.name]:.6f}")
    return equal, cosines
