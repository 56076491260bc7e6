"""Hosted models by name: which server has them, and whether it may see the user's key.

Owns addresses and what the environment says; sends nothing. Does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from skembed.exceptions import InvalidParameterError, ServiceError
from skembed.text._families import family_of

__all__ = [
    "OPENAI",
    "Key",
    "address_of",
    "check_address",
    "check_family",
    "host_of",
    "is_local",
    "key_for",
]

OPENAI = "https://api.openai.com/v1"

_KEY, _ADDRESS = "OPENAI_API_KEY", "OPENAI_BASE_URL"

_PORTS = {"http": 80, "https": 443}
_LOCAL = ("localhost", "127.0.0.1", "::1")

# Parameters that mean nothing there, their other possible values, and why.
_NOT_HOSTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tokenizer": ((None,), "the server has the model's own"),
    "pooling": (("auto",), "the server has pooled the tokens"),
    "attention": (("auto",), "the server runs the model"),
    "device": (("auto",), "the server runs the model"),
    "dtype": (("auto", "float32"), "the server runs the model, and sends float32"),
    "revision": ((None,), "a server has no revisions of a model; some put one into its name"),
    "trust_remote_code": ((False,), "no code comes with a hosted model"),
}


def check_family(params: Mapping[str, Any]) -> None:
    """Refuse parameters that mean nothing with the family of `model`, all at once."""
    model, training = params["model"], params.get("training")
    is_name = isinstance(model, (str, os.PathLike))
    if not is_name or family_of(model) != "hosted":
        if params.get("base_url") is not None:
            raise InvalidParameterError(
                "base_url: only hosted models have a server; their names are 'openai:NAME'. In a "
                "search, put models that run here into a grid of their own."
            )
        return
    faults = [
        f"{name}={params[name]!r:.60}: of a hosted model, expected {expected[0]!r} ({why})."
        for name, (expected, why) in _NOT_HOSTED.items()
        if not _is_among(params[name], expected)
    ]
    method = getattr(training, "method", "head")
    if method != "head":
        faults.append(
            f"training__method={method!r}: the weights of a hosted model are not here. Use "
            "method='head', which trains a projection of its vectors."
        )
    if not str(model).partition(":")[2].strip():
        faults.append(f"model={model!r}: expected a name after the colon.")
    if faults:
        raise InvalidParameterError("\n".join(faults))


def address_of(base_url: str | None) -> str:
    """Return the normalised address of the server: the user's, the environment's, or OpenAI's."""
    if base_url is not None:
        return check_address(base_url)
    return _address_in_environment()


def check_address(url: str, what: str = "base_url") -> str:
    """Return an address in its normal form; one that may hold a secret is refused, and not shown.

    Lower-case host, no port that goes without saying, no slash at the end.
    """
    parts = _split(url.strip())
    if "@" in url or "?" in url or "#" in url:
        raise InvalidParameterError(
            f"{what}: expected an address without user, password, query or fragment (it is not "
            f"shown here). Addresses are shown, pickled and compared: put the key into {_KEY}."
        )
    if parts is None:
        raise InvalidParameterError(
            f"{what}={url!r:.200}: expected the address of a server that speaks OpenAI's protocol, "
            "such as 'http://localhost:8000/v1'."
        )
    host = str(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


@dataclass(frozen=True)
class Key:
    """The key that a server may see, whether it is known to need one, and what to tell if so."""

    value: str | None = field(repr=False)
    is_needed: bool
    advice: str


def key_for(url: str) -> Key:
    """Return the key that the server at an address may see.

    One server sees it: that of OPENAI_BASE_URL, or OpenAI's where this is not set. An estimator's
    `base_url` may come with a file that somebody else wrote, and must not choose who gets a key.
    """
    key = os.environ.get(_KEY, "").strip()
    trusted = _address_in_environment()
    is_openai = _origin(url) == _origin(OPENAI)
    if _origin(url) != _origin(trusted):
        told = f"{_KEY} was not sent" if key else f"{_KEY} is not set"
        advice = (
            f"{told}. It is sent to one server only: that of the environment variable {_ADDRESS}, "
            f"or OpenAI's where this is not set. If this server should have it, set "
            f"{_ADDRESS}={url}."
        )
        return Key(None, is_openai, advice)
    if not key:
        return Key(None, is_openai, f"Set the environment variable {_KEY}.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ServiceError(
            f"{_KEY} holds characters that no key has, such as spaces or line breaks. Set it anew."
        )
    return Key(key, is_openai, f"Check {_KEY}.")


def is_local(url: str) -> bool:
    """Return whether a server runs on this machine."""
    return urlsplit(url).hostname in _LOCAL


def host_of(url: str) -> str:
    """Return the host of an address, with its port if that is not the usual one."""
    return urlsplit(url).netloc


def _address_in_environment() -> str:
    url = os.environ.get(_ADDRESS, "").strip()
    return check_address(url, f"the environment variable {_ADDRESS}") if url else OPENAI


def _is_among(value: Any, expected: tuple[Any, ...]) -> bool:
    if value is None or isinstance(value, (str, bool, np.bool_)):
        return value in expected
    return False


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def _split(url: str) -> SplitResult | None:
    """Return the parts of an address, None where it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    is_whole = parts.scheme in _PORTS and bool(parts.hostname) and url.isprintable()
    return parts if is_whole and " " not in url else None
