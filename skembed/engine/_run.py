"""Run the rows that no store has.

Missing rows are taken in shares. A share is claimed in the store (so that processes which embed the
same rows divide them), prepared and planned in a thread ahead of the model, and its vectors are
stored after every batch. Replicas of the model on several devices take the batches in turn, each in
a thread of its own. What another process has claimed is put off to the end and then fetched.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skembed._encoder import Encoder, Fault, Prepared
from skembed.engine._ahead import TakenInTurn, run_ahead
from skembed.engine._batch import begin_to_fetch, budget_of, encode_batch
from skembed.engine._devices import is_of_a_row, is_out_of_memory
from skembed.engine._job import Job
from skembed.engine._plan import plan_batches
from skembed.engine._progress import Progress
from skembed.engine._threads import stay_safe_after_fork
from skembed.exceptions import StoreWarning, UnsupportedModelError, warn_user

if TYPE_CHECKING:
    import torch

__all__ = ["Runner"]

_MIN_SHARE, _SHARES = 64, 8
_HOPELESS = 256
_WAIT_SECONDS, _WARN_SECONDS, _PATIENCE_SECONDS = 10.0, 60.0, 600.0


@dataclass(slots=True)
class _Batch:
    """Parts of rows, assembled or not: part `i` belongs to row `rows[i]`."""

    pieces: _Pieces
    parts: list[Any]
    rows: list[int]
    costs: NDArray[np.int64]
    tensors: Any


class _Pieces:
    """Rows that were prepared together: which of their parts are still to come."""

    def __init__(self) -> None:
        self.n_parts_left: dict[int, int] = {}
        self.parts_done: dict[int, list[tuple[NDArray[np.float32], int]]] = {}
        self.faults: dict[int, str] = {}


def _runs_beside_host(vectors: torch.Tensor) -> int:
    """Return how many batches may run while the host does other things: one on a GPU."""
    return 0 if vectors.device.type == "cpu" else 1


class Runner:
    """Embeds the rows of a job that no store has, at positions `missing`.

    Claimed rows are stored or released however the run ends.
    """

    def __init__(self, job: Job, missing: NDArray[np.int64]) -> None:
        self.job, self.missing = job, missing
        self.replicas = job.encoder.replicas or (job.encoder,)
        self.policy = job.encoder.policy
        self.bar = Progress(job.progress, len(missing))  # once the model is loaded
        self.deferred: list[NDArray[np.int64]] = []
        self.unfinished: dict[int, None] = {}
        self.n_encoded = self.n_failed = 0
        self.lock = threading.Lock()
        self.scattering = threading.Lock()
        self.is_over = False
        self.waiting_since = time.monotonic()
        self.has_warned = False
        self.is_impatient = False

    def run(self) -> int:
        """Return on how many rows the model ran."""
        try:
            self._run_shares(self.missing)
            self.waiting_since = time.monotonic()
            while self.deferred:
                self._fetch_deferred()
        finally:
            with self.lock:
                self.is_over = True
                unfinished = np.array(list(self.unfinished), dtype=np.int64)
            self.job.give_up(unfinished)
            self.bar.close()
        return self.n_encoded

    def _run_shares(self, rows: NDArray[np.int64]) -> None:
        n_rows = int(np.clip(-(-len(rows) // _SHARES), _MIN_SHARE, self.policy.n_ahead))
        batches: Iterator[_Batch] = self._batches(rows, n_rows)
        if len(rows) > n_rows and self.policy.overlaps:
            batches = run_ahead(batches, depth=1 + len(self.replicas))
        with closing(batches):  # type: ignore[type-var]
            replicas = self.replicas[: len(rows)]  # a row alone is done before threads have begun
            if len(replicas) == 1:
                done: Iterator[None] = self._run_batches(replicas[0], batches)
            else:
                shared = TakenInTurn(batches)
                done = run_ahead(
                    *(self._run_batches(replica, shared) for replica in replicas),
                    name="skembed-replica",
                    stop=self.job.encoder.stop,
                )
            with closing(done):  # type: ignore[type-var]
                for _ in done:
                    pass

    def _run_batches(self, encoder: Encoder, batches: Iterator[_Batch]) -> Iterator[None]:
        """Run batches in turn; on a GPU each is fetched while the next one runs.

        Yields after each batch, so that it can be stopped there.
        """
        stay_safe_after_fork()
        keep = [replica.model_key for replica in self.replicas]
        running: deque[tuple[_Batch, Callable[[], NDArray[np.float32]]]] = deque()
        try:
            for batch in batches:
                try:
                    vectors = encode_batch(encoder, batch.parts, batch.costs, batch.tensors, keep)
                except Exception as error:
                    if not self.policy.may_fail or not is_of_a_row(error):
                        raise
                    vectors = self._one_by_one(encoder, batch, keep)
                running.append((batch, begin_to_fetch(vectors)))
                while len(running) > _runs_beside_host(vectors):
                    self._take(*running.popleft())
                del batch  # before the next rows are prepared
                yield
        except BaseException:
            # Batches that had run are not lost to a later one's error, nor to a stop.
            with suppress(Exception):
                while running:
                    self._take(*running.popleft())
            raise
        while running:
            self._take(*running.popleft())

    def _one_by_one(self, encoder: Encoder, batch: _Batch, keep: list[bytes]) -> torch.Tensor:
        """Run every part of a batch alone, as code of the user's failed on it."""
        import torch

        vectors = []
        for i, (row, part) in enumerate(zip(batch.rows, batch.parts, strict=True)):
            try:
                cost = batch.costs[i : i + 1]
                vectors.append(encode_batch(encoder, [part], cost, None, keep).cpu())
            except Exception as error:
                if not is_of_a_row(error):
                    raise
                self.n_failed += 1
                if self.n_failed >= _HOPELESS and not self.n_encoded:
                    raise UnsupportedModelError(
                        f"The model failed on each of the first {self.n_failed} rows: "
                        f"{type(error).__name__}: {error}"
                    ) from error
                self.job.fail(row, f"the model failed on it: {type(error).__name__}: {error}")
                vectors.append(torch.full((1, encoder.full_width), torch.nan))
        return torch.cat(vectors)

    def _batches(self, rows: NDArray[np.int64], n_rows: int) -> Iterator[_Batch]:
        """Claim, prepare, plan and assemble share after share; runs ahead of the model."""
        stay_safe_after_fork()
        for start in range(0, len(rows), n_rows):
            share_rows = rows[start : start + n_rows]
            # Before the claim: an interrupt just after it must find what to give back.
            with self.lock:
                self.unfinished.update(dict.fromkeys(share_rows.tolist()))
            is_ours = self.job.claim(share_rows) | self.is_impatient
            with self.lock:
                if self.is_over:  # given up while the claim was under way
                    self.job.give_up(share_rows)
                    return
                for row in share_rows[~is_ours].tolist():
                    del self.unfinished[row]
            if not is_ours.all():
                self.deferred.append(share_rows[~is_ours])
            ours = share_rows[is_ours].tolist()
            while ours:
                prepared = self.job.encoder.prepare([self.job.items[row] for row in ours])
                done, ours = ours[: len(prepared)], ours[len(prepared) :]
                yield from self._batches_of(done, prepared)
                del prepared  # before the next rows are prepared

    def _batches_of(
        self, prepared_rows: list[int], prepared: list[Prepared | Fault]
    ) -> Iterator[_Batch]:
        job, encoder, pieces = self.job, self.job.encoder, _Pieces()
        parts: list[Any] = []
        rows: list[int] = []
        failed: list[int] = []
        for row, item in zip(prepared_rows, prepared, strict=True):
            if not job.accept(row, item):
                failed.append(row)
                continue
            assert isinstance(item, Prepared)
            job.sizes[row] = item.size
            pieces.n_parts_left[row] = len(item.parts)
            parts.extend(item.parts)
            rows.extend([row] * len(item.parts))
        self._end(failed)
        costs = encoder.costs(parts)
        plan = plan_batches(
            costs,
            budget=max(map(budget_of, self.replicas)),
            layout=self.policy.layout,
            max_parts=job.batch_size or self.policy.max_parts,
        )
        for chosen in plan:
            batch_parts = [parts[i] for i in chosen]
            tensors = self._collate(batch_parts)
            yield _Batch(pieces, batch_parts, [rows[i] for i in chosen], costs[chosen], tensors)

    def _collate(self, parts: list[Any]) -> Any:
        """Assemble a batch ahead of its turn, or return None to have it assembled then."""
        if len(self.replicas) > 1:
            return None  # which device will take it is not known yet
        try:
            return self.job.encoder.collate(parts)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None  # in halves if need be

    def _take(self, batch: _Batch, fetch: Callable[[], NDArray[np.float32]]) -> None:
        """Wait for the vectors of a batch, and scatter them, one thread at a time."""
        values = fetch()
        with self.scattering:
            self._scatter(batch, values)

    def _scatter(self, batch: _Batch, values: NDArray[np.float32]) -> None:
        """Put the vectors of a batch where their rows are, and rows that are whole in the store."""
        job, pieces = self.job, batch.pieces
        done: list[int] = []
        raw: list[NDArray[np.float32]] = []
        for i in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
            why = job.encoder.why_not_finite(batch.parts[i])
            pieces.faults.setdefault(batch.rows[i], why)
        for i, row in enumerate(batch.rows):
            pieces.n_parts_left[row] -= 1
            n_left = pieces.n_parts_left[row]
            if n_left or row in pieces.parts_done:
                pieces.parts_done.setdefault(row, []).append((values[i], int(batch.costs[i])))
                if n_left:
                    continue
                found = pieces.parts_done.pop(row)
                vector = job.encoder.merge(
                    np.stack([vector for vector, _ in found]),
                    np.array([cost for _, cost in found]),
                )
            else:
                vector = values[i]
            done.append(row)
            raw.append(vector)
        if not done:
            return
        vectors = np.stack(raw)
        is_finite = np.isfinite(vectors).all(axis=1)
        bad = np.array(done)[~is_finite].tolist()
        for row in bad:
            # The mean of finite vectors may be beyond float32.
            job.fail(row, pieces.faults.pop(row, "the mean of its parts is not finite"))
        good = np.array(done)[is_finite].tolist()
        self.n_encoded += len(good)
        job.finish(good, vectors[is_finite])
        for row in good:
            self.unfinished.pop(row, None)
        self._end(bad)
        self.bar.update(len(done))

    def _end(self, failed: list[int]) -> None:
        """Release rows that have a fault."""
        self.job.give_up(np.array(failed, dtype=np.int64))
        for row in failed:
            self.unfinished.pop(row, None)

    def _fetch_deferred(self) -> None:
        """Fetch what others were encoding; take over what they let go."""
        rows = np.concatenate(self.deferred)
        self.deferred.clear()
        missing = self.job.look_up(rows)
        self.bar.update(len(rows) - len(missing))
        if not len(missing):
            return
        n_before = self.n_encoded
        self._run_shares(missing)
        if len(missing) < len(rows) or self.n_encoded > n_before:
            self.waiting_since = time.monotonic()
        if self.deferred:
            waiting = np.concatenate(self.deferred)
            self.job.wait(waiting, timeout=_WAIT_SECONDS)
            self._lose_patience(len(waiting))

    def _lose_patience(self, n_rows: int) -> None:
        """Say who is waited for, and in the end do without: it may be stopped or stuck."""
        waited = time.monotonic() - self.waiting_since
        self.is_impatient = waited > _PATIENCE_SECONDS
        if waited > _WARN_SECONDS and not self.has_warned:
            self.has_warned = True
            warn_user(
                f"{n_rows:,} rows have been claimed for {waited:.0f} s by another process or "
                "thread that embeds them too and has stored none. They are encoded here after "
                f"{_PATIENCE_SECONDS:.0f} s; to wait for no one, set cache=None.",
                StoreWarning,
            )
