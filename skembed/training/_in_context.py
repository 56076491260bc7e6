"""Learning without training: the strategy's parameters."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skembed.training._strategy import Strategy

__all__ = ["InContext"]


class InContext(Strategy):
    """Keep rows for a pretrained model to read beside those to embed; nothing is trained.

    For ``TabularEmbedder("tabicl")``, of which it is the default.

    Parameters
    ----------
    loss : {"auto", "log_loss", "squared_error"}, default="auto"
        What labels are taken for, as for `FineTune`: classes ("log_loss") or numbers, for which the
        model has a checkpoint each.
    max_rows : int, default=10_000
        The most rows that are kept. Of more, as many are drawn, one of each class at least, with a
        warning.
    cross_fit : int or None, default=5
        Number of folds for `fit_transform` with labels, as for `FineTune`: each row is embedded
        beside rows of which it is none. Without labels there are no folds.
    random_state : int or None, default=0
        Seed of the draw, and of the folds.

    See Also
    --------
    FineTune : Training on labels.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Strategy._parameter_constraints,
        "loss": [StrOptions({"auto", "log_loss", "squared_error"})],
        "max_rows": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        loss: str = "auto",
        max_rows: int = 10_000,
        cross_fit: int | None = 5,
        random_state: int | None = 0,
    ) -> None:
        self.loss = loss
        self.max_rows = max_rows
        self.cross_fit = cross_fit
        self.random_state = random_state

    @property
    def _needs_y(self) -> bool:
        """Whether rows can be learned from only with their targets."""
        return False
