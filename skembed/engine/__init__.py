"""Keys, dedupe, plan, run: everything between checked rows and vectors, for every modality."""

from skembed.engine._convolutions import fold_batch_norms, is_traceable, pack_convolutions
from skembed.engine._devices import (
    DTYPES,
    is_out_of_memory,
    pixels_per_batch,
    resolve_device,
    resolve_devices,
    resolve_dtype,
    samples_per_batch,
    tokens_per_batch,
)
from skembed.engine._embed import Embedded, embed, measure_sizes
from skembed.engine._heap import keep_freed_memory
from skembed.engine._int8 import quantize_linear_layers
from skembed.engine._linear import pack_linear_layers, steady_size
from skembed.engine._packed import PACKED, Rows, packed_rows, register_packed_attention
from skembed.engine._passes import are_alike, convert
from skembed.engine._pooling import POOLINGS, finish, pool
from skembed.engine._threads import map_in_threads, stay_safe_after_fork

__all__ = [
    "DTYPES",
    "PACKED",
    "POOLINGS",
    "Embedded",
    "Rows",
    "are_alike",
    "convert",
    "embed",
    "finish",
    "fold_batch_norms",
    "is_out_of_memory",
    "is_traceable",
    "keep_freed_memory",
    "map_in_threads",
    "measure_sizes",
    "pack_convolutions",
    "pack_linear_layers",
    "packed_rows",
    "pixels_per_batch",
    "pool",
    "quantize_linear_layers",
    "register_packed_attention",
    "resolve_device",
    "resolve_devices",
    "resolve_dtype",
    "samples_per_batch",
    "stay_safe_after_fork",
    "steady_size",
    "tokens_per_batch",
]
