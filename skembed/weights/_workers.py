"""Weights on their way to joblib's workers: files in the run's folder, each written once.

A search pickles its estimator, and the modules in its grid, for every task. Everything else in
modules is pickled as usual, and so are weights in every other pickle. torch is never imported here:
a process that has modules has already imported it.
"""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from joblib.externals.loky.backend.reduction import register

from skembed.store import keep_in_run

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["send_weights_once"]

_LEAST_BYTES = 1 << 20
"""As joblib does with arrays: smaller ones travel by themselves."""


def send_weights_once() -> None:
    """Let large parameters travel to joblib's workers as files, if there are any in the process."""
    parameter = getattr(sys.modules.get("torch.nn"), "Parameter", None)
    if parameter is not None:
        register(parameter, _reduce)


def _reduce(parameter: nn.Parameter) -> tuple[Any, ...]:
    import torch

    values = parameter.detach()
    is_dense = values.layout is torch.strided and not (values.is_nested or values.is_quantized)
    is_plain = is_dense and values.device.type == "cpu" and values.is_contiguous()
    is_plain &= not (vars(parameter) or values.is_conj() or values.is_neg())
    if is_plain and values.nbytes >= _LEAST_BYTES:
        data = values.reshape(-1).view(torch.uint8).numpy().data
        # Read anew: torch does not count every change.
        path = keep_in_run(f"weights-{blake2b(data, digest_size=16).hexdigest()}", data)
        if path is not None:
            return _from_file, (str(path), values.shape, values.dtype, parameter.requires_grad)
    return tuple(parameter.__reduce_ex__(5))


def _from_file(
    path: str, shape: torch.Size, dtype: torch.dtype, requires_grad: bool
) -> nn.Parameter:
    """Return a parameter whose memory is the file's, until it is written to."""
    import torch

    values = torch.from_file(path, shared=False, size=shape.numel(), dtype=dtype)
    return torch.nn.Parameter(values.view(shape), requires_grad)
