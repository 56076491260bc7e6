"""A model's blocks from the lowest up: which stay as they are, and what they give, computed once.

Knows modules and what goes through them, not what they embed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.engine import is_out_of_memory
from skembed.exceptions import InvalidParameterError

__all__ = ["Lowest", "freeze_lowest", "is_numbered"]

_MOST_BYTES = 1 << 30
"""Of what the lowest blocks give. Not a share of what is free: a fit repeats bit by bit."""


def freeze_lowest(module: nn.Module, n: int, run: Callable[[], Any], name: str) -> Lowest:
    """Freeze the lowest `n` blocks of a module and all that comes before them.

    `run` runs it on a few rows; messages call it `name`. What is frozen gets `stays_frozen`, and is
    never in training mode.
    """
    begins, ends = _calls(module, run)
    blocks = [each for each in _blocks(getattr(module, "core", module)) if each in begins]
    blocks.sort(key=begins.__getitem__)
    if n > len(blocks):
        raise InvalidParameterError(
            f"training__freeze={n}: {name} has {len(blocks)} blocks. Give at most {len(blocks)}."
        )
    # From here on is trained: where the first block above begins, or the last one has ended.
    cut = begins[blocks[n]] if n < len(blocks) else ends[blocks[-1]] + 1
    below = [each for each, end in ends.items() if end < cut]
    for each in below:
        each.stays_frozen = True  # type: ignore[assignment]
        each.requires_grad_(False)
    for each, begin in begins.items():
        if begin < cut:  # positions and class tokens of what holds the blocks
            for parameter in each.parameters(recurse=False):
                parameter.requires_grad_(False)
    if not any(each.requires_grad for each in module.parameters()):
        raise InvalidParameterError(
            f"training__freeze={n} leaves nothing to train: {name} has {len(blocks)} blocks."
        )
    return Lowest([m for m in below if type(m) is not nn.ModuleList], blocks[n - 1])


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Return the members of the lists that make up most of a module, else its children."""
    found = list(_members(module, _n_weights(module) / 2))
    return found or [each for each in module.children() if _n_weights(each)]


def _members(module: nn.Module, half: float) -> Iterator[nn.Module]:
    for child in module.children():
        n_weights = _n_weights(child)
        if n_weights and _is_list(child):
            has_blocks = any(any(True for _ in each.children()) for each in child.children())
            if type(child) is nn.ModuleList:
                yield from (each for each in child if _n_weights(each))
            elif has_blocks or n_weights > half:
                yield from _members(child, half)
            elif _is_list(module):
                yield child
        elif n_weights > half:
            yield from list(_members(child, half)) or [child]
        elif n_weights and _is_list(module):
            yield child


def _is_list(module: nn.Module) -> bool:
    """Return whether children follow one another; a traced module has their names alone."""
    if type(module) in (nn.Sequential, nn.ModuleList):
        return True
    names = [name for name, each in module.named_children() if _n_weights(each)]
    return bool(names) and all(map(is_numbered, names))


def is_numbered(name: str) -> bool:
    """Return whether a module is called what blocks are: "3", "encoder_layer_3"."""
    return re.search(r"(^|_)\d+$", name) is not None


def _n_weights(module: nn.Module) -> int:
    """Return how many tensors a module's layers have; tables of embeddings are none."""
    layers = (each for each in module.modules() if not isinstance(each, nn.Embedding))
    return sum(1 for each in layers for _ in each.parameters(recurse=False))


def _calls(
    module: nn.Module, run: Callable[[], Any]
) -> tuple[dict[nn.Module, int], dict[nn.Module, int]]:
    """Return when each module begins for the first time, and ends for the last one.

    One that is not called itself, as in traced models, begins and ends with what is inside.
    """
    begins: dict[nn.Module, int] = {}
    ends: dict[nn.Module, int] = {}
    clock = count()

    def begin(each: nn.Module, _: Any) -> None:
        begins.setdefault(each, next(clock))

    def end(each: nn.Module, *_: Any) -> None:
        ends[each] = next(clock)

    hooks = []
    for each in module.modules():
        hooks += [each.register_forward_pre_hook(begin), each.register_forward_hook(end)]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    for each in module.modules():
        inner = [m for m in each.modules() if m in ends]
        if each not in ends and inner:
            begins[each] = min(begins[m] for m in inner)
            ends[each] = max(ends[m] for m in inner)
    return begins, ends


class Lowest:
    """The frozen blocks of a module: what leaves the last of them is kept for each row.

    Where kept states are used, the frozen modules give nothing instead of running. That the rest of
    the module then gives what it gave is proven on the first rows; else nothing is kept.
    """

    def __init__(self, below: Sequence[nn.Module], last: nn.Module) -> None:
        inner = {each for outer in below for each in outer.modules() if each is not outer}
        outermost = [m for m in below if m not in inner and any(True for _ in m.parameters())]
        self._last = next(each for each in outermost if last in set(each.modules()))
        self._skipped = [each for each in dict.fromkeys(outermost) if each is not self._last]
        self._shapes: dict[nn.Module, torch.Size] = {}
        self._kept: dict[int, Tensor] = {}
        self._n_bytes = self._axis = 0
        self.is_kept = False

    @torch.no_grad()
    def keep(
        self,
        run: Callable[[], Tensor],
        rows: NDArray[np.int64],
        costs: NDArray[np.int64],
        layout: Literal["packed", "padded", "equal"],
    ) -> bool:
        """Compute the states of rows, which `run` runs the module on, and keep them.

        False if they do not fit into memory, or cannot be used again: then none are kept.
        """
        try:
            states = None if layout == "padded" else self._record(run, costs, layout)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            states = None
        if states is None:
            self._kept.clear()
            return False
        for row, own in zip(rows.tolist(), states, strict=True):
            self._kept[row] = own.clone()  # not a view of all rows
        return True

    @contextmanager
    def used(self, rows: NDArray[np.int64]) -> Iterator[None]:
        """Let the module begin above the frozen blocks, for these rows."""
        with self._replaced(torch.cat([self._kept[row] for row in rows.tolist()], self._axis)):
            yield

    def _record(
        self, run: Callable[[], Tensor], costs: NDArray[np.int64], layout: str
    ) -> Sequence[Tensor] | None:
        """Return what leaves the last frozen block, row by row, if it can be used again."""
        outputs: dict[nn.Module, list[Any]] = {m: [] for m in (*self._skipped, self._last)}
        hooks = [
            each.register_forward_hook(lambda m, _, output: outputs[m].append(output))
            for each in outputs
        ]
        try:
            expected = run()
        finally:
            for hook in hooks:
                hook.remove()
        if any(len(o) != 1 or not isinstance(o[0], Tensor) for o in outputs.values()):
            return None
        shapes = {m: output[0].shape for m, output in outputs.items()}
        states: Tensor = outputs[self._last][0]
        self._axis = 1 if layout == "packed" else 0
        sizes = costs.tolist() if layout == "packed" else [1] * len(costs)
        if states.ndim <= self._axis or states.shape[self._axis] != sum(sizes):
            return None
        before = self._shapes.get(self._last)
        self._shapes = shapes
        rest = slice(self._axis + 1, None)
        self._n_bytes += states.nbytes
        if self._n_bytes > _MOST_BYTES or (before or states.shape)[rest] != states.shape[rest]:
            return None
        if before is None and not self._is_proven(run, states, expected):
            return None
        rows: Sequence[Tensor] = states.split(sizes, self._axis)
        return rows

    def _is_proven(self, run: Callable[[], Tensor], states: Tensor, expected: Tensor) -> bool:
        """Return whether the rest of the module gives the same; some must run after all."""
        blocks = [each for each in self._skipped if type(each) is type(self._last)]
        for skipped in (self._skipped, blocks):
            self._skipped = skipped
            try:
                with self._replaced(states):
                    if torch.equal(run(), expected):
                        return True
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                if is_out_of_memory(error):
                    raise
        return False

    @contextmanager
    def _replaced(self, states: Tensor) -> Iterator[None]:
        """Let the last frozen block give states, and what comes before it zeros."""

        def nothing(module: nn.Module) -> Callable[..., Tensor]:
            shape = list(self._shapes[module])
            shape[self._axis] = states.shape[self._axis]
            return lambda *args, **kwargs: states.new_zeros(shape)

        outputs = {each: nothing(each) for each in self._skipped}
        outputs[self._last] = lambda *args, **kwargs: states
        own = {each: vars(each).pop("forward", None) for each in outputs}
        for each, give in outputs.items():
            each.forward = give  # of the instance alone
        try:
            yield
        finally:
            for each, forward in own.items():
                del each.forward
                if forward is not None:
                    each.forward = forward
