"""What is served: a model by name, or an embedder or pipeline that was saved.

A file is never unpickled, and runs no code that came with it, unless that is asked for by name.
Knows files and estimators, not how they are served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

from skembed._base import BaseEmbedder
from skembed._optional import import_optional
from skembed.exceptions import (
    InvalidParameterError,
    ModelNotFoundError,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.text import TextEmbedder
from skembed.text._families import family_of

__all__ = ["load_model", "name_of"]

_PICKLES = (".joblib", ".pickle", ".pkl")
# A saved file decides neither, since they let code run or send the texts elsewhere.
_ASKED_BY_NAME = {"trust_remote_code": False, "base_url": None}


def load_model(
    source: str,
    params: Mapping[str, Any] | None = None,
    *,
    of_embedders: Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
) -> Any:
    """Return what embeds texts: a TextEmbedder of a name or folder, or what a file has.

    Parameters
    ----------
    source : str
        As the parameter `model` of TextEmbedder; or the file that `skops.io.dump` has written of an
        embedder or a fitted pipeline.
    params : mapping of str to object, default=None
        Parameters to set, as by `set_params`.
    of_embedders : mapping of str to object, default=None
        Parameters to set in every embedder in it that has them.
    allow_pickle : bool, default=False
        Whether a file written by joblib or pickle may be loaded, which runs whatever is in it.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    UnsafeModelError
        If loading the file would run foreign code.
    UnsupportedModelError
        If it does not embed texts.
    InvalidParameterError
        If it has no parameter of a name.
    """
    params = dict(params or {})
    is_file = source.lower().endswith((".skops", *_PICKLES))
    model = _read_file(Path(source), allow_pickle) if is_file else TextEmbedder(source)
    _check_kind(model, source)
    known = model.get_params()
    unknown = sorted(params.keys() - known.keys())
    if unknown:
        raise InvalidParameterError(
            f"{type(model).__name__} has no parameter {', '.join(map(repr, unknown))}. It has "
            f"{', '.join(sorted(known))}."
        )
    _refuse_unasked(model, source, params)
    if is_file:
        _refuse_hosted(model, source, params)
    embedders = list(_embedders_in(model))
    for name, value in (of_embedders or {}).items():
        those = [each for each in embedders if name in each.get_params(deep=False)]
        if not those and name != "cache":  # which is set whether or not the user asks for it
            raise InvalidParameterError(f"{source}: no embedder in it has the parameter {name!r}.")
        for each in those:
            each.set_params(**{name: value})
    for each in embedders:
        # A bad text becomes a row of NaN, which the steps of a pipeline may not accept: there it is
        # an error, and the others run again.
        each.set_params(on_error="nan" if each is model else "raise")
    return model.set_params(**params)


def name_of(source: str) -> str:
    """Return what clients call a model: a hub id as it is; of a folder or file, its own name."""
    path = Path(source)
    if path.exists() or path.is_absolute():
        path = path.resolve()
        return path.name if path.is_dir() else path.stem
    return source


def _read_file(path: Path, allow_pickle: bool) -> Any:
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: there is no such file.")
    if path.suffix.lower() == ".skops":
        return _read_skops(path)
    if not allow_pickle:
        raise UnsafeModelError(
            f"{path} is a pickle: loading it would run whatever code is in it. Save the estimator "
            "with skops.io.dump(estimator, 'model.skops') and serve that file. If you wrote this "
            "one yourself, --allow-pickle loads it."
        )
    return import_module("joblib").load(path)


def _read_skops(path: Path) -> Any:
    skops = import_optional("skops.io", extra="serve", purpose="A .skops file")
    unknown = skops.get_untrusted_types(file=path)
    foreign = [name for name in unknown if not _is_own_class(name)]
    if foreign:
        raise UnsafeModelError(
            f"{path} has types that are neither scikit-learn's nor skembed's, and may run foreign "
            f"code: {', '.join(foreign)}."
        )
    return skops.load(path, trusted=unknown)


def _is_own_class(name: str) -> bool:
    """Return whether a name is that of a class of skembed, not of a function."""
    module, _, last = name.rpartition(".")
    if not module.startswith("skembed."):
        return False
    try:
        return isinstance(getattr(import_module(module), last, None), type)
    except ImportError:
        return False


def _parts_of(value: Any, seen: set[int] | None = None) -> Iterator[BaseEstimator]:
    """Yield the estimators that a model is made of, itself first, fitted copies included."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, BaseEstimator):
        yield value
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _parts_of(each, seen)


def _embedders_in(model: Any) -> Iterator[BaseEmbedder]:
    return (part for part in _parts_of(model) if isinstance(part, BaseEmbedder))


def _check_kind(model: Any, source: str) -> None:
    """Refuse what does not embed texts, above all what takes a text for the name of a file."""
    kind = type(model).__name__
    if not isinstance(model, BaseEstimator):
        raise UnsupportedModelError(
            f"{source}: expected an embedder or a pipeline, got an object of type {kind}."
        )
    if not hasattr(model, "transform"):
        last = getattr(model, "steps", [("", model)])[-1][1]
        raise UnsupportedModelError(
            f"{source}: {type(last).__name__} has no transform, which makes the vectors. Save the "
            "steps before it: pipeline[:-1]."
        )
    for part in _parts_of(model):
        package, _, rest = type(part).__module__.partition(".")
        is_other_room = package == "skembed" and rest.partition(".")[0] not in ("text", "function")
        if isinstance(part, BaseEmbedder) and is_other_room:
            raise UnsupportedModelError(
                f"{source}: {type(part).__name__} does not embed texts, which are all that the "
                "protocol has."
            )
        if part.get_params(deep=False).get("input") in ("file", "filename"):
            raise UnsafeModelError(
                f"{source}: {type(part).__name__}(input={part.get_params()['input']!r}) would read "
                "the files that clients name."
            )


def _refuse_unasked(model: Any, source: str, params: Mapping[str, Any]) -> None:
    asked = {name.rpartition("__")[2] for name in params}
    for part in _parts_of(model):
        for name, value in part.get_params(deep=False).items():
            if name in _ASKED_BY_NAME and value != _ASKED_BY_NAME[name] and name not in asked:
                raise UnsafeModelError(
                    f"{source}: {type(part).__name__} in it has {name}={value!r}, which only you "
                    f"may decide. If you trust it, set the parameter by --set."
                )


def _refuse_hosted(model: Any, source: str, params: Mapping[str, Any]) -> None:
    """Refuse a file that would send clients' texts elsewhere, with the key of who serves it."""
    if any(name.rpartition("__")[2] == "model" for name in params):
        return
    for part in _parts_of(model):
        named = part.model if isinstance(part, TextEmbedder) else None
        if isinstance(named, str) and family_of(named) == "hosted":
            raise UnsafeModelError(
                f"{source}: {type(part).__name__} in it has model={named!r:.200}, which would send "
                "the texts of clients to another server, with your key. If that is meant, set the "
                "parameter by --set."
            )
