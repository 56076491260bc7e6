"""The encoder that is a function: tries again what may pass, checks what came.

Knows rows and a callable, not whose it is.
"""

from __future__ import annotations

import inspect
import itertools
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skembed._encoder import BatchPolicy, Encoder
from skembed._inputs import shown
from skembed.engine import embed
from skembed.exceptions import FunctionError, SkembedWarning, warn_user
from skembed.function._inputs import Item, content_of, value_of
from skembed.store import EmbeddingStore, digest_of

__all__ = ["FunctionEncoder", "Learned", "learn_width"]

_TEMPORARY = (ConnectionError, TimeoutError, socket.gaierror)
_TEMPORARY_STATUSES = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
# These refuse the caller, whatever the rows are.
_REFUSED_STATUSES = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.PAYMENT_REQUIRED,
    HTTPStatus.FORBIDDEN,
}
_STATUS_NAMES = ("status_code", "status", "code")

_FIRST_WAIT, _LONGEST_BACK_OFF, _LONGEST_WAIT = 1.0, 60.0, 600.0

_N_TRIED = 3
"""Rows on which a function that has never run may fail before it is the function's fault."""

_random = random.SystemRandom()  # the global state is the user's, and forks would share another


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of a function: how many features it gives, and the vector of one row."""

    width: int
    content: bytes | None = None
    vector: NDArray[np.float32] | None = None


class FunctionEncoder(Encoder):
    """Encodes rows by a function; `identity` names all that decides its vectors."""

    def __init__(
        self,
        function: Callable[[list[Any]], Any],
        identity: bytes,
        learned: Learned,
        *,
        batch_size: int,
        max_retries: int,
    ) -> None:
        self.function, self.learned = function, learned
        self.batch_size, self.max_retries = batch_size, max_retries
        self.width = learned.width
        self.digest = digest_of({"function": identity, "width": self.width})
        self.model_key = self.digest

    @property
    def policy(self) -> BatchPolicy:
        """Any rows share a batch; where the function fails on one, its rows are tried alone."""
        return BatchPolicy(budget=self.batch_size, overlaps=False, may_fail=True)

    def contents(self, items: Sequence[Item]) -> Iterable[bytes]:
        """Return the bytes that say what each row is."""
        return map(content_of, items)

    def encode(self, batch: list[Item]) -> torch.Tensor:
        """Return the function's vectors; of the row on which it was first tried, the known one."""
        is_known = np.array([content_of(row) == self.learned.content for row in batch])
        vectors = np.empty((len(batch), self.width), dtype=np.float32)
        if is_known.any():
            vectors[is_known] = self.learned.vector
        if not is_known.all():
            rows = [row for row, known in zip(batch, is_known, strict=True) if not known]
            found = self.call(rows)
            if found.shape[1] != self.width:
                raise ValueError(f"it gave {found.shape[1]} features, expected {self.width}")
            vectors[~is_known] = found
        return torch.from_numpy(vectors)

    def call(self, rows: Sequence[Item]) -> NDArray[np.float32]:
        """Return the function's vectors of rows, after tries that failed for the moment."""
        name = name_of(self.function)
        for n_tries in itertools.count(1):
            try:
                output = self.function(list(map(value_of, rows)))
                break
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
                if _REFUSED_STATUSES & set(_statuses_of(error)):
                    raise FunctionError(f"{name} was refused: {found}") from error
                wait = _seconds_to_wait(error, n_tries)
                if wait is None and isinstance(error, OSError):  # of files, or of requests
                    raise RuntimeError(found) from error
                if wait is None:
                    raise
                if n_tries > self.max_retries or wait > _LONGEST_WAIT:
                    asked = f", which asks to wait {wait:,.0f} s" if wait > _LONGEST_WAIT else ""
                    raise FunctionError(
                        f"{name} failed {n_tries} times in a row, most recently with {found}"
                        f"{asked}. Rows embedded so far are in the store: call again to continue."
                    ) from error
            if n_tries == 1:
                warn_user(
                    f"{name} failed with {found}. It is called again in {wait:.1f} s, and "
                    f"up to max_retries={self.max_retries} times, after ever longer waits.",
                    SkembedWarning,
                    once=f"{name} {found}",
                )
            time.sleep(wait)
        return _as_vectors(output, len(rows), name)


class _WidthEncoder(FunctionEncoder):
    """Gives the number of features as its one feature, the same for every row."""

    def __init__(self, function: Any, identity: bytes, **settings: int) -> None:
        super().__init__(function, identity, Learned(1), **settings)
        self.digest = self.model_key = digest_of({"function": identity, "finds": "width"})

    @property
    def policy(self) -> BatchPolicy:
        """One row at a time, and its error as it is."""
        return BatchPolicy(budget=1)

    def contents(self, items: Sequence[Item]) -> Iterable[bytes]:
        """Return the same for each."""
        return itertools.repeat(b"width", len(items))

    def encode(self, batch: list[Item]) -> torch.Tensor:
        """Run the function, and keep what came."""
        (row,) = batch
        (vector,) = self.call(batch)
        self.learned = Learned(len(vector), content_of(row), vector)
        return torch.tensor([[float(len(vector))]])


def learn_width(
    function: Any,
    identity: bytes,
    rows: Sequence[Item],
    store: EmbeddingStore | None,
    **settings: int,
) -> Learned:
    """Return how many features a function gives: as the store says, or by one of the first rows."""
    failure: Exception | None = None
    tried = rows[:_N_TRIED]
    for row in tried:
        encoder = _WidthEncoder(function, identity, **settings)
        try:
            width = int(embed(encoder, [row], store=store).vectors[0, 0])
        except FunctionError:
            raise
        except Exception as error:
            failure = error
            continue
        return encoder.learned if encoder.learned.vector is not None else Learned(width)
    on = "the first row" if len(tried) == 1 else f"each of the first {len(tried)} rows"
    raise FunctionError(
        f"{name_of(function)} failed on {on}: {type(failure).__name__}: {failure}"
    ) from failure


def name_of(function: Any) -> str:
    """Return what messages call a function."""
    inner = getattr(function, "func", function)  # of a partial
    name: str = getattr(inner, "__qualname__", type(inner).__qualname__)
    return name.rpartition("<locals>.")[2]


def _as_vectors(output: Any, n_rows: int, name: str) -> NDArray[np.float32]:
    """Return what a function gave as an array of one row each.

    A ValueError says what may be the fault of some row; a FunctionError what no row can be at
    fault for.
    """
    if hasattr(output, "toarray"):
        raise FunctionError(
            f"{name} gives a sparse {type(output).__name__}; return a dense array with few "
            "features, for example with TruncatedSVD."
        )
    if inspect.iscoroutine(output):
        output.close()
        raise FunctionError(f"{name} is async: pass a function that runs it with asyncio.run.")
    if isinstance(output, torch.Tensor):
        output = output.detach().cpu().float().numpy()
    with np.errstate(over="ignore"):  # of float64 beyond float32: a row that is not finite
        array = np.asarray(output)
        if array.dtype.kind not in "biufO" or array.ndim == 0:
            raise FunctionError(
                f"{name} returned {shown(output)}; expected an array of numbers of shape "
                f"({n_rows}, n_features), one vector per row."
            )
        vectors = array.astype(np.float32)
    if vectors.ndim != 2 or len(vectors) != n_rows or not vectors.shape[1]:
        hint = ""
        if vectors.shape == (n_rows,):
            hint = "; for a single feature, return vectors.reshape(-1, 1)"
        raise ValueError(
            f"it gave an array of shape {vectors.shape} for {n_rows} row"
            f"{'s' * (n_rows != 1)}, expected ({n_rows}, n_features){hint}"
        )
    return vectors


def _seconds_to_wait(error: Exception, n_tries: int) -> float | None:
    """Return how long to wait before the next try; None if no try will do better."""
    asked = next(filter(None, map(_retry_after, _chain(error))), None)
    if asked is not None:
        return asked
    statuses = _statuses_of(error)
    is_temporary = (
        any(isinstance(each, _TEMPORARY) for each in _chain(error))
        if not statuses
        else any(status in _TEMPORARY_STATUSES or status >= 500 for status in statuses)
    )
    if not is_temporary:
        return None
    # With jitter, so that workers that were refused together do not come back together.
    longest: float = min(_FIRST_WAIT * 2 ** (n_tries - 1), _LONGEST_BACK_OFF)
    return longest * _random.uniform(0.5, 1.0)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those it came of: clients wrap what the network raised."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and all(found is not each for each in seen):
        yield found
        seen.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _statuses_of(error: BaseException) -> list[int]:
    """Return the HTTP statuses that an error, what it came of, or their responses name."""
    places = [place for each in _chain(error) for place in (each, _response_of(each))]
    found = [getattr(place, name, None) for place in places for name in _STATUS_NAMES]
    return [int(each) for each in found if isinstance(each, int) and 400 <= each < 600]


def _retry_after(error: BaseException) -> float | None:
    """Return the seconds that an error asks to wait, in its `retry_after` or its headers."""
    found: Any = getattr(error, "retry_after", None)
    for place in (error, _response_of(error)):
        headers: Any = getattr(place, "headers", None)
        if found is None and hasattr(headers, "get"):
            found = headers.get("retry-after") or headers.get("Retry-After")
    try:
        return max(float(found), 0.0)
    except (TypeError, ValueError):  # none, or a date
        return None


def _response_of(error: BaseException) -> Any:
    return getattr(error, "response", None)
