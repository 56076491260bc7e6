"""What the files of a model folder are for, told by their names and headers.

Owns the conventions of transformers and sentence-transformers folders: which files a model is read
from, which hold weights, what is missing. Must not load anything, nor know where folders come from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
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
    "wanted_files",
]

# Code is fetched and digested with the rest, and runs only where the user allows it by name.
_TEXT_KINDS = {".json", ".txt", ".model", ".spm", ".tiktoken", ".codes", ".bpe", ".py"}
_WEIGHT_KINDS = {".safetensors", ".bin", ".pt", ".pth"}
_FOREIGN_FOLDERS = {"onnx", "openvino", "tf", "flax", "coreml", "gguf", "__pycache__"}
_FOREIGN = {
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".gguf": "GGUF",
    ".ot": "Rust",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".tflite": "TensorFlow Lite",
}
_SINGLE_SAFE, _INDEX_SAFE = "model.safetensors", "model.safetensors.index.json"
_SINGLE_BIN, _INDEX_BIN = "pytorch_model.bin", "pytorch_model.bin.index.json"
_N_LISTED = 20
_MAX_HEADER = 100_000_000  # the limit of the safetensors format


def is_model_folder(folder: Path) -> bool:
    """Return whether the folder says what model it holds."""
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()


def describe_folder(folder: Path) -> str:
    """Name what a folder holds, for a message."""
    try:
        names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    more = f" and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else ""
    return f"it holds {', '.join(names[:_N_LISTED])}{more}" if names else "it is empty"


def model_files(folder: Path) -> list[str]:
    """Return the files that a model may be read from, relative, sorted, with forward slashes."""
    return sorted(name for name in _walk(folder) if _is_ours(PurePosixPath(name)))


def wanted_files(names: Iterable[str]) -> list[str]:
    """Choose what to download of a repository's files; [] if it has no weights that we read.

    Per folder, the weights are taken once: safetensors if there are any, else PyTorch's.
    """
    folders: dict[str, set[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if _is_ours(path):
            folders.setdefault(str(path.parent), set()).add(path.name)
    chosen, has_weights = [], False
    for folder, files in folders.items():
        weights = _weight_names(files)
        has_weights = has_weights or bool(weights)
        kept = {name for name in files if PurePosixPath(name).suffix in _TEXT_KINDS} | weights
        chosen += [str(PurePosixPath(folder) / name) for name in kept]
    return sorted(chosen) if has_weights else []


def find_weights(folder: Path) -> list[Path]:
    """Return the weight files that a transformers folder is read from, whole and present.

    Raises
    ------
    UnsupportedModelError
        There are none, or some are missing or damaged; the message says which and what is there.
    """
    for single, index in ((_SINGLE_SAFE, _INDEX_SAFE), (_SINGLE_BIN, _INDEX_BIN)):
        if (folder / single).is_file():
            files = [folder / single]
        elif (folder / index).is_file():
            files = _read_index(folder / index)
        else:
            continue
        for path in files:
            check_header(path)
        return files
    raise UnsupportedModelError(
        f"{folder} holds no weights that skembed reads: expected {_SINGLE_SAFE} or {_SINGLE_BIN}, "
        f"whole or in shards with an index; {_foreign(folder)}{describe_folder(folder)}. "
        "Save the model as safetensors (`model.save_pretrained(folder)`)."
    )


def missing_part(folder: Path) -> str | None:
    """Say what a model folder lacks to be loaded; None if it seems complete."""
    if not is_model_folder(folder):
        return f"neither config.json nor modules.json; {describe_folder(folder)}"
    try:
        if not (folder / "modules.json").is_file():
            find_weights(folder)
            return None
        for kind, part in _modules(folder):
            if kind in {"Transformer", "StaticEmbedding", "Dense"}:
                find_weights(part)
            if kind in {"Transformer", "Pooling", "Dense"} and not (part / "config.json").is_file():
                old_name = part / "sentence_bert_config.json"
                if kind != "Transformer" or not old_name.is_file():
                    return f"{part.relative_to(folder) / 'config.json'} is missing"
            elif kind != "Normalize" and not part.is_dir():
                return f"the folder {part.relative_to(folder)} of a {kind} module is missing"
    except UnsupportedModelError as error:
        return str(error)
    return None


def _walk(folder: Path) -> Iterator[str]:
    """Yield the visible files below a folder; links to folders are followed, loops are not."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = Path(root).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        here = Path(root).relative_to(folder)
        folders[:] = [f for f in folders if _is_ours_folder(f)]
        yield from ((here / name).as_posix() for name in files)


def _is_ours_folder(name: str) -> bool:
    return not (
        name.startswith(".")
        or name.lower() in _FOREIGN_FOLDERS
        or re.fullmatch(r"checkpoint-\d+", name)
    )


def _is_ours(path: PurePosixPath) -> bool:
    is_kind = path.suffix.lower() in _TEXT_KINDS | _WEIGHT_KINDS
    is_hidden = path.name.startswith(".") or path.name.upper().startswith("README")
    return is_kind and not is_hidden and all(map(_is_ours_folder, path.parent.parts))


def _weight_names(files: Collection[str]) -> set[str]:
    """Choose the weight files among those of one folder."""
    rules = (
        (_SINGLE_SAFE, _INDEX_SAFE, r"model-.*\.safetensors", ".safetensors"),
        (_SINGLE_BIN, _INDEX_BIN, r"pytorch_model-.*\.bin", ".bin"),
    )
    for single, index, shard, suffix in rules:
        if single in files:
            return {single}
        if index in files:
            shards = {name for name in files if re.fullmatch(shard, name)}
            return shards or {name for name in files if name.endswith(suffix)}
    return set()


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Read modules.json of sentence-transformers: the type and folder of each module."""
    try:
        rows = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules = [(row["type"].rpartition(".")[2], row["path"]) for row in rows]
        if not all(_is_inside(path) for _, path in modules):
            raise ValueError("a module's path leads out of the folder")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnsupportedModelError(
            f"{folder / 'modules.json'} is damaged: {type(error).__name__}: {error}."
        ) from error
    return [(kind, folder / path) for kind, path in modules]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and ":" not in name


def _read_index(index: Path) -> list[Path]:
    """Return the shards that an index names, all present."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(_is_inside(name) for name in names):
            raise ValueError("its shards must be files of the same folder")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnsupportedModelError(
            f"{index} is damaged: {type(error).__name__}: {error}."
        ) from error
    lacking = [name for name in names if not (index.parent / name).is_file()]
    if lacking:
        raise UnsupportedModelError(
            f"{index} names {len(names)} weight files, of which {len(lacking)} are missing: "
            f"{', '.join(lacking[:_N_LISTED])}. Download the model again."
        )
    return [index.parent / name for name in names]


def check_header(path: Path) -> None:
    """Refuse what is no weight file, or is cut short; reads only the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise UnsupportedModelError(
                f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in the folder."
            )
        if path.suffix != ".safetensors":
            return
        length = int.from_bytes(start[:8], "little")
        file.seek(8)
        header = file.read(length) if 0 < length <= min(_MAX_HEADER, size - 8) else b""
    try:
        tensors: dict[str, Any] = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UnsupportedModelError(
            f"{path} is damaged: it has no safetensors header. Download the model again."
        ) from error
    if size != 8 + length + end:
        raise UnsupportedModelError(
            f"{path} is damaged: {size} bytes where its header tells of {8 + length + end}. "
            "Download the model again."
        )


def _foreign(folder: Path) -> str:
    """Say which other frameworks' weights a folder holds."""
    if (folder / "adapter_config.json").is_file():
        return "it is a LoRA adapter, not a whole model: merge it into its base model first; "
    found: dict[str, str] = {}
    for name in ("", "onnx", "openvino"):
        for path in sorted((folder / name).glob("*")):
            framework = _FOREIGN.get(path.suffix)
            if path.name.startswith("openvino_"):
                framework = "OpenVINO"
            if framework:
                found.setdefault(framework, path.relative_to(folder).as_posix())
    listed = ", ".join(f"{framework} ({path})" for framework, path in found.items())
    return f"only weights for {listed} are there, which are not read; " if found else ""
