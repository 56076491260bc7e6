"""Encoders known from an earlier process: their keys and widths, without their models.

Finding rows in a store takes digests and a few numbers; getting these from the model's files takes
seconds of imports. They are remembered in the user's cache folder while files, settings, libraries
and machine stay the same. An encoder that has to encode is built in full.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from skembed._backbone import Source
from skembed.engine._frozen import BackboneEncoder
from skembed.store import EmbeddingStore, content_key, digest_of
from skembed.weights import recalled, remembered

__all__ = ["remembered_encoder"]

_NAMESPACE = "encoder"
_PATIENCE_SECONDS = 60.0

_LIBRARIES = ("numpy", "tokenizers", "torch", "transformers")
# What hides devices and instructions from torch.
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"),
)
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

# Attributes that only running it needs.
_OF_TORCH = ("backbone", "torch_device", "torch_dtype")


class _ChangedMeanwhileError(Exception):
    """The files are others than those whose digest is known: nothing is remembered of them."""


def remembered_encoder(
    kind: type[BackboneEncoder],
    settings: Any,
    device: object,
    source: Source,
    find: Callable[[], BackboneEncoder],
    store: EmbeddingStore | None,
) -> BackboneEncoder:
    """Return the encoder that `find` makes, or what is remembered of it, whose `whole` calls it.

    `settings`, `device` and the content of `source` decide the encoder. Processes that share a
    store wait for the first of them to find it.
    """
    values = {each.name: getattr(settings, each.name) for each in fields(settings)}
    if not all(_is_plain(value) or isinstance(value, Path) for value in values.values()):
        return find()  # a function's or a module's repr says too little
    where = vars(source).items()
    described = {
        "kind": f"{kind.__module__}.{kind.__qualname__}",
        "settings": {name: repr(value) for name, value in values.items()},
        "device": repr(device),
        "source": {name: repr(value) for name, value in where if name != "digest"},
        "digest": source.digest.hex(),
        "circumstances": _circumstances(),
    }
    made: list[BackboneEncoder] = []

    def compute() -> str:
        made.append(find())
        if made[0].backbone.source.digest != source.digest:
            raise _ChangedMeanwhileError
        return repr(_facts_of(made[0]))

    key = json.dumps(described, sort_keys=True)
    text = recalled(_NAMESPACE, key)
    if text is None:
        turn = content_key(_NAMESPACE.encode(), key.encode())
        mine = nullcontext() if store is None else store.in_turn(turn, _PATIENCE_SECONDS)
        with suppress(_ChangedMeanwhileError), mine:
            text = remembered(_NAMESPACE, key, compute)
    if made:
        return made[0]
    facts = ast.literal_eval(str(text))
    if facts is None:
        return find()
    encoder = kind.__new__(kind)
    vars(encoder).update(facts["encoder"], is_whole=False, find=find)
    encoder.backbone = cast(Any, SimpleNamespace(**facts["backbone"]))
    return encoder


def _facts_of(encoder: BackboneEncoder) -> dict[str, dict[str, Any]] | None:
    """Return what finds rows without the model; None of encoders of which more is needed."""
    own = {name: value for name, value in vars(encoder).items() if name not in _OF_TORCH}
    if (
        encoder.device != "cpu"
        or encoder.backbone.is_foreign
        or encoder.backbone.projection is not None
        or not all(map(_is_plain, own.values()))
    ):
        return None
    of_backbone = {n: value for n, value in vars(encoder.backbone).items() if _is_plain(value)}
    of_backbone["projection"] = None
    return {"encoder": own, "backbone": of_backbone}


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str, bytes)


@functools.cache
def _circumstances() -> str:
    """Return a digest of the code, the libraries and the machine that decide an encoder."""
    package = Path(__file__).parents[1]
    code = [[str(path), *_stamp(path)] for path in sorted(package.rglob("*.py"))]
    found: dict[str, Any] = {"code": code, "python": sys.version}
    for name in _LIBRARIES:
        spec = find_spec(name)  # imports nothing
        place = Path(spec.origin) if spec is not None and spec.origin else None
        found[name] = [_version_of(name), str(place), *(_stamp(place) if place else ())]
    found["machine"] = [platform.node(), platform.platform(), _processor()]
    found["gpus"] = list(map(os.path.exists, _GPUS))
    found["variables"] = list(map(os.environ.get, _VARIABLES))
    return digest_of(found).hex()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return what the system says of the first processor and what it can do, clock rates aside."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            lines = file.read(8192).split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model", "flags", "Features")))
