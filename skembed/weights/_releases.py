"""Releases of the libraries whose code decides a vector, for digests.

Must not know what the libraries are used for.
"""

from __future__ import annotations

from importlib import import_module

__all__ = ["releases_of"]


def releases_of(*libraries: str) -> dict[str, str]:
    """Return each library's release as major.minor: fixes are taken to change no vector."""
    releases = {name: import_module(name).__version__ for name in libraries}
    return {name: ".".join(release.split(".")[:2]) for name, release in releases.items()}
