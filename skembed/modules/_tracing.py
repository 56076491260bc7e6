"""Tracing alongside other threads: fx treats every module call in the process as its own."""

from __future__ import annotations

import threading
from typing import Any

from torch import fx, nn

__all__ = ["of_this_thread"]


def of_this_thread(kind: type[fx.Tracer]) -> type[fx.Tracer]:
    """Return a kind of tracer that leaves alone what other threads call while it traces."""

    class OfThisThread(kind):  # type: ignore[valid-type, misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._thread = threading.get_ident()

        def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return forward(*args, **kwargs)
            return super().call_module(m, forward, args, kwargs)

    return OfThisThread
