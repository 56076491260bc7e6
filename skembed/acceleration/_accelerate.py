"""A frozen copy of a plain module, made as fast as possible without changing its output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from skembed.acceleration._passes import convert
from skembed.acceleration._processor import keep_freed_memory
from skembed.acceleration._speech import accelerate_speech
from skembed.acceleration._stacks import accelerate_stacks
from skembed.acceleration._tokens import FastTransformer, accelerate_tokens, pack_for_training
from skembed.modules import BiLM, Joint, SpeechModel, TokenModule, TokenTransformer

__all__ = ["accelerate", "prepare_for_training"]


@torch.inference_mode()
def accelerate(
    core: nn.Module,
    probes: Iterable[Any] = (),
    *,
    device: torch.device,
    dtype: torch.dtype,
    is_foreign: bool = False,
) -> nn.Module:
    """Freeze a module, bring it to its device and format, and make it fast.

    Parameters
    ----------
    core : Module
        In float32 on the CPU, in evaluation mode; it may be changed and is the result's own. A
        `TokenTransformer`, a `SpeechModel`, a module of stacks (n, ...), a `Joint` of both, whose
        language model may be fast already, or a `TokenModule` or a `BiLM`, which stay as they are.
    probes : iterable of Tensor
        Of a module of stacks, two or more different rows as it may take them, on which every step
        is proven; of several shapes, the first that it does not fail on. The other kinds are proven
        on random tokens and noise.
    device : torch.device
        Where it will run.
    dtype : torch.dtype
        What it computes in; `torch.int8` is for a `TokenTransformer` on a CPU.
    is_foreign : bool
        Whether its code is unknown.

    Returns
    -------
    fast : Module
        Takes and gives what `core` does.
    """
    if device.type == "cpu":
        keep_freed_memory()
    core = core.eval().requires_grad_(False)
    with torch.autocast(device.type, enabled=False):
        if isinstance(core, TokenTransformer):
            return accelerate_tokens(core, device=device, dtype=dtype)
        if isinstance(core, (TokenModule, BiLM)):
            convert(core, dtype)
            return core.to(device)
        if isinstance(core, SpeechModel):
            return accelerate_speech(core, device=device, dtype=dtype)
        part = core.tower if isinstance(core, Joint) else core
        fast = accelerate_stacks(part, probes, device=device, dtype=dtype, is_foreign=is_foreign)
        if not isinstance(core, Joint):
            return fast
        language = core.language
        if not isinstance(language, FastTransformer):
            language = accelerate_tokens(language, device=device, dtype=dtype)
        return Joint(fast, language, core.before, core.after)


def prepare_for_training(core: nn.Module, *, device: torch.device) -> nn.Module:
    """Return a module on its device that trains faster and is proven to give the same vectors.

    Its parameters are those of `core`, in float32 and under the same names; or it is `core` itself.
    """
    if device.type == "cpu":
        keep_freed_memory()
    core = core.to(device)
    if type(core) is TokenTransformer:
        with torch.autocast(device.type, enabled=False):
            return pack_for_training(core, device=device)
    return core
