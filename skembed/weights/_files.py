"""What the files in a model folder are for, judged by their names and headers.

Owns the conventions of transformers and sentence-transformers folders: which files a model is read
from, which hold weights, what is missing. Must not load anything or know where folders come from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from skembed.exceptions import UnsupportedModelError

__all__ = [
    "check_header",
    "describe_folder",
    "find_weights",
    "is_model_folder",
    "missing_part",
    "model_files",
    "read_json",
    "read_modules",
    "wanted_files",
]

# Code is fetched and digested with the rest, and runs only where the user allows it by name.
_TEXT_KINDS = {".json", ".txt", ".model", ".spm", ".tiktoken", ".codes", ".bpe", ".py"}
_WEIGHT_KINDS = {".safetensors", ".bin", ".pt", ".pth"}
_KINDS = _TEXT_KINDS | _WEIGHT_KINDS
_FOREIGN_FOLDERS = {"onnx", "openvino", "tf", "flax", "coreml", "gguf", "__pycache__"}
# One file, or the index of several; the first that is there.
_FORMATS = [(name, f"{name}.index.json") for name in ("model.safetensors", "pytorch_model.bin")]
# Modules of sentence-transformers by what is read of their folders.
_HAVE_WEIGHTS = {"Transformer", "StaticEmbedding", "Dense", "LayerNorm"}
_HAVE_CONFIG = {"Transformer", "Pooling", "Dense", "LayerNorm"}
_N_LISTED = 20


def is_model_folder(folder: Path) -> bool:
    """Return whether the folder says what model it holds."""
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()


def describe_folder(folder: Path) -> str:
    """Name what a folder holds, for a message."""
    try:
        names = sorted(
            p.name + ("/" if p.is_dir() else "" if p.exists() else " (a broken link)")
            for p in folder.iterdir()
        )
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    more = f" and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else ""
    if "adapter_config.json" in names and "config.json" not in names:
        more += ", a LoRA adapter: merge it into its base model (peft's `merge_and_unload`) first"
    return f"it holds {', '.join(names[:_N_LISTED])}{more}" if names else "it is empty"


def model_files(folder: Path) -> list[str]:
    """Return the files that a model may be read from, relative, sorted, with forward slashes."""
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that leads back, or a second one
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(_is_ours_folder, folders))
        place = os.path.relpath(here, folder).replace(os.sep, "/") + "/"
        found += [place.removeprefix("./") + name for name in files if _is_ours_file(name)]
    return sorted(found)


def wanted_files(names: Iterable[str]) -> list[str]:
    """Choose what to download of a repository's files; [] if it has no weights that we read."""
    folders: dict[str, set[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if _is_ours_file(path.name) and all(map(_is_ours_folder, path.parent.parts)):
            folders.setdefault(str(path.parent), set()).add(path.name)
    chosen, has_weights = [], False
    for folder, files in folders.items():
        weights = _weight_names(files)
        has_weights = has_weights or bool(weights)
        kept = {name for name in files if PurePosixPath(name).suffix in _TEXT_KINDS} | weights
        chosen += [str(PurePosixPath(folder) / name) for name in kept]
    return sorted(chosen) if has_weights else []


def find_weights(folder: Path) -> list[Path]:
    """Return the weight files that a transformers folder is read from, whole and present."""
    for single, index in _FORMATS:
        if (folder / single).is_file():
            files = [folder / single]
        elif (folder / index).is_file():
            files = _read_index(folder / index)
        else:
            continue
        for path in files:
            check_header(path)
        return files
    advice = "Save the model as safetensors (`model.save_pretrained(folder)`)."
    if (folder / "adapter_config.json").is_file():
        advice = "It is a LoRA adapter, not a whole model: merge it into its base model first."
    raise UnsupportedModelError(
        f"{folder} holds no weights that skembed reads: expected "
        f"{' or '.join(single for single, _ in _FORMATS)}, whole or in shards with an index; "
        f"{describe_folder(folder)}. {advice}"
    )


def missing_part(folder: Path) -> str | None:
    """Say what a model folder lacks to be loaded; None if it seems complete."""
    if not is_model_folder(folder):
        return f"neither config.json nor modules.json; {describe_folder(folder)}"
    try:
        if not (folder / "modules.json").is_file():
            find_weights(folder)
            return None
        for module, part in read_modules(folder):
            kind = module.rpartition(".")[2]
            if kind in _HAVE_WEIGHTS:
                find_weights(part)
            if kind in _HAVE_CONFIG and not (part / "config.json").is_file():
                return f"{part.relative_to(folder) / 'config.json'} is missing"
            if kind != "Normalize" and not part.is_dir():
                return f"the folder {part.relative_to(folder)} of a {kind} module is missing"
    except UnsupportedModelError as error:
        return str(error)
    return None


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return full type and folder of each module in the `modules.json` of sentence-transformers."""
    listing = folder / "modules.json"
    with _naming_damage(listing):
        rows = json.loads(listing.read_text(encoding="utf-8"))
        modules = [(row["type"], row.get("path", "")) for row in rows]
        are_texts = all(isinstance(each, str) for row in modules for each in row)
        if not are_texts or not isinstance(rows, list):
            raise TypeError("it is not a list of modules, each with a type and a path")
    for _, place in modules:
        fault = "where skembed reads no files"
        if not _is_inside(place):
            fault = "which leads out of the folder"
        elif all(map(_is_ours_folder, _parts(place))):
            fault = ""
        if fault:
            raise UnsupportedModelError(
                f"{listing} puts a module into {place!r}, {fault}. Rename the module's folder."
            )
    return [(kind, folder / place) for kind, place in modules]


def read_json(path: Path) -> Any:
    """Return what a JSON file of a model folder holds, or raise an UnsupportedModelError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(f"{path} cannot be read as JSON: {error}") from None


def _is_ours_folder(name: str) -> bool:
    return not (
        name.startswith(".")
        or name.lower() in _FOREIGN_FOLDERS
        or re.fullmatch(r"checkpoint-\d+", name, re.IGNORECASE)
    )


def _is_ours_file(name: str) -> bool:
    is_hidden = name.startswith(".") or name.upper().startswith("README")
    return not is_hidden and os.path.splitext(name)[1].lower() in _KINDS  # noqa: PTH122  (fast)


def _weight_names(files: Collection[str]) -> set[str]:
    """Choose the weight files among those of one folder."""
    for single, index in _FORMATS:
        if single in files:
            return {single}
        if index in files:
            stem, _, suffix = single.partition(".")
            shards = {name for name in files if re.fullmatch(rf"{stem}-.*\.{suffix}", name)}
            return shards or {name for name in files if name.endswith(suffix)}
    return set()


def _is_inside(name: str) -> bool:
    is_absolute = PurePosixPath(name.replace("\\", "/")).is_absolute()
    return not is_absolute and ".." not in _parts(name) and ":" not in name


def _parts(name: str) -> tuple[str, ...]:
    """Split a path of either system."""
    return PurePosixPath(name.replace("\\", "/")).parts


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnsupportedModelError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _read_index(index: Path) -> list[Path]:
    """Return the shards that an index names, all present."""
    with _naming_damage(index):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(map(_is_inside, names)):
            raise ValueError("its shards must be files of the same folder")
    lacking = [name for name in names if not (index.parent / name).is_file()]
    if lacking:
        raise UnsupportedModelError(
            f"{index} names {len(names)} weight files, of which {len(lacking)} are missing: "
            f"{', '.join(lacking[:_N_LISTED])}. Download the model again."
        )
    return [index.parent / name for name in names]


def check_header(path: Path) -> None:
    """Refuse what is no weight file, or is cut short; reads only the header."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        if file.read(64).startswith(b"version https://git-lfs"):
            raise UnsupportedModelError(
                f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in the folder."
            )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy", backend="pread"):
                pass
        except (SafetensorError, OSError) as error:
            raise UnsupportedModelError(
                f"{path} is damaged: {error}. Download the model again."
            ) from None
