"""Write what sentence-transformers reads beside a transformer: pooling, head, prompts, limits.

Knows the files of its folders, not how models are run. They are written as its releases since 2
read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skembed._backbone import Ending, Exported, Projection
from skembed.exceptions import UnsupportedModelError
from skembed.modules import write_state
from skembed.text._folder import POOLING_FLAGS
from skembed.text._head import UnitLength

__all__ = ["Chain", "write_chain"]

_CODE = """
from sentence_transformers import SentenceTransformer

# texts: a list of str
vectors = SentenceTransformer(".").encode(texts, convert_to_tensor=True)
"""


@dataclass(frozen=True)
class Chain:
    """How a transformer's states, of `n_states` features, become the vectors of texts."""

    n_states: int
    pooling: str
    pools_prompt: bool
    max_length: int | None
    lower_case: bool
    prompts: Mapping[str, str]
    prompt: str  # that stands before every text


@dataclass(frozen=True)
class _Module:
    """A module after the transformer: its kind, its settings, its weights."""

    kind: str
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]


def write_chain(folder: Path, chain: Chain, layers: nn.Module, ending: Ending) -> Exported:
    """Write into a transformer's folder what follows it: the chain, a head's layers, the ending.

    sentence-transformers cuts vectors (`truncate_dim`) after it has brought them to unit length.
    Where the cut comes first, a Dense module makes it.
    """
    modules = [_pooling_of(chain), *_modules_of(layers)]
    is_cut_first = ending.normalize and ending.n_components is not None
    if ending.projection is not None:
        modules.append(_dense_of(ending.projection, ending.n_components if is_cut_first else None))
    elif is_cut_first:
        width = _width_of(modules)
        modules.append(_dense(torch.eye(width)[: ending.n_components], None))
    if ending.normalize:
        modules.append(_Module("Normalize", {}, {}))
    listed = [_listed(0, "", "Transformer")]
    for i, module in enumerate(modules, 1):
        place = f"{i}_{module.kind}"
        listed.append(_listed(i, place, module.kind))
        (folder / place).mkdir()
        if module.kind != "Normalize":
            _write_json(folder / place / "config.json", module.config)
        if module.state:
            write_state(module.state, folder / place / "model.safetensors")
    _write_json(folder / "modules.json", listed)
    limits = {"max_seq_length": chain.max_length, "do_lower_case": chain.lower_case}
    _write_json(folder / "sentence_bert_config.json", limits)
    prompts, default = _prompts_of(chain)
    settings = {
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity_fn_name": "cosine",
        **({} if is_cut_first else {"truncate_dim": ending.n_components}),
    }
    _write_json(folder / "config_sentence_transformers.json", settings)
    return Exported("sentence_transformers", _CODE, is_finished=True)


def _listed(number: int, place: str, kind: str) -> dict[str, Any]:
    named = {"idx": number, "name": str(number), "path": place}
    return {**named, "type": f"sentence_transformers.models.{kind}"}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _pooling_of(chain: Chain) -> _Module:
    names = chain.pooling.split("+")
    flags = {flag: name in names for flag, name in POOLING_FLAGS.items()}
    sizes = {"word_embedding_dimension": chain.n_states}
    return _Module("Pooling", {**sizes, **flags, "include_prompt": chain.pools_prompt}, {})


def _modules_of(layers: nn.Module) -> list[_Module]:
    """Return layers as modules; an activation belongs to the linear layer before it."""
    leaves = [each for each in layers.modules() if not any(True for _ in each.children())]
    modules: list[_Module] = []
    for i, layer in enumerate(leaves):
        if isinstance(layer, nn.Linear):
            following = leaves[i + 1] if i + 1 < len(leaves) else None
            is_own = following is not None and not isinstance(following, _ARE_MODULES)
            bias = layer.bias if layer.bias is not None else None
            modules.append(_dense(layer.weight, bias, following if is_own else None))
        elif isinstance(layer, nn.LayerNorm):
            state = {f"norm.{name}": value for name, value in layer.state_dict().items()}
            size = int(layer.normalized_shape[0])
            modules.append(_Module("LayerNorm", {"dimension": size}, state))
        elif isinstance(layer, UnitLength):
            modules.append(_Module("Normalize", {}, {}))
    return modules


_ARE_MODULES = (nn.Linear, nn.LayerNorm, UnitLength)


def _dense_of(projection: Projection, n_rows: int | None) -> _Module:
    weight, bias = projection.weight[:n_rows], projection.bias[:n_rows]
    return _dense(torch.from_numpy(weight), torch.from_numpy(bias))


def _dense(weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> _Module:
    kind = type(activation or nn.Identity())
    if not kind.__module__.startswith("torch.nn."):
        raise UnsupportedModelError(
            f"A dense layer has the activation {kind.__name__}, which is not in torch.nn: "
            "sentence-transformers would not load it."
        )
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__qualname__}",
    }
    state = {"linear.weight": weight, **({} if bias is None else {"linear.bias": bias})}
    return _Module("Dense", config, state)


def _width_of(modules: Iterable[_Module]) -> int:
    """Return how many features a chain gives."""
    width = 0
    for module in modules:
        if module.kind == "Pooling":
            n_parts = sum(bool(module.config[flag]) for flag in POOLING_FLAGS)
            width = n_parts * int(module.config["word_embedding_dimension"])
        elif module.kind == "Dense":
            width = int(module.config["out_features"])
    return width


def _prompts_of(chain: Chain) -> tuple[dict[str, str], str | None]:
    """Return the model's prompts, that of every text among them, and its name."""
    prompts = dict(chain.prompts)
    if not chain.prompt:
        return prompts, None
    for name, text in prompts.items():
        if text == chain.prompt:
            return prompts, name
    name = "default" if "default" not in prompts else "skembed"
    return {**prompts, name: chain.prompt}, name
