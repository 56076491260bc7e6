"""What a model is before it is frozen: where it comes from, what it takes, and its plain module.

One class for all rooms. The same module is trained and served: `load` returns it as published,
`skembed.acceleration` makes a fast frozen copy of it. Must not know rows, keys, devices or
estimators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skembed.exceptions import InvalidParameterError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

__all__ = [
    "OF_THE_HUB",
    "Backbone",
    "Ending",
    "Exported",
    "ModelSettings",
    "Projection",
    "Source",
    "thawed",
]

T = TypeVar("T")

OF_THE_HUB = "only models on the hub have revisions."


@dataclass(frozen=True)
class ModelSettings:
    """The parameters that decide a vector and mean the same in every room, as plain values."""

    model: Any
    weights: str | Path | None = "auto"
    layer: str | int | None = None
    pooling: str = "auto"
    normalize: Any = False
    n_components: int | None = None
    preprocess: Callable[..., Any] | None = None
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False

    def refuse(self, **reasons: str) -> None:
        """Refuse parameters that are not at their defaults where they mean nothing, and say why."""
        faults = [
            f"{field.name}={getattr(self, field.name)!r}: {reasons[field.name]}"
            for field in fields(self)
            if field.name in reasons and getattr(self, field.name) != field.default
        ]
        if faults:
            raise InvalidParameterError("\n".join(faults))


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear map of a backbone's vectors, applied to those that are stored."""

    weight: NDArray[np.float32]  # (d, d)
    bias: NDArray[np.float32]  # (d,)

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return projected vectors (n, d)."""
        projected: NDArray[np.float32] = vectors @ self.weight.T + self.bias
        return projected


@dataclass(frozen=True)
class Ending:
    """What becomes of a backbone's vectors, in this order: projected, cut, brought to length 1."""

    projection: Projection | None = None
    n_components: int | None = None
    normalize: bool = False


@dataclass(frozen=True)
class Exported:
    """How an exported model is used without skembed, and with it.

    Attributes
    ----------
    library : str
        What loads it.
    code : str
        Python that makes `vectors`, a tensor (n, width), of rows, in the model's folder.
    arguments : str
        By which a new embedder finds it, in that folder.
    is_finished : bool
        Whether `code` does what the `Ending` asks for.
    """

    library: str
    code: str
    arguments: str = '"."'
    is_finished: bool = False


class Source(ABC):
    """What a model is read from: a folder, a file, a module in memory.

    Its name is that by which the user calls it; its digest that of its content as it was found.
    """

    name: str
    digest: bytes

    @abstractmethod
    def n_bytes(self) -> int:
        """Return the size of the weights in bytes, 0 if unknown."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Refuse content that is no longer that of `digest`."""

    def read(self, make: Callable[[], T]) -> T:
        """Return what `make` reads here; refuse it if the content was not that of `digest`."""
        made = make()
        self.check_unchanged()
        return made


class Backbone(ABC):
    """A model of one family, and all that decides its vectors; no weights are loaded to make one.

    Attributes
    ----------
    name : str
        What messages call it.
    digest : bytes
        Content digest of the weights and of everything here that decides vectors: architecture,
        layer, pooling, preparation, releases of the libraries whose code computes them.
    width : int
        Number of features.
    source : Source
        What it is read from.
    is_foreign : bool
        Whether code runs that skembed has never been tested with: the user's, or a checkpoint's.
    prefers_float32 : bool
        Whether `dtype="auto"` means float32: code of the user's may not bear rounding to 8 bits.
    float32_on : tuple of str
        Types of devices on which it computes in float32 whatever is asked for.
    runs_on_cpu : bool
        Whether it runs on the CPU whatever device is asked for: lookups gain nothing elsewhere.
    normalizes : bool
        Whether its vectors have unit length where `normalize="auto"`.
    language : LanguageModel or None
        A part of its core that backbones of other rooms have too, and that is loaded once for all:
        `load` takes it, made fast, as `language`.
    projection : Projection or None
        What vectors become after they are stored.
    encoder_type : type or None
        Its encoder, made from (backbone, settings, device); None is the room's usual one.
    """

    name: str
    digest: bytes
    width: int
    source: Source
    is_foreign: bool = False
    prefers_float32: bool = False
    float32_on: tuple[str, ...] = ()
    runs_on_cpu: bool = False
    normalizes: bool = False
    language: Any = None
    projection: Projection | None = None
    encoder_type: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, width={self.width})"

    @property
    def core_digest(self) -> bytes:
        """Digest of all that decides the core: backbones with the same one share a fast core."""
        return self.digest

    @abstractmethod
    def prepare(self, item: Any, rng: np.random.Generator | None = None) -> Any:
        """Turn one item (a text, a picture in RGB, samples) into a part: what `collate` takes.

        Called from several threads at once. The random choices of training come from `rng`: where
        a row that is too long is cut, whether a picture is mirrored; None always makes the same.
        """

    @abstractmethod
    def cost(self, part: Any) -> int:
        """Return what a part costs to run (tokens, pixels, samples), at least 1."""

    @abstractmethod
    def collate(self, parts: Sequence[Any]) -> Any:
        """Assemble parts into one batch on the CPU, as the module takes it."""

    def probes(self) -> Iterable[Any]:
        """Yield what the core may take, where it is a module of stacks; see `accelerate`."""
        return ()

    @abstractmethod
    def load(self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """Load the module: it maps a batch to vectors (n, width), float32.

        It is the caller's own: plain, in float32 on the CPU, differentiable, with its dropout, in
        evaluation mode, nothing packed or folded, and in no cache. Its attribute `core` is the part
        that `skembed.acceleration.accelerate` may replace by a faster one; around it, scaling,
        pooling and heads stay in float32. A `core` that is given takes the place of the model's
        own, whose weights are then not read. `dtype` is what the module will be converted to: a
        model too large for float32 is read in it.
        """

    def weighted(self, state: Any) -> Backbone:
        """Return the backbone with the weights of words in a state of `WordWeights`."""
        raise InvalidParameterError(
            f"training=WordWeights(...): {self.name} has no vectors of words to weigh. Only static "
            "vectors have, such as GloVe's."
        )

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write the model into a folder as its own library does, with the weights of a module.

        The module is one of `load`, perhaps trained since, and is not used afterwards. What the
        library's files cannot say of the `ending` is left to the caller.
        """
        raise UnsupportedModelError(f"{self.name} has no weights that could be exported.")


def thawed(module: nn.Module) -> nn.Module:
    """Return a module all of whose parameters can be trained."""
    for each in module.parameters():
        each.requires_grad_(each.is_floating_point() or each.is_complex())
    return module
