"""How many of the true neighbours does ANNTransformer find, and how fast, beside brute force?

On 10,000 to 1,000,000 rows of 64 features in clusters, and on GloVe's vectors of 50 features
(`python tests/materials.py` fetches them), of unit length. The peer is scikit-learn's
KNeighborsTransformer with algorithm="brute" and the Euclidean metric, which on unit vectors finds
the neighbours by cosine and is its fastest; up to 100,000 rows also with metric="cosine". All get
one thread. Fitting is measured in full, the graph of all rows from that of 10,000 where there are
more.

    python benchmarks/ann.py --out benchmarks/results/ann.json
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import make_parser, summarize, write_results
from sklearn.base import clone
from sklearn.neighbors import KNeighborsTransformer
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))

from skembed.neighbors import ANNTransformer
from tests.materials import material

K = 10
_LEAST_RECALL = 0.9
_WIDTH = 64


def clusters(n_rows: int) -> np.ndarray:
    """Return rows around n_rows / 100 centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_rows // 100, _WIDTH), dtype=np.float32)
    rows = centres[rng.integers(0, len(centres), n_rows)]
    return rows + 0.7 * rng.standard_normal((n_rows, _WIDTH), dtype=np.float32)


def glove(n_rows: int) -> np.ndarray:
    """Return the vectors of the most frequent words."""
    return np.load(material("glove") / "glove_6B_50d_emb.npy")[:n_rows].astype(np.float32)


def ways(n_rows: int) -> dict[str, tuple[Any, tuple[dict[str, int], ...]]]:
    """Return transformers, and the settings with which each is searched once it is fitted."""
    brute = KNeighborsTransformer(n_neighbors=K, algorithm="brute", metric="euclidean")
    exact, index = (ANNTransformer(K, exact_up_to=n, random_state=0) for n in (n_rows, 0))
    cosine = clone(brute).set_params(metric="cosine")
    found = {
        "brute force": (brute, ({},)),
        **({"brute force, metric='cosine'": (cosine, ({},))} if n_rows <= 100_000 else {}),
        "index": (index, tuple({"ef_search": ef} for ef in (32, 64, 128, 256))),
    }
    return {**found, "exact": (exact, ({},))} if n_rows <= 50_000 else found


def measure(rows: np.ndarray, n_queries: int, rounds: int) -> dict[str, Any]:
    """Return recall, and processor seconds of fitting and of the graph of all rows."""
    rows = np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    chosen = np.random.default_rng(1).permutation(len(rows))[:n_queries]
    share = len(rows) / len(chosen)
    graphs: dict[str, Any] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for kind, (each, settings) in ways(len(rows)).items():
            started = time.process_time()
            each.fit(rows)
            fit = time.process_time() - started
            for setting in settings:
                name = ", ".join([kind, *(f"{key}={value}" for key, value in setting.items())])
                each.set_params(**setting)
                started = time.process_time()
                graphs[name] = each.transform(rows[chosen])
                graph = (time.process_time() - started) * share
                for key, value in {"fit": fit, "graph": graph, "both": fit + graph}.items():
                    seconds.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        "n_rows": len(rows),
        "width": rows.shape[1],
        "n_queries": len(chosen),
        "ways": {
            name: summary(graph, graphs["brute force"], chosen, name, seconds)
            for name, graph in graphs.items()
        },
    }


def summary(
    graph: Any, true: Any, own: np.ndarray, name: str, seconds: dict[str, Any]
) -> dict[str, Any]:
    """Return what is shown of one way."""
    pairs = zip(seconds["brute force"]["both"], seconds[name]["both"], strict=True)
    return {
        "recall_at_10": compare(graph, true, own, name),
        "seconds": {key: summarize(each) for key, each in seconds[name].items()},
        "times_brute_force": summarize([theirs / ours for theirs, ours in pairs]),
    }


def compare(graph: Any, true: Any, own: np.ndarray, name: str) -> float:
    """Return which share of the true neighbours was found; end if distances differ or few are.

    A row itself is no neighbour.
    """
    rows, truth = (each.indices.reshape(-1, K + 1) for each in (graph, true))
    found = [len((set(a) & set(b)) - {i}) for a, b, i in zip(rows, truth, own, strict=True)]
    recall = np.mean(found) / K
    # Half a squared distance of unit vectors is one minus their cosine.
    squares = np.maximum(2 * graph.data.astype(np.float64), 0)
    distances = graph.data if name == "brute force" else np.sqrt(squares)
    is_same = rows == truth
    gap = np.abs(distances.reshape(rows.shape) - true.data.reshape(rows.shape))[is_same].max()
    if gap > 2e-3 or recall < _LEAST_RECALL:
        raise SystemExit(f"{name}: distances differ by {gap}, recall is {recall}")
    return float(recall)


def main() -> None:
    """Measure all sizes and print a line for each way."""
    parser = make_parser(__doc__)
    parser.add_argument("--queries", type=int, default=10_000, help="rows whose graph is measured")
    parser.add_argument("--most", type=int, default=1_000_000, help="rows of the largest set")
    options = parser.parse_args()
    sizes = {"clusters": (10_000, 100_000, 1_000_000), "GloVe": (10_000, 100_000, 400_000)}
    results: dict[str, Any] = {"k": K}
    with threadpool_limits(1):
        for kind, make in (("GloVe", glove), ("clusters", clusters)):
            for n_rows in (n for n in sizes[kind] if n <= options.most):
                rounds = options.rounds or (3 if n_rows <= 100_000 else 1)
                found = measure(make(n_rows), options.queries, rounds)
                results[f"{kind}, {n_rows:,} rows"] = found
                for name, each in found["ways"].items():
                    taken = {key: value["median"] for key, value in each["seconds"].items()}
                    ratio = each["times_brute_force"]
                    print(
                        f"{kind}, {n_rows:,} rows, {name}: recall {each['recall_at_10']:.4f}, fit "
                        f"{taken['fit']:.2f} s, graph {taken['graph']:.2f} s, "
                        f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) times as "
                        "fast as brute force",
                        flush=True,
                    )
                write_results(options.out, results)


if __name__ == "__main__":
    main()
