"""An encoder that runs a backbone: its plain module frozen, made fast and loaded once per process.

Knows backbones and devices, not modalities: the room's subclass says what a part is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from skembed._backbone import Backbone, ModelSettings
from skembed._encoder import Encoder, Fault
from skembed.acceleration import accelerate
from skembed.engine._devices import is_out_of_memory, resolve_dtype
from skembed.engine._threads import map_in_threads
from skembed.exceptions import InvalidParameterError, SkembedError, UnsupportedModelError
from skembed.store import digest_of
from skembed.weights import is_loaded, shared_model

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["BackboneEncoder", "NeedsFloat32", "is_in_float32"]

T = TypeVar("T")

_in_float32: set[bytes] = set()
"""Core digests of backbones that were found to run in float32 only."""


class NeedsFloat32(UnsupportedModelError):
    """A model does not run in the format chosen for it; encoders made later choose float32."""


def is_in_float32(backbone: Backbone) -> bool:
    """Return whether `dtype="auto"` means float32 for a backbone, wherever it runs."""
    return backbone.prefers_float32 or backbone.core_digest in _in_float32


class BackboneEncoder(Encoder):
    """What the rooms' encoders have in common.

    Of `settings` dtype, n_components and normalize count ("auto" is what the backbone prefers, for
    dtype else what the device does); `others` are what else decides a stored vector, as `digest_of`
    takes it.
    """

    find: Callable[[], Encoder]
    """Makes the encoder that can run, where this one is only remembered."""

    def __init__(
        self,
        backbone: Backbone,
        settings: ModelSettings,
        device: torch.device,
        **others: object,
    ) -> None:
        dtype, n_components, normalize = settings.dtype, settings.n_components, settings.normalize
        self.backbone = backbone
        self.torch_device = device
        self.is_auto = dtype == "auto"
        is_float32 = device.type in backbone.float32_on or (
            self.is_auto and is_in_float32(backbone)
        )
        self.torch_dtype = resolve_dtype("float32" if is_float32 else dtype, device)
        self.device = str(device)
        self.dtype = str(self.torch_dtype).removeprefix("torch.")
        if n_components is not None and n_components > backbone.width:
            raise InvalidParameterError(
                f"n_components={n_components}, but {backbone.name} gives {backbone.width} features."
            )
        self.width = n_components or backbone.width
        self.n_components = n_components
        self.normalize = backbone.normalizes if normalize == "auto" else normalize
        self.model_key = self._key_of(backbone.core_digest)
        computes_in = self.dtype
        if computes_in in ("int8", "int4"):  # beside such layers, what the machine is fastest in
            # Of int8, each kind of device has its own.
            computes_in += f" on {device.type} and {resolve_dtype('auto', device)}"
        self.digest = digest_of({"backbone": backbone.digest, "dtype": computes_in, **others})

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.backbone.name!r}, width={self.width}, "
            f"device={self.device!r}, dtype={self.dtype!r})"
        )

    @property
    def full_width(self) -> int:
        """Number of features that the backbone gives."""
        return self.backbone.width

    @property
    def is_loaded(self) -> bool:
        """Whether the core is in memory."""
        return self.is_whole and is_loaded(self.model_key)

    def whole(self) -> Encoder:
        """Return the encoder itself, or make the one that this is the memory of."""
        return self if self.is_whole else self.find()

    def contents(self, items: Sequence[Any]) -> Iterable[bytes]:
        """Return the digest of each item, which has taken it."""
        return (item.digest for item in items)

    def describe(self, item: Any) -> str:
        """Return the item's path, or what else it came as."""
        description: str = item.describe()
        return description

    def costs(self, parts: Sequence[Any]) -> NDArray[np.int64]:
        """Return what each part costs to run."""
        return np.fromiter(map(self.backbone.cost, parts), np.int64, len(parts))

    def collate(self, parts: Sequence[Any]) -> Any:
        """Assemble parts into a batch on the device."""
        return _move(self.backbone.collate(parts), self.torch_device)

    def encode(self, batch: Any) -> Tensor:
        """Return the backbone's vectors, shape (parts, full_width), float32."""
        import torch

        # The caller's autocast would round what is stored for every later caller.
        with torch.autocast(self.torch_device.type, enabled=False):
            vectors: Tensor = self._module()(batch)
        if vectors.ndim != 2 or vectors.shape[1] != self.backbone.width:
            raise ValueError(
                f"{self.backbone.name} gives vectors of shape {tuple(vectors.shape)}, expected "
                f"{self.backbone.width} features."
            )
        return vectors.float()

    def finish(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project vectors, keep the leading components, and scale them if rows have unit length."""
        if self.backbone.projection is not None:
            vectors = self.backbone.projection(vectors)
        kept = vectors[:, : self.n_components]
        if not self.normalize:
            return kept
        lengths = np.linalg.norm(kept, axis=1, keepdims=True)
        unit: NDArray[np.float32] = kept / np.maximum(lengths, np.float32(1e-12))
        return unit

    def unfinished(self) -> BackboneEncoder:
        """Return an encoder whose output is what the store keeps."""
        encoder = copy.copy(self)
        encoder.n_components, encoder.normalize = None, False
        encoder.width = self.backbone.width
        return encoder

    def views(self, items: Sequence[Any], seeds: Sequence[int]) -> list[Any]:
        """Return a random view of each item, as the seed beside it says: a part, or a Fault."""

        def view(pair: tuple[Any, int]) -> Any:
            item, seed = pair
            try:
                return self.view(item, np.random.default_rng(seed))
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                return Fault(f"{kind}{error}")

        return map_in_threads(view, list(zip(items, seeds, strict=True)), name="skembed-views")

    def view(self, item: Any, rng: np.random.Generator) -> Any:
        """Return a random view of an item: a part."""
        return self.backbone.prepare(self.open(item), rng)

    def open(self, item: Any) -> Any:
        """Return an item as `Backbone.prepare` takes it."""
        return item

    def core(self) -> nn.Module:
        """Return the fast core, loading it once per process for all settings that can share it."""
        return shared_model(self.model_key, self._load_core, n_bytes=self.backbone.source.n_bytes)

    def _module(self) -> nn.Module:
        """Return the module around the core, which keeps it: they are dropped together."""
        core = self.core()
        around: dict[bytes, nn.Module] = vars(core).setdefault("modules_around", {})
        if self.backbone.digest not in around:
            module = self._loaded(lambda: self.backbone.load(core=core))
            module = module.eval().requires_grad_(False)
            is_placed = getattr(core, "is_placed", False)
            for part in module.children() if is_placed else (module,):
                if not is_placed or part is not core:
                    part.to(self.torch_device)
            around[self.backbone.digest] = module
        return around[self.backbone.digest]

    def _load_core(self) -> nn.Module:
        def load() -> nn.Module:
            module: Any = self.backbone.load(dtype=self.torch_dtype, **self._load_language())
            return accelerate(
                module.core,
                self.backbone.probes(),
                device=self.torch_device,
                dtype=self.torch_dtype,
                is_foreign=self.backbone.is_foreign,
            )

        return self._loaded(load)

    def _load_language(self) -> dict[str, nn.Module]:
        """Return the part of the core that other rooms run too, if there is one."""
        part = self.backbone.language
        if part is None:
            return {}

        def load() -> nn.Module:
            device, dtype = self.torch_device, self.torch_dtype
            return self._loaded(lambda: accelerate(part.load(), device=device, dtype=dtype))

        key = self._key_of(part.digest)
        return {"language": shared_model(key, load, n_bytes=part.n_bytes)}

    def _key_of(self, digest: bytes) -> bytes:
        """Return the key of a core, by its digest, in the process."""
        place = {"device": self.device, "dtype": self.dtype}
        return digest_of({"kind": "core", "core": digest, **place})

    def _loaded(self, load: Callable[[], T]) -> T:
        """Return what is loaded, of the content that the digest is of."""
        try:
            return self.backbone.source.read(load)
        except Exception as error:
            if isinstance(error, SkembedError) or is_out_of_memory(error):
                raise
            is_rounded = self.dtype != "float32"
            if is_rounded and self.is_auto and isinstance(error, (RuntimeError, TypeError)):
                _in_float32.add(self.backbone.core_digest)
                raise NeedsFloat32(
                    f"{self.backbone.name} does not run in {self.dtype} ({error}), which "
                    "dtype='auto' stands for here. It runs in float32."
                ) from error
            hint = f". It may not run in {self.dtype}: try dtype='float32'" if is_rounded else ""
            raise UnsupportedModelError(
                f"{self.backbone.name} cannot be loaded: {type(error).__name__}: {error}{hint}"
            ) from error


def _move(batch: Any, device: torch.device) -> Any:
    """Bring a batch to a device: a tensor, a list, or what has a `to` of its own."""
    import torch

    if isinstance(batch, (list, tuple)):
        return type(batch)(_move(each, device) for each in batch)
    if isinstance(batch, torch.Tensor) and device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)
