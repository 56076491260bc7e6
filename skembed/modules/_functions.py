"""A function of the user that turns a row into what a model takes.

Owns the proof that it always gives the same, and copies. Must not know models nor rows.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError

__all__ = ["Preprocess"]

# So often does a random function have to give the same tensor by chance to pass for a fixed one.
_N_TRIALS = 4


class Preprocess(ABC):
    """The user's function, copied, so that it stays as it is when the user changes it.

    Parameters
    ----------
    function : callable
        Turns one row into a float tensor.
    digest : bytes
        Of its content.

    Attributes
    ----------
    digest : bytes
        Of its content.
    probe : Tensor
        What it makes of `example`.

    Raises
    ------
    InvalidParameterError
        If it fails on a row, gives something else, or is random.
    """

    expected: ClassVar[str]
    """What it has to be, for messages."""
    row: ClassVar[str]
    """What rows are called."""
    advice: ClassVar[str]
    """How to make a random one steady."""

    def __init__(self, function: Callable[[Any], Any], digest: bytes) -> None:
        self.digest = digest
        copied = copy.deepcopy(function)
        self._function = copied.eval() if isinstance(copied, nn.Module) else copied
        self.probe = self._try()

    @abstractmethod
    def example(self) -> Any:
        """Return a row, always the same."""

    @abstractmethod
    def other_example(self) -> Any:
        """Return another row."""

    @abstractmethod
    def describe(self, row: Any) -> str:
        """Say what a row that it failed on is."""

    @abstractmethod
    def find_fault(self, output: Any) -> tuple[str, str] | None:
        """Return what it gave and what to do, None if that is right."""

    def __call__(self, row: Any) -> Tensor:
        """Return what the model takes of a row, float32."""
        output = self._function(row)
        fault = self.find_fault(output)
        if fault is None:
            # A copy: what the function gives may be a small part of a large tensor.
            made: Tensor = output.detach().to("cpu", torch.float32, copy=True)
            return made
        came, advice = fault
        raise InvalidParameterError(
            f"preprocess: expected {self.expected}; this one gave {came}. {advice}."
        )

    def _try(self) -> Tensor:
        """Return what it makes of a row, having seen that it is always the same."""
        found = []
        for _ in range(_N_TRIALS):
            row = self.example()
            try:
                found.append(self(row))
            except InvalidParameterError:
                raise
            except Exception as error:
                raise InvalidParameterError(
                    f"preprocess={self._function!r:.200} failed on {self.describe(row)}: "
                    f"{type(error).__name__}: {error}. Expected {self.expected}."
                ) from error
        if not all(_are_equal(found[0], each) for each in found[1:]):
            raise InvalidParameterError(
                f"preprocess={self._function!r:.200} is random: it made different tensors of one "
                f"{self.row}, which would make the vectors random. {self.advice}"
            )
        self._refuse_shared_memory()
        return found[0]

    def _refuse_shared_memory(self) -> None:
        """Refuse a function that writes each row's tensor where that of the last one is."""
        first = self._function(self.example())
        before = first.detach().clone()
        with suppress(Exception):  # rows that it does not take are faults of theirs
            self._function(self.other_example())
        if not _are_equal(first, before):
            raise InvalidParameterError(
                f"preprocess={self._function!r:.200} gives one tensor again and again, and writes "
                f"each {self.row} over the last one. Let it make a new tensor for each: it is "
                "called from several threads."
            )


def _are_equal(some: Tensor, others: Tensor) -> bool:
    """Return whether tensors are the same in every bit that matters: NaN is NaN."""
    if some.shape != others.shape:
        return False
    return torch.allclose(some, others, rtol=0, atol=0, equal_nan=True)
