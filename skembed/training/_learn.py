"""From checked rows, targets and a strategy to a `TrainedState`.

Knows encoders and strategies, never estimators or modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch.utils.flop_counter import FlopCounterMode

from skembed._forks import KeyLocks, one_at_a_time
from skembed._inputs import ArrayRows, CheckedRows, take
from skembed._random_state import own_random_state, same_random_state, seed_random_state
from skembed.acceleration import prepare_for_training, speed_up_linear
from skembed.engine import BackboneEncoder, Progress, embed, most_threads
from skembed.exceptions import (
    InvalidRowsError,
    TrainingWarning,
    describe_rows,
    name_rows,
    warn_user,
)
from skembed.modules import speed_up_dropout
from skembed.store import EmbeddingStore
from skembed.training._checkpoint import Checkpoint
from skembed.training._examples import (
    ArrayExamples,
    Examples,
    FaultyRows,
    FrozenRows,
    collate_vectors,
    vector_examples,
)
from skembed.training._fine_tune import FineTune
from skembed.training._formats import dtype_that_runs, training_dtype
from skembed.training._going_on import (
    check_method,
    check_step,
    labels_of_step,
    load_trained,
    with_history,
)
from skembed.training._lookups import train_used_rows
from skembed.training._loop import Loop, Settings
from skembed.training._lora import lora_scale
from skembed.training._methods import Finished, VectorProjection, arrays_of, choose_weights
from skembed.training._objective import Objective
from skembed.training._reuse import key_of_training, train_once
from skembed.training._state import TrainedState
from skembed.training._strategy import Strategy
from skembed.training._targets import Targets
from skembed.training._trained import state_of
from skembed.training._ways import OBJECTIVES, check_folds, check_targets_of, folds_of
from skembed.weights import RandomSource, releases_of

__all__ = ["learn"]

_OF_RANDOM_WEIGHTS = 1e-3
_STEPS_OF_RANDOM_WEIGHTS = 2000
_PATIENCE_WITH_RANDOM_WEIGHTS = 16
_LARGEST_BATCH = 512
_FLOPS_FOR_THREADS = 5e8
"""Of a forward pass. Two threads that sleep at once take twice as long as one for 32 rows of any
network for tables, and are ahead from 1e9 on. Where they spin shortly before, 512 rows of the
smallest (2e8) take 0.8 of one thread's time on idle cores, and 3 times as long beside a busy
process."""
_OF_HEAD = 1e-3

_turns = KeyLocks()
"""Trainings of one process take turns: torch's random state and the cores are shared.

A child that is forked meanwhile waits for none of its parent's."""


def learn(
    strategy: Strategy,
    encoder: BackboneEncoder,
    rows: CheckedRows,
    y: Any,
    *,
    owner: str,
    sample_weight: Any = None,
    classes: Any = None,
    store: EmbeddingStore | None = None,
    before: BackboneEncoder | None = None,
    is_step: bool = False,
    made_with: Mapping[str, str] | None = None,
    title: str | None = None,
    drops_bad_rows: bool = False,
    watch: Callable[..., AbstractContextManager[None]] | None = None,
    trains_anew: bool = False,
) -> TrainedState:
    """Train on good rows, and return what was learned.

    Parameters
    ----------
    strategy : Strategy
        Checked.
    encoder : BackboneEncoder
        Of the model as it is published.
    rows : CheckedRows
        The rows; those with faults are left out.
    y, sample_weight
        As the user gave them, of all rows.
    owner : str
        What messages call the embedder.
    classes : array-like or None
        All classes that there are, if the y of a step may lack some.
    store : EmbeddingStore or None
        Where vectors of the frozen model, and what was learned, are looked up and kept.
    before : BackboneEncoder or None
        Of what to go on from, a `TrainedBackbone`.
    is_step : bool
        Whether this is one epoch of many calls: at a constant rate, with no rows held out.
    made_with : mapping
        What the state says of how it was made.
    title : str or None
        Of a progress bar.
    drops_bad_rows : bool
        Whether rows that cannot be embedded are left out, or refused.
    watch : callable or None
        Makes the context in which the loop runs, of the loop and of what returns its state by now.
    trains_anew : bool
        Whether the store is not asked for what was learned before, and does not keep it: `watch`
        has to see each epoch.
    """
    made_with, known = dict(made_with or {}), state_of(before)
    name = f"{owner}(training={type(strategy).__name__}(...))"
    if known is not None:
        check_method(known, strategy, name)
    if drops_bad_rows:
        rows = _without_faults(encoder, rows, store)
    step: dict[str, Any] = {}
    if is_step and isinstance(strategy, FineTune):
        step = labels_of_step(strategy, classes, known, name)
    targets = check_targets_of(strategy, y, rows, name, sample_weight, **step)
    if step and known is not None:
        check_step(known, targets, name)
    if strategy.cross_fit is not None and rows.n_sides == 1 and not is_step:
        folds = folds_of(strategy, encoder, rows, targets)
        check_folds(folds, strategy.settled(targets.kind), y, rows, name, sample_weight)
    if is_step:
        changes = {"n_epochs": 1, "validation_fraction": None, "checkpoint": None}
        strategy = clone(strategy).set_params(**changes)
    strategy = _with_batch_size(strategy, rows)
    task = _Task(strategy, encoder, rows, targets, store, before, is_step, title, watch)
    if is_step:
        return _train(task, None, made_with)
    computes_in = str(training_dtype(strategy, encoder))
    key = key_of_training(strategy, encoder, rows, targets, made_with, computes_in, known)
    train = partial(_train, task, key, made_with)
    kept_in = None if trains_anew else store
    return train_once(kept_in, key, train, made_with=made_with, classes=targets.classes)


def _with_batch_size(strategy: Strategy, rows: CheckedRows) -> Strategy:
    """Return the strategy with larger batches of cheap rows."""
    if strategy.batch_size != "auto" or not isinstance(rows.items, ArrayRows):
        return strategy
    size = 1 << int(np.log2(max(1, len(rows.items) / 32)))
    sized: Strategy = clone(strategy)
    sized.set_params(batch_size=min(max(32, size), _LARGEST_BATCH))
    return sized


def _without_faults(
    encoder: BackboneEncoder, rows: CheckedRows, store: EmbeddingStore | None
) -> CheckedRows:
    """Leave out rows that cannot be embedded; of pairs none is, and the error names them."""
    if rows.n_sides > 1:
        return rows
    faults = embed(encoder.unfinished(), rows.items, store=store).faults
    return take(rows, np.setdiff1d(np.arange(len(rows.items)), list(faults))) if faults else rows


@dataclass(frozen=True)
class _Task:
    """One training: what to learn from, and how."""

    strategy: Strategy
    encoder: BackboneEncoder
    rows: CheckedRows
    targets: Targets
    store: EmbeddingStore | None
    before: BackboneEncoder | None
    is_step: bool
    title: str | None
    watch: Callable[..., AbstractContextManager[None]] | None


def _train(task: _Task, key: bytes | None, made_with: dict[str, str]) -> TrainedState:
    try:
        return _trained(task, key, made_with)
    except FaultyRows as error:
        rows = task.rows
        faults = {int(rows.positions[i]): why for i, why in error.faults.items()}
        raise InvalidRowsError(
            f"{len(faults):,} of {rows.n_rows:,} {rows.noun}s cannot be learned from:"
            f"{describe_rows(faults, rows.labels)}\nFix or drop them.",
            faults,
        ) from None


def _trained(task: _Task, key: bytes | None, made_with: dict[str, str]) -> TrainedState:
    strategy, rows, device = task.strategy, task.rows, task.encoder.torch_device
    seed = strategy.random_state
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    checkpoint = None if strategy.checkpoint is None else Checkpoint(strategy.checkpoint, key)
    before, is_head = task.before, strategy.method == "head"
    start = FrozenRows(task.encoder, rows.items, task.store, before, head_only=is_head)
    objective = OBJECTIVES[type(strategy)](strategy, task.targets, start, seed)
    objective.head.to(device)
    if not task.is_step and not len(objective.held_out):
        _warn_of_unused(strategy)
    # The turn is taken before the random state is looked at, which is the process's.
    with _turns.hold(None), same_random_state(device):
        with one_at_a_time():
            seed_random_state(device, seed)
        if is_head:
            module, loop = _with_head(task, start.raw, objective, seed)
        else:
            module, loop = _with_model(task, objective, seed)
        loop.name_rows = lambda some: name_rows(
            sorted({int(rows.positions[i]) for i in some}), rows.labels
        )
        if checkpoint is not None:
            checkpoint.resume(loop)
            loop.after_epoch = checkpoint.save
        learned = partial(_learned, task, made_with, module, loop)
        watched = nullcontext() if task.watch is None else task.watch(loop, learned)
        bar = Progress(task.title, loop.settings.n_epochs * objective.n_rows)
        n_threads = _n_threads(task, module)
        if device.type == "cpu":
            speed_up_linear(module)
        with closing(bar), watched, most_threads(n_threads):
            loop.tell = lambda n_rows, loss: bar.update(n_rows, f"loss {loss:.3g}")
            loop.run()
    return learned()


def _learned(task: _Task, made_with: dict[str, str], module: Any, loop: Loop) -> TrainedState:
    """Return what the module has learned by now."""
    strategy, before = task.strategy, state_of(task.before)
    history = {name: [*values] for name, values in loop.history.items()}
    arrays = arrays_of(module, strategy.method)
    if before is not None:  # what is frozen now, and was trained before, stays as it was
        arrays = {**before.arrays, **arrays}
    if task.is_step and before is not None:
        history = with_history(before, history)
    head = loop.objective.head.named_parameters()
    return TrainedState(
        method=strategy.method,
        arrays=arrays,
        base=task.encoder.backbone.source.digest.hex(),
        made_with=made_with,
        history=history,
        lora_scale=lora_scale(strategy.lora_rank, strategy.lora_alpha),
        head={name: p.detach().cpu().numpy().copy() for name, p in head},
        kind=task.targets.kind,
        classes=task.targets.classes,
        versions=dict(releases_of("torch", "transformers")),
    )


def _warn_of_unused(strategy: Strategy) -> None:
    """Warn of parameters that compare epochs on held-out rows, where too few rows leave none."""
    asked = {"scoring": strategy.scoring, "patience": strategy.patience}
    unused = [f"{name}={v!r:.60}" for name, v in asked.items() if v not in ("loss", "auto", None)]
    if unused and strategy.validation_fraction:
        warn_user(
            f"{' and '.join(unused)} changed nothing: validation_fraction="
            f"{strategy.validation_fraction!r} holds out none of so few rows, and the last epoch "
            "is kept. Set a larger share, 0.25 for example, or None.",
            TrainingWarning,
            once=f"unused {unused}",
        )


def _with_model(task: _Task, objective: Objective, seed: int) -> tuple[Any, Loop]:
    """Return the module that is trained, and the loop that does it."""
    strategy, encoder = task.strategy, task.encoder
    backbone, device = encoder.backbone, encoder.torch_device
    module: Any = backbone.source.read(backbone.load).to(device)
    module.core = prepare_for_training(module.core, device=device)
    items = task.rows.items
    examples = Examples(encoder, items)
    if isinstance(items, ArrayRows):
        examples = ArrayExamples(items)
    examples.prepare()

    def probe() -> Any:
        return encoder.collate(examples.parts(np.zeros(1, dtype=np.int64)))

    with own_random_state(seed):
        lowest = choose_weights(module, strategy, probe, backbone.name)
    speed_up_dropout(module)
    if (known := state_of(task.before)) is not None:
        load_trained(module, known)
    if not (strategy.augment or task.targets.kind == "views"):  # views may use others
        train_used_rows(module, _batches(encoder, examples))
    module.to(device).to(memory_format=torch.channels_last)  # convolutions: up to twice as fast
    is_random = isinstance(backbone.source, RandomSource)
    rate = strategy.learning_rate
    if rate == "auto":
        rate = _OF_RANDOM_WEIGHTS if is_random else strategy._learning_rates[strategy.method]
    dtype = training_dtype(strategy, encoder)
    if strategy.dtype == "auto":
        dtype = dtype_that_runs(dtype, module, probe(), encoder)
    settings = _settings(task, objective, seed, float(rate), dtype)
    layout = getattr(module.core, "layout", encoder.policy.layout)
    settings = replace(settings, budget=encoder.policy.budget, layout=layout)
    finished = Finished(module, encoder.n_components, bool(encoder.normalize))
    loop = Loop(finished, encoder.collate, examples, objective, settings, device, lowest=lowest)
    return module, loop


def _batches(encoder: BackboneEncoder, examples: Examples) -> Iterator[Any]:
    """Yield all rows, in batches as the module takes them; the first one is small."""
    for rows in np.split(np.arange(len(examples)), range(4, len(examples), 256)):
        yield encoder.collate(examples.parts(rows))


@torch.no_grad()
def _n_threads(task: _Task, module: Any) -> int | None:
    """Return 1 where threads would wait for each other longer than they compute, else None.

    The layers are torch's: others' products are not counted.
    """
    items = task.rows.items
    if not isinstance(items, ArrayRows) or task.strategy.method == "head":
        return None
    with FlopCounterMode(display=False) as counted:
        module(task.encoder.collate(items[:1]))
    is_small = counted.get_total_flops() * task.strategy._n_per_step < _FLOPS_FOR_THREADS
    return 1 if is_small else None


def _with_head(
    task: _Task, vectors: NDArray[np.float32], objective: Objective, seed: int
) -> tuple[Any, Loop]:
    """Return the projection that is trained on stored vectors, and the loop that does it."""
    strategy, encoder, device = task.strategy, task.encoder, task.encoder.torch_device
    with own_random_state(seed):
        projection = VectorProjection(encoder.full_width).to(device)
    if (known := state_of(task.before)) is not None:
        load_trained(projection, known)
    rate = strategy.learning_rate
    rate = strategy._learning_rates["head"] if rate == "auto" else float(rate)
    settings = _settings(task, objective, seed, rate, torch.float32)
    finished = Finished(projection, encoder.n_components, bool(encoder.normalize))

    def collate(parts: Any) -> Any:
        return collate_vectors(parts).to(device)

    examples = vector_examples(vectors)
    return projection, Loop(finished, collate, examples, objective, settings, device)


def _settings(
    task: _Task, objective: Objective, seed: int, rate: float, dtype: torch.dtype
) -> Settings:
    strategy, known = task.strategy, state_of(task.before)
    n_epochs, patience = strategy.n_epochs, strategy.patience
    is_random = isinstance(task.encoder.backbone.source, RandomSource)
    is_random = is_random and strategy.method != "head"
    if patience == "auto":
        patience = _PATIENCE_WITH_RANDOM_WEIGHTS if is_random else None
    if n_epochs == "auto":
        n_epochs = max(-(-strategy._least_steps // objective.n_batches()), strategy._least_epochs)
        if is_random:
            n_epochs = int(np.clip(-(-_STEPS_OF_RANDOM_WEIGHTS // objective.n_batches()), 10, 100))
    return Settings(
        n_epochs=n_epochs,
        learning_rate=rate,
        head_learning_rate=max(rate, _OF_HEAD),
        weight_decay=strategy.weight_decay,
        warmup=strategy.warmup,
        max_grad_norm=strategy.max_grad_norm,
        patience=patience,
        seed=seed,
        dtype=dtype,
        budget=1 << 62,
        layout="packed",
        augment=strategy.augment,
        n_before=known.n_epochs if task.is_step and known is not None else 0,
        is_constant=task.is_step,
    )
