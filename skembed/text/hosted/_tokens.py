"""How many tokens a text has on a server, and its pieces of so many.

By tiktoken where it knows the model's encoding and has it; else by UTF-8 bytes, of which a token
has at least one. Knows texts and encodings, not servers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from skembed._optional import import_optional
from skembed.exceptions import SkembedWarning, warn_user

__all__ = ["ByteCounter", "Counter", "TokenCounter", "counter_of"]

_PATIENCE_SECONDS = 15.0


class ByteCounter:
    """Counts UTF-8 bytes: no byte-level tokenizer makes more tokens of a text.

    `reason` is why it does not count tokens, where that was meant.
    """

    unit = "UTF-8 bytes"
    name = "bytes"
    is_exact = False

    def __init__(self, reason: str = "") -> None:
        self._reason = reason

    def tell(self) -> None:
        """Warn that a text is cut where it need not be, if tokens were meant to be counted."""
        if self._reason:
            warn_user(self._reason, SkembedWarning, once=self._reason)

    def size(self, text: str) -> int:
        """Return the number of bytes."""
        return len(text) if text.isascii() else len(text.encode())

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Yield a text in pieces of at most `size`, of one character at least."""
        raw = text.encode()
        start = 0
        while start < len(raw):
            stop = min(start + size, len(raw))
            while stop > start and _is_inside(raw, stop):
                stop -= 1
            stop = _end_of_character(raw, start) if stop == start else stop
            yield raw[start:stop].decode()
            start = stop


class TokenCounter:
    """Counts tokens as tiktoken makes them."""

    unit = "tokens"
    is_exact = True

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding
        self.name: str = encoding.name

    def tell(self) -> None:
        """Do nothing: tokens are counted."""

    def size(self, text: str) -> int:
        """Return the number of tokens."""
        return len(self._ids(text))

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """Yield a text in pieces of at most `size` tokens, of one character at least.

        They end between tokens and between characters. Read alone, a piece may have a few tokens
        more than in its text, and is then made shorter.
        """
        ids, raw = self._ids(text), text.encode()
        ends = np.cumsum([len(each) for each in self._encoding.decode_tokens_bytes(ids)]).tolist()
        done, start = 0, 0  # tokens, bytes
        while start < len(raw):
            n = min(size, len(ids) - done)
            while n > 0:
                stop = ends[done + n - 1]
                if not _is_inside(raw, stop) and self.size(raw[start:stop].decode()) <= size:
                    break
                n -= 1
            if n <= 0:
                stop = _end_of_character(raw, start)
            yield raw[start:stop].decode()
            start = stop
            while done < len(ids) and ends[done] <= start:
                done += 1

    def _ids(self, text: str) -> list[int]:
        # What looks like a special token is text, as the server reads it.
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids


Counter = ByteCounter | TokenCounter


@cache
def counter_of(encoding: str | None) -> Counter:
    """Return what counts the tokens of one of tiktoken's encodings; None is an unknown one.

    tiktoken downloads an encoding at its first use and keeps it in a folder. Where that fails, or
    takes too long, bytes are counted for the rest of the process.
    """
    if encoding is None:
        return ByteCounter()
    tiktoken = import_optional("tiktoken", extra="hosted", purpose="Counting a model's tokens")
    found: list[Any] = []
    faults: list[str] = ["it took too long"]

    def load() -> None:
        try:
            found.append(tiktoken.get_encoding(encoding))
        except Exception as error:  # of the network, the disk, or a damaged file
            faults[:] = [f"{type(error).__name__}: {error!s:.200}"]

    # Its download has no time limit of its own: a firewall that drops packets would hold it up.
    thread = threading.Thread(target=load, name="skembed-tiktoken", daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    if found:
        return TokenCounter(found[0])
    return ByteCounter(
        f"tiktoken cannot load its encoding {encoding!r} ({faults[0]}), so that lengths are "
        "counted in UTF-8 bytes, of which a token has about four in English: texts count as too "
        "long that are not. tiktoken downloads an encoding once; on a machine without a network, "
        "set TIKTOKEN_CACHE_DIR to a folder that has it."
    )


def _is_inside(raw: bytes, place: int) -> bool:
    """Return whether a place in UTF-8 is inside of a character."""
    return place < len(raw) and raw[place] & 0xC0 == 0x80


def _end_of_character(raw: bytes, start: int) -> int:
    stop = start + 1
    while _is_inside(raw, stop):
        stop += 1
    return stop
