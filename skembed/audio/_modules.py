"""Torch modules that the user hands over.

Owns what a module of one's own may return and how its width is found. Must not know where modules
come from, rows nor devices.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import Source
from skembed.audio._backbone import AudioBackbone, AudioSettings, probe_samples, refuse_pooling
from skembed.audio._clips import Part
from skembed.audio._preprocess import Preprocess, make_preprocess
from skembed.exceptions import InvalidParameterError, SkembedError, UnsupportedModelError
from skembed.modules import (
    CutAt,
    Features,
    are_near,
    check_layer,
    copy_of,
    pooled_width,
    run_apart,
    without_compiler,
)
from skembed.weights import fingerprint, kept_recent, releases_of

__all__ = ["ModuleBackbone", "find_module"]

_DEFAULT_RATE = 16_000
"""In Hz: that of nearly all models of speech."""

# What modules like those of transformers call the features, the most finished first.
_OUTPUT_NAMES = ("audio_embeds", "embeddings", "pooler_output", "last_hidden_state")

# Rounding in bfloat16, in which a module may compute on its own, and more in batches of two.
_MOST_OF_NEIGHBOURS = 0.03

_Shape = tuple[int, ...]


class _ModuleSource(Source):
    """A module of the user's."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.name = module, type(module).__name__
        self.digest = fingerprint(module)

    def n_bytes(self) -> int:
        """Return the size of parameters and buffers, in float32."""
        return sum(4 * each.numel() for each in [*self.module.parameters(), *self.module.buffers()])

    def check_unchanged(self) -> None:
        """Check that the module has not been changed."""
        if fingerprint(self.module) != self.digest:
            raise UnsupportedModelError(
                f"{self.name} has been changed since this embedder was fitted (its weights, its "
                "attributes, its code or a variable that its code uses). Fit the embedder again."
            )


def find_module(module: nn.Module, settings: AudioSettings) -> ModuleBackbone:
    """Return the backbone of a module of the user's."""
    module = without_compiler(module)
    _check_settings(module, settings)
    rate = settings.model_sampling_rate or _DEFAULT_RATE
    preprocess = None
    if settings.preprocess is not None:
        preprocess = make_preprocess(settings.preprocess, rate)
    source = _ModuleSource(module)
    content = (source.digest, None if preprocess is None else preprocess.digest)
    key = (ModuleBackbone, id(module), *content, rate, settings.layer, settings.pooling)
    return kept_recent(key, lambda: ModuleBackbone(source, preprocess, settings, rate))


class ModuleBackbone(AudioBackbone):
    """A `torch.nn.Module` of the user, which is copied and never changed.

    It maps samples (n, samples), or a stack of what `preprocess` gives, to vectors (n, d), frames
    (n, frames, d) or (n, d, frames), or maps (n, d, height, width): a tensor, or a mapping or an
    output of transformers with "audio_embeds", "embeddings", "pooler_output" or
    "last_hidden_state".

    Raises
    ------
    InvalidParameterError
        If the layer or the pooling does not fit.
    UnsupportedModelError
        If the module's content cannot be told, or it fails, is random or returns something else.
    """

    is_foreign = True
    prefers_float32 = True  # samples, and what unknown code makes of them, may not bear rounding

    def __init__(
        self,
        source: _ModuleSource,
        preprocess: Preprocess | None,
        settings: AudioSettings,
        rate: int,
    ) -> None:
        self.name, self.source, self.rate = source.name, source, rate
        self._module, self._preprocess, self._settings = source.module, preprocess, settings
        shape, self._time = self._measure()
        is_auto = settings.pooling == "auto"
        if len(shape) == 2:
            refuse_pooling(settings.pooling, self.name)
            self.width = shape[1]
        else:
            self.pooling = "mean" if is_auto else settings.pooling
            d = shape[1] if len(shape) == 4 or self._time == 2 else shape[2]
            self.width = pooled_width(d, self.pooling)
        self._take_digests(
            layer=settings.layer,
            preprocess=None if preprocess is None else preprocess.digest,
            is_auto=is_auto,
            libraries=releases_of("torch"),
        )

    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        values = torch.from_numpy(samples)
        # A copy: the function may write to what it is given, and windows of a clip overlap.
        return Part(values if self._preprocess is None else self._preprocess(values.clone()))

    def _load_core(self) -> nn.Module:
        return nn.Sequential(self._copy(), _Frames(self._time)).eval()

    def _copy(self) -> nn.Module:
        module = copy_of(self._module, self.name)
        layer = self._settings.layer
        # Who asks for a pooling means the frames, not the vector made of them.
        names = _OUTPUT_NAMES if self._settings.pooling == "auto" else _OUTPUT_NAMES[::-1]
        return Features(module if layer is None else CutAt(module, str(layer)), names, self.name)

    @torch.inference_mode()
    def _measure(self) -> tuple[_Shape, int | None]:
        """Return the shape of a clip's features, and which dimension of them is time."""
        run = partial(run_apart, self._copy())
        values = self.prepare(probe_samples(self.rate)).values
        try:
            features = run(values[None])
        except SkembedError:
            raise
        except Exception as error:
            what = "one second of sound" if self._preprocess is None else "a prepared clip"
            raise UnsupportedModelError(
                f"{self.name} failed on {what}, a float32 tensor of shape "
                f"{(1, *values.shape)}: {type(error).__name__}: {error}. Expected a module of "
                "samples (n, samples), or a preprocess that gives what it takes."
            ) from error
        shape = tuple(features.shape)
        if not 2 <= len(shape) <= 4 or shape[0] != 1 or not features.is_floating_point():
            raise UnsupportedModelError(
                f"{self.name} gives {features.dtype} of shape {shape} for a batch of one clip; "
                "expected floats of shape (1, features), (1, frames, features), (1, features, "
                "frames) or (1, features, height, width). Keep the batch's dimension in forward, "
                "or choose another layer."
            )
        self._refuse_unsteady(run, values, features)
        return shape, self._find_time(run, shape) if len(shape) == 3 else None

    def _find_time(self, run: partial[Tensor], shape: _Shape) -> int:
        """Return which dimension grows with the clip, 1 or 2."""
        for seconds in (2.0, 0.5):
            try:
                other = run(self.prepare(probe_samples(self.rate, seconds)).values[None]).shape
            except Exception:  # of modules of one length, in their own ways
                continue
            grows = [i for i in (1, 2) if len(other) == 3 and other[i] != shape[i]]
            if len(grows) == 1:
                return grows[0]
        raise UnsupportedModelError(
            f"{self.name} gives features of shape {shape} for one clip, and of no other shape for "
            "a longer or shorter one: no one can tell frames from features. Wrap it in a module "
            "whose forward averages over frames and returns (n, features)."
        )

    def _refuse_unsteady(self, run: partial[Tensor], values: Tensor, features: Tensor) -> None:
        """Refuse a module whose vector of a clip is not always the same."""
        other = self.prepare(probe_samples(self.rate, seed=1)).values
        try:
            run(other[None])
        except Exception:  # a module may refuse some clips: those are faults of their rows
            other = values
        if not are_near(run(values[None]), features, 1e-3):
            raise UnsupportedModelError(
                f"{self.name} is random, or keeps something of the clips before: it gave "
                "different features of one clip in evaluation mode, which would make the vectors "
                "random. Does it call functional.dropout without training=self.training?"
            )
        if other.shape != values.shape:
            return  # they never share a batch
        try:
            pair = run(torch.stack([values, other]))
        except Exception as error:
            raise UnsupportedModelError(
                f"{self.name} runs on a batch of one clip and fails on one of two: "
                f"{type(error).__name__}: {error}. Keep the batch's dimension in forward."
            ) from error
        if pair.shape != (2, *features.shape[1:]):
            raise UnsupportedModelError(
                f"{self.name} gives features of shape {tuple(pair.shape)} for two clips and of "
                f"{tuple(features.shape)} for one. Keep the batch's dimension in forward."
            )
        if not are_near(pair[:1], features, _MOST_OF_NEIGHBOURS):
            raise UnsupportedModelError(
                f"{self.name} mixes the clips of a batch: it gave a clip other features beside "
                "another one, which would make vectors depend on other rows. Does it have a "
                "BatchNorm with track_running_stats=False?"
            )


class _Frames(nn.Module):
    """Turns features to (n, frames, d); vectors stay as they are."""

    def __init__(self, time: int | None) -> None:
        super().__init__()
        self.time = time

    def forward(self, features: Tensor) -> Tensor:
        """Return frames, or vectors (n, d)."""
        if features.ndim == 4:
            return features.flatten(2).transpose(1, 2)
        return features.transpose(1, 2) if self.time == 2 else features


def _check_settings(module: nn.Module, settings: AudioSettings) -> None:
    name = type(module).__name__
    faults = []
    if settings.weights != "auto":
        faults.append(
            f"weights={settings.weights!r}, but the weights of {name}, a torch.nn.Module, are in "
            "it. Leave weights='auto', and load others by model.load_state_dict."
        )
    if settings.revision is not None:
        faults.append(f"revision={settings.revision!r}: only models of the hub have revisions.")
    if settings.layer is not None and not isinstance(settings.layer, str):
        faults.append(
            f"layer={settings.layer!r}; expected the name of a submodule of {name} as in "
            "model.named_modules()."
        )
    if faults:
        raise InvalidParameterError("\n".join(faults))
    if settings.layer is not None:
        check_layer(module, str(settings.layer))
