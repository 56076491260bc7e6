"""State dicts: whether they fit an architecture, and loading them into its modules.

And writing them. Knows names and shapes of tensors, not what models do or where files come from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import UnsupportedModelError

__all__ = ["fill", "fill_part", "plain_names", "write_state"]

_N_NAMED = 5

# What wrappers put before every name: DataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")


class _State(OrderedDict[str, Tensor]):
    """A state dict with the version of its root module, which some architectures ask for."""

    _metadata: Mapping[str, Mapping[str, int]]


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that wrappers give its names."""
    # The counter of torch.optim.swa_utils.AveragedModel stands beside the module that it wraps.
    found = {name: value for name, value in state.items() if name != "n_averaged"}
    while found:
        around = [w for w in _WRAPPERS if all(name.startswith(w) for name in found)]
        if not around:
            break
        found = {name.removeprefix(around[0]): value for name, value in found.items()}
    return found


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    path: Path,
    name: str,
    ignored: tuple[str, ...] = (),
    version: int | None = None,
) -> None:
    """Give a module the values of a state dict, in float32.

    Values are copied: those of a file may share memory. Names that the module lacks are left out
    if they begin with one of `ignored`; any other name, a weight that is missing or of another
    shape is an UnsupportedModelError. `version` is that of the architecture's names.
    """
    expected = module.state_dict()
    wrong, kept = {}, _State()
    for each, value in plain_names(state).items():
        if each not in expected and each.startswith(ignored):
            continue
        wanted = expected.get(each)
        reason = None if wanted is None else _why_unlike(value, wanted)
        if reason is not None:
            wrong[each] = f"{each} {reason}"
            continue
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        kept[each] = value.to(dtype, copy=True)
    if version is not None:
        kept._metadata = {"": {"version": version}}
    found = module.load_state_dict(kept, strict=False, assign=True)
    counter = "num_batches_tracked"  # of training, never read in evaluation
    missing = [
        each for each in found.missing_keys if each not in wrong and not each.endswith(counter)
    ]
    faults = [
        *wrong.values(),
        *(f"{each} is missing" for each in missing),
        *(f"{each} is unknown" for each in found.unexpected_keys),
    ]
    if faults:
        more = f" and {len(faults) - _N_NAMED} more" if len(faults) > _N_NAMED else ""
        raise UnsupportedModelError(
            f"{path} does not hold the weights of {name}: {'; '.join(faults[:_N_NAMED])}{more}. "
            "Give the model that these weights are of, or other weights."
        )
    module.requires_grad_(False)


def fill_part(whole: nn.Module, part: nn.Module) -> None:
    """Give a module the values that a part of it, whose weights have the same names, has now."""
    found = whole.load_state_dict(part.state_dict(), strict=False)
    lost = sorted(set(found.unexpected_keys) & {name for name, _ in part.named_parameters()})
    if lost:
        raise UnsupportedModelError(
            f"{type(whole).__name__} has no weights {', '.join(lost[:_N_NAMED])}, which belong to "
            "the part of it that was run: it cannot be exported whole."
        )


def write_state(state: Mapping[str, Any], path: Path, **metadata: str) -> None:
    """Write a state dict as safetensors; `metadata` stands in the file's header."""
    from safetensors.torch import save_file

    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise UnsupportedModelError(
            f"The state dict has more than tensors ({', '.join(strange[:_N_NAMED])}), which cannot "
            "be written as safetensors."
        )
    # Copied, as weights that share memory are refused.
    own = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    save_file(own, path, {"format": "pt", **metadata})


def _why_unlike(value: Tensor, wanted: Tensor) -> str | None:
    """Say why a value cannot stand where another is wanted; None if it can."""
    if value.shape != wanted.shape:
        return f"has shape {tuple(value.shape)} where {tuple(wanted.shape)} is expected"
    if wanted.is_floating_point() and not value.is_floating_point():
        return f"holds {value.dtype} where real numbers are expected"
    return None
