"""OpenAI's protocol for embeddings: requests checked, vectors and errors written.

Knows bytes and arrays, not models, queues or HTTP libraries.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import shown
from skembed.exceptions import did_you_mean

__all__ = [
    "EmbeddingRequest",
    "RequestError",
    "leading",
    "parse_request",
    "refuse_texts",
    "write_response",
]

# `user` names the end user for OpenAI's own records; it is accepted and not looked at.
_FIELDS = ("input", "model", "encoding_format", "dimensions", "user")
_ENCODINGS = ("float", "base64")
_UNIT = 1e-3
_N_NAMED = 10


class RequestError(Exception):
    """A request that is refused, as OpenAI words it.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        What was expected, what came, what to do.
    param : str, default=None
        The field of the request that is at fault.
    code : str, default=None
        A name for the fault.
    retry_after : int, default=None
        Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> bytes:
        """Return the body of the response."""
        kinds = {429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": str(self),
            "type": kinds.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request that was checked."""

    texts: list[str]
    encoding: str = "float"
    dimensions: int | None = None


def parse_request(body: bytes, *, name: str, width: int, max_texts: int) -> EmbeddingRequest:
    """Return the request for embeddings in a body.

    `name` and `width` are those of the model that is served.

    Raises
    ------
    RequestError
        400 that lists all faults of the request, 404 if it asks for another model.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f"The body is not valid JSON: {why}.") from None
    if not isinstance(fields, dict):
        raise RequestError(
            400, f"The body: expected an object with model and input, got {_kind_of(fields)}."
        )
    faults: dict[str, str] = {}
    for field in fields:
        if field not in _FIELDS:
            close = did_you_mean(field, _FIELDS)
            faults[field] = f"Unrecognized request argument supplied: {field}.{close}"
    _check_model(fields.get("model"), name, faults)
    texts = _check_input(fields.get("input"), max_texts, faults)
    encoding, dimensions = fields.get("encoding_format"), fields.get("dimensions")
    if encoding is not None and encoding not in _ENCODINGS:
        faults["encoding_format"] = (
            f"encoding_format: expected 'float' or 'base64', got {shown(encoding)}."
        )
    if dimensions is not None and (type(dimensions) is not int or not 1 <= dimensions <= width):
        faults["dimensions"] = (
            f"dimensions: expected an integer from 1 to {width:,}, the width of {name}, got "
            f"{shown(dimensions)}."
        )
    if faults:
        raise RequestError(400, " ".join(faults.values()), param=next(iter(faults)))
    return EmbeddingRequest(texts, encoding or "float", dimensions)


def _check_model(model: Any, name: str, faults: dict[str, str]) -> None:
    if not isinstance(model, str):
        got = "nothing" if model is None else _kind_of(model)
        faults["model"] = f"model: expected {name!r}, got {got}."
    elif model != name:
        raise RequestError(
            404,
            f"The model {shown(model)} does not exist here. This server has {name!r}.",
            param="model",
            code="model_not_found",
        )


def _check_input(given: Any, max_texts: int, faults: dict[str, str]) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    expected = "input: expected a text or a list of texts"
    if given is None:
        faults["input"] = f"{expected}, got nothing."
    elif not isinstance(texts, list):
        faults["input"] = f"{expected}, got {_kind_of(given)}."
    elif not texts:
        faults["input"] = f"{expected}, got an empty list."
    elif _are_tokens(texts) or any(map(_are_tokens, texts)):
        faults["input"] = (
            f"{expected}, got token ids. Those of another tokenizer would give wrong vectors: send "
            "the texts (LangChain does with check_embedding_ctx_length=False)."
        )
    elif len(texts) > max_texts:
        faults["input"] = (
            f"{expected}, {max_texts:,} at most; got {len(texts):,}. Send them in several requests."
        )
    else:
        wrong = {
            row: f"expected a text, got {_kind_of(text)}"
            for row, text in enumerate(texts)
            if not isinstance(text, str)
        }
        if wrong:
            faults["input"] = _name_texts(wrong)
        return texts
    return []


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def _kind_of(value: Any) -> str:
    """Return what JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def refuse_texts(faults: dict[int, str]) -> RequestError:
    """Return the error for a request some of whose texts cannot be embedded, by their index."""
    first = f"input[{min(faults)}]"
    return RequestError(400, _name_texts(faults), param=first, code="invalid_input")


def _name_texts(faults: dict[int, str]) -> str:
    named = [f"input[{i}]: {why}." for i, why in sorted(faults.items())]
    n_left = len(named) - _N_NAMED
    more = [f"... and {n_left:,} more."] if n_left > 0 else []
    return " ".join(named[:_N_NAMED] + more)


def leading(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Return the leading features of vectors (n, d); those of unit length keep that length."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    is_unit = np.abs(np.linalg.norm(vectors, axis=1, keepdims=True) - 1) < _UNIT
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = cut / np.where(is_unit & (lengths > 0), lengths, np.float32(1))
    return scaled


def write_response(
    name: str,
    request: EmbeddingRequest,
    vectors: NDArray[np.float32],
    n_tokens: int,
    truncated: Sequence[int] = (),
) -> bytes:
    """Return the body that has the vectors (n, d) of a request.

    `truncated` are the texts that were cut, for a field that OpenAI's protocol lacks.
    """
    cut = np.ascontiguousarray(leading(vectors, request.dimensions), dtype="<f4")
    values: list[Any]
    if request.encoding == "base64":
        values = [base64.b64encode(row.tobytes()).decode() for row in cut]
    else:
        values = cut.tolist()
    content: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": value}
            for i, value in enumerate(values)
        ],
        "model": name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    if len(truncated):
        content["truncated"] = list(truncated)
    return json.dumps(content, separators=(",", ":")).encode()
