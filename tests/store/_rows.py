"""Keys and values to store."""

from __future__ import annotations

from skembed.store import content_key


def make(n: int, size: int = 100, salt: bytes = b"") -> tuple[list[bytes], list[bytes]]:
    keys = [content_key(salt, str(i).encode()) for i in range(n)]
    return keys, [bytes([i % 256]) * size for i in range(n)]
