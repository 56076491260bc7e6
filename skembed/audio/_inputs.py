"""Rows of sound: what is accepted, and which rows are bad."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._file_rows import FileRoom, check_rows, holds_array, is_single_file
from skembed._inputs import (
    CheckedRows,
    array_of,
    as_numpy,
    check_matrix,
    column_of,
    is_tensor,
    shown,
)
from skembed.audio._decoding import why_not_a_sound
from skembed.audio._sounds import EncodedSound, Sound, WaveformSound, check_waveform
from skembed.exceptions import InvalidInputError, InvalidParameterError

__all__ = ["check_rate", "check_sounds"]

_EXAMPLE = '["a.wav", "b.flac"] or [(waveform, 16000), ...]'
_NO_RATE = (
    "no sampling rate, which is never guessed: set sampling_rate= to the rate of all waveforms in "
    "Hz, or pass each with its own, as (waveform, rate)"
)
_MOST_BYTES = 8 << 30
_LOWEST_RATE, _HIGHEST_RATE = 100.0, 1e6


def check_sounds(X: Any, *, sampling_rate: float | None = None) -> CheckedRows:
    """Check a column of clips, or a matrix with one a row; items are `Sound`.

    `sampling_rate` is that in Hz of waveforms that do not say theirs.
    """
    rate = None if sampling_rate is None else check_rate(sampling_rate)
    _refuse_single(X)
    matrix = _as_matrix(X)
    if matrix is not None:
        return _check_matrix(matrix, rate)
    room = FileRoom(
        what="a sound",
        why_not=why_not_a_sound,
        of_file=EncodedSound,
        check_others=lambda values: [_check_row(value, rate) for value in values],
        most_bytes=_MOST_BYTES,
    )
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 2:  # of pairs
        X = X.tolist()
    return check_rows(column_of(X, what="sound clips", example=_EXAMPLE), room)


def check_rate(rate: Any) -> float:
    """Return a sampling rate in Hz as a float, or refuse it."""
    reason = _why_no_rate(rate)
    if reason is not None:
        raise InvalidParameterError(f"sampling_rate={shown(rate)}: {reason}")
    return float(rate)


def _why_no_rate(rate: Any) -> str | None:
    is_number = isinstance(rate, Real) and not isinstance(rate, (bool, np.bool_))
    if is_number and math.isfinite(rate) and _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        return None
    hint = "; rates are in Hz, not in kHz" if is_number and 0 < rate < _LOWEST_RATE else ""
    return f"expected a sampling rate from {_LOWEST_RATE:g} to {_HIGHEST_RATE:,.0f} Hz{hint}"


def _refuse_single(X: Any) -> None:
    """Refuse one clip that is not in a collection; `column_of` refuses str and bytes."""
    kind = None
    if is_single_file(X):
        kind = f"a single {type(X).__name__}"
    elif _is_pair(X):
        kind = "a single pair (waveform, rate)"
    elif isinstance(X, Mapping) and _is_hugging_face(X):
        kind = "a single dict of a clip"
    elif getattr(X, "ndim", None) == 1 and _holds_numbers(X) and len(X):
        kind = f"a single waveform of {len(X):,} samples"
    if kind is not None:
        raise InvalidInputError(
            f"Expected a list, 1-D array, Series or one-column frame of clips, like {_EXAMPLE}; "
            f"got {kind}. Put it in a list."
        )


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and _holds_numbers(value[0])
        and getattr(value[0], "ndim", 0) in (1, 2)
        and isinstance(value[1], Real)
        and math.isfinite(value[1])
    )


def _holds_numbers(value: Any) -> bool:
    if is_tensor(value):
        return True
    return getattr(getattr(value, "dtype", None), "kind", "O") in "iufbc"


def _is_hugging_face(value: Mapping[Any, Any]) -> bool:
    return "array" in value or "bytes" in value or "path" in value


def _as_matrix(X: Any) -> NDArray[Any] | None:
    """Return clips of one length as an array (n, ...); None if X is a column of clips."""
    array = array_of(X, what="sound clips")
    if array is None:
        return None
    is_frame = hasattr(X, "columns")  # `column_of` says that it has too many columns
    if array.dtype == object and array.ndim > 1 and array.shape[1] > 1 and not is_frame:
        if _is_pair(array[0].tolist()):  # what NumPy makes of a list of pairs
            return None
        raise InvalidInputError(
            f"Expected numbers, got a matrix of objects of shape {array.shape}. Convert it, for "
            "example with X.astype('float32')."
        )
    if array.dtype.kind not in "biufc" or array.ndim < 2:
        return None
    if array.ndim > 3 or 0 in array.shape[1:]:
        raise InvalidInputError(
            "Expected clips of shape (n, samples) or (n, channels, samples), got an array of shape "
            f"{array.shape}."
        )
    return array


def _check_matrix(matrix: NDArray[Any], rate: float | None) -> CheckedRows:
    if rate is None and len(matrix):
        raise InvalidInputError(
            f"Got waveforms as an array of shape {matrix.shape} and {_NO_RATE}."
        )
    checked = (check_waveform(waveform, rate or 0.0) for waveform in matrix)
    faults = {row: found for row, found in enumerate(checked) if isinstance(found, str)}

    def clip(waveform: NDArray[Any]) -> Sound:
        is_turned = waveform.ndim == 2 and waveform.shape[0] < waveform.shape[1]
        return WaveformSound(waveform.T if is_turned else waveform, rate or 0.0)

    return check_matrix(matrix, faults, clip)


def _check_row(value: Any, rate: float | None) -> Sound | str:
    """Return a clip that is no file, or what is wrong."""
    if holds_array(value):
        return _check_waveform(value, rate)
    if hasattr(value, "get_all_samples") or _is_samples(value):  # of torchcodec and data sets
        return _check_decoded(value)
    if isinstance(value, Mapping):
        return _check_mapping(value, rate)
    if isinstance(value, (tuple, list)):
        return _check_pair(value, rate)
    return (
        "expected a path, an encoded file, a pair (waveform, rate), a dict with 'array' and "
        f"'sampling_rate', or a waveform, got {type(value).__name__}: {shown(value)}"
    )


def _check_pair(value: Sequence[Any], rate: float | None) -> Sound | str:
    kind = type(value).__name__
    if len(value) == 2 and _is_array_like(value[1]) and isinstance(value[0], Real):
        return "a pair (rate, waveform), as from scipy.io.wavfile; expected (waveform, rate)"
    if len(value) == 2 and _is_array_like(value[0]) and not isinstance(value[1], (list, tuple)):
        return _check_waveform(value[0], value[1], has_own=True)
    if len(value) > 2 and _is_pair(value[:2]):
        return f"a {kind} of {len(value)}, as in datasets with labels; expected (waveform, rate)"
    try:
        waveform = np.asarray(value)
    except ValueError:  # of ragged lists
        waveform = np.empty(0, dtype=object)
    if waveform.dtype.kind not in "iuf":
        return f"expected a pair (waveform, rate) or a waveform, got a {kind}: {shown(value)}"
    return _check_waveform(waveform, rate)


def _is_array_like(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or holds_array(value)


def _check_mapping(value: Mapping[Any, Any], rate: float | None) -> Sound | str:
    if value.get("array") is not None:
        own = value.get("sampling_rate")
        own = value.get("rate") if own is None else own
        return _check_waveform(
            value["array"], rate if own is None else own, has_own=own is not None
        )
    keys = ", ".join(map(repr, list(value)[:5])) or "nothing"
    return (
        "a dict without a clip: expected 'array' and 'sampling_rate', or 'bytes', or 'path', got "
        f"{keys}"
    )


def _is_samples(value: Any) -> bool:
    return is_tensor(getattr(value, "data", None)) and hasattr(value, "sample_rate")


def _check_decoded(value: Any) -> Sound | str:
    try:
        samples = value if _is_samples(value) else value.get_all_samples()
        return _check_waveform(samples.data, samples.sample_rate, has_own=True)
    except Exception as error:
        kind, reason = type(value).__name__, type(error).__name__
        return f"the samples of its {kind} cannot be read: {reason}: {error}"


def _check_waveform(value: Any, rate: Any, *, has_own: bool = False) -> Sound | str:
    try:
        waveform = as_numpy(value) if is_tensor(value) else np.asanyarray(value)
    except Exception as error:  # of a closed file of h5py's, ...
        return f"a waveform that is not an array: {error or type(error).__name__}"
    if waveform.dtype.kind not in "biufc":
        what = f"an array of shape {waveform.shape}, {waveform.dtype}"
        return f"{what}: expected numbers, the samples of a waveform"
    if getattr(rate, "ndim", None) == 0 and hasattr(rate, "item"):  # of arrays and tensors
        rate = rate.item()
    if rate is None:
        return f"a waveform of shape {waveform.shape} and {_NO_RATE}"
    if has_own and (reason := _why_no_rate(rate)):
        return f"a waveform of shape {waveform.shape} with the rate {shown(rate)}: {reason}"
    return check_waveform(waveform, float(rate))
