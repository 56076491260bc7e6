"""Models on the Hugging Face hub: its local cache first, then the network.

Owns every call to huggingface_hub and what its failures mean. Token, cache folder, endpoint and
offline mode are huggingface_hub's own settings. Must not know folders given by the user, or
packages.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skembed.exceptions import SkembedWarning, UnsupportedModelError, warn_user
from skembed.weights._files import missing_part, wanted_files

__all__ = [
    "Outcome",
    "cached_models",
    "complete_cached",
    "download",
    "fetch_file",
    "find_cached",
    "is_offline",
    "why_not_an_id",
]

# Weights are judged by `missing_part`: caches rarely hold every file of a repository.
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

# Undecided snapshots that are used as they are: the hub is not asked again in this process.
_guessed: set[Path] = set()


@dataclass(frozen=True)
class Outcome:
    """What came of looking for a model in one place, and why, for messages."""

    place: str
    result: str
    folder: Path | None = None
    error: Exception | None = None
    is_unreachable: bool = False  # asking the hub again is of no use
    # Its repository may have a modules.json, which other libraries do not fetch.
    is_undecided: bool = False
    advice: str = ""


def is_offline() -> bool:
    """Return whether huggingface_hub was told to use no network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_models() -> list[str]:
    """Return the ids of the models in the hub's local cache, for suggestions."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    return [each.name.removeprefix("models--").replace("--", "/") for each in folders]


def why_not_an_id(name: str) -> str | None:
    """Say why a name cannot be the id of a model on the hub; None if it can."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return _first_line(error).rstrip(".")
    return None


def find_cached(
    model: str, revision: str | None, is_whole: Callable[[Path], bool] | None = None
) -> Outcome:
    """Look for a complete snapshot in the hub's local cache; `is_whole` as in `resolve_model`."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    place = f"hub cache {constants.HF_HUB_CACHE}, {_spell(model, revision)}"
    try:
        found = snapshot_download(
            model, revision=revision, local_files_only=True, allow_patterns=_ESSENTIAL
        )
    except LocalEntryNotFoundError as error:
        partial = getattr(error, "snapshot_path", None)  # of a subclass in newer versions
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


def complete_cached(model: str, revision: str | None, cached: Outcome, warns: bool) -> Outcome:
    """Fetch what an undecided snapshot may lack; where that fails, take it as it is and warn."""
    folder = cached.folder
    if folder is None or folder in _guessed:
        return cached
    # Its own commit, not the newest: the same name keeps giving the same vectors.
    fetched = download(model, folder.name)
    if fetched.folder is not None:
        return fetched
    lacking = missing_part(folder)  # modules.json may have come, and not all that it names
    if lacking:
        return Outcome(cached.place, f"the snapshot {folder.name} is incomplete: {lacking}")
    if warns:
        option = "" if revision is None else f" --revision {revision}"
        warn_user(
            f"The snapshot {folder.name} of {model!r} in the hub's cache has no {_MODULES} "
            f"({fetched.place}: {fetched.result}): pooling and normalize are guessed. Complete it "
            f"with `hf download {model}{option}`, or set both and ignore this warning.",
            SkembedWarning,
        )
    _guessed.add(folder)
    return cached


def download(model: str, revision: str | None) -> Outcome:
    """Fetch what is needed of a model from the hub, unless it has nothing that skembed reads."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    if is_offline():
        return Outcome("hub", "not asked: offline mode is on (HF_HUB_OFFLINE)", is_unreachable=True)
    place = f"hub {constants.ENDPOINT}, {_spell(model, revision)}"
    try:
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        info = HfApi(library_name="skembed").model_info(model, revision=revision, timeout=timeout)
        names = [sibling.rfilename for sibling in info.siblings or ()]
        wanted = wanted_files(names)
        _check_offer(model, names, wanted)
        options: Any = {"revision": revision, "library_name": "skembed"}
        folder = Path(snapshot_download(model, allow_patterns=wanted, **options))
        if not (folder / _MODULES).is_file():  # let the cache know whether there is one
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(model, _MODULES, revision=folder.name, library_name="skembed")
    except UnsupportedModelError:
        raise
    except Exception as error:  # those of the network stack differ by version and transport
        result, is_unreachable = _explain(model, revision, error)
        return Outcome(place, result, error=error, is_unreachable=is_unreachable)
    lacking = missing_part(folder)
    if lacking:
        return Outcome(place, f"the download is incomplete: {lacking}")
    return Outcome(place, "found", folder=folder)


def fetch_file(model: str, name: str) -> Outcome:
    """Look for one file of a model in the hub's cache, then on the hub; its path is the folder."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(model, name)
    if isinstance(cached, str):
        return Outcome("hub cache", "found", folder=Path(cached))
    if is_offline():
        return Outcome("hub", "not asked: offline mode is on (HF_HUB_OFFLINE)", is_unreachable=True)
    place = f"hub {constants.ENDPOINT}, {model!r}"
    try:
        path = Path(hf_hub_download(model, name, library_name="skembed"))
    except Exception as error:  # those of the network stack differ by version and transport
        result, is_unreachable = _explain(model, None, error)
        return Outcome(place, result, error=error, is_unreachable=is_unreachable)
    return Outcome(place, "found", folder=path)


def _has_no_modules(model: str, commit: str) -> bool:
    """Return whether the cache knows that a repository has no modules.json at a commit."""
    import huggingface_hub

    known = huggingface_hub.try_to_load_from_cache(model, _MODULES, revision=commit)
    if known is huggingface_hub._CACHED_NO_EXIST:
        return True
    try:  # older versions keep no lists of a repository's files
        files = huggingface_hub.get_cached_repo_tree(model, revision=commit)
        return _MODULES not in {file.path for file in files}
    except Exception:  # there is no list; the error differs by version
        return False


def _spell(model: str, revision: str | None) -> str:
    return f"{model!r}" if revision is None else f"{model!r} at {revision!r}"


def _check_offer(model: str, names: list[str], wanted: list[str]) -> None:
    fault = "with neither config.json nor modules.json that would say what model it is"
    if not wanted:
        seen = sorted(name for name in names if re.search(r"\.(?!md$|json$|txt$)\w+$", name))
        has = ", ".join(seen[:20]) or "none"
        fault = f"without model.safetensors or pytorch_model.bin; it has {has}"
    if not {"config.json", "modules.json"} & set(wanted):
        raise UnsupportedModelError(f"The hub has {model!r}, but {fault}.")


def _explain(model: str, revision: str | None, error: Exception) -> tuple[str, bool]:
    """Say what a failure of huggingface_hub means, and whether the hub could not be reached."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
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
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return "HTTP 401: the token is refused; log in again (`hf auth login`)", False
        return f"HTTP {status}: {_first_line(error)}", False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        return f"the download cannot be written ({error})", False
    return f"could not be reached ({type(error).__name__}: {_first_line(error)})", True


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or "no reason given"
