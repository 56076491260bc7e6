"""The user's own torch modules, and functions that prepare clips for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import OF_THE_HUB, Exported
from skembed.audio._backbone import AudioBackbone, AudioSettings, probe_samples
from skembed.audio._clips import Part
from skembed.exceptions import ModelWarning, UnsupportedModelError, warn_user
from skembed.modules import (
    FEATURES,
    CutAt,
    Features,
    ModuleSource,
    Preprocess,
    check_layer,
    make_preprocess,
    run_apart,
    try_out,
    write_state,
)
from skembed.weights import kept_recent, releases_of

__all__ = ["ModuleBackbone", "find_module"]

_OUTPUT_NAMES = ("audio_embeds", *FEATURES)

_SHAPES = (
    "(1, features), (1, frames, features), (1, features, frames) or (1, features, height, width)"
)


def find_module(module: nn.Module, settings: AudioSettings) -> ModuleBackbone:
    """Return the backbone of a module of the user's."""
    source = ModuleSource(module)
    reasons = {"weights": f"the weights of {source.name}, a torch.nn.Module, are in it."}
    if isinstance(settings.layer, int):
        reasons["layer"] = f"expected the name of a submodule of {source.name}."
    settings.refuse(revision=OF_THE_HUB, **reasons)
    if settings.layer is not None:
        check_layer(source.module, str(settings.layer))
    rate = settings.model_sampling_rate or AudioBackbone.rate
    preprocess = _find_preprocess(settings.preprocess, rate)
    content = (source.digest, None if preprocess is None else preprocess.digest)
    key = (ModuleBackbone, *content, rate, settings.layer, settings.pooling)

    def make() -> ModuleBackbone:
        _warn_of_rates({source.name: source.module, "preprocess": settings.preprocess}, rate)
        return ModuleBackbone(source, preprocess, settings, rate)

    found = kept_recent(key, make)
    # Of modules of one content, the first may have been changed since: this one has not.
    found.source.module = source.module
    return found


def _warn_of_rates(things: dict[str, Any], rate: int) -> None:
    """Warn of what declares another sampling rate than that of the clips it is given."""
    for name, thing in things.items():
        thing = getattr(thing, "func", getattr(thing, "__self__", thing))  # of partials and methods
        parts = list(thing.modules()) if isinstance(thing, nn.Module) else [thing]
        if any(hasattr(part, "new_freq") for part in parts):  # it resamples
            continue
        for part in (*parts, getattr(thing, "config", None)):
            for attribute in ("sampling_rate", "sample_rate"):
                declared = getattr(part, attribute, None)
                if isinstance(declared, (int, float)) and declared != rate:
                    warn_user(
                        f"{name} declares {attribute}={declared:,} ({type(part).__name__}), but "
                        f"gets clips at {rate:,} Hz. Set model_sampling_rate={declared:.0f}, or "
                        "leave it if the module was trained on clips at this rate.",
                        ModelWarning,
                    )
                    return


class ModuleBackbone(AudioBackbone):
    """A `torch.nn.Module` of the user, which is copied and never changed.

    It maps samples (n, samples), or a stack of what `preprocess` gives, to vectors (n, d), frames
    (n, frames, d) or (n, d, frames), or maps (n, d, height, width).
    """

    source: ModuleSource
    is_foreign = True
    prefers_float32 = True  # samples, and what unknown code makes of them, may not bear rounding

    def __init__(
        self,
        source: ModuleSource,
        preprocess: Preprocess | None,
        settings: AudioSettings,
        rate: int,
    ) -> None:
        self.name, self.source, self.rate = source.name, source, rate
        self._preprocess, self._layer = preprocess, settings.layer
        is_auto = settings.pooling == "auto"
        # Who asks for a pooling means the frames, not the vector made of them.
        self._names = _OUTPUT_NAMES if is_auto else _OUTPUT_NAMES[::-1]
        shape, self._time = self._measure()
        d = shape[2] if len(shape) == 3 and self._time == 1 else shape[1]
        self._take_pooling(settings.pooling, d, None if len(shape) == 2 else "mean")
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

    def _export(self, core: Any, folder: Path) -> Exported:
        """Write the state dict of the user's module, by its own names."""
        own = core[0].module if self._layer is None else core[0].module.module
        write_state(own.state_dict(), folder / "model.safetensors")
        code = f"""
import torch
from safetensors.torch import load_file

# model: your {self.name}
model.load_state_dict(load_file("model.safetensors"))
# vectors: what it gives for clips, pooled: a tensor (n, {self.width})
"""
        return Exported("torch", code, "model")

    def _copy(self) -> nn.Module:
        module = self.source.copy()
        cut = module if self._layer is None else CutAt(module, str(self._layer))
        return Features(cut, self._names, self.name)

    def _probe(self, seconds: float = 1.0, seed: int = 0) -> Tensor:
        return self._prepare(probe_samples(self.rate, seconds, seed)).values

    @torch.inference_mode()
    def _measure(self) -> tuple[tuple[int, ...], int | None]:
        """Return the shape of a clip's features, and which dimension of them is time."""
        module = self._copy()
        _, features = try_out(
            module,
            [self._probe()],
            (self._probe(seed=1) for _ in range(1)),
            row="clip",
            shapes=_SHAPES,
            name=self.name,
            advice="Expected a module that takes samples (n, samples), or a preprocess that "
            "returns what it takes.",
        )
        shape = tuple(features.shape)
        return shape, self._find_time(module, shape) if len(shape) == 3 else None

    def _find_time(self, module: nn.Module, shape: tuple[int, ...]) -> int:
        """Return which dimension grows with the clip, 1 or 2."""
        for seconds in (2.0, 0.5):
            try:
                other = run_apart(module, self._probe(seconds)[None]).shape
            except Exception:  # of modules of one length, in their own ways
                continue
            grows = [i for i in (1, 2) if len(other) == 3 and other[i] != shape[i]]
            if len(grows) == 1:
                return grows[0]
        raise UnsupportedModelError(
            f"{self.name} gives features of shape {shape} for one clip, and the same shape for a "
            "longer or shorter one: frames and features cannot be told apart. Wrap it in a "
            "module whose forward averages over frames and returns (n, features)."
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


def _find_preprocess(function: Any, rate: int) -> Preprocess | None:
    if function is None:
        return None

    def example(seed: int) -> Tensor:
        return torch.from_numpy(probe_samples(rate, seed=seed))

    return make_preprocess(
        function,
        f"sound at {rate} Hz",
        examples=lambda: (example(0), example(1)),
        find_fault=_find_fault,
        row="clip",
        example=f"a float32 tensor of {rate:,} samples ({rate:,} Hz)",
        expected="a callable from samples, a float32 tensor of shape (n,), to a float tensor, such "
        "as frames (n_frames, n_bands), without the batch dimension",
        advice="Use the evaluation transform, without augmentation, random crops or dither.",
    )


def _find_fault(output: Any) -> tuple[str, str] | None:
    """Return what a function gave and what to do, None if that is right."""
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}", "Make it return a torch tensor"
    if output.is_floating_point() and output.ndim and output.numel():
        return None
    what = f"a tensor of {output.dtype} of shape {tuple(output.shape)}"
    return what, "Make it return samples or features, with .float()"
