"""Content keys: the names under which vectors are stored.

Bytes and plain values go in, 16 bytes come out, the same in every process and on every machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

__all__ = ["VECTOR_FORMAT", "content_key", "digest_of"]

VECTOR_FORMAT = 6
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

_KEY_BYTES = 16

_LENGTH = struct.Struct("<Q")
_FLOAT = struct.Struct("<d")


def content_key(digest: bytes, content: bytes) -> bytes:
    """Return the key of one row under one encoder, 16 bytes.

    Examples
    --------
    >>> from skembed.store import content_key
    >>> content_key(b"model", b"row").hex()
    '6a1200583a0e04496a4e0eaa9d1d34eb'
    """
    # With the length of `digest`, no other pair runs together into the same bytes.
    return blake2b(_LENGTH.pack(len(digest)) + digest + content, digest_size=_KEY_BYTES).digest()


def digest_of(settings: Mapping[str, object]) -> bytes:
    """Return the digest of nested plain values, the same wherever and whenever it is taken.

    Values are tagged by type, so that ``1``, ``1.0``, ``True`` and ``"1"`` differ. The order in
    which a mapping was filled does not matter. A list and a tuple of the same values differ.
    `VECTOR_FORMAT` goes in too.

    Values are None, bool, int, float, str, bytes, and lists, tuples and dicts of them; others raise
    a `TypeError` that says where they stand.

    Examples
    --------
    >>> from skembed.store import digest_of
    >>> digest_of({"pooling": "mean", "layers": [1, 2]}) == digest_of(
    ...     {"layers": [1, 2], "pooling": "mean"}
    ... )
    True
    """
    digest = blake2b(_LENGTH.pack(VECTOR_FORMAT), digest_size=_KEY_BYTES)
    for piece in _encode(dict(settings), "settings"):
        digest.update(piece)
    return digest.digest()


def _encode(value: Any, where: str) -> Iterator[bytes]:
    # Subclasses (enums, numpy scalars, str with meaning) are refused: their equality need not be
    # that of their base, and a digest that forgets a difference serves wrong vectors.
    kind = type(value)
    if value is None:
        yield b"n"
    elif kind is bool:
        yield b"t" if value else b"f"
    elif kind is float:
        yield b"d" + _FLOAT.pack(value)
    elif kind in (int, str, bytes):
        content = value if kind is bytes else str(value).encode("utf-8", "surrogatepass")
        yield kind.__name__[:1].encode() + _LENGTH.pack(len(content)) + content
    elif kind in (list, tuple):
        yield (b"l" if kind is list else b"u") + _LENGTH.pack(len(value))
        for position, item in enumerate(value):
            yield from _encode(item, f"{where}[{position}]")
    elif kind is dict:
        pairs = []
        for key, each in value.items():
            encoded = b"".join(_encode(key, f"a key of {where}"))
            pairs.append((encoded, b"".join(_encode(each, f"{where}[{key!r}]"))))
        yield b"m" + _LENGTH.pack(len(value))
        for pair in sorted(pairs):
            yield from pair
    else:
        raise TypeError(
            f"{where} is {value!r} of type {kind.__module__}.{kind.__qualname__}; expected None, "
            "bool, int, float, str, bytes, or a list, tuple or dict of them. Convert it first."
        )
