"""Load the transformer that turns token ids into hidden states."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skembed.engine import convert, keep_freed_memory, resolve_dtype
from skembed.text._config import TextTower
from skembed.text._layout import (
    TextTransformer,
    choose_attention,
    find_layout,
    pack_layers,
    quantize_layers,
)
from skembed.weights import check_weights, load_pretrained

__all__ = ["load_transformer"]

_T5_FAMILY = ("t5", "mt5", "umt5")
_MAX_PARAMETERS_PROBED_IN_FLOAT32 = 500_000_000


def load_transformer(
    folder: Path,
    config: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    pad_token_id: int,
    special_token_ids: tuple[Sequence[int], Sequence[int]],
    trust_remote_code: bool,
    tower: TextTower | None = None,
) -> TextTransformer:
    """Load a transformer and find its layout.

    `special_token_ids` are what the tokenizer puts before and after a text.

    The layout is proven, not assumed: a few rows of different lengths run together and alone, and
    the fastest layout whose hidden states agree is taken (in float32 where the model is small
    enough, before it is converted). Of a model of pictures and texts, only `tower` is loaded.
    """
    if device.type == "cpu":
        keep_freed_memory()
    is_int8 = dtype is torch.int8
    if is_int8:
        dtype = resolve_dtype("auto", device)  # of all that is no linear layer
    module = _load_module(folder, config, dtype, trust_remote_code, tower)
    projection = None if tower is None else _take_projection(module, tower)
    if tower is not None:
        module = _bare_tower(module)
    module = module.eval().requires_grad_(False).to(device)
    loaded_as = next(module.parameters()).dtype
    implementation: str = module.config._attn_implementation  # type: ignore[union-attr,assignment]
    found = find_layout(module, device, pad_token_id, implementation)
    if is_int8:
        found = replace(found, is_steady=True)
        quantize_layers(found, device, dtype, special_token_ids)
    convert(module, dtype)
    if found.layout == "packed" and device.type == "cuda" and dtype is not loaded_as:
        # Another kernel than the one just proven.
        found = find_layout(module, device, pad_token_id, implementation)
    if found.layout == "packed" and device.type == "cpu" and dtype is torch.bfloat16:
        found = choose_attention(found, device)
    if device.type == "cpu" and not is_int8:
        steady = replace(found, is_steady=True)
        found = steady if pack_layers(steady, device) else found
    if projection is not None:
        found = replace(found, projection=projection.requires_grad_(False).to(device))
    return found


class _Embeddings(nn.Module):
    """CLIP's and SigLIP's embeddings, without their check of a sequence's length.

    Packed rows are one sequence, longer than any row; positions are each row's own.
    """

    def __init__(self, tokens: nn.Module, positions: nn.Module) -> None:
        super().__init__()
        self.token_embedding, self.position_embedding = tokens, positions

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Return the states that enter the first layer, shape (rows, tokens, d)."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[-1], device=input_ids.device)[None]
        states: Tensor = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        return states


def _take_projection(module: Any, tower: TextTower) -> nn.Module | None:
    """Take the projection out of a loaded model; it stays in float32."""
    if tower.projection is None:
        return None
    projection: nn.Module = getattr(module, tower.projection)
    setattr(module, tower.projection, nn.Identity())
    return projection.float()


def _bare_tower(module: Any) -> nn.Module:
    """Return the model that gives states, ready for packed rows."""
    bare = getattr(module, "text_model", module)
    found = bare.embeddings
    bare.embeddings = _Embeddings(found.token_embedding, found.position_embedding)
    return bare  # type: ignore[no-any-return]


def _load_module(
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    trust_remote_code: bool,
    tower: TextTower | None,
) -> nn.Module:
    import transformers
    from transformers import AutoModel, AutoModelForTextEncoding

    weights = check_weights(folder)
    n_bytes = sum(path.stat().st_size for path in weights)
    # Four bytes a parameter: where the file is small, the float32 model is too.
    is_small = n_bytes <= 4 * _MAX_PARAMETERS_PROBED_IN_FLOAT32
    config = copy.deepcopy(config)
    config.use_cache = False
    auto = AutoModelForTextEncoding if config.model_type in _T5_FAMILY else AutoModel
    if tower is not None:
        auto = getattr(transformers, tower.architecture)
    arguments: dict[str, Any] = {}
    known = getattr(auto, "_model_mapping", {})
    architecture = known.get(type(config), None)
    if inspect.isclass(architecture) and "add_pooling_layer" in (
        inspect.signature(architecture).parameters
    ):
        arguments["add_pooling_layer"] = False
    loaded: nn.Module = load_pretrained(
        folder,
        config,
        auto=auto,
        dtype=torch.float32 if is_small else dtype,
        trust_remote_code=trust_remote_code,
        is_unused=_is_unused,
        **arguments,
    )
    return loaded


def _is_unused(name: str) -> bool:
    return name.startswith("pooler.")
