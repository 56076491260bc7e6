"""Releases of the libraries whose code decides a vector, for digests.

Must not know what the libraries are used for, nor import them.
"""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["releases_of"]


def releases_of(*distributions: str) -> dict[str, str]:
    """Return each library's release as major.minor: fixes are taken to change no vector."""
    return {name: ".".join(version(name).split(".")[:2]) for name in distributions}
