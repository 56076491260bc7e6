"""Training on pairs of rows: the strategy's parameters."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skembed.training._pairs import are_pairs
from skembed.training._strategy import Strategy

__all__ = ["Contrastive"]


class Contrastive(Strategy):
    """Train an embedder on pairs of rows that belong together, for its parameter `training`.

    For few labels, for pairs that are known (a question and its answer, two sentences and how
    similar they are), or for rows of which nothing is known.

    Parameters
    ----------
    positives : {"auto", "labels", "pairs", "views"}, default="auto"
        Which rows belong together. "labels": those of one class in `y`. "pairs": X is made of pairs
        or triplets, `fit([(row, similar_row), ...])` or `fit([(row, similar_row, other_row),
        ...])`, or a frame of two or three columns; with `y`, each pair's cosine similarity from -1
        to 1. `transform` takes single rows as ever. "views": each row with itself, seen twice: a
        text with two patterns of dropout [1]_, a picture or sound with two random augmentations
        [2]_. "auto": "pairs" if X is made of pairs, else "labels" if there is `y`, else "views".
    method : {"full", "lora", "head"}, default="full"
        What is trained, as for `FineTune`. "head" has no views.
    loss : {"auto", "supervised_contrastive", "cosine", "info_nce", "triplet"}, default="auto"
        What is minimised. Of "labels": "cosine", the squared error of all cosines in a batch, which
        are to be 1 within a class and 0 between classes, as in SetFit [3]_; or
        "supervised_contrastive" [4]_. Of pairs: "info_nce" [5]_, which finds a row's partner among
        all partners in the batch, and third rows as well; "cosine", the squared error of the
        cosine, for pairs with similarities; "triplet" [6]_, for triplets. Of views: "info_nce".
        "auto" is "cosine" for labels and for pairs with similarities, else "info_nce".
    temperature : float, default=0.05
        Of "info_nce" and "supervised_contrastive": by what cosines are divided. Lower ones look at
        the most similar rows.
    margin : float, default=0.5
        Of "triplet": by how much the cosine of a negative is to be less than the positive's.
    n_epochs : int or "auto", default="auto"
        Times each row is seen. "auto" is 1, or with few rows as many as take 50 steps.
    batch_size : int or "auto", default="auto"
        Rows per step, or pairs; "auto" as for `FineTune`. Of labels, a batch has several rows of
        each class in it. Equal rows in a batch are never negatives of each other.
    learning_rate, weight_decay, warmup, max_grad_norm
        As for `FineTune`.
    freeze, lora_rank, lora_alpha, lora_dropout, lora_targets
        As for `FineTune`.
    augment : bool, default=False
        Whether each epoch sees another random view of a row of labels or pairs.
    validation_fraction : float, "auto" or None, default="auto"
        Share of the rows, or pairs, that is held out to choose the best epoch, as for `FineTune`.
    scoring : str or callable, default="loss"
        By what epochs are compared on the rows held out. Of labels: a logistic regression on the
        vectors of the training rows (of 2,000, if there are more) is tried on them, and "loss" is
        its log loss; or a scorer of scikit-learn ("accuracy", "roc_auc_ovr"). Of pairs and views:
        the mean loss of fixed batches.
    patience, cross_fit, checkpoint, warm_start, dtype, random_state
        As for `FineTune`.

    See Also
    --------
    FineTune : Training of a classifier on top, for many labels.

    References
    ----------
    .. [1] T. Gao et al., "SimCSE: Simple Contrastive Learning of Sentence Embeddings", EMNLP 2021,
       arXiv:2104.08821.
    .. [2] T. Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
       ICML 2020, arXiv:2002.05709.
    .. [3] L. Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022,
       arXiv:2209.11055.
    .. [4] P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362.
    .. [5] A. van den Oord et al., "Representation Learning with Contrastive Predictive Coding",
       2018, arXiv:1807.03748.
    .. [6] F. Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering",
       CVPR 2015, arXiv:1503.03832.

    Examples
    --------
    >>> from skembed import Contrastive, TextEmbedder
    >>> pairs = [("a cat", "a kitten"), ("a dog", "a puppy"), ("a bill", "an invoice")]
    >>> embedder = TextEmbedder(training=Contrastive(method="head", n_epochs=2)).fit(pairs)
    >>> embedder.transform(["a tomcat"]).shape
    (1, 384)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Strategy._parameter_constraints,
        "positives": [StrOptions({"auto", "labels", "pairs", "views"})],
        "loss": [StrOptions({"auto", "supervised_contrastive", "cosine", "info_nce", "triplet"})],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "margin": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"})],
    }

    def __init__(
        self,
        positives: str = "auto",
        *,
        method: str = "full",
        loss: str = "auto",
        temperature: float = 0.05,
        margin: float = 0.5,
        n_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        max_grad_norm: float | None = 1.0,
        freeze: int | None = None,
        lora_rank: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        lora_targets: str | Sequence[str] = "auto",
        augment: bool = False,
        validation_fraction: float | str | None = "auto",
        scoring: str | Callable[..., float] = "loss",
        patience: int | str | None = "auto",
        cross_fit: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        warm_start: bool = False,
        dtype: str = "auto",
        random_state: int | None = 0,
    ) -> None:
        self.positives = positives
        self.method = method
        self.loss = loss
        self.temperature = temperature
        self.margin = margin
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.max_grad_norm = max_grad_norm
        self.freeze = freeze
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        self.lora_targets = lora_targets
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.scoring = scoring
        self.patience = patience
        self.cross_fit = cross_fit
        self.checkpoint = checkpoint
        self.warm_start = warm_start
        self.dtype = dtype
        self.random_state = random_state

    @property
    def _needs_y(self) -> bool:
        return self.positives == "labels"

    def _takes_pairs(self, X: Any) -> bool:
        return self.positives == "pairs" or (self.positives == "auto" and are_pairs(X))
