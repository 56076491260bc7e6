"""How fast does the embedding store write and read vectors?

Rows of 384 float32 values (1,544 bytes as the engine packs them) in batches of 256, from one
process and from four at once, for the store of a run and for a folder that is kept. What is read
must be what was written, or no time is printed.

    python benchmarks/store.py --out benchmarks/results/store.json
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import make_parser, summarize, write_results

from skembed.store import EmbeddingStore, content_key, resolve_store

N_BYTES = 8 + 4 * 384
BATCH = 256
TIMEOUT = 600


def rows_of(worker: int, n_rows: int) -> tuple[list[bytes], list[bytes]]:
    """Keys as they come, and values that differ in every row."""
    noise = hashlib.shake_128(worker.to_bytes(8, "little")).digest(N_BYTES - 16)
    keys = [content_key(b"%d" % worker, b"%d" % row) for row in range(n_rows)]
    return keys, [key + noise for key in keys]


def batches(items: list[bytes]) -> list[list[bytes]]:
    """Cut items into batches."""
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def work(worker: int, n_rows: int, path: str | None, barrier: Any, results: Any) -> None:
    """Write, then read with an empty memory tier; all workers begin each phase together."""
    keys, values = rows_of(worker, n_rows)
    store = resolve_store("run") if path is None else EmbeddingStore(path)
    assert store is not None
    store.get_many(keys[:1])

    def timed(action: Callable[[], Any]) -> tuple[float, float, Any]:
        barrier.wait(TIMEOUT)
        start = time.perf_counter()
        answer = action()
        return start, time.perf_counter(), answer

    def write() -> None:
        for some_keys, some_values in zip(batches(keys), batches(values), strict=True):
            store.put_many(some_keys, some_values)

    def read() -> list[bytes | None]:
        return [value for some_keys in batches(keys) for value in store.get_many(some_keys)]

    *writing, _ = timed(write)
    store.close()  # forget what is in memory, so that the disk is read
    store.get_many(keys[:1])
    *reading, found = timed(read)
    results.put((writing, reading, found == values))


def measure(n_rows: int, n_workers: int, path: str | None) -> dict[str, float]:
    """Return the rows a second that the workers write and read together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(n_workers), context.Queue()
    workers = [
        context.Process(target=work, args=(i, n_rows // n_workers, path, barrier, results))
        for i in range(n_workers)
    ]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=TIMEOUT) for _ in workers]
    for worker in workers:
        worker.join()
    if not all(is_right for *_, is_right in answers):
        raise SystemExit("What was read is not what was written; no times.")
    rates: dict[str, float] = {}
    for phase, name in enumerate(["written", "read"]):
        spans = [answer[phase] for answer in answers]
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        rates[f"rows_{name}_per_s"] = round(n_rows // n_workers * n_workers / seconds)
    return rates


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="rows in all")
    args = parser.parse_args()
    n_rounds = args.rounds or 3
    ways = [(is_kept, n_workers) for is_kept in (False, True) for n_workers in (1, 4)]
    rounds: dict[tuple[bool, int], list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(n_rounds):
        for is_kept, n_workers in ways:
            with tempfile.TemporaryDirectory() as folder:
                # Each measurement is a run of its own, in an empty folder.
                os.environ["SKEMBED_RUN"] = str(Path(folder) / "run")
                path = str(Path(folder) / "kept") if is_kept else None
                rounds[is_kept, n_workers].append(measure(args.rows, n_workers, path))
    print(f"{args.rows:,} rows of {N_BYTES:,} bytes, batches of {BATCH}, {n_rounds} rounds; rows/s")
    print(f"{'store':8}{'processes':>10}{'written':>12}{'(least-most)':>20}", end="")
    print(f"{'read':>12}{'(least-most)':>20}")
    results = []
    for (is_kept, n_workers), rates in rounds.items():
        row: dict[str, Any] = {"store": "folder" if is_kept else "run", "processes": n_workers}
        print(f"{row['store']:8}{n_workers:>10}", end="")
        for name in rates[0]:
            rate = row[name] = summarize([rate[name] for rate in rates])
            spread = f"({rate['min']:,.0f}-{rate['max']:,.0f})"
            print(f"{rate['median']:>12,.0f}{spread:>20}", end="")
        print()
        results.append(row)
    report = {"rows": args.rows, "bytes_per_row": N_BYTES, "rounds": n_rounds, "results": results}
    write_results(args.out, report)


if __name__ == "__main__":
    main()
