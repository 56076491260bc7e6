"""Models of the Hugging Face hub: its local cache first, then the network.

Owns every call to huggingface_hub and what its failures mean. Token, cache folder, endpoint and
offline mode are huggingface_hub's own settings. Must not know folders given by the user, nor
packages.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skembed.exceptions import SkembedWarning, UnsupportedModelError, warn_user
from skembed.weights._files import missing_part, wanted_files
from skembed.weights._remember import read_fact, write_fact

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["Outcome", "complete_cached", "download", "find_cached", "is_offline", "why_not_an_id"]

# Judged by huggingface_hub where it knows the list of the repository's files; weights are judged
# by `missing_part`, as caches filled by other libraries rarely hold every file of a repository.
_ESSENTIAL = [
    "config.json",
    "modules.json",
    "[0-9]_*/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
]

_MODULES = "modules.json"
_NO_MODULES = "hub-without-modules"  # the namespace of the fact

_MAX_ID = 96

# Undecided snapshots that the user was warned of: the hub is not asked again in this process.
_guessed: set[Path] = set()


@dataclass(frozen=True)
class Outcome:
    """What came of looking for a model in one place.

    Parameters
    ----------
    place : str
        Where it was looked for.
    result : str
        What was found, for a message.
    folder : Path, optional
        The model's folder, if it was found.
    error : Exception, optional
        The cause, if there was one.
    is_unreachable : bool
        Whether the hub could not be asked, so that asking again is of no use.
    is_undecided : bool
        Whether the folder has no modules.json though its repository may have one: other libraries
        fetch configuration, tokenizer and weights alone, and nothing then tells how to pool.
    advice : str
        What to do about it, where that follows from what was found here.
    """

    place: str
    result: str
    folder: Path | None = None
    error: Exception | None = None
    is_unreachable: bool = False
    is_undecided: bool = False
    advice: str = ""


def is_offline() -> bool:
    """Return whether huggingface_hub was told to use no network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def why_not_an_id(name: str) -> str | None:
    """Say why a name cannot be the id of a model on the hub; None if it can."""
    if name.count("/") > 1:
        return "it has more than one '/', where 'owner/name' has one"
    if len(name) > _MAX_ID:
        return f"it has {len(name)} characters, where {_MAX_ID} are allowed"
    if not re.fullmatch(r"(\w([\w.-]*\w)?/)?\w([\w.-]*\w)?", name, re.ASCII):
        return (
            "'owner/name' is of letters, digits, '_', '-' and '.', and neither part begins or "
            "ends with the last two"
        )
    if "--" in name or ".." in name or name.endswith(".git"):
        return "'--', '..' and a final '.git' are not allowed"
    return None


def find_cached(
    model: str, revision: str | None, is_whole: Callable[[Path], bool] | None = None
) -> Outcome:
    """Look for a complete snapshot in the hub's local cache; uses no network.

    `is_whole` as in `resolve_model`.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    place = f"hub cache {constants.HF_HUB_CACHE}, {_spell(model, revision)}"
    try:
        found = snapshot_download(
            model, revision=revision, local_files_only=True, allow_patterns=_ESSENTIAL
        )
    except LocalEntryNotFoundError as error:
        # IncompleteSnapshotError, a subclass that older versions lack, knows the snapshot.
        partial = getattr(error, "snapshot_path", None)
        result = f"the snapshot {Path(partial).name} is incomplete" if partial else "not there"
        return Outcome(place, result, error=error)
    except (OSError, ValueError) as error:
        return Outcome(place, f"it cannot be read ({error})", error=error)
    folder = Path(found)
    lacking = missing_part(folder)
    if lacking:
        return Outcome(place, f"the snapshot {folder.name} is incomplete: {lacking}")
    is_decided = (folder / _MODULES).is_file() or (is_whole is not None and is_whole(folder))
    if is_decided or _has_no_modules(model, folder.name):
        return Outcome(place, "found", folder=folder)
    result = f"the snapshot {folder.name} may lack {_MODULES}"
    return Outcome(place, result, folder=folder, is_undecided=True)


def complete_cached(
    model: str,
    revision: str | None,
    cached: Outcome,
    is_whole: Callable[[Path], bool] | None = None,
) -> Outcome:
    """Fetch what an undecided snapshot may lack; where that fails, take it as it is and warn.

    `is_whole` as in `resolve_model`: who gives it says what is missing.
    """
    folder = cached.folder
    if folder is None or folder in _guessed:
        return cached
    reason = "the hub is not asked: offline mode is on"
    if not is_offline():
        # Its own commit, not the newest: the same name keeps giving the same vectors.
        fetched = download(model, folder.name)
        if fetched.folder is not None:
            return fetched
        now = find_cached(model, revision, is_whole)
        if not now.is_undecided:  # modules.json came, and perhaps not all that it names
            return now
        reason = f"{fetched.place}: {fetched.result}"
    if is_whole is not None:
        return cached
    option = "" if revision is None else f" --revision {revision}"
    warn_user(
        f"The snapshot {folder.name} of {model!r} in the hub's cache has no {_MODULES}, and "
        f"nothing tells whether the repository has one ({reason}). If it does, pooling and "
        "normalisation are guessed here, and vectors differ from the model's own. Complete the "
        f"snapshot with `hf download {model}{option}`, or set pooling and normalize and ignore "
        "this warning.",
        SkembedWarning,
    )
    _guessed.add(folder)
    return cached


def download(model: str, revision: str | None) -> Outcome:
    """Fetch what is needed of a model from the hub.

    Raises
    ------
    UnsupportedModelError
        The hub has the model, but not in a form that skembed reads.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    place = f"hub {constants.ENDPOINT}, {_spell(model, revision)}"
    try:
        info = HfApi(library_name="skembed").model_info(
            model, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        names = [sibling.rfilename for sibling in info.siblings or ()]
        wanted = wanted_files(names)
        _check_offer(model, names, wanted)
        # The revision as the user spelled it: the cache then knows it by that name.
        found = snapshot_download(
            model, revision=revision, allow_patterns=wanted, library_name="skembed"
        )
    except UnsupportedModelError:
        raise
    except Exception as error:
        # Whatever the network stack raises (its exceptions differ by version and transport) is
        # reported with the other places and chained to the final error.
        result, is_unreachable = _explain(model, revision, error)
        return Outcome(place, result, error=error, is_unreachable=is_unreachable)
    folder = Path(found)
    lacking = missing_part(folder)
    if lacking:
        return Outcome(place, f"the download is incomplete: {lacking}")
    # A branch may have moved on between the two requests.
    if _MODULES not in names and info.sha == folder.name:
        write_fact(_NO_MODULES, json.dumps([model, folder.name]), "true")
    return Outcome(place, "found", folder=folder)


def _has_no_modules(model: str, commit: str) -> bool:
    """Return whether it is known that a repository has no modules.json at a commit."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    if try_to_load_from_cache(model, _MODULES, revision=commit) is _CACHED_NO_EXIST:
        return True
    if read_fact(_NO_MODULES, json.dumps([model, commit])) is not None:
        return True
    listed = _listed_files(model, commit)
    return listed is not None and _MODULES not in listed


def _listed_files(model: str, commit: str) -> set[str] | None:
    """Return the files of a repository from the list in the hub's cache, if there is one."""
    import huggingface_hub

    # Versions that have no such function keep no lists.
    get_tree = getattr(huggingface_hub, "get_cached_repo_tree", None)
    if get_tree is None:
        return None
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path for file in get_tree(model, revision=commit)}
    except CachedRepoTreeNotFoundError:
        return None


def _spell(model: str, revision: str | None) -> str:
    return f"{model!r}" if revision is None else f"{model!r} at {revision!r}"


def _check_offer(model: str, names: list[str], wanted: list[str]) -> None:
    if not wanted:
        seen = sorted(name for name in names if re.search(r"\.(?!md$|json$|txt$)\w+$", name))
        listed = ", ".join(seen[:20]) or "no weights"
        raise UnsupportedModelError(
            f"The hub has {model!r}, but without weights that skembed reads (model.safetensors or "
            f"pytorch_model.bin, whole or in shards); it has {listed}."
        )
    if not {"config.json", "modules.json"} & set(wanted):
        raise UnsupportedModelError(
            f"The hub has {model!r}, but with neither config.json nor modules.json that would say "
            "what model it is."
        )


def _explain(model: str, revision: str | None, error: Exception) -> tuple[str, bool]:
    """Say what a failure of huggingface_hub means, and whether the hub could not be reached."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{model}"
        return f"gated: ask for access at {page}, then log in (`hf auth login` or HF_TOKEN)", False
    if isinstance(error, RepositoryNotFoundError):
        return "no such model, or a private one that needs a login (`hf auth login`)", False
    if isinstance(error, RevisionNotFoundError):
        return f"the model has no revision {revision!r}", False
    if isinstance(error, OfflineModeIsEnabled):
        return "not asked: offline mode is on", True
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error), False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        return f"the download cannot be written ({error})", False
    return f"could not be reached ({type(error).__name__}: {_first_line(error)})", True


def _explain_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    meaning = {
        401: "the token is refused; log in again (`hf auth login` or HF_TOKEN)",
        403: "access is forbidden to this login",
        404: "no such model or file",
        429: "too many requests; wait, or log in",
    }.get(status, "the hub is out of order" if status >= 500 else _first_line(error))
    return f"HTTP {status}: {meaning}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or "no reason given"
