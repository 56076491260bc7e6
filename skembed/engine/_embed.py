"""Rows in, vectors out: the one path that every modality takes.

key -> dedupe -> store -> prepare -> plan by cost -> run -> scatter -> store. From `transform` to
the model's own code a row crosses 11 frames in 7 files (12 in 8 in speech models). Knows encoders
and the store, never modalities or estimators.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._encoder import Encoder, Prepared
from skembed.engine._job import Job, stored_sizes
from skembed.engine._others import leave_to_others, tell_others
from skembed.engine._progress import Progress
from skembed.engine._rows import Distinct, find_distinct, keys_of
from skembed.engine._run import Runner
from skembed.store import EmbeddingStore

__all__ = ["Embedded", "embed", "measure_sizes"]

_ROWS_PER_LOOKUP = 8192
_ROWS_PER_COPY = 8192


@dataclass(slots=True)
class Embedded:
    """What became of the rows.

    `vectors` are NaN and `sizes` 0 where a row has a fault; a size is the full length in the
    encoder's unit, before anything was cut. `faults` are by position; `n_distinct` leaves them out,
    and is None where rows were not compared. `n_used` is what a service counted. `notes` are what
    the encoder noted of others, now or when they were stored; `n_unknown` is how much of each row
    it does not know, where it tells.
    """

    vectors: NDArray[np.float32]
    sizes: NDArray[np.int64]
    faults: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    n_unknown: NDArray[np.int64] | None = None
    n_distinct: int | None = 0
    n_encoded: int = 0
    n_used: int = 0
    device: str = ""
    dtype: str = ""


def embed(
    encoder: Encoder,
    items: Sequence[Any],
    *,
    store: EmbeddingStore | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Embedded:
    """Embed checked rows, each distinct one once.

    Rows are as the encoder's room has checked them; those that cannot be prepared are faults, not
    errors. `batch_size` bounds the parts of a batch, None plans by cost alone. `progress` is the
    title of a bar, shown when the work takes longer than a second.
    """
    with closing(Progress(progress, len(items))) as bar:
        found = encoder.at_once(items, bar.update)
    if found is not None:
        sizes = np.ones(len(items), dtype=np.int64) if found.sizes is None else found.sizes
        return Embedded(
            vectors=encoder.finish(found.vectors),
            sizes=sizes,
            notes=found.notes,
            n_unknown=found.n_unknown,
            n_distinct=None,
            n_encoded=len(items),
            device=encoder.device,
            dtype=encoder.dtype,
        )
    store = store if encoder.uses_store else None
    keys = keys_of(encoder, items)
    distinct = find_distinct(keys)
    result = Embedded(
        vectors=np.empty((len(items), encoder.width), dtype=np.float32),
        sizes=np.zeros(len(items), dtype=np.int64),
        device=encoder.device,
        dtype=encoder.dtype,
    )
    job = Job(
        encoder=encoder,
        items=items,
        keys=keys,
        store=store,
        vectors=result.vectors,
        sizes=result.sizes,
        batch_size=batch_size,
        progress=progress,
    )
    missing = distinct.first
    if store is not None:
        missing = np.concatenate(
            [
                job.look_up(missing[start : start + _ROWS_PER_LOOKUP])
                for start in range(0, len(missing), _ROWS_PER_LOOKUP)
            ]
            or [missing]
        )
    if len(missing) and not encoder.is_loaded:
        wanted, whole = missing, encoder
        try:
            missing = leave_to_others(job, wanted)
            if len(missing):
                whole = encoder.whole()
                _ = whole.policy  # loads the model, while others leave these rows to this process
                tell_others(job)
        finally:
            job.give_up(wanted)
        if whole is not encoder:
            return embed(whole, items, store=store, batch_size=batch_size, progress=progress)
    if len(missing):
        job.encoder = encoder.begin([items[i] for i in missing.tolist()])
    while len(missing):
        result.n_encoded += Runner(job, missing).run()
        missing, distinct = _stand_ins(job, distinct)
    result.n_used = job.encoder.n_used
    result.n_distinct = len(distinct.first) - len(job.faults)
    _copy_to_duplicates(result, distinct)
    result.faults = _spread(job.faults, job, distinct)
    result.notes = _spread(job.notes, job, distinct)
    return result


def measure_sizes(
    encoder: Encoder, items: Sequence[Any], store: EmbeddingStore | None = None
) -> NDArray[np.int64]:
    """Return the full size of each row without running the model; 0 for rows with a fault.

    Sizes are stored with vectors: only distinct rows that the store does not have are prepared.
    """
    store = store if encoder.uses_store else None
    keys = keys_of(encoder, items)
    distinct = find_distinct(keys)
    sizes = np.zeros(len(distinct.first), dtype=np.int64)
    for start in range(0, len(sizes), _ROWS_PER_LOOKUP):
        rows = distinct.first[start : start + _ROWS_PER_LOOKUP]
        known: list[int | None] = [None] * len(rows)
        if store is not None:
            known = stored_sizes(encoder, store, [key.tobytes() for key in keys[rows]])
        missing = [i for i, size in enumerate(known) if size is None]
        sizes[start : start + len(rows)] = [size or 0 for size in known]
        while missing:
            prepared = encoder.whole().prepare([items[rows[i]] for i in missing])
            for i, item in zip(missing, prepared, strict=False):
                sizes[start + i] = item.size if isinstance(item, Prepared) else 0
            missing = missing[len(prepared) :]
    return sizes[distinct.inverse]


def _stand_ins(job: Job, distinct: Distinct) -> tuple[NDArray[np.int64], Distinct]:
    """Return the next row of the same content for each that is gone, and the distinct rows so.

    A file that was deleted meanwhile takes nothing from its copies, nor they from it.
    """
    gone = np.array(sorted(job.gone), dtype=np.int64)
    job.gone.clear()
    later = np.flatnonzero(np.isin(distinct.inverse, distinct.inverse[gone]))
    later = later[later > distinct.first[distinct.inverse[later]]]
    kinds, places = np.unique(distinct.inverse[later], return_index=True)
    for row in distinct.first[kinds].tolist():
        del job.faults[row]
    first = distinct.first.copy()
    first[kinds] = later[places]
    return later[places], replace(distinct, first=first)


def _copy_to_duplicates(result: Embedded, distinct: Distinct) -> None:
    """Give every repeated row the vector of its first appearance."""
    if len(distinct.first) == len(distinct.inverse):
        return
    first_of_each = distinct.first[distinct.inverse]
    repeats = np.flatnonzero(first_of_each != np.arange(len(first_of_each)))
    for start in range(0, len(repeats), _ROWS_PER_COPY):
        rows = repeats[start : start + _ROWS_PER_COPY]
        result.vectors[rows] = result.vectors[first_of_each[rows]]
        result.sizes[rows] = result.sizes[first_of_each[rows]]


def _spread(found: dict[int, str], job: Job, distinct: Distinct) -> dict[int, str]:
    """Name every row with a fault or a note, repeats included."""
    if not found:
        return {}
    first_of_each = distinct.first[distinct.inverse]
    spread: dict[int, str] = {}
    for row in np.flatnonzero(np.isin(first_of_each, list(found))).tolist():
        name = job.encoder.describe(job.items[row])
        reason = found[int(first_of_each[row])]
        spread[row] = f"{name}: {reason}" if name else reason
    return spread
