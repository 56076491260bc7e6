"""The format that products are computed in while training.

Knows devices and what a machine is fastest in, not what is trained.
"""

from __future__ import annotations

from typing import Any

import torch

from skembed.acceleration import is_bfloat16_faster_on_cpu
from skembed.engine import BackboneEncoder, is_out_of_memory
from skembed.exceptions import ModelWarning, warn_user
from skembed.training._strategy import Strategy

__all__ = ["dtype_that_runs", "training_dtype"]


def training_dtype(strategy: Strategy, encoder: BackboneEncoder) -> torch.dtype:
    """Return what products are computed in while training."""
    if strategy.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[strategy.dtype]
    if encoder.backbone.prefers_float32 or encoder.torch_device.type in encoder.backbone.float32_on:
        return torch.float32
    if encoder.torch_device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    is_faster = encoder.torch_device.type == "cpu" and is_bfloat16_faster_on_cpu()
    return torch.bfloat16 if is_faster else torch.float32


@torch.no_grad()
def dtype_that_runs(
    dtype: torch.dtype, module: Any, batch: Any, encoder: BackboneEncoder
) -> torch.dtype:
    """Return `dtype`, or float32 if the module's code does not run in it, with a warning."""
    if dtype is torch.float32:
        return dtype
    try:
        with torch.autocast(encoder.torch_device.type, dtype=dtype):
            module(batch)
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        name = encoder.backbone.name
        warn_user(
            f"{name} cannot be trained in bfloat16 ({error}), which training__dtype='auto' stands "
            "for here. It is trained in float32.",
            ModelWarning,
            once=f"trained in float32 {name}",
        )
        return torch.float32
    return dtype
