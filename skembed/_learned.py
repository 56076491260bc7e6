"""The skeleton of embedders that keep what `fit` has learned, and with which parameters.

Knows states and the parameters that decide them, not how anything is learned.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

from sklearn.exceptions import NotFittedError

from skembed._base import BaseEmbedder
from skembed._parameters import plain
from skembed.training import TrainedState
from skembed.weights import fingerprint

__all__ = ["LearnedEmbedder"]

_OBJECTS = ("tokenizer", "preprocess", "text")
"""Parameters that decide what is learned and are objects: their text says too little."""


class LearnedEmbedder(BaseEmbedder):
    """Base class of embedders that use what `fit` learned with the parameters of `fit` alone."""

    training: Any = None

    # What does not tie trained weights to the parameters they were trained with: which weights
    # these were is known by their digest, the next only slice and scale, and the last one changes
    # no row that can be read without it.
    _are_free: ClassVar[frozenset[str]] = frozenset(
        {"model", "weights", "revision", "trust_remote_code", *_OBJECTS}
        | {"dtype", "normalize", "n_components", "reads_cut_files"}
    )

    @property
    def _strategy(self) -> Any:
        """What the parameter `training` stands for: a strategy, or None."""
        return self.training

    @abstractmethod
    def _settings(self) -> Any:
        """Return what decides the encoder, as a dataclass of plain values."""

    def _objects(self) -> dict[str, Any]:
        params = self.get_params(deep=False)
        return {name: params[name] for name in _OBJECTS if params.get(name) is not None}

    def _made_with(self, settings: Any) -> dict[str, str]:
        """Return the parameters that decide what is learned from rows, as text."""
        kept = {
            each.name: repr(plain(getattr(settings, each.name)))
            for each in fields(settings)
            if each.name not in self._are_free
        }
        return {**kept, **{f"training__{k}": v for k, v in self._strategy.decides().items()}}

    def _trained_state(self, settings: Any) -> TrainedState | None:
        """Return what was learned with the present parameters; None where nothing is trained."""
        if self._strategy is None:
            return None
        state: TrainedState | None = self.__dict__.get("trained_")
        if state is None:
            raise NotFittedError(
                f"This {type(self).__name__} has training={type(self._strategy).__name__}(...) and "
                "has not been fitted; call fit(X, y) first."
            )
        changed = self._changed_since(state, settings)
        if changed:
            said = ", ".join(f"{name} was {value}" for name, value in changed.items())
            raise NotFittedError(
                f"This {type(self).__name__} was fitted with other parameters: {said}. Fit again, "
                "or set them back."
            )
        return state

    def _changed_since(self, state: TrainedState, settings: Any) -> dict[str, str]:
        """Return the user's parameters that decide what is learned and were others in `fit`."""
        was, now = state.made_with, self._made_with(settings)
        if (strategy := was.get("training__strategy")) != now["training__strategy"]:
            return {"training": f"{strategy}(...)".replace("'", "")}
        changed = [self._as_parameter(k, f"{was.get(k)}") for k in now if was.get(k) != now[k]]
        before, after = self.__dict__.get("_learned_with", {}), self._objects()
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name), after.get(name)
            if old is not new and (None in (old, new) or fingerprint(old) != fingerprint(new)):
                changed.append((name, "None" if old is None else "another"))
        return dict(changed)

    def _as_parameter(self, setting: str, value: str) -> tuple[str, str]:
        """Return the user's parameter that a setting comes from, and what it was, as text."""
        return setting, value

    @property
    def history_(self) -> dict[str, list[Any]]:
        """What training recorded after each epoch; epoch 0 is the model before training."""
        if "trained_" not in self.__dict__:
            raise AttributeError(f"This {type(self).__name__} has not been trained.")
        history: dict[str, list[Any]] = self.trained_.history
        return history
