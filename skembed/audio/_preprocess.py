"""A function of the user that turns a clip into what a model takes.

Owns what such a function may give. Must not know models nor rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skembed.audio._backbone import probe_samples
from skembed.modules import Preprocess as BasePreprocess
from skembed.store import digest_of
from skembed.weights import fingerprint, kept_recent

__all__ = ["Preprocess", "make_preprocess"]


def make_preprocess(function: Callable[[Tensor], Any], rate: int) -> Preprocess:
    """Return a function of the user, tried out; once as long as its content is the same.

    Parameters
    ----------
    function : callable
        Turns samples, a float32 tensor (n,), into a float tensor.
    rate : int
        Sampling rate of the samples, in Hz.

    Raises
    ------
    InvalidParameterError
        If it fails on a clip, gives something else, or is random.
    UnsupportedModelError
        If its content cannot be told.
    """
    digest = fingerprint(function)
    key = digest_of({"kind": "preprocessing of sound", "content": digest, "rate": rate})
    return kept_recent(key, lambda: Preprocess(function, digest, rate))


class Preprocess(BasePreprocess):
    """Turns samples, a float32 tensor (n,), into a float tensor without the batch's dimension."""

    expected = (
        "a callable from samples, a float32 tensor of shape (n,), to a float tensor, such as "
        "frames (n_frames, n_bands), without the batch's dimension"
    )
    row = "clip"
    advice = "Use the transform of evaluation, without augmentation, random crops or dither."

    def __init__(self, function: Callable[[Tensor], Any], digest: bytes, rate: int) -> None:
        self.rate = rate
        super().__init__(function, digest)

    def example(self) -> Tensor:
        """Return a clip of one second, always the same."""
        return torch.from_numpy(probe_samples(self.rate))

    def other_example(self) -> Tensor:
        """Return another one."""
        return torch.from_numpy(probe_samples(self.rate, seed=1))

    def describe(self, row: Tensor) -> str:
        """Say which clip it failed on."""
        return f"a float32 tensor of {len(row):,} samples ({self.rate:,} Hz)"

    def find_fault(self, output: Any) -> tuple[str, str] | None:
        """Return what it gave and what to do, None if that is right."""
        if not isinstance(output, Tensor):
            kind = type(output)
            return f"a {kind.__module__}.{kind.__qualname__}", "Let it return a torch tensor"
        if not output.is_floating_point():
            return f"a tensor of {output.dtype}", "Convert it with .float()"
        if output.layout is not torch.strided:
            return f"a tensor of layout {output.layout}", "Add its to_dense() to it"
        if output.ndim == 0 or not output.numel():
            return f"a tensor of shape {tuple(output.shape)}", "Let it return samples or features"
        return None
