"""Static vectors: a text is the mean, or the like, of its words' vectors, whatever their order.

Here is what all of them have in common, and the files of word vectors: GloVe, word2vec, fastText,
NumPy. Folders with a tokenizer are in `_folder`.
"""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skembed._backbone import OF_THE_HUB, Backbone, Ending, Exported, Projection, thawed
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.store import digest_of
from skembed.text._backbone import TextModule
from skembed.text._settings import TextSettings
from skembed.text.static._encoder import StaticEncoder
from skembed.text.static._formats import files_of
from skembed.text.static._modules import TextRows, WordBatch, WordVectors
from skembed.text.static._table import find_table
from skembed.text.static._words import WordReader
from skembed.training import TrainedState
from skembed.weights import FilesSource, kept_recent

__all__ = ["Read", "StaticBackbone", "check_settings", "find_words"]

_POOLINGS = ("mean", "max", "mean_sqrt_len")

Spread = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], "NDArray[np.int64] | None"]]
"""Maps rows of words to rows of the table, and says how many there are of each word if not 1."""


@dataclass(frozen=True, eq=False)
class Found:
    """Words of texts that have vectors, end to end, each with the position of its text.

    `sizes` and `n_unknown` count all words of each text, and those without a vector.
    """

    rows: NDArray[np.int64]
    text_of: NDArray[np.int64]
    sizes: NDArray[np.int64]
    n_unknown: NDArray[np.int64]
    spread: Spread

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many words each text has."""
        return np.bincount(self.text_of, minlength=len(self.sizes))


@dataclass(frozen=True, eq=False)
class Read:
    """Texts as the module takes them; `counts` has the rows of each, 0 of one that says nothing."""

    texts: TextRows
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    n_unknown: NDArray[np.int64]


class StaticBackbone(Backbone):
    """A table of vectors, and what finds the rows of a text's words in it.

    `max_length` is the most words read at once, `n_words` the number of rows that are words.
    """

    encoder_type = StaticEncoder
    prefers_float32 = True
    runs_on_cpu = True

    n_words: int
    max_length: int | None = None
    normalizes = False
    n_components: int | None = None
    pooling: str
    prompt = ""
    has_subwords = False
    n_bytes: int
    """Memory that the table takes from others: none where its file is mapped."""

    _state: TrainedState | None = None
    _of_words: NDArray[np.float32] | None = None

    @abstractmethod
    def words(self) -> Callable[[int], str]:
        """Return what gives the word of a row."""

    @abstractmethod
    def row_of(self, word: str) -> int:
        """Return the row of a word, -1 of one that is not known."""

    @abstractmethod
    def _find(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], Spread]:
        """Return the rows of words, -1 of unknown ones; how many each text has; `Found.spread`."""

    @abstractmethod
    def _vectors(self) -> torch.Tensor:
        """Return the table (rows, d), float32, which nobody changes."""

    # What all do ----------------------------------------------------------------------------

    def find(self, texts: Sequence[str], *, is_cut: bool = True) -> Found:
        """Return the words of texts, cut to the limit or not."""
        rows, sizes, spread = self._find([self.prompt + text for text in texts])
        text_of = np.repeat(np.arange(len(texts)), sizes)
        is_unknown = rows == -1
        n_unknown = np.bincount(text_of[is_unknown], minlength=len(texts))
        is_kept = ~is_unknown
        limit = self.max_length
        if is_cut and limit is not None and (sizes > limit).any():
            places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            is_kept &= places < limit
        if not is_kept.all():
            rows, text_of = rows[is_kept], text_of[is_kept]
        return Found(rows, text_of, sizes, n_unknown, spread)

    def read(self, texts: Sequence[str], *, is_cut: bool = True) -> Read:
        """Return texts as rows of the table."""
        found = self.find(texts, is_cut=is_cut)
        counts, text_of = found.counts, found.text_of
        weights = self._weigh(found.rows, text_of, counts)
        rows, n_each = found.spread(found.rows)
        if n_each is not None and weights is not None:  # words that are means of several rows
            weights = np.repeat(weights / n_each.astype(np.float32), n_each)
            counts = np.bincount(np.repeat(text_of, n_each), minlength=len(texts))
        return Read(TextRows(rows, weights), counts, found.sizes, found.n_unknown)

    def _weigh(
        self, rows: NDArray[np.int64], text_of: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float32] | None:
        """Return the weights of words within their texts."""
        if self.pooling == "max":
            return None
        n = np.maximum(counts, 1).astype(np.float32)
        if self._of_words is None:
            power = np.float32(0.5 if self.pooling == "mean_sqrt_len" else 1)
            per_word: NDArray[np.float32] = (n**-power)[text_of]
            return per_word
        own = self._of_words[np.where(rows < 0, len(self._of_words) - 1, rows)]
        if self._state is not None and "component" not in self._state.arrays:  # idf
            n = np.bincount(text_of, own, minlength=len(counts)).astype(np.float32)
        weights: NDArray[np.float32] = own / n[text_of]
        return weights

    def weighted(self, state: TrainedState) -> Backbone:
        """Return the backbone with weights of words."""
        other = copy.copy(self)
        arrays = state.arrays
        weights = np.full(self.n_words + 1, arrays["other"], dtype=np.float32)  # last: any other
        weights[arrays["rows"]] = arrays["weights"]
        other._state, other._of_words = state, weights
        other.digest = digest_of({"backbone": self.digest, "weights": state.digest})
        component = arrays.get("component")
        if component is not None:
            kept = np.eye(len(component), dtype=np.float32) - np.outer(component, component)
            other.projection = Projection(kept, np.zeros(len(component), np.float32))
        return other

    @property
    def core_digest(self) -> bytes:
        """Digest of the table."""
        return digest_of({"kind": type(self).__name__, "files": self.source.digest})

    def prepare(self, text: str, rng: np.random.Generator | None = None) -> TextRows:
        """Return the rows of a text; it has no random views."""
        return self.read([text]).texts

    def cost(self, part: TextRows) -> int:
        """Return the number of rows."""
        return max(1, len(part.rows))

    def collate(self, parts: Sequence[TextRows]) -> WordBatch:
        """Put the rows of texts end to end."""
        rows = np.concatenate([part.rows for part in parts])
        weights = [part.weights for part in parts if part.weights is not None]
        texts = TextRows(rows, np.concatenate(weights) if weights else None)
        return WordBatch.of(texts, np.array([len(part.rows) for part in parts]))

    def load(
        self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None
    ) -> TextModule:
        """Load the module; its table is a copy, so that it can be trained."""
        if core is None:
            core = thawed(WordVectors(self._vectors().clone()))
        module = TextModule(core, None, layers=self._layers())
        thawed(module.layers)
        return module.eval()

    def shared_core(self) -> nn.Module:
        """Return the table as a module that nobody changes; it may be mapped from a file."""
        return WordVectors(self._vectors())

    def _layers(self) -> list[nn.Module]:
        """Load what follows the pooling."""
        return []


class WordFileBackbone(StaticBackbone):
    """Word vectors of a file."""

    def __init__(self, source: FilesSource, settings: TextSettings) -> None:
        self.source, self.name = source, source.name
        self._table = find_table(source)
        self.width, self.n_words = self._table.facts.width, len(self._table)
        self.max_length = settings.max_length
        self.has_subwords = self._table.ngrams is not None
        self.pooling = choose_pooling(settings, self.name, self.has_subwords)
        self._reader = WordReader(self._table)
        self.n_bytes = 0 if self._table.is_mapped else self._table.vectors.nbytes
        self.digest = digest_of({"core": self.core_digest, "pooling": self.pooling})

    def words(self) -> Callable[[int], str]:
        """Return what gives the word of a row."""
        return self._table.word

    def row_of(self, word: str) -> int:
        """Return the row of a word, in lower case where the vocabulary has no other."""
        row = self._table.find(word)
        return row if row >= 0 else self._table.find(word.lower())

    def _find(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], Spread]:
        rows, sizes, known = self._reader.read(texts)
        return rows, sizes, known.spread

    def _vectors(self) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self._table.vectors))

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Refuse: no library's folder splits texts as word vectors need it."""
        raise UnsupportedModelError(
            f"{self.name} is a file of word vectors: there is no folder format that splits texts "
            "into its words. Share the file, and the pickled embedder."
        )


def find_words(settings: TextSettings) -> WordFileBackbone:
    """Return the backbone of a file of word vectors."""
    path = Path(os.path.expanduser(settings.model)).absolute()  # noqa: PTH111  (never raises)
    check_settings(settings, os.fspath(settings.model), revision=OF_THE_HUB)
    if settings.prompt not in ("auto", None):
        raise InvalidParameterError(
            f"prompt={settings.prompt!r}: word vectors were trained without prompts; leave it."
        )
    source = FilesSource(os.fspath(settings.model), tuple(files_of(path)))
    key = ("words", source.digest, source.paths, source.name, settings.pooling, settings.max_length)
    return kept_recent(key, lambda: WordFileBackbone(source, settings))


def check_settings(settings: TextSettings, name: str, **reasons: str) -> None:
    """Refuse parameters that mean nothing to static vectors."""
    if settings.dtype == "float32":
        settings = replace(settings, dtype="auto")
    settings.refuse(
        dtype="static vectors are looked up in float32; use 'auto' or 'float32'.",
        attention="static vectors have none.",
        base_url="only hosted models have a server.",
        **reasons,
    )


def choose_pooling(settings: TextSettings, name: str, has_subwords: bool = False) -> str:
    """Return how words become one vector."""
    pooling = "mean" if settings.pooling == "auto" else settings.pooling
    if pooling not in _POOLINGS:
        raise InvalidParameterError(
            f"pooling={pooling!r}: static vectors know no order of words; {name} takes "
            f"{', '.join(map(repr, _POOLINGS))}."
        )
    if pooling == "max" and has_subwords:
        raise InvalidParameterError(
            f"pooling='max': words outside the vocabulary of {name} are means of groups of "
            "letters. Use 'mean', or its .vec file."
        )
    return pooling
