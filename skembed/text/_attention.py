"""What the tokens of a decoder see: earlier ones only, or all tokens of the text.

Knows models of transformers and their configurations, not where they come from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError, UnsupportedModelError

__all__ = ["is_causal", "is_decoder", "refuse_attention", "see_all"]

_NO_WINDOW = 2**30
"""A sliding window that no text reaches the end of."""


def is_decoder(config: Any) -> bool:
    """Return whether a model was made to write texts from left to right."""
    from transformers.models.auto import modeling_auto

    kind = getattr(config, "model_type", None)
    return (
        kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def is_causal(config: Any) -> bool:
    """Return whether only the last token of a text has seen all of it."""
    is_open = getattr(config, "use_bidirectional_attention", False)
    return is_decoder(config) and not is_open and getattr(config, "is_causal", True) is not False


def refuse_attention(name: str, config: Any, attention: str) -> None:
    """Refuse attention="bidirectional" or "echo" where a model's tokens see all others anyway."""
    if not is_causal(config):
        what = "a decoder whose files say so" if is_decoder(config) else "no decoder"
        raise InvalidParameterError(
            f"attention={attention!r} is for decoders, whose tokens see only earlier ones. "
            f"{name} is {what} ({config.model_type}): its tokens see the whole text already. "
            "Leave attention='auto'."
        )


def see_all(name: str, model: Any) -> None:
    """Change a decoder so that every token sees all tokens of its text; prove that it does.

    Sliding windows go, too, as in the papers' code. The configuration says so to transformers,
    the modules to packed attention.
    """
    config = model.config
    config.is_causal = False
    if getattr(config, "sliding_window", None):
        config.sliding_window = _NO_WINDOW
    for module in model.modules():
        if getattr(module, "is_causal", None) is True:
            module.is_causal = False
        if isinstance(getattr(module, "sliding_window", None), int):
            module.sliding_window = _NO_WINDOW
    if not _sees_last_token_everywhere(model):
        raise UnsupportedModelError(
            f"attention='bidirectional': the code of {name} ({type(model).__name__}) keeps its "
            "tokens from seeing later ones. Use attention='echo', which needs no change to a "
            "model, or 'auto'."
        )


@torch.no_grad()
def _sees_last_token_everywhere(model: Any) -> bool:
    """Return whether in every layer what becomes of the first token depends on the last one."""
    n_layers = model.config.num_hidden_layers
    stacks = (each for each in model.modules() if isinstance(each, nn.ModuleList))
    layers = next((stack for stack in stacks if len(stack) == n_layers), ())
    ids = torch.arange(4)[None] % int(model.config.get_text_config().vocab_size)
    ids = ids.to(model.device)
    found: list[bool] = []
    inside = False

    def compare(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        nonlocal inside
        if inside:
            return
        inside = True
        try:
            states, rest = (inputs[0], inputs[1:]) if inputs else (named["hidden_states"], ())
            named = {name: value for name, value in named.items() if name != "hidden_states"}
            other = states.clone()
            other[:, -1] = other[:, -1].flip(-1) + 1
            changed = _states(layer(other, *rest, **named))
        finally:
            inside = False
        found.append(not torch.equal(changed[:, 0], _states(out)[:, 0]))

    hooks = [layer.register_forward_hook(compare, with_kwargs=True) for layer in layers]
    try:
        model(input_ids=ids)
    finally:
        for hook in hooks:
            hook.remove()
    return bool(found) and all(found)


def _states(out: Any) -> Tensor:
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states
