"""ELMo: texts are split into words, words into bytes; its states are pooled over the words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skembed._backbone import OF_THE_HUB, Backbone, Ending, Exported, thawed
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    TruncationWarning,
    warn_user,
)
from skembed.modules import (
    N_BOUNDARIES,
    BiLM,
    Rows,
    WordBatch,
    build_empty,
)
from skembed.store import digest_of
from skembed.text._backbone import TextModule, TextSettings
from skembed.text._elmo_files import find_files, read_options, read_state, sizes_of, write_files
from skembed.text._settings import NO_TOKENS
from skembed.weights import FilesSource, kept_recent

__all__ = ["ElmoBackbone", "find_elmo"]

_SIGN = r"!-/:-@\[-^`{-~\u00a1-\u00bf\u2010-\u205e\u3001-\u303f\uff01-\uff0f\uff1a-\uff20"
_WORD = re.compile(
    rf"\d+(?:[.,]\d+)+"  # 1,000.50
    rf"|(?<=\w)['\u2019][^\s{_SIGN}]+"  # don 't, as the corpus has it
    rf"|[^\s{_SIGN}]+(?:[-.][^\s{_SIGN}]+)*"  # well-known, U.S
    rf"|[{_SIGN}]"
)
"""Words and signs, as in the One Billion Word corpus (arXiv:1312.3005): most of ELMos are of it."""

# Bytes are 0 to 255; these stand around texts and words, and fill words up.
_TEXT_BEGINS, _TEXT_ENDS, _BEGINS, _ENDS, _PADDING = map(chr, range(256, 261))

_WORDS_AT_ONCE = 512
"""Through the filters, whose maps of many long words would fill gigabytes."""

_IS_BIDIRECTIONAL = "an LSTM has no attention: ELMo reads each text in both directions."


def find_elmo(settings: TextSettings) -> ElmoBackbone:
    """Return the backbone of ELMo's files; the same one while their content is the same."""
    settings.refuse(
        revision=OF_THE_HUB,
        attention=_IS_BIDIRECTIONAL,
        base_url="only hosted models have a server.",
    )
    if settings.prompt not in ("auto", None):
        raise InvalidParameterError(
            f"prompt={settings.prompt!r:.60}: ELMo was trained without prompts. Leave it at "
            "'auto', or write the text into the rows."
        )
    source = FilesSource(str(settings.model), find_files(settings.model))
    key = ("elmo", source.digest, source.name, source.paths, settings.pooling, settings.max_length)

    def make() -> ElmoBackbone:
        return source.read(lambda: ElmoBackbone(source, settings))

    return kept_recent(key, make)


class Words:
    """Turns texts into words as ELMo reads them: strings with a character for each byte.

    A word begins and ends with a character of its own, and is cut to `n_most` of them. A text is
    cut to `max_length` words, boundaries included.
    """

    def __init__(self, name: str, n_most: int, max_length: int | None) -> None:
        if max_length is not None and max_length <= N_BOUNDARIES:
            raise InvalidParameterError(
                f"max_length={max_length} leaves no room for text: ELMo adds {N_BOUNDARIES} words, "
                "one before and one after a text."
            )
        self._name, self._n_bytes = name, n_most - 2
        self._capacity = None if max_length is None else max_length - N_BOUNDARIES
        self._begin, self._end = (f"{_BEGINS}{each}{_ENDS}" for each in (_TEXT_BEGINS, _TEXT_ENDS))

    def encode(self, texts: Sequence[str], *, is_parallel: bool = False) -> Iterator[list[str]]:
        """Yield the words of each text, without boundaries."""
        for text in texts:
            yield [self._spell(word) for word in _WORD.findall(text)]

    def size(self, words: list[str]) -> int:
        """Return the number of words of a whole text with its boundaries; 0 if it has none."""
        return len(words) + N_BOUNDARIES if words else 0

    def cut(self, words: list[str], rng: np.random.Generator | None = None) -> list[str]:
        """Return a text as one row, cut if it is too long; with `rng`, at a random place."""
        n = self._capacity or len(words)
        start = 0 if rng is None or len(words) <= n else int(rng.integers(len(words) - n + 1))
        return [self._begin, *words[start : start + n], self._end]

    def chunks(self, words: list[str]) -> list[list[str]]:
        """Return a text as one or more rows."""
        n = self._capacity or len(words)
        return [self.cut(words[start : start + n]) for start in range(0, len(words), n)]

    def _spell(self, word: str) -> str:
        spelled = word.encode()
        if len(spelled) > self._n_bytes:
            warn_user(
                f"{self._name} reads {self._n_bytes} bytes of a word and drops the rest, as of "
                f"{word!r:.60}. Put spaces between the words of languages without them. (Shown "
                "once.)",
                TruncationWarning,
                once=f"long words {self._name}",
            )
            spelled = spelled[: self._n_bytes]
        return f"{_BEGINS}{spelled.decode('latin-1')}{_ENDS}"


class ElmoBackbone(Backbone):
    """ELMo as AllenNLP publishes it, pooled over words.

    `max_length` is the most words read at once, boundaries included; None is no limit.
    """

    float32_on = ("cpu",)
    normalizes, n_components = False, None

    def __init__(self, source: FilesSource, settings: TextSettings) -> None:
        self.source: FilesSource = source
        self.name = source.name
        self._options = read_options(source.paths[0])
        self._sizes = sizes_of(self._options)
        self.pooling = "mean" if settings.pooling == "auto" else settings.pooling
        self.max_length = settings.max_length
        self._n_most = self._options["char_cnn"]["max_characters_per_token"]
        self.tokens = Words(self.name, self._n_most, self.max_length)
        self.width = 2 * self._sizes.n_features
        self.digest = digest_of({"core": self.core_digest, "pooling": self.pooling})

    @property
    def core_digest(self) -> bytes:
        """Digest of all that decides the states of given words."""
        return digest_of({"kind": "ELMo", "files": self.source.digest})

    def prepare(self, text: str, rng: np.random.Generator | None = None) -> list[str]:
        """Return the words of a text with boundaries; with `rng`, cut at a random place."""
        (words,) = self.tokens.encode([text])
        if not words:
            raise InvalidInputError(f"{text!r}: {NO_TOKENS}.")
        return self.tokens.cut(words, rng)

    def cost(self, part: list[str]) -> int:
        """Return the number of words."""
        return len(part)

    def collate(self, parts: Sequence[list[str]]) -> WordBatch:
        """Put rows end to end; each distinct word goes through the character CNN once."""
        distinct = sorted({word for part in parts for word in part}, key=lambda w: (len(w), w))
        places = {word: i for i, word in enumerate(distinct)}
        groups = [
            self._characters(distinct[start : start + _WORDS_AT_ONCE])
            for start in range(0, len(distinct), _WORDS_AT_ONCE)
        ]
        words = torch.tensor([places[word] for part in parts for word in part])
        return WordBatch(tuple(groups), words, Rows([len(part) - N_BOUNDARIES for part in parts]))

    def _characters(self, words: Sequence[str]) -> Tensor:
        """Return the characters of words, padded as far as it makes a difference.

        The model saw all words padded to the same length, and maxima over it. Where the widest
        filter has met nothing but padding, more of it gives the same.
        """
        widest = max(width for width, _ in self._sizes.filters)
        length = min(self._n_most, len(words[-1]) + widest)  # of words by rising length
        text = "".join(word.ljust(length, _PADDING) for word in words)
        ids = np.frombuffer(text.encode("utf-16-le"), dtype="<u2").astype(np.int64)
        return torch.from_numpy(ids.reshape(len(words), length))

    def load(
        self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None
    ) -> TextModule:
        """Load the module, or put it around a core; see `Backbone`."""
        if core is None:
            core = build_empty(lambda: BiLM(self._sizes))
            core.load_state_dict(read_state(self.source.paths[1], self._options), assign=True)
            thawed(core)
        return TextModule(core, self.pooling).eval()

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write options and weights as AllenNLP reads them; the mix of layers is in the options."""
        core: Any = module.core
        mix = write_files(folder, self._options, core.state_dict())
        code = f"""
from allennlp.modules.elmo import Elmo, batch_to_ids

elmo = Elmo(
    "options.json", "weights.hdf5", 1, dropout=0, scalar_mix_parameters={mix}
).eval()
# texts: a list of lists of words. A new Elmo each time: it goes on from the last batch's state.
found = elmo(batch_to_ids(texts))
# vectors: found["elmo_representations"][0], pooled over the words ({self.pooling})
"""
        return Exported("allennlp", code)
