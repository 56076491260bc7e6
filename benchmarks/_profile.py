"""Where skembed's forward pass spends its time: one batch under torch's profiler.

An operator's own time counts for the kind it is of. What a linear layer, attention or layer norm
calls counts with it (softmax's change of format, say).
"""

from __future__ import annotations

import statistics
import time
from typing import Any

__all__ = ["profile_forward"]

_LINEAR = ("aten::linear", "aten::addmm", "aten::_addmm", "aten::mm", "mkldnn::", "onednn::")
_ATTENTION = (
    *("aten::bmm", "aten::baddbmm", "aten::softmax", "aten::_softmax"),
    *("aten::scaled_dot_product", "aten::_scaled_dot_product"),
)
_KINDS = {
    "linear layers": _LINEAR,
    "attention": _ATTENTION,
    "layer norm": ("aten::layer_norm", "aten::native_layer_norm"),
    "activations": ("aten::gelu", "aten::relu", "aten::tanh"),
    "copies": (
        *("aten::copy_", "aten::contiguous", "aten::clone", "aten::cat", "aten::to"),
        *("aten::_to_copy", "aten::reshape", "aten::index_select"),
    ),
    "additions": ("aten::add",),
    "rounding to int8": ("aten::round", "aten::clamp", "aten::mul", "aten::bitwise_xor"),
}
_CLAIMING = ("linear layers", "attention", "layer norm")
"""Kinds whose callees count with them."""

_ELSE, _BETWEEN = "other operators", "between operators"
_PASS = "one forward pass"


def profile_forward(embedder: Any, texts: list[str], n_repeats: int = 5) -> dict[str, Any]:
    """Profile the fullest batch that an embedder makes of texts, on the CPU.

    Parameters
    ----------
    embedder : TextEmbedder
        Without a store.
    texts : list of str
        Enough for a full batch, if it is to be full.
    n_repeats : int, default=5
        How often the batch runs, with the profiler and without.

    Returns
    -------
    found : dict
        Rows and tokens of the batch, milliseconds of a pass without the profiler, shares of the
        time by kind of operator, and the largest of the other operators. "between operators" is the
        time in no operator: Python, and the profiler itself.
    """
    import torch
    from torch.profiler import ProfilerActivity, record_function

    batch = _fullest_batch(embedder, texts)
    encoder = embedder.encoder_
    lengths = batch.rows.lengths
    seconds = []
    with torch.inference_mode():
        for _ in range(n_repeats + 2):
            started = time.perf_counter()
            encoder.encode(batch)
            seconds.append(time.perf_counter() - started)
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(n_repeats):
                with record_function(_PASS):
                    encoder.encode(batch)
    shares, others = _sort_out(profiler.events())
    return {
        "rows": len(lengths),
        "tokens": int(sum(lengths)),
        "milliseconds": 1e3 * statistics.median(seconds[2:]),
        "shares": shares,
        "largest_others": others,
    }


def _fullest_batch(embedder: Any, texts: list[str]) -> Any:
    """Return the assembled batch with the most tokens of those that embedding texts takes."""
    from skembed.text._encoder import TextEncoder

    encode, batches = TextEncoder.encode, []

    def encode_and_keep(encoder: Any, batch: Any) -> Any:
        batches.append(batch)
        return encode(encoder, batch)

    TextEncoder.encode = encode_and_keep  # type: ignore[method-assign]
    try:
        embedder.transform(texts)
    finally:
        TextEncoder.encode = encode  # type: ignore[method-assign]
    return max(batches, key=lambda batch: sum(batch.rows.lengths))


def _sort_out(events: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Return the shares of time by kind, and those of the largest operators of no kind."""
    spent = dict.fromkeys((*_KINDS, _ELSE, _BETWEEN), 0.0)
    others: dict[str, float] = {}
    for event in events:
        kind = _BETWEEN if event.name == _PASS else _kind_of_call(event)
        spent[kind] += event.self_cpu_time_total
        if kind == _ELSE:
            others[event.name] = others.get(event.name, 0.0) + event.self_cpu_time_total
    total = sum(spent.values())
    largest = sorted(others, key=others.__getitem__, reverse=True)[:5]
    return (
        {kind: each / total for kind, each in spent.items()},
        {name: others[name] / total for name in largest},
    )


def _kind_of_call(event: Any) -> str:
    """Return the kind of the outermost caller that claims what it calls, else the event's own."""
    own = kind = _kind_of(event.name)
    while (event := event.cpu_parent) is not None:
        if (outer := _kind_of(event.name)) in _CLAIMING:
            kind = outer
    return kind if kind in _CLAIMING else own


def _kind_of(name: str) -> str:
    for kind, starts in _KINDS.items():
        if name.startswith(starts):
            return kind
    return _ELSE
