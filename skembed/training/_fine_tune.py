"""Training on labels: the strategy's parameters."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sklearn.utils._param_validation import StrOptions

from skembed.training._strategy import Strategy

__all__ = ["FineTune"]


class FineTune(Strategy):
    """Train an embedder on labels or numbers, for its parameter `training`.

    A linear classifier (or regressor) on top of the vectors is fitted first, with the model as it
    was published (on random weights it is random, too); then both are trained together [1]_. The
    classifier is dropped afterwards: the embedder gives vectors. The weights of the best epoch on
    held-out rows are kept, those of the published model among them.

    What was learned is kept in the embedder's `cache`: a fit of the same rows, targets and
    parameters from the same weights takes it from there. A search over a classifier's parameters
    trains once per fold, and so do its workers together. It is trained anew with `cache=None` or
    `random_state=None`.

    Parameters
    ----------
    method : {"full", "lora", "head"}, default="full"
        What is trained. "full": all weights. "lora": small matrices beside the linear layers [2]_;
        needs `peft` (`pip install skembed[training]`). "head": a linear projection of the frozen
        model's vectors, which are computed once, so that an epoch takes milliseconds.
    loss : {"auto", "log_loss", "squared_error", "absolute_error", "huber"}, default="auto"
        "auto" is "log_loss" for classes and for several labels per row, "squared_error" for
        numbers. Integers are classes, and so are floats if they are whole and 20 different ones or
        fewer, unless the loss is one of numbers. Errors of numbers are in units of their standard
        deviation.
    class_weight : "balanced", dict or None, default=None
        Weights of the classes in the loss, as in scikit-learn's classifiers.
    sampling : {"shuffle", "balanced"}, default="shuffle"
        How rows are drawn for batches. "shuffle": each once an epoch. "balanced": as many of each
        class, so that rows of rare classes come several times.
    n_epochs : int or "auto", default="auto"
        Times each row is seen. "auto" is 3, or with few rows as many as take 50 steps; of a model
        with random weights as many as take 2,000 steps, from 10 to 100.
    batch_size : int or "auto", default="auto"
        Rows per step. "auto" is 32, of tables a 32nd of the rows, 32 to 512. Batches that take too
        much memory are run in pieces, with the same gradient.
    learning_rate : float or "auto", default="auto"
        Of AdamW [3]_ after the warm-up. "auto" is 5e-5 for "full", 5e-4 for "lora", 1e-3 for
        "head", and 1e-3 for a model with random weights.
    weight_decay : float, default=0.01
        Of AdamW; biases and norms have none, and tokens that no row has.
    warmup : float, default=0.1
        Share of the steps in which the learning rate rises; afterwards it falls as a cosine.
    max_grad_norm : float or None, default=1.0
        Longest gradient; longer ones are shortened. None leaves them.
    freeze : int or None, default=None
        Number of the model's lowest blocks that stay as they are, with all that comes before them
        (embeddings, first convolutions); they have no dropout, and LoRA adds nothing to them. What
        texts of packed models, and pictures or sounds of one size, are there is computed once, if
        it fits into 1 GiB; not with random views.
    lora_rank, lora_alpha, lora_dropout, lora_targets : int, float, float, "auto" or list of str, \
            default=8, 16, 0.0, "auto"
        Of LoRA: width and scale of the matrices, dropout before them, and the layers that have
        them, by the ends of their names; "auto" is every linear layer of the model's blocks, or
        every convolution where they have no linear layers.
    augment : bool, default=False
        Whether each epoch sees another random view of a row: pictures are cropped (to half of
        their area or more), mirrored, and their brightness, contrast and saturation changed by up
        to 30%; sounds are cut, made up to 10% faster or slower and 6 dB louder or softer, put into
        white noise, and lose short spans of time and, where the model takes spectra, of frequency;
        texts too long for the model are cut at another place. Rows are then prepared anew in each
        epoch. Leave it where that changes what a row means, as mirroring does for letters.
    validation_fraction : float, "auto" or None, default="auto"
        Share of the rows that is held out to choose the best epoch, equal rows together. None or 0
        trains on all rows and keeps the last epoch; so does a share that is less than one row of
        each class. "auto" is 0.1, if that is 20 rows or more: fewer do not tell epochs apart.
    scoring : str or callable, default="loss"
        By what epochs are compared on the held-out rows: the loss, with the classifier's outputs
        scaled as is best for these rows, since it is dropped and only the vectors count; or a
        scorer of scikit-learn for the classifier ("accuracy", "roc_auc", "r2").
    patience : int, "auto" or None, default="auto"
        Epochs without a better one after which training stops. None runs all, and so does "auto",
        unless weights are random at first: then it is 16.
    cross_fit : int or None, default=None
        Number of folds for `fit_transform`. A fine-tuned embedder has seen the labels of its
        training rows, and a classifier on top would trust their vectors too much. With folds,
        `fit_transform` gives each row the vector of a model that was trained without it, brought
        into the space of the model trained on all rows, which `transform` uses: vectors of unit
        length are rotated [4]_, others scaled, moved and corrected by a ridge regression as well.
        Equal rows share a fold. It takes as many trainings more; see Notes.
    checkpoint : path or None, default=None
        A folder in which each epoch is saved: a `fit` of the same rows and targets with the same
        parameters goes on from there, and ends with the weights that it would have had. Each
        training has a file of its own, up to four times as large as the weights that are trained;
        others are left as they are, and a warning tells of those that an earlier run left
        unfinished.
    warm_start : bool, default=False
        Whether `fit` goes on from what the last `fit` or `partial_fit` learned: from its weights,
        and its classifier where the classes are the same. The optimizer starts anew, and so does
        `history_`, which is that of the last `fit` (`partial_fit` adds its epochs to it).
    dtype : {"auto", "float32", "bfloat16"}, default="auto"
        Format that products are computed in while training; weights stay in float32. "auto" is
        bfloat16 where the machine is faster in it and the model runs in it.
    random_state : int or None, default=0
        Seed of all random choices. On a CPU, fits of the same rows with the same seed and number of
        threads give equal weights, bit by bit; with another number of threads, sums are rounded
        otherwise. None draws a new seed in each fit.

    See Also
    --------
    Contrastive : Training on pairs of rows, for few labels or none.

    Notes
    -----
    Batch normalisation keeps the statistics that come with the weights, and its scales and shifts
    are trained: statistics of a few rows are worse, and would depend on the pieces in which a batch
    is run. Layers that have never seen data (`weights=None`) take the statistics of each batch,
    which is then run whole, and learn their own; a batch too large for the memory is an error.

    Of a text longer than the model's limit, or a sound longer than its window, the first part is
    learned from, with `augment` one at another place in each epoch; `on_truncate="mean_of_chunks"`
    too.

    What is fitted on the vectors of rows that were learned from is too sure of itself. Of a
    logistic regression on "head", trained on 128 food reviews, the accuracy on them is 0.36 above
    that on new ones, and 0.07 with `cross_fit=5`; the Brier score of new ones falls from 0.246 to
    0.224, the calibration error from 0.15 to 0.08, the accuracy stays at 0.63. On 512, where
    training changed less, the gaps are 0.10 and 0.07 and the rest is equal. Of "full" on 128, the
    gap falls from 0.28 to 0.09, and so does the accuracy, from 0.72 to 0.68: the folds' models saw
    too few rows. So it is worth its trainings where probabilities count and a fold leaves enough to
    learn from, or parameters of what stands on top are chosen on the same vectors; not where
    vectors are searched, or many rows were seen a few times.

    References
    ----------
    .. [1] A. Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
       Out-of-Distribution", ICLR 2022, arXiv:2202.10054.
    .. [2] E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
       arXiv:2106.09685.
    .. [3] I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
       arXiv:1711.05101.
    .. [4] P. H. Schönemann, "A generalized solution of the orthogonal Procrustes problem",
       Psychometrika 31, 1966, doi:10.1007/BF02289451.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skembed import FineTune, TextEmbedder
    >>> pipe = make_pipeline(TextEmbedder(training=FineTune("head")), LogisticRegression())
    >>> X = ["a cat", "a kitten", "a dog", "a puppy", "a bill", "a tax return", "a fee", "a fine"]
    >>> pipe.fit(X, ["pet"] * 4 + ["money"] * 4).predict(["a tomcat"])
    array(['pet'], dtype='<U5')
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Strategy._parameter_constraints,
        "loss": [StrOptions({"auto", "log_loss", "squared_error", "absolute_error", "huber"})],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "sampling": [StrOptions({"shuffle", "balanced"})],
    }

    _least_epochs: ClassVar[int] = 3

    def __init__(
        self,
        method: str = "full",
        *,
        loss: str = "auto",
        class_weight: str | dict[Any, float] | None = None,
        sampling: str = "shuffle",
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
        self.method = method
        self.loss = loss
        self.class_weight = class_weight
        self.sampling = sampling
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
