"""A picture of training: loss and score by epoch. matplotlib is imported when it is drawn.

Knows histories, not how they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError

from skembed._optional import import_optional
from skembed.exceptions import InvalidInputError

__all__ = ["TrainingCurveDisplay"]


class TrainingCurveDisplay:
    """Draw how an embedder was trained: loss and score on held-out rows, epoch by epoch.

    Use `from_estimator`. Epoch 0 is the model as it was published. What `fit` kept is marked: the
    epoch with the best score, or the last one if no rows were held out for it.

    Parameters
    ----------
    epochs, loss, score : sequence of shape (n_epochs + 1,)
        Of each epoch, from 0: its number; the mean loss on the training rows during it, NaN at 0;
        the score on the held-out rows after it, the greater the better, NaN if there were none.
    score_name : str, default="loss"
        What the score is. "loss": the loss with a minus, which is drawn without it beside that on
        the training rows. Others are drawn on an axis of their own, on the right.

    Attributes
    ----------
    best_epoch : int
        The epoch that was kept.
    figure_ : matplotlib Figure
    ax_, score_ax_ : matplotlib Axes
        Where the loss, and the score, are drawn; the same unless the score has its own axis.
    line_, best_ : matplotlib Line2D
        The loss on the training rows, and the mark of the epoch that was kept.
    score_line_, published_ : matplotlib Line2D or None
        The score, or the loss, on held-out rows, and the mark of epoch 0; None if there were none.

    See Also
    --------
    sklearn.model_selection.LearningCurveDisplay : Scores by number of training rows.

    Examples
    --------
    >>> from skembed import FineTune, TextEmbedder, TrainingCurveDisplay
    >>> X = ["a cat", "a kitten", "a dog", "a puppy", "a bill", "a tax return", "a fee", "a fine"]
    >>> training = FineTune("head", validation_fraction=0.25)
    >>> embedder = TextEmbedder(training=training).fit(X, ["pet"] * 4 + ["money"] * 4)
    >>> display = TrainingCurveDisplay.from_estimator(embedder)  # doctest: +SKIP
    >>> display.figure_.savefig("curve.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        epochs: Sequence[int],
        loss: Sequence[float],
        score: Sequence[float],
        score_name: str = "loss",
    ) -> None:
        if not len(epochs) == len(loss) == len(score) or len(epochs) < 2:
            raise InvalidInputError(
                "epochs, loss, score: expected one value for each epoch, 0 and those of training, "
                f"got {len(epochs)}, {len(loss)} and {len(score)} values."
            )
        self.epochs, self.loss, self.score, self.score_name = epochs, loss, score, score_name
        self._scores = scores = np.asarray(score, dtype=np.float64)
        # Epochs that were not compared, as of partial_fit, are kept.
        self._best = len(scores) - 1 if np.isnan(scores[-1]) else int(np.nanargmax(scores))
        self.best_epoch = int(epochs[self._best])

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Any:
        """Draw the training of a fitted embedder.

        Parameters
        ----------
        estimator : embedder
            Fitted, with a `training`; of a pipeline its step, such as `pipe[0]`.
        ax, **kwargs
            As for `plot`.

        Returns
        -------
        display : TrainingCurveDisplay

        Raises
        ------
        NotFittedError
            If the embedder has not been trained.
        MissingDependencyError
            If matplotlib is not installed.
        """
        history = getattr(estimator, "history_", None)
        if history is None:
            raise NotFittedError(
                "estimator: expected a fitted embedder with a `training`, got "
                f"{estimator!r}, which has no `history_`; call fit(X, y) first. Of a pipeline give "
                "the step: pipe[0]."
            )
        if "epoch" not in history:
            raise ValueError(f"estimator: {estimator!r} trained nothing, so there are no epochs.")
        scoring = getattr(estimator.training, "scoring", "score")
        display = cls(
            epochs=history["epoch"],
            loss=history["loss"],
            score=history["score"],
            score_name=scoring if isinstance(scoring, str) else "score",
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> TrainingCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None is a new figure.
        **kwargs
            Passed to matplotlib's `plot` for both lines.

        Returns
        -------
        self
        """
        purpose = "TrainingCurveDisplay.plot"
        import_optional("matplotlib", extra="plot", purpose=purpose)
        pyplot = import_optional("matplotlib.pyplot", extra="plot", purpose=purpose)
        if ax is None:
            _, ax = pyplot.subplots(layout="constrained")
        self.ax_, self.figure_, self.score_ax_ = ax, ax.figure, ax
        ax.set(xlabel="epoch", ylabel="loss")
        ax.xaxis.get_major_locator().set_params(integer=True)
        look = {"label": "loss on training rows", "color": "C0", **kwargs}
        (self.line_,) = ax.plot(self.epochs, self.loss, **look)
        self.score_line_ = self.published_ = None
        lines, values = [self.line_], np.asarray(self.loss, dtype=np.float64)
        if not np.isnan(self._scores).all():
            label, values = f"{self.score_name} on held-out rows", self._scores
            if self.score_name == "loss":
                values = -values
            else:
                self.score_ax_ = ax.twinx()
                self.score_ax_.set(ylabel=label)
            look = {"label": label, "color": "C1", **kwargs}
            (self.score_line_,) = self.score_ax_.plot(self.epochs, values, **look)
            look = {"label": "the published model", "color": "C1"}
            (self.published_,) = self.score_ax_.plot(self.epochs[:1], values[:1], "s", **look)
            lines += [self.score_line_, self.published_]
        look = {"label": f"kept: epoch {self.best_epoch}", "color": "C3", "markersize": 12}
        (self.best_,) = self.score_ax_.plot([self.best_epoch], [values[self._best]], "*", **look)
        self.score_ax_.legend(handles=[*lines, self.best_])
        return self
