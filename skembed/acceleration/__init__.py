"""Frozen modules made fast: packed attention, linear layers and convolutions, folding, int8.

`accelerate` takes a plain module and returns one that is proven equal on probes, or the module
itself; `prepare_for_training` does so for a module that stays trainable. Knows modules and tensors;
must not know rows, encoders or modalities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skembed._later import later
from skembed.acceleration._processor import (
    has_int8,
    is_bfloat16_faster_on_cpu,
    keep_freed_memory,
)

__all__ = [
    "accelerate",
    "has_int8",
    "is_bfloat16_faster_on_cpu",
    "keep_freed_memory",
    "linear",
    "prepare_for_training",
    "speed_up_linear",
]

if TYPE_CHECKING:
    from skembed.acceleration._accelerate import accelerate, prepare_for_training
    from skembed.acceleration._linear import linear, speed_up_linear
else:
    accelerate = later("skembed.acceleration._accelerate", "accelerate")
    prepare_for_training = later("skembed.acceleration._accelerate", "prepare_for_training")
    linear = later("skembed.acceleration._linear", "linear")
    speed_up_linear = later("skembed.acceleration._linear", "speed_up_linear")
