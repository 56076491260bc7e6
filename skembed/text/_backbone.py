"""What all text models have in common before they are frozen: the module."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from skembed.modules import TokenBatch, pool_rows
from skembed.text._settings import POOLINGS, TextSettings

__all__ = ["POOLINGS", "TextModule", "TextSettings"]


class TextModule(nn.Module):
    """Maps the tokens of texts to vectors; all that comes after the core is in float32.

    `n_skipped` leading tokens of each text take no part in the pooling, or all those before the
    place that `start_of` gives for a row's length; `layers` follow it. No pooling: the core gives
    vectors.
    """

    def __init__(
        self,
        core: nn.Module,
        pooling: str | None,
        *,
        n_skipped: int = 0,
        start_of: Callable[[int], int] | None = None,
        layers: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.core = core
        self.pooling = pooling
        self.n_skipped = n_skipped
        self.start_of = start_of
        self.layers = nn.Sequential(*layers)

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return vectors of shape (texts, width)."""
        hidden = self.core(batch)
        if self.pooling is None:
            pooled = hidden.float()
        else:
            pooled = pool_rows(
                *(hidden, batch.rows, self.pooling),
                n_skipped=self.n_skipped,
                start_of=self.start_of,
            )
        vectors: Tensor = self.layers(pooled)
        return vectors
