"""Writes the pages of the API reference: one for each public name, and an index of them.

Public is what stands in `__all__` of the package and of its subpackages, so that a new name has a
page without a word here; SECTIONS only say where it stands in the index.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import skembed

__all__ = ["find_public", "write_pages"]

# Of these subpackages, and of these names, skembed itself is the only user.
HOUSE = {"acceleration", "columns", "engine", "modules", "store", "weights"}
HOUSE_NAMES = {
    "skembed.serving.is_loopback",
    "skembed.serving.name_of",
    "skembed.training.check_pairs",
}
# Of training strategies and stores, what embedders ask them; of embedders, what scikit-learn
# describes.
HOUSE_MEMBERS = {
    *("check", "decides", "deciding", "settled"),
    *("claim", "get_large", "in_turn", "put_large", "release", "wait"),
    *("get_params", "set_params"),
}

ERRORS, ERRORS_TITLE = "skembed.exceptions", "Errors and warnings"

# Title, what stands below it, and patterns of names without "skembed.": a name is in the first
# section that has a pattern for it, in the order of the patterns.
SECTIONS = [
    (
        "Embedders",
        "Rows in, vectors out.",
        "TextEmbedder ImageEmbedder AudioEmbedder TabularEmbedder FunctionEmbedder list_models "
        "ModelInfo unload_models",
    ),
    (
        "Training",
        "Values of an embedder's parameter `training`, and what they leave behind.",
        "FineTune Contrastive SelfSupervised InContext WordWeights Train* training.*",
    ),
    (
        "Stored vectors and reports",
        "The store behind `cache`, and what `report_` says.",
        "EmbeddingStore store.* *.EmbeddingReport *Report",
    ),
    (
        "Seeing, choosing, searching",
        "Maps of vectors, embedders side by side, and neighbours.",
        "EmbeddingMapDisplay inspection.* *.compare_embedders model_selection.* neighbors.*",
    ),
    (
        "Your own embedder",
        "What a class of your own is made of, and what checks it.",
        "BaseEmbedder Encoder BatchPolicy Prepared Fault testing.check_embedder testing.*",
    ),
    ("Serving", "A server that speaks OpenAI's protocol.", "serving.*"),
    (ERRORS_TITLE, "Each error is also the built-in that you would catch.", "exceptions.*"),
    ("More", "", "*"),
]


def find_public() -> dict[str, Any]:
    """Return what is public by its shortest name, in the order of the modules' `__all__`."""
    names = [info.name for info in pkgutil.iter_modules(skembed.__path__)]
    modules = ["skembed", *(f"skembed.{each}" for each in names if each[0] != "_")]
    found = {"skembed.store.StoreInfo": skembed.store.StoreInfo}  # what a store's `info` returns
    for module in modules:
        if module.rpartition(".")[2] in HOUSE:
            continue
        for name in import_module(module).__all__:
            value, full_name = getattr(import_module(module), name), f"{module}.{name}"
            is_of_house = full_name in HOUSE_NAMES or (
                module == ERRORS and not inspect.isclass(value)
            )
            is_new = not any(value is each for each in found.values())
            if is_new and callable(value) and not is_of_house:
                found[full_name] = value
    return found


def own_members(kind: type) -> list[str]:
    """Return the public methods and properties of a class that skembed wrote, the main ones first.

    Properties in lists of attributes are described there.
    """
    first = ["fit", "fit_transform", "partial_fit", "transform"]
    kinds = [each for each in kind.__mro__ if each.__module__.startswith("skembed")]
    text = "\n".join(inspect.getdoc(each) or "" for each in kinds)
    found = {
        name
        for each in kinds
        for name, value in vars(each).items()
        if name[0] != "_" and _is_described(value, name, text)
    }
    return [name for name in first if name in found] + sorted(found - {*first})


def _is_described(value: Any, name: str, text: str) -> bool:
    if isinstance(value, property):
        return re.search(rf"^\w*(, )?{name}\b.* :", text, re.MULTILINE) is None
    is_method = inspect.isfunction(value) or isinstance(value, (classmethod, staticmethod))
    return is_method and name not in HOUSE_MEMBERS


def describe(full_name: str, value: Any) -> list[str]:
    """Return the directives that describe a name."""
    module, _, name = full_name.rpartition(".")
    lines = [f".. currentmodule:: {module}", ""]
    if not inspect.isclass(value):
        return [*lines, f".. autofunction:: {name}", ""]
    lines += [f".. autoclass:: {name}"]
    lines += ["   :show-inheritance:"] * issubclass(value, (Exception, Warning)) + [""]
    for member in own_members(value):
        is_property = isinstance(inspect.getattr_static(value, member), property)
        lines += [f"   .. auto{'property' if is_property else 'method'}:: {member}"]
    return [*lines, ""]


def heading(title: str, line: str, text: str = "") -> list[str]:
    """Return a title with a line below it, and a text."""
    return [title, line * len(title), "", *([text, ""] if text else [])]


def pages_of(public: dict[str, Any]) -> dict[str, str]:
    """Return the page of each name, and one for all errors and warnings."""
    pages = {ERRORS: heading(ERRORS_TITLE, "=", f".. automodule:: {ERRORS}")}
    for name, value in public.items():
        if name.startswith(f"{ERRORS}."):
            pages[ERRORS] += describe(name, value)
        else:
            pages[name] = heading(name.rpartition(".")[2], "=") + describe(name, value)
            pages[name] += [f".. minigallery:: {name}", "   :add-heading: Examples"]
            pages[name] += ["   :heading-level: -", ""]
    return {name: "\n".join(lines) for name, lines in pages.items()}


def place_of(full_name: str) -> tuple[int, int]:
    """Return the section of a name, and its place there."""
    return next(
        (section, place)
        for section, (*_, patterns) in enumerate(SECTIONS)
        for place, pattern in enumerate(patterns.split())
        if fnmatchcase(full_name, f"skembed.{pattern}")
    )


def index_of(public: dict[str, Any]) -> str:
    """Return the page that leads to all others."""
    lines = heading("API reference", "=")
    for section, (title, text, _) in enumerate(SECTIONS):
        names = sorted((n for n in public if place_of(n)[0] == section), key=place_of)
        if not names:
            continue
        lines += heading(title, "-", text)
        entries = [*(f"   {name}" for name in names), ""]
        lines += [".. autosummary::", "   :nosignatures:", "", *entries]
        lines += [".. toctree::", "   :hidden:", f"   :caption: {title}", ""]
        lines += [f"   {ERRORS}", ""] if title == ERRORS_TITLE else entries
    return "\n".join(lines)


def write_pages(folder: Path) -> None:
    """Write the pages into a folder; those that have not changed stay as they are."""
    public = find_public()
    pages = pages_of(public)
    pages["index"] = index_of(public)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
