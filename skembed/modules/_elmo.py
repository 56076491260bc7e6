"""ELMo: a character CNN, a bidirectional LSTM language model on its words, a mix of their layers.

Knows characters of words and rows of words, not texts or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.modules._rows import Rows

__all__ = ["N_BOUNDARIES", "BiLM", "BiLMSizes", "WordBatch"]

N_BOUNDARIES = 2
"""What stands around a row's words: one word before them, one after."""


@dataclass(frozen=True)
class BiLMSizes:
    """Sizes of a bidirectional language model; `filters` are pairs of width and number."""

    n_characters: int
    n_character_features: int
    filters: tuple[tuple[int, int], ...]
    activation: str
    n_highway: int
    n_layers: int
    n_cells: int
    n_features: int  # of one direction
    cell_clip: float | None
    projection_clip: float | None

    @property
    def n_filters(self) -> int:
        """Filters of all widths."""
        return sum(n for _, n in self.filters)


@dataclass(frozen=True)
class WordBatch:
    """Rows of words, by their characters.

    Parameters
    ----------
    characters : tuple of Tensor
        Distinct words (n, characters), int64, in groups of like length; padded with a character.
    words : Tensor
        Which distinct word stands where, rows end to end, boundaries included; int64.
    rows : Rows
        Lengths in words, without boundaries.
    """

    characters: tuple[Tensor, ...]
    words: Tensor
    rows: Rows

    def to(self, device: torch.device) -> WordBatch:
        """Return the batch on a device."""
        characters = tuple(each.to(device) for each in self.characters)
        return WordBatch(characters, self.words.to(device), self.rows)


class BiLM(nn.Module):
    """Maps a `WordBatch` to one state per word, the mix of all layers (arXiv:1802.05365, eq. 1).

    Layer 0 is the character CNN, whose vector of a word stands for both directions; the others are
    LSTMs. Each row starts from zero, backwards at its own end: no row sees another, nor padding.
    """

    layout: Literal["packed", "padded", "equal"] = "packed"

    def __init__(self, sizes: BiLMSizes) -> None:
        super().__init__()
        self.sizes = sizes
        lstms = [_BiLSTM(sizes, is_residual=i > 0) for i in range(sizes.n_layers)]
        self.layers = nn.ModuleList([_CharacterCNN(sizes), *lstms])
        self.mix = _Mix(len(self.layers))

    def forward(self, batch: WordBatch) -> Tensor:
        """Return the states of all rows end to end, without boundaries, (words, 2 n_features)."""
        steps = _Steps.of(batch.rows.lengths, batch.words.device)
        states = self.layers[0](batch.characters, batch.words)
        found = [states]
        for lstm in self.layers[1:]:
            states = lstm(states, steps)
            found.append(states)
        mixed: Tensor = self.mix(found)
        return mixed[0, steps.inside]


class _CharacterCNN(nn.Module):
    """Maps the characters of words to vectors: filters, their maxima, highway layers, projection.

    Highway layers: arXiv:1505.00387; the whole: arXiv:1602.02410, section 3.2.
    """

    def __init__(self, sizes: BiLMSizes) -> None:
        super().__init__()
        n_in, n = sizes.n_character_features, sizes.n_filters
        self.embedding = nn.Embedding(sizes.n_characters, n_in)
        self.filters = nn.ModuleList(nn.Conv1d(n_in, n, width) for width, n in sizes.filters)
        self.activation = nn.Tanh() if sizes.activation == "tanh" else nn.ReLU()
        self.highways = nn.ModuleList(_Highway(n) for _ in range(sizes.n_highway))
        self.projection = nn.Linear(n, sizes.n_features)

    def forward(self, groups: Sequence[Tensor], words: Tensor) -> Tensor:
        """Map groups of distinct words (n, characters) to states (1, words, 2 n_features)."""
        features = torch.cat([self._filtered(characters) for characters in groups])
        for highway in self.highways:
            features = highway(features)
        vectors: Tensor = self.projection(features)
        return vectors[words].repeat(1, 2)[None]

    def _filtered(self, characters: Tensor) -> Tensor:
        values = self.embedding(characters).transpose(1, 2)
        return torch.cat([self.activation(each(values).amax(-1)) for each in self.filters], -1)


class _Highway(nn.Module):
    """Lets some of its input pass and replaces the rest."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.transform, self.carry = nn.Linear(n, n), nn.Linear(n, n)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.carry(x))
        return share * F.relu(self.transform(x)) + (1 - share) * x


@dataclass(frozen=True)
class _Steps:
    """The order in which LSTMs take the words of rows: the longest row first in every step.

    `sizes` are rows in each step; `forth` and `back` the words' places in that order; `inside` the
    places of words that are no boundaries.
    """

    sizes: list[int]
    forth: Tensor
    back: Tensor
    inside: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> _Steps:
        n_words = np.array(lengths, dtype=np.int64) + N_BOUNDARIES
        ends = np.cumsum(n_words)
        is_inside = np.ones(ends[-1], dtype=bool)
        is_inside[ends - 1] = is_inside[ends - n_words] = False
        order = np.argsort(-n_words, kind="stable")
        n_words, ends = n_words[order], ends[order]
        step = np.arange(n_words[0])[:, None]
        is_word = step < n_words
        places = (
            (ends - n_words + step)[is_word],
            (ends - 1 - step)[is_word],
            np.flatnonzero(is_inside),
        )
        forth, back, inside = (torch.from_numpy(each).to(device) for each in places)
        return cls(is_word.sum(1).tolist(), forth, back, inside)


class _BiLSTM(nn.Module):
    """Two LSTMs, forth and back, each on the states of its own direction."""

    def __init__(self, sizes: BiLMSizes, *, is_residual: bool) -> None:
        super().__init__()
        self.forth, self.back = _ProjectedLSTM(sizes), _ProjectedLSTM(sizes)
        self.is_residual = is_residual

    def forward(self, states: Tensor, steps: _Steps) -> Tensor:
        """Map states (1, words, 2 n_features), forth beside back, to those of the next layer."""
        forth, back = states[0].chunk(2, -1)
        pair = (
            self.forth(forth, steps.forth, steps.sizes),
            self.back(back, steps.back, steps.sizes),
        )
        found = torch.cat(pair, -1)[None]
        return found + states if self.is_residual else found


class _ProjectedLSTM(nn.Module):
    """An LSTM whose states are projected (arXiv:1402.1128), both clipped; gates: i, j, f, o.

    `nn.LSTM` projects, but does not clip. The cells are in float32 whatever the format: they add up
    over all words of a row.
    """

    def __init__(self, sizes: BiLMSizes) -> None:
        super().__init__()
        n, n_cells = sizes.n_features, sizes.n_cells
        self.input = nn.Linear(n, 4 * n_cells)
        self.state = nn.Linear(n, 4 * n_cells, bias=False)
        self.projection = nn.Linear(n_cells, n, bias=False)
        self.n_cells, self.n_features = n_cells, n
        self.cell_clip, self.projection_clip = sizes.cell_clip, sizes.projection_clip

    def forward(self, x: Tensor, order: Tensor, sizes: Sequence[int]) -> Tensor:
        """Map words (words, n_features) to states, taken in an order, `sizes` in each step."""
        state = x.new_zeros(sizes[0], self.n_features)
        cell = torch.zeros(sizes[0], self.n_cells, device=x.device)
        states = []
        for values in self.input(x[order]).split(list(sizes)):
            n = len(values)  # rows that have ended are the last
            gates = (values + self.state(state[:n])).float()
            i, j, f, o = gates.chunk(4, -1)
            cell = torch.sigmoid(f) * cell[:n] + torch.sigmoid(i) * torch.tanh(j)
            cell = _clipped(cell, self.cell_clip)
            state = self.projection((torch.sigmoid(o) * torch.tanh(cell)).to(x.dtype))
            state = _clipped(state, self.projection_clip)
            states.append(state)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return torch.cat(states)[back]


def _clipped(values: Tensor, limit: float | None) -> Tensor:
    return values.clamp(-limit, limit) if limit else values


class _Mix(nn.Module):
    """A weighted mean of layers, of equal weights at first."""

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_layers))  # before their softmax

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        mixed = torch.zeros_like(layers[0])
        for share, layer in zip(self.weight.softmax(0), layers, strict=True):
            mixed = mixed + share * layer
        return mixed
