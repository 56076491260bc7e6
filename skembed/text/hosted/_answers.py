"""What a server answers: vectors, checked one by one, or what is wrong.

Knows OpenAI's protocol and the ways in which servers depart from it, not how they are asked.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import html
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "Failure", "failure_of_status", "read_answer", "redacted"]

_LONGEST_TEXT = 400

_TEMPORARY = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_UNFIT = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}

_OF_SIZE = re.compile(
    r"too (many|much|long|large|big)|maximum|\bmax\b|max_|exceed|context length|at most|less than"
    r"|larger than|longer than|batch size|limit"
)
_OF_A_TEXT = re.compile(r"\binput\[\d+\]")
_OF_FORMAT = re.compile(r"encoding_format|base64")
# 429s that no waiting helps; other ones speak of a quota for a minute.
_SPENT = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "budget_exceeded",
    "budget has been exceeded",
)
# These exceed a maximum too, but not because of the texts.
_OF_MONEY = re.compile(r"\b(budget|quota|billing|credits?)\b")


@dataclass(frozen=True)
class Failure:
    """Why a request has failed, and whether another one would do better.

    "temporary": the same one later; "unfit": one of fewer texts or tokens (`counts` says which of
    them there were too many of), or without the text that is at fault; "format": one for another
    format; "final": none.
    """

    kind: Literal["temporary", "unfit", "format", "final"]
    text: str
    wait: float | None = None  # seconds, as the server asks
    counts: Literal["rows", "tokens"] = "rows"
    is_of_key: bool = False
    status: int | None = None


@dataclass(frozen=True)
class Answer:
    """Vectors (texts, width) in the order of the request, and the tokens that were counted."""

    vectors: NDArray[np.float32]
    n_tokens: int


def read_answer(content: bytes, n_texts: int, width: int | None) -> Answer | Failure:
    """Return the vectors of a response's body; width None takes any, the same for all."""
    try:
        body = json.loads(content)
    except ValueError as error:
        return Failure(
            "temporary", f"its answer is not JSON ({error}): {_shown(_decoded(content))}"
        )
    data = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(data, list):
        return Failure("final", f"it answered without vectors: {_text_of(body, _decoded(content))}")
    if len(data) != n_texts:
        return Failure("final", f"it gave {len(data):,} vectors for {n_texts:,} texts")
    said = [each.get("index") if isinstance(each, Mapping) else None for each in data]
    places = [place for place in said if type(place) is int]
    if sorted(places) != list(range(n_texts)):
        return Failure(
            "final",
            f"its vectors do not say which texts they belong to: expected each index from 0 to "
            f"{n_texts - 1}, got {_shown(str(said))}",
        )
    vectors: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * n_texts
    for place, each in zip(places, data, strict=True):
        vector = _vector_of(each.get("embedding"))
        if vector is None:
            given = _shown(repr(each.get("embedding")))
            return Failure("final", f"expected a list of numbers or base64, got {given}")
        vectors[place] = vector
    widths = sorted({len(vector) for vector in vectors})
    expected = widths[:1] if width is None else [width]
    if widths != expected or not widths[0]:
        return Failure(
            "final",
            f"it gave vectors of {' and '.join(map(str, widths))} features, expected "
            f"{width or 'one width'}. If another model stands behind this name now, call "
            "skembed.unload_models() and fit again, with a new cache folder",
        )
    return Answer(np.stack(vectors), _tokens_of(body))


def failure_of_status(status: int, content: bytes, headers: Mapping[str, str]) -> Failure:
    """Return what an HTTP error means."""
    raw = _decoded(content)
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    said = _text_of(body, raw)
    text, lower = f"{_name_of(status)}: {said}", raw.lower()
    is_spent = any(word in lower for word in _SPENT)
    # A request that is larger than what a minute allows is never let through.
    is_beyond = status == HTTPStatus.TOO_MANY_REQUESTS and "request too large" in lower
    if status in _UNFIT and _OF_FORMAT.search(lower):
        return Failure("format", text, status=status)
    is_unfit = status == 413 or _OF_SIZE.search(said.lower()) or _OF_A_TEXT.search(lower)
    is_of_money = is_spent or _OF_MONEY.search(said.lower())
    if is_beyond or (status in _UNFIT and is_unfit and not is_of_money):
        return Failure("unfit", text, counts=_counted(said.lower(), status), status=status)
    is_temporary = status in _TEMPORARY or status >= 500
    if is_temporary and not is_spent and headers.get("x-should-retry") != "false":
        return Failure("temporary", text, wait=_wait_of(headers), status=status)
    return Failure("final", text, is_of_key=status in (401, 403), status=status)


def redacted(text: str, key: str | None) -> str:
    """Return a text without the key."""
    return text.replace(key, "[key]") if key else text


def _counted(said: str, status: int) -> Literal["rows", "tokens"]:
    if re.search(r"batch|array|items|(number of|too many) (inputs|texts)", said):
        return "rows"
    return "tokens" if status != 400 or re.search("token|context|length", said) else "rows"


def _vector_of(value: Any) -> NDArray[np.float32] | None:
    """Return an embedding as an array; null and "NaN" among numbers become NaN."""
    try:
        if isinstance(value, str):
            raw = base64.b64decode(value, validate=True)
            return np.frombuffer(raw, dtype="<f4").astype(np.float32)
        if not isinstance(value, Sequence):
            return None
        with np.errstate(over="ignore"):
            vector = np.array(value, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError, binascii.Error):
        return None
    return vector if vector.ndim == 1 else None


def _tokens_of(body: Mapping[str, Any]) -> int:
    """Return how many tokens a server has counted; 0 of one that does not say."""
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    found = counts.get("total_tokens", counts.get("prompt_tokens"))
    is_count = isinstance(found, (int, float)) and math.isfinite(found) and found > 0
    return int(found) if found is not None and is_count else 0


def _text_of(body: Any, raw: str) -> str:
    """Return what an answer says of an error, under whichever key."""
    found: Any = body
    for name in ("error", "errors", "detail", "message", "msg"):
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, Mapping) and found.get(name):
            found = found[name]
    if isinstance(found, str) and found.strip():
        return _shown(found)
    if "<html" in raw.lower():
        title = re.search(r"<(title|h1)[^>]*>(.*?)</\1>", raw, re.DOTALL | re.IGNORECASE)
        raw = html.unescape(title[2] if title else re.sub(r"<[^>]*>", " ", raw))
    return _shown(raw) or "no explanation"


def _name_of(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def _wait_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait: a number, or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        asked = headers.get(name)
        if asked is None:
            continue
        try:
            seconds = float(asked) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
            except (TypeError, ValueError):
                continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None
