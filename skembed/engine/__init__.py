"""Keys, dedupe, plan, run: everything between checked rows and vectors, for every modality."""

from skembed.engine._devices import (
    DTYPES,
    is_out_of_memory,
    resolve_device,
    resolve_devices,
    resolve_dtype,
)
from skembed.engine._embed import Embedded, embed, measure_sizes
from skembed.engine._frozen import BackboneEncoder, NeedsFloat32, is_in_float32
from skembed.engine._plan import plan_batches
from skembed.engine._progress import Progress
from skembed.engine._remembered import remembered_encoder
from skembed.engine._rows import keys_of
from skembed.engine._threads import (
    map_in_threads,
    most_threads,
    prepare_in_threads,
    stay_safe_after_fork,
)

__all__ = [
    "DTYPES",
    "BackboneEncoder",
    "Embedded",
    "NeedsFloat32",
    "Progress",
    "embed",
    "is_in_float32",
    "is_out_of_memory",
    "keys_of",
    "map_in_threads",
    "measure_sizes",
    "most_threads",
    "plan_batches",
    "prepare_in_threads",
    "remembered_encoder",
    "resolve_device",
    "resolve_devices",
    "resolve_dtype",
    "stay_safe_after_fork",
]
