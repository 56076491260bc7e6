"""What are vectors of tables worth? Twelve real tables, two times five folds, each way on the same.

skrub's TableVectorizer, one-hot columns with scaled numbers, and skembed's vectors, self-supervised
and supervised, each under the same linear model (its penalty is chosen in an inner
cross-validation) and 15 neighbours; beside them gradient boosting on raw columns and TabM, trained
directly by pytabkit with its tuned defaults, missing numbers filled with medians; its epochs are
compared by what is measured here, not by errors, of which a constant has few where a class is rare.
The area under the ROC curve, or R2.

Three more tasks on the same vectors: how many of the 10 nearest rows of training are of the class
of a new row (of numbers: how near is their mean, R2); do clusters of new rows match the classes
(adjusted Rand index); a linear model on 10, 30 and 100 labels beside all rows without one.

Each cell is written when it is done, and a run goes on where the last one stopped. Differences are
of pairs, with an interval of 95% that minds that folds share rows (Nadeau and Bengio 2003).

    python benchmarks/tables.py --out benchmarks/results/tables.json
"""

from __future__ import annotations

import json
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _common import describe_machine, make_parser
from _tables import EMBEDDERS, TABLES, heads, is_of_numbers, load, score
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import adjusted_rand_score, r2_score
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

N_FOLDS, N_REPEATS = 5, 2
N_LABELS = (10, 30, 100)
N_DRAWS = 10
DIRECT = ("gradient boosting", "TabM")
WAYS = (*EMBEDDERS, *DIRECT)


def folds(y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to learn from and to be tested on."""
    kind = RepeatedKFold if is_of_numbers(y) else RepeatedStratifiedKFold
    found = kind(n_splits=N_FOLDS, n_repeats=N_REPEATS, random_state=0)
    return list(found.split(np.zeros(len(y)), y))


def run_cell(name: str, way: str, fold: int) -> dict[str, float]:
    """Fit one way on the rows of a fold; return how it does on the others, and the seconds."""
    X, y = load(name)
    train, test = folds(y)[fold]
    X, X_test, y, y_test = X.iloc[train], X.iloc[test], y[train], y[test]
    started = time.perf_counter()
    if way in DIRECT:
        model = direct(way, y, fold).fit(X, y)
        return {"score": score(model, X_test, y_test), "seconds": time.perf_counter() - started}
    embedder = EMBEDDERS[way](fold)
    vectors = embedder.fit_transform(X, y if way == "supervised" else None)
    cell = {"seconds": time.perf_counter() - started}
    vectors_test = embedder.transform(X_test)
    for head, model in heads(y).items():
        cell[head] = score(model.fit(vectors, y), vectors_test, y_test)
    cell["retrieval"] = retrieve(vectors, y, vectors_test, y_test)
    if not is_of_numbers(y):
        found = [
            KMeans(len(np.unique(y)), n_init=3, random_state=seed).fit_predict(vectors_test)
            for seed in range(5)
        ]
        cell["clusters"] = float(np.mean([adjusted_rand_score(y_test, each) for each in found]))
    if way != "supervised":
        for n in N_LABELS:
            is_scaled = way == "one-hot"
            drawn = (vectors, y, vectors_test, y_test, fold)
            cell[f"{n} labels"] = with_few_labels(n, *drawn, is_scaled=is_scaled)
    return cell


def direct(way: str, y: np.ndarray, seed: int) -> Any:
    """Return a model of raw columns."""
    if way == "TabM":
        from pytabkit import TabM_D_Classifier, TabM_D_Regressor

        kind = partial(TabM_D_Classifier, val_metric_name="1-auc_ovr")
        if is_of_numbers(y):
            kind = TabM_D_Regressor
        numbers = SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")
        impute = make_column_transformer(
            numbers, remainder="passthrough", verbose_feature_names_out=False
        ).set_output(transform="pandas")
        return make_pipeline(impute, kind(device="cpu", random_state=seed, n_threads=1))
    kind = HistGradientBoostingRegressor if is_of_numbers(y) else HistGradientBoostingClassifier
    return kind(categorical_features="from_dtype", random_state=seed)


def retrieve(vectors: Any, y: np.ndarray, vectors_test: Any, y_test: np.ndarray) -> float:
    """Return the share of the 10 nearest rows that are of a row's class, or R2 of their mean."""
    near = NearestNeighbors(n_neighbors=10).fit(vectors).kneighbors(vectors_test)[1]
    if is_of_numbers(y):
        return float(r2_score(y_test, y[near].mean(axis=1)))
    of_class = (y[near] == y_test[:, None]).mean(axis=1)
    return float(np.mean([of_class[y_test == each].mean() for each in np.unique(y_test)]))


def with_few_labels(
    n: int,
    vectors: Any,
    y: np.ndarray,
    vectors_test: Any,
    y_test: np.ndarray,
    seed: int,
    *,
    is_scaled: bool,
) -> float:
    """Return the mean score of a linear model on so many labels, two of each class at least."""
    found = []
    for draw in range(N_DRAWS):
        order = np.random.default_rng([seed, draw]).permutation(len(y))
        model: Any = RidgeCV(np.logspace(-2, 4, 13))
        if not is_of_numbers(y):
            model = LogisticRegression(max_iter=1000)
            first = [order[y[order] == each][:2] for each in np.unique(y)]
            order = np.concatenate([*first, np.setdiff1d(order, np.concatenate(first), True)])
        if not is_scaled:
            model = make_pipeline(StandardScaler(), model)
        drawn = order[: n if is_of_numbers(y) else max(n, 2 * len(np.unique(y)))]
        model.fit(vectors[drawn], y[drawn])
        found.append(score(model, vectors_test, y_test))
    return float(np.mean(found))


def difference(first: list[float], second: list[float]) -> tuple[float, float]:
    """Return the mean of first - second and half of its interval of 95%."""
    d = np.subtract(first, second)
    share = 1 / (N_FOLDS - 1)  # rows tested on, as a part of those learned from
    error = np.sqrt((1 / len(d) + share) * d.var(ddof=1))
    return float(d.mean()), float(error * stats.t.ppf(0.975, len(d) - 1))


def scores_of(
    cells: dict[str, dict[str, float]], name: str, way: str, key: str
) -> dict[int, float]:
    """Return the scores of a way on a table, by fold."""
    key = "score" if way in DIRECT else key
    found = {fold: cells.get(f"{name}/{way}/{fold}", {}) for fold in range(N_FOLDS * N_REPEATS)}
    return {fold: cell[key] for fold, cell in found.items() if key in cell}


def show(cells: dict[str, dict[str, float]], key: str, ways: tuple[str, ...]) -> None:
    """Print means, and of skembed's the difference to one-hot columns, as a table in Markdown."""
    print(f"\n{key}\n\n| | " + " | ".join(ways) + " |")
    print("| --- " * (1 + len(ways)) + "|")
    for name in TABLES:
        shown = []
        found = {way: scores_of(cells, name, way, key) for way in {*ways, "one-hot"}}
        for way in ways:
            scores, plain = found[way], found["one-hot"]
            said = f"{np.mean(list(scores.values())):.3f}" if scores else "-"
            both = sorted(scores.keys() & plain.keys())
            if way.endswith("supervised") and len(both) > 2:
                mean, half = difference([scores[i] for i in both], [plain[i] for i in both])
                said += f" ({mean:+.3f} ± {half:.3f})"
            shown.append(said)
        if any(each != "-" for each in shown):
            print(f"| {name} | " + " | ".join(shown) + " |")


def show_beside_tabm(cells: dict[str, dict[str, float]]) -> None:
    """Print the means over those folds that TabM has been run on."""
    ways = ("one-hot", "self-supervised", "supervised", *DIRECT)
    print("\nlinear, on TabM's folds\n\n| | folds | " + " | ".join(ways) + " |")
    print("| --- " * (2 + len(ways)) + "|")
    for name in TABLES:
        found = [scores_of(cells, name, way, "linear") for way in ways]
        both = set.intersection(*(set(scores) for scores in found))
        if both:
            means = [f"{np.mean([scores[i] for i in both]):.3f}" for scores in found]
            print(f"| {name} | {len(both)} | " + " | ".join(means) + " |")


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--folds", type=int, default=N_FOLDS * N_REPEATS)
    parser.add_argument("--show", action="store_true", help="print the tables of the file alone")
    args = parser.parse_args()
    out: Path | None = args.out
    results: dict[str, Any] = {"cells": {}}
    if out is not None and out.exists():
        results = json.loads(out.read_text(encoding="utf-8"))
    cells = results["cells"]
    for fold in range(0 if args.show else args.folds):
        for name in args.tables:
            for way in args.ways:
                key = f"{name}/{way}/{fold}"
                if key in cells:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    cells[key] = run_cell(name, way, fold)
                said = {k: round(v, 3) for k, v in cells[key].items()}
                print(key, said, flush=True)
                if out is not None:
                    results["machine"] = describe_machine()
                    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    embedders = tuple(EMBEDDERS)
    show(cells, "linear", (*embedders, *DIRECT))
    show_beside_tabm(cells)
    show(cells, "neighbours", embedders)
    show(cells, "retrieval", embedders)
    show(cells, "clusters", embedders)
    for n in N_LABELS:
        show(cells, f"{n} labels", embedders[:3])


if __name__ == "__main__":
    main()
