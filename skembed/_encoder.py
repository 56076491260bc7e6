"""The contract between the rooms (text, image, ...) and the engine.

An encoder turns checked items into tensors. It holds a torch module or a client and is never an
estimator: it knows nothing about DataFrames, parameters or scikit-learn. The engine knows encoders
only through this class; whatever it needs from a modality is declared here.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from skembed.exceptions import InvalidParameterError

if TYPE_CHECKING:
    import torch

__all__ = ["AtOnce", "BatchPolicy", "Encoder", "Fault", "Prepared", "join_replicas"]

E = TypeVar("E", bound="Encoder")


@dataclass(frozen=True, slots=True)
class Prepared:
    """One row, ready to run, as one or more parts (chunks of a text, windows of a clip).

    The engine plans and runs parts; a row's vector is merged from the vectors of its parts.
    """

    parts: Sequence[Any]
    # Its full length before anything was cut, in the unit of `Encoder.costs`.
    size: int
    # What `Encoder.contents` gives for what was prepared, if that may have changed since it was
    # asked: a vector is never stored under the key of another content.
    content: bytes | None = None
    # What the user may want to know of the row, though it can be embedded.
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row cannot be embedded, found while preparing it (an undecodable file, ...)."""

    reason: str
    # The row is no longer what its key was made of. Others of the same content may be.
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class AtOnce:
    """What an encoder that needs no batches and no store gives for rows."""

    # Of shape (rows, full_width).
    vectors: NDArray[np.float32]
    # Full length of each row before anything was cut; None is 1.
    sizes: NDArray[np.int64] | None = None
    # How much of each row the model does not know, in the unit of `sizes`; None: it knows all.
    n_unknown: NDArray[np.int64] | None = None
    # What the user may want to know of rows, by position.
    notes: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How the rows of an encoder are put into batches."""

    # The cost of a batch that keeps the device busy, in the unit of `Encoder.costs`. Where memory
    # runs out, the engine goes below it and remembers that for the model.
    budget: int
    # Which parts may share a batch: any, those of near-equal cost, or those of the same cost.
    layout: Literal["packed", "padded", "equal"] = "packed"
    # Most rows that are prepared ahead of the model; bounds the memory of prepared rows.
    n_ahead: int = 2048
    # Whether rows are prepared while the model runs; not where both would want the same cores.
    overlaps: bool = True
    # Whether the model may fail on some rows only, as code of the user's does, or models of one
    # size. Rows of a batch that failed then run alone, and those that fail again are faults; where
    # none of the first few hundred runs, that is the model's error.
    may_fail: bool = False
    # Most parts of a batch, whatever they cost, unless the user says how many.
    max_parts: int | None = None


class Encoder(ABC):
    """What the engine knows about a model.

    A subclass has a `width` and implements `contents` and `encode`; by default a row is one part
    that costs 1, and a batch is a list of 64. If it has no `digest`, `BaseEmbedder` makes one from
    its class's code and its attributes.

    Attributes
    ----------
    digest : bytes
        Content digest of the weights and of every setting that changes a stored vector. Two
        encoders with the same digest store the same vectors, whatever `finish` makes of them.
    width : int
        Number of output features.
    full_width : int
        Number of features that `encode` gives and the store keeps.
    limit : int or None
        The size up to which rows are read whole. A larger row is cut or read in pieces, and its
        vector depends on `cut_digest` too. None: every row is read whole.
    cut_digest : bytes
        Digest of the settings that change only the vectors of rows beyond `limit`.
    model_key : bytes
        Key of the loaded model in the process; kept when others are dropped to free memory.
    device, dtype : str
        Where batches run and in which format, as torch spells them ("cuda:0", "bfloat16");
        several devices are separated by commas.
    is_whole : bool
        Whether it can run; if not, only its keys and widths are known, and `whole` makes one that
        can.
    is_loaded : bool
        Whether it can run at once; if not, its model has to be loaded first.
    n_few : int
        How many rows take about as long as loading the model. If this process has no model yet,
        fewer rows are left to another process that is about to embed them.
    uses_store : bool
        Whether vectors are looked up and stored; False if that takes longer than computing them.
    replicas : tuple of Encoder
        Encoders with the same digest, each on its own device, among which the engine divides the
        batches; or the same one several times, if it runs several batches at once. Empty: the
        encoder runs one batch after the other.
    n_used : int
        What a run has cost so far, in the unit that a service counts; 0 of what runs here.
    """

    digest: bytes
    width: int
    model_key: bytes
    device: str = "cpu"
    dtype: str = "float32"
    limit: int | None = None
    cut_digest: bytes = b""
    n_few: int = 64
    uses_store: bool = True
    is_whole: bool = True
    replicas: tuple[Encoder, ...] = ()
    n_used: int = 0

    @property
    def is_loaded(self) -> bool:
        """Whether it can run at once."""
        return self.is_whole

    @property
    def full_width(self) -> int:
        """Number of features in a stored vector."""
        return self.width

    @property
    def policy(self) -> BatchPolicy:
        """How rows are put into batches; may load the model if that decides it."""
        return BatchPolicy(budget=64)

    @abstractmethod
    def contents(self, items: Sequence[Any]) -> Iterable[bytes]:
        """Return for each row the bytes that identify its content: same bytes, same vector."""

    def at_once(self, items: Sequence[Any], tell: Callable[[int], None]) -> AtOnce | None:
        """Return the vectors of all rows, if looking for them in a store takes longer.

        `tell` is told how many more rows are done, now and then.
        """
        return None

    def prepare(self, items: Sequence[Any]) -> list[Prepared | Fault]:
        """Do the CPU work for rows (tokenise, decode, resample); called from another thread.

        If all rows at once would take too much memory, return only the first ones: the engine asks
        for the others after these have run.
        """
        return [Prepared([item], 1) for item in items]

    def costs(self, parts: Sequence[Any]) -> NDArray[np.int64]:
        """Return what each part costs to run (tokens, pixels, samples); at least 1."""
        return np.ones(len(parts), dtype=np.int64)

    def collate(self, parts: Sequence[Any]) -> Any:
        """Assemble parts, sorted by decreasing cost, into one batch on the device."""
        return list(parts)

    @abstractmethod
    def encode(self, batch: Any) -> torch.Tensor:
        """Run one batch; return float32 vectors (parts, full_width), in the given order."""

    def whole(self) -> Encoder:
        """Return the encoder that can run."""
        return self

    def begin(self, items: Sequence[Any]) -> Encoder:
        """Return the encoder that runs these rows, which no store has, before any is prepared."""
        return self

    def stop(self) -> None:  # noqa: B027  (most have nothing to stop)
        """Be told that a run is over: what waits to try again need not."""

    def why_not_finite(self, part: Any) -> str:
        """Return what is wrong with a part whose vector has values that are not finite."""
        return "the model returned values that are not finite"

    def describe(self, item: Any) -> str:
        """Return what messages call a row besides its number (such as its path), or ""."""
        return ""

    def merge(self, vectors: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """Merge the vectors (parts, full_width) of one row: their mean, weighted by cost."""
        return np.average(vectors, axis=0, weights=costs).astype(np.float32)

    def finish(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return stored vectors (rows, full_width) as output (rows, width): sliced, scaled."""
        return vectors


def join_replicas(replicas: Sequence[E]) -> E:
    """Return an encoder that divides its batches among replicas; a single one as it is.

    They are the same model and settings on one or more devices; the first prepares rows for all.
    Devices that compute in different formats give other vectors, and are refused.
    """
    if len(replicas) == 1:
        return replicas[0]
    joined = copy.copy(replicas[0])
    joined.replicas = tuple(replicas)
    joined.device = ", ".join(replica.device for replica in replicas)
    if any(replica.digest != joined.digest for replica in replicas):
        formats = ", ".join(f"{replica.dtype} on {replica.device}" for replica in replicas)
        raise InvalidParameterError(
            f"device: expected devices that give the same vectors, got {formats}. Set dtype to a "
            "format that all of them compute in, or name devices of one make."
        )
    return joined
