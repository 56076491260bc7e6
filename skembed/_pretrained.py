"""The skeleton of embedders that run a model, looked up for the current parameters in each call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skembed._encoder import Encoder, join_replicas
from skembed._inputs import CheckedRows
from skembed._later import import_torch, later
from skembed._parameters import OfModules, plain, plain_fields, snapshot
from skembed._trainable import TrainableEmbedder
from skembed.engine import (
    DTYPES,
    Embedded,
    NeedsFloat32,
    embed,
    is_in_float32,
    remembered_encoder,
    resolve_devices,
)
from skembed.exceptions import (
    InvalidParameterError,
    ModelWarning,
    warn_user,
    warnings_sent_to,
)
from skembed.store import resolve_store
from skembed.training import TrainedState
from skembed.weights import kept_recent

__all__ = ["PretrainedEmbedder"]

T = TypeVar("T")
Pretrained = TypeVar("Pretrained", bound="PretrainedEmbedder")

_serve = later("skembed.training._trained", "serve")
_drop_with_state = later("skembed.training._trained", "drop_with_state")


def _has_torch() -> bool:
    """Return whether torch has been imported: what comes of it is then soon found in full."""
    return "torch" in sys.modules


def _refuse_bool(layer: Any) -> None:
    if isinstance(layer, (bool, np.bool_)):
        raise InvalidParameterError(
            f"layer={layer!r}: expected the name of a submodule, the number of a hidden state, or "
            "None."
        )


class PretrainedEmbedder(TrainableEmbedder):
    """Base class of embedders that run a model.

    A subclass implements `_check_rows` and says by three attributes what embeds.
    """

    _settings_type: ClassVar[Any]
    """Frozen dataclass of what decides backbone and encoder: parameters, and `_other_settings`."""
    _find_backbone: ClassVar[Any]
    """Maps settings to a backbone, the same one as long as its content is the same."""
    _make_encoder: ClassVar[Any]
    """Maps a backbone, settings and a device to an encoder."""
    _find_source: ClassVar[Any] = staticmethod(lambda settings: None)
    """Maps settings to what alone decides the backbone beside them, found without importing torch.

    None is for what has to be looked at closer."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TrainableEmbedder._parameter_constraints,
        "model": [str, os.PathLike, OfModules()],
        "weights": [str, os.PathLike, None],
        "layer": [str, Integral, None],
        "normalize": ["boolean", StrOptions({"auto"})],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "preprocess": [callable, None],
        "device": [str, list, tuple],
        "dtype": [StrOptions(set(DTYPES) - {"int8", "int4"})],
        "revision": [str, None],
        "trust_remote_code": ["boolean"],
    }
    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {"layer": _refuse_bool}
    # Any process finds the encoder again by the parameters.
    _is_private: ClassVar[tuple[str, ...]] = (*TrainableEmbedder._is_private, "_present")

    def _sample_rows(self) -> list[Any]:
        """Return a row for `warm_up`."""
        return []

    def _other_settings(self) -> dict[str, Any]:
        """Return the settings that are not parameters of the same name."""
        return {}

    def _device(self) -> Any:
        """Return the device or devices, as `resolve_devices` takes them."""
        return plain(self.device)

    def _settings(self) -> Any:
        other = self._other_settings()
        for field in fields(self._settings_type):
            if hasattr(self, field.name):
                other[field.name] = plain(getattr(self, field.name))
        return self._settings_type(**other)

    def _get_ready(self, params: dict[str, Any]) -> None:
        present = (snapshot(params), self._find_encoder())
        if self.__dict__.get("_present") != present:
            self._present = present

    def _find_encoder(self, state: TrainedState | None = None) -> Any:
        """Return the encoder of the present parameters, only remembered as long as that will do.

        `state` is what it has learned, where that is not what the instance has.
        """
        settings, device = self._settings(), self._device()
        if not self.__dict__.get("_is_learning"):
            state = self._trained_state(settings)

        def find() -> Any:
            import_torch()
            devices = resolve_devices(device)
            backbone = self._find_backbone(settings)
            if backbone.runs_on_cpu:
                devices = resolve_devices("cpu")
            make_encoder = backbone.encoder_type or self._make_encoder
            if state is not None:  # the instance keeps it, and its weights go when it goes
                trained = _serve(backbone, state, type(self).__name__)
                encoders = [make_encoder(trained, settings, d) for d in devices]
                return _drop_with_state(state, join_replicas(encoders))

            def make() -> Any:
                return join_replicas([make_encoder(backbone, settings, d) for d in devices])

            # The encoder keeps its backbone: while it is here, no other one has that id.
            kind = type(self).__name__, is_in_float32(backbone)
            key = (kind, id(backbone), devices, plain_fields(settings))
            return kept_recent(key, make)

        source = None if _has_torch() or state is not None else self._find_source(settings)
        if source is None:
            return find()
        return remembered_encoder(
            self._make_encoder, settings, device, source, find, resolve_store(self.cache)
        )

    def _keep_encoder(self, encoder: Any) -> None:
        self._present = (self._present[0], encoder)

    def _get_encoder(self) -> Any:
        return self._encoder

    def warm_up(self: Pretrained) -> Pretrained:
        """Load the model and run it on one row, so that the first call takes as long as the next.

        For services, before they answer, and for clocks. Nothing is stored, and `fit` is not needed
        before.

        Returns
        -------
        self
        """
        self._begin()

        def run() -> Embedded:
            encoder = self._encoder.whole()
            self._keep_encoder(encoder)
            with warnings_sent_to(lambda *warning: None):  # of a row that is not the user's
                return embed(encoder, self._check_rows(self._sample_rows()).items)

        self._in_a_format_that_runs(run)
        return self

    def _train(self, *args: Any) -> None:
        self._in_a_format_that_runs(lambda: super(PretrainedEmbedder, self)._train(*args))

    def _embed(self, rows: CheckedRows) -> Embedded:
        return self._in_a_format_that_runs(lambda: super(PretrainedEmbedder, self)._embed(rows))

    def _in_a_format_that_runs(self, run: Callable[[], T]) -> T:
        """Return what `run` does, in float32 if the model does not run in what "auto" chose."""
        try:
            return run()
        except NeedsFloat32 as error:
            self._keep_encoder(self._find_encoder())
            found = run()
            warn_user(str(error), ModelWarning, once=f"float32 {self._encoder.backbone.name}")
            return found

    @property
    def _encoder(self) -> Any:
        """The encoder that `_get_ready` has found in this call."""
        return self._present[1]

    @property
    def encoder_(self) -> Encoder:
        """The encoder of the present parameters, once `fit` or `transform` has made it."""
        return self._known_encoder().whole()

    @property
    def n_features_out_(self) -> int:
        """Number of output features."""
        return self._known_encoder().width

    @property
    def device_(self) -> str:
        """Where the model runs."""
        return self._known_encoder().device

    @property
    def dtype_(self) -> str:
        """Number format in which the model runs."""
        return self._known_encoder().dtype

    def _known_encoder(self) -> Encoder:
        """Return the encoder of the present parameters, be it only remembered."""
        params, encoder = self.__dict__.get("_present", (None, None))
        if not isinstance(encoder, Encoder) or params != snapshot(self.get_params(deep=False)):
            raise AttributeError(
                f"This {type(self).__name__} has not made its encoder for its present parameters; "
                "call fit or transform first."
            )
        return encoder
