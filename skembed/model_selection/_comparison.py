"""What a comparison of embedders has found: a table, a picture, a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skembed._optional import import_optional
from skembed.model_selection._measure import FACTS, Found

__all__ = ["Comparison", "interval", "summarize"]

_CONFIDENCE = 0.95


class Comparison:
    """What `compare_embedders` has found.

    Parameters
    ----------
    rows : list of dict
        One for each probe and embedder, the best of each probe first.
    folds : dict of str to dict of str to list of float
        The score of each fold, by embedder and probe.
    score_name : str
        What the scores are.

    Attributes
    ----------
    rows, folds, score_name
        As given.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        folds: Mapping[str, Mapping[str, Sequence[float]]],
        score_name: str,
    ) -> None:
        self.rows, self.folds, self.score_name = list(rows), folds, score_name

    @property
    def frame(self) -> Any:
        """The rows as a DataFrame of pandas, by probe and embedder.

        score, score_interval
            Mean over the folds, and half the width of its interval.
        behind_best, behind_interval
            Mean difference to the probe's best, and half the width of its interval.
        agreement
            Share of the 10 nearest training rows that are of a row's class; of numbers the R2 of
            their mean.
        clusters
            Adjusted Rand index of k-means on the vectors of test rows, with as many clusters as
            classes.
        fit_seconds
            Of `fit_transform` on a fold's training rows; 0 of frozen models, which learn nothing.
        load_seconds
            Until a frozen model has embedded its first row, less if it was in memory before.
        rows_per_second, again_per_second
            Of the first `transform`, counting rows that were not stored yet (NaN if all were), and
            of a second one.
        width
            Number of features.
        model_mib
            Size of the model's weights, or of what a baseline has learned.
        """
        pandas = import_optional("pandas", extra="examples", purpose="Comparison.frame")
        return pandas.DataFrame(self.rows).set_index(["probe", "embedder"])

    def plot(self, ax: Any = None) -> Any:
        """Draw the scores with their intervals.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None is a new figure.

        Returns
        -------
        ax : matplotlib Axes
        """
        pyplot = import_optional("matplotlib.pyplot", extra="plot", purpose="Comparison.plot")
        probes = list(dict.fromkeys(row["probe"] for row in self.rows))
        names = [row["embedder"] for row in self.rows if row["probe"] == probes[0]][::-1]
        if ax is None:
            _, ax = pyplot.subplots(figsize=(7, 1.2 + 0.45 * len(names)), layout="constrained")
        for i, probe in enumerate(probes):
            of_probe = {row["embedder"]: row for row in self.rows if row["probe"] == probe}
            places = np.arange(len(names)) + 0.15 * (i - (len(probes) - 1) / 2)
            scores = [of_probe[name]["score"] for name in names]
            widths = [of_probe[name]["score_interval"] for name in names]
            ax.errorbar(scores, places, xerr=widths, fmt="o", capsize=3, label=probe)
        ax.set_yticks(np.arange(len(names)), names)
        ax.set_xlabel(f"{self.score_name}, mean over folds and its interval of 95%")
        ax.legend(title="probe", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        ax.grid(axis="x", color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
        return ax

    def __str__(self) -> str:
        probes = list(dict.fromkeys(row["probe"] for row in self.rows))
        return "\n".join(self._sentence(probe) for probe in probes)

    __repr__ = __str__

    def _sentence(self, probe: str) -> str:
        best, *others = (row for row in self.rows if row["probe"] == probe)
        text = f"{probe}: {best['embedder']} has the best {self.score_name}, {best['score']:.3f}"
        worse = [r for r in others if r["behind_best"] + r["behind_interval"] < 0]
        alike = [r for r in others if r not in worse]
        if worse:
            text += f"; better by more than noise than {', '.join(map(_difference, worse))}"
        if alike:
            text += f"; not told apart from {', '.join(map(_difference, alike))}"
        return text + "."


def _difference(row: Mapping[str, Any]) -> str:
    width = row["behind_interval"]
    by = f"{abs(row['behind_best']):.3f}" + ("" if np.isnan(width) else f" ± {width:.3f}")
    return f"{row['embedder']} ({by} lower)"


def interval(
    values: NDArray[np.float64], share: float, *, n_intervals: int = 1, least_std: float = 0.0
) -> float:
    """Return half the width of a mean's interval; `share` is that of test to training rows.

    Of several intervals all hold together with the confidence of one (Bonferroni).
    """
    n = len(values)
    if n < 2:
        return np.nan
    std = max(values.std(ddof=1), least_std) * np.sqrt(1 / n + share)
    outside = (1 - _CONFIDENCE) / n_intervals
    return float(stats.t.ppf(1 - outside / 2, n - 1) * std)


def summarize(
    found: Mapping[str, Found], share: float, n_test: float, score_name: str
) -> Comparison:
    """Return all as rows of a table, the best first for each probe; a fold has `n_test` rows."""
    rows: list[dict[str, Any]] = []
    # The best was chosen by the same scores: with each rival, chance has one try more. And folds
    # of few rows differ alike by chance, so no difference is known better than to half a row.
    of_differences: dict[str, Any] = {
        "n_intervals": max(1, len(found) - 1),
        "least_std": 0.5 / n_test,
    }
    for probe in next(iter(found.values())).scores:
        scores = {name: np.array(each.scores[probe]) for name, each in found.items()}
        order = sorted(scores, key=lambda name: -scores[name].mean())
        best = scores[order[0]]
        for name in order:
            each, behind = found[name], scores[name] - best
            width = interval(behind, share, **of_differences) if name != order[0] else 0.0
            rows.append(
                {
                    "probe": probe,
                    "embedder": name,
                    "score": float(scores[name].mean()),
                    "score_interval": interval(scores[name], share),
                    "behind_best": float(behind.mean()),
                    "behind_interval": width,
                    "agreement": float(np.mean(each.agreement)),
                    "clusters": float(np.mean(each.clusters)) if each.clusters else np.nan,
                    "fit_seconds": float(np.mean(each.fit_seconds)),
                    **{key: each.facts.get(key, np.nan) for key in FACTS},
                }
            )
    folds = {name: each.scores for name, each in found.items()}
    return Comparison(rows, folds, score_name)
