"""Training without labels: the strategy's parameters."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skembed.training._strategy import Strategy

__all__ = ["SelfSupervised"]


class SelfSupervised(Strategy):
    """Train an embedder on rows alone, for its parameter `training`.

    Some cells of each row are hidden or exchanged, and the model learns from what it makes of the
    rest. For tables without labels, or with few beside many rows.

    Parameters
    ----------
    objective : {"auto", "masked", "denoise", "contrast"}, default="auto"
        What is learned. "masked": hidden cells are told from the others, numbers by their quantile
        and categories by their name [1]_. "denoise": cells have been exchanged for those of other
        rows, and all of the row's own are told [2]_. "contrast": a row and itself with exchanged
        cells are found among other rows [3]_. "auto" is "denoise".
    corruption : float, default=0.5
        Share of the cells that are hidden or exchanged.
    temperature : float, default=0.1
        Of "contrast": by what cosines are divided.
    n_epochs : int or "auto", default="auto"
        Times each row is seen. "auto" is as many as take 2,000 steps, from 10 to 100.
    batch_size : int or "auto", default="auto"
        Rows per step. "auto" is a 32nd of the rows, from 32 to 512.
    learning_rate, weight_decay, warmup, max_grad_norm
        As for `FineTune`.
    validation_fraction : float, "auto" or None, default="auto"
        Share of the rows that is held out to choose the best epoch, as for `FineTune`, by the loss
        with cells chosen once.
    patience, checkpoint, warm_start, dtype, random_state
        As for `FineTune`.

    See Also
    --------
    FineTune : Training on labels.
    Contrastive : Training on pairs of rows.

    References
    ----------
    .. [1] I. Rubachev et al., "Revisiting Pretraining Objectives for Tabular Deep Learning", 2022,
       arXiv:2207.03208.
    .. [2] J. Yoon et al., "VIME: Extending the Success of Self- and Semi-supervised Learning to
       Tabular Domain", NeurIPS 2020.
    .. [3] D. Bahri et al., "SCARF: Self-Supervised Contrastive Learning using Random Feature
       Corruption", ICLR 2022, arXiv:2106.15147.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Strategy._parameter_constraints,
        "objective": [StrOptions({"auto", "masked", "denoise", "contrast"})],
        "corruption": [Interval(Real, 0, 1, closed="neither")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        objective: str = "auto",
        *,
        corruption: float = 0.5,
        temperature: float = 0.1,
        n_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        max_grad_norm: float | None = 1.0,
        validation_fraction: float | str | None = "auto",
        patience: int | str | None = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        warm_start: bool = False,
        dtype: str = "auto",
        random_state: int | None = 0,
    ) -> None:
        self.objective = objective
        self.corruption = corruption
        self.temperature = temperature
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.checkpoint = checkpoint
        self.warm_start = warm_start
        self.dtype = dtype
        self.random_state = random_state

    @property
    def _needs_y(self) -> bool:
        """Whether rows can be learned from only with their targets."""
        return False
