"""A training on its way, kept in a folder after each epoch, so that a kill loses one epoch at most.

Knows the loop and files, not what is trained. A file is one safetensors archive with JSON in its
header: nothing that is read is executed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skembed.exceptions import InvalidParameterError, TrainingWarning, warn_user
from skembed.store import run_folder, write_whole
from skembed.training._loop import Loop
from skembed.training._modes import trained_tensors
from skembed.training._packed import facts_in, pack, under, unpack

__all__ = ["Checkpoint"]

_SUFFIX = ".safetensors"


class Checkpoint:
    """One training's file in a folder: the trainings of a search keep theirs beside each other.

    Parameters
    ----------
    folder : path
        Created with its parents.
    key : bytes or None
        Digest of all that decides what is learned; None if nothing does.
    """

    def __init__(self, folder: str | os.PathLike[str], key: bytes | None) -> None:
        if key is None:
            raise InvalidParameterError(
                f"checkpoint={os.fspath(folder)!r}: to go on from a checkpoint takes the choices "
                "that were made before. Set random_state to a number, and parameters that are "
                "functions to ones that can be pickled."
            )
        self.folder = Path(os.fsdecode(folder)).expanduser()
        self.path = self.folder / f"{key.hex()}{_SUFFIX}"

    def resume(self, loop: Loop) -> None:
        """Bring a loop to where it was saved, if it was; say so if only others were."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            arrays, facts = unpack(self.path.read_bytes())
        except FileNotFoundError:
            self._tell_of_others()
            return
        except ValueError as error:
            warn_user(
                f"The checkpoint {self.path} is {error}. Training starts at the first epoch.",
                TrainingWarning,
            )
            return
        _set(loop, {name: torch.tensor(array) for name, array in arrays.items()}, facts)

    def save(self, loop: Loop) -> None:
        """Keep all that the rest of the training depends on."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in _tensors_of(loop).items()}
        write_whole(self.path, pack(arrays, {**_facts_of(loop), "run": str(run_folder())}))

    def _tell_of_others(self) -> None:
        """Warn of trainings that an earlier run has left unfinished: they may have been meant."""
        others = [path for path in self.folder.glob(f"*{_SUFFIX}") if _is_left(path)]
        if others:
            warn_user(
                f"checkpoint={str(self.folder)!r}: {len(others):,} unfinished training(s) of other "
                "rows, targets, parameters or releases of libraries are kept there, and none of "
                "these. Training starts at the first epoch; the others stay as they are.",
                TrainingWarning,
                once=f"checkpoint {self.folder}",
            )


def _tensors_of(loop: Loop) -> dict[str, Tensor]:
    found = {f"now:{name}": tensor for name, tensor in trained_tensors(loop.module).items()}
    found |= {f"head:{name}": p for name, p in loop.objective.head.named_parameters()}
    found |= {f"best:{name}": tensor for name, tensor in loop.best.items()}
    found |= {f"best head:{name}": tensor for name, tensor in loop.best_head.items()}
    for place, values in loop.optimizer.state_dict()["state"].items():
        found |= {f"optimizer:{place} {name}": tensor for name, tensor in values.items()}
    return found


def _facts_of(loop: Loop) -> dict[str, Any]:
    return {name: getattr(loop, name) for name in (*loop.progress, "is_over")}


@torch.no_grad()
def _set(loop: Loop, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    for kind, own in (
        ("now", trained_tensors(loop.module)),
        ("head", dict(loop.objective.head.named_parameters())),
    ):
        for name, tensor in under(kind, tensors).items():
            own[name].copy_(tensor)
    loop.best = {n: t.to(loop.device) for n, t in under("best", tensors).items()}
    loop.best_head = {n: t.to(loop.device) for n, t in under("best head", tensors).items()}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in under("optimizer", tensors).items():
        place, name = key.split(" ")
        state.setdefault(int(place), {})[name] = tensor
    groups = loop.optimizer.state_dict()["param_groups"]
    loop.optimizer.load_state_dict({"state": state, "param_groups": groups})
    for name in loop.progress:
        setattr(loop, name, facts[name])


def _is_left(path: Path) -> bool:
    """Return whether another run has left a training unfinished."""
    try:
        facts = facts_in(path)
    except (OSError, ValueError):
        return False
    return not facts["is_over"] and facts["run"] != str(run_folder())
