"""The user's function that turns a row into what a model takes.

Must not know models or rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError
from skembed.modules._own import copy_of
from skembed.store import digest_of
from skembed.weights import fingerprint, kept_recent

__all__ = ["Preprocess", "make_preprocess"]

# So often does a random function have to give the same tensor by chance to pass for a fixed one.
_N_TRIALS = 4


class Preprocess:
    """The user's function, copied, so that it stays as it is when the user changes it.

    It is tried out: InvalidParameterError says if it fails, gives something else than a float
    tensor, or is random. `examples` returns two rows, made anew at each call but always the same;
    `find_fault` tells of what the function gave what that is and what to do, None if it is right.
    `probe` is what it makes of the first example.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        digest: bytes,
        *,
        examples: Callable[[], tuple[Any, Any]],
        find_fault: Callable[[Any], tuple[str, str] | None],
        row: str,
        example: str,
        expected: str,
        advice: str,
    ) -> None:
        self.digest = digest
        copied = copy_of(function)
        self._function = copied.eval() if isinstance(copied, nn.Module) else copied
        self._find_fault, self._expected = find_fault, expected
        self.probe = self._try(examples, example)
        title = f"preprocess={self._function!r:.200}"
        for _ in range(_N_TRIALS - 1):
            if not _are_equal(self.probe, self(examples()[0])):
                raise InvalidParameterError(
                    f"{title} is random: it made different tensors of one {row}, which would make "
                    f"the vectors random. {advice}"
                )
        one, other = examples()
        first = self._function(one)
        before = first.detach().clone()
        with suppress(Exception):  # rows that it does not take are faults of theirs
            self._function(other)
        if not _are_equal(first, before):
            raise InvalidParameterError(
                f"{title} gives one tensor again and again, and writes each {row} over the last "
                "one. Let it make a new tensor for each: it is called from several threads."
            )

    def __call__(self, row: Any) -> Tensor:
        """Return what the model takes of a row, float32."""
        output = self._function(row)
        fault = self._find_fault(output)
        if fault is None:
            # A copy: what the function gives may be a small part of a large tensor.
            made: Tensor = output.detach().to("cpu", torch.float32, copy=True)
            return made
        came, advice = fault
        raise InvalidParameterError(
            f"preprocess: expected {self._expected}; this one gave {came}. {advice}."
        )

    def _try(self, examples: Callable[[], tuple[Any, Any]], example: str) -> Tensor:
        try:
            return self(examples()[0])
        except InvalidParameterError:
            raise
        except Exception as error:
            raise InvalidParameterError(
                f"preprocess={self._function!r:.200} failed on {example}: "
                f"{type(error).__name__}: {error}. Expected {self._expected}."
            ) from error


def make_preprocess(function: Callable[[Any], Any], place: str, **options: Any) -> Preprocess:
    """Return the user's function, tried out; once as long as its content is the same.

    `place` tells those of one room and kind of example from others; the options are those of
    `Preprocess`.
    """
    digest = fingerprint(function)
    key = digest_of({"kind": "preprocess", "place": place, "content": digest})
    return kept_recent(key, lambda: Preprocess(function, digest, **options))


def _are_equal(some: Tensor, others: Tensor) -> bool:
    """Return whether tensors are the same in every bit that matters: NaN is NaN."""
    if some.shape != others.shape:
        return False
    return torch.allclose(some, others, rtol=0, atol=0, equal_nan=True)
