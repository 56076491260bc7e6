"""A model as a folder that others load, with a card that says how.

Owns the folder and its card; the backbones write what their libraries read.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from skembed._backbone import Ending, Exported
from skembed._folders import refuse_full, written_whole
from skembed._parameters import plain
from skembed.engine import BackboneEncoder
from skembed.modules import write_state
from skembed.training._trained import state_of

__all__ = ["export"]

_PROJECTION = "projection.safetensors"

# Parameters that are the exported model's own, or change no vector.
_NOT_ON_THE_CARD = frozenset(
    (
        *("model", "weights", "tokenizer", "revision", "trust_remote_code", "training"),
        *("device", "dtype", "batch_size", "cache", "on_error", "verbose", "preprocess"),
    )
)
_DEPENDENCIES = ("skembed", "torch", "transformers")


def export(encoder: BackboneEncoder, folder: str | os.PathLike[str], embedder: Any) -> Path:
    """Write the model that an embedder's encoder runs into a new folder; return the folder."""
    place = Path(folder).expanduser()
    refuse_full(place)
    backbone = encoder.backbone
    ending = Ending(backbone.projection, encoder.n_components, bool(encoder.normalize))
    module = backbone.source.read(backbone.load)
    with written_whole(place) as draft:
        exported = backbone.export(module, draft, ending)
        if ending.projection is not None and not exported.is_finished:
            named = {"weight": ending.projection.weight, "bias": ending.projection.bias}
            write_state({k: torch.from_numpy(v) for k, v in named.items()}, draft / _PROJECTION)
        card = _card(encoder, ending, exported, embedder)
        (draft / "README.md").write_text(card, encoding="utf-8")
    return place


def _card(encoder: BackboneEncoder, ending: Ending, exported: Exported, embedder: Any) -> str:
    """Return the model card: what it is, how it is loaded, what it was made with."""
    backbone, owner = encoder.backbone, type(embedder).__name__
    state = state_of(encoder)
    code = exported.code.strip()
    if not exported.is_finished:
        code = "\n".join([code, *_ending_code(ending)])
    needed = dict.fromkeys([*_DEPENDENCIES, exported.library.replace("_", "-")])
    versions = ", ".join(f"{name} {version(name)}" for name in needed if _is_installed(name))
    trained = "as it was published"
    lines = []
    if state is not None:
        n_epochs = max(0, len(state.history.get("epoch", [])) - 1)
        trained = f"trained by `{type(embedder.training).__name__}({state.method!r})`"
        trained += f" for {n_epochs} epoch{'s' * (n_epochs > 1)}" if n_epochs else ""
        by = ", ".join(f"{name} {release}" for name, release in state.versions.items())
        lines = [f"- trained with: {by}"] if by else []
    before = "" if exported.is_finished or ending.projection is None else _BEFORE_PROJECTION
    return _CARD.format(
        name=backbone.name,
        trained=trained,
        library=exported.library.replace("_", "-"),
        width=encoder.width,
        code=code,
        owner=owner,
        arguments=", ".join([exported.arguments, *_arguments(embedder, ending, exported)]),
        before=before,
        base=_base_of(backbone.name, backbone.source.digest),
        versions="\n".join([*lines, f"- exported with: {versions}"]),
    )


_BEFORE_PROJECTION = f"""
The projection that was trained on this model's vectors has no place in its library's files: it is
beside them, in `{_PROJECTION}`, and the code above applies it. skembed's embedder does not:
"""

_CARD = """---
library_name: {library}
tags:
- skembed
- feature-extraction
---

# {name}, {trained}

Gives vectors of {width} features.

```python
{code}
```
{before}
With [skembed](https://pypi.org/project/skembed/), in scikit-learn's pipelines:

```python
from skembed import {owner}

embedder = {owner}({arguments})
```

- base model: {base}
{versions}
"""


def _ending_code(ending: Ending) -> list[str]:
    lines = []
    if ending.projection is not None:
        lines += [
            "",
            "from safetensors.torch import load_file",
            "",
            f'projection = load_file("{_PROJECTION}")',
            'vectors = vectors @ projection["weight"].T + projection["bias"]',
        ]
    if ending.n_components is not None:
        lines.append(f"vectors = vectors[:, :{ending.n_components}]")
    if ending.normalize:
        lines.append("vectors = torch.nn.functional.normalize(vectors, dim=1)")
    return lines


def _arguments(embedder: Any, ending: Ending, exported: Exported) -> list[str]:
    """Return the parameters that decide vectors, where they are not at their defaults."""
    params, default = embedder.get_params(deep=False), type(embedder)().get_params(deep=False)
    if params.get("normalize") == "auto" and ending.normalize and not exported.is_finished:
        params["normalize"] = True  # "auto" may mean less for the part of a model that is written
    given = [
        f"{name}={plain(value)!r}"
        for name, value in params.items()
        if name not in _NOT_ON_THE_CARD and value != default[name]
    ]
    has_own = params.get("preprocess") is not None
    return [*given, *(["preprocess=preprocess"] if has_own else [])]


def _base_of(name: str, digest: bytes) -> str:
    return f"{name} (digest of its weights {digest.hex()[:16]})"


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:  # importlib.metadata's own error is one
        return False
    return True
