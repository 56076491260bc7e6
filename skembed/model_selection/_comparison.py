"""What a comparison of embedders has found: a table, a picture, a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skembed._optional import import_optional

__all__ = ["Comparison"]


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

        `score` and `score_interval` (half its width); `behind_best`, the mean difference to the
        best, and half the width of its interval; `agreement`; `clusters`; `fit_seconds` of a fold;
        `load_seconds` of the model; `rows_per_second`, and `again_per_second` once stored; `width`;
        `weights_mib`, the size of the model's files.
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
        ax.legend(title="probe", fontsize="small")
        return ax

    def __str__(self) -> str:
        probes = list(dict.fromkeys(row["probe"] for row in self.rows))
        return " ".join(self._sentence(probe) for probe in probes)

    __repr__ = __str__

    def _sentence(self, probe: str) -> str:
        best, *others = (row for row in self.rows if row["probe"] == probe)
        text = f"{probe}: {best['embedder']} has the best {self.score_name}, {best['score']:.3f}"
        if not others:
            return text + "."
        worse = [r for r in others if r["behind_best"] + r["behind_interval"] < 0]
        alike = [r["embedder"] for r in others if r not in worse]
        said = []
        if worse:
            said.append(
                "better by more than noise than "
                + ", ".join(f"{r['embedder']} ({r['behind_best']:+.3f})" for r in worse)
            )
        if alike:
            said.append(f"not told apart from {', '.join(alike)}")
        return f"{text}; {' and '.join(said)}."
