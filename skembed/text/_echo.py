"""Echo embeddings: a text is read twice, and pooled over the second time.

Knows tokens, not models. Springer et al., 2024, arXiv:2402.15449: a decoder's tokens see only what
stands before them; those of the second copy have seen all of the text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skembed.exceptions import InvalidParameterError
from skembed.text._tokens import Ids, TextTokenizer

__all__ = ["ECHO_TEMPLATE", "EchoTokenizer"]

# The prompt of the paper's results without training (section 4.2), as its code lays it out.
_FIRST = "Rewrite the following paragraph:"
_SECOND = "\nThe rewritten paragraph:"
ECHO_TEMPLATE = f"{_FIRST} {{text}}{_SECOND} {{text}}"


class EchoTokenizer(TextTokenizer):
    """Turns a text into the tokens of the paper's template, with the text in it twice.

    As in the paper's code the parts are tokenised apart from each other, so that both copies have
    the same tokens. The limit is for the whole sequence; of a text that is too long, the same part
    is left out of both copies. A chunk of a text is read twice, too.
    """

    def __init__(self, tokenizer: Any, name: str, prompt: str, max_length: int | None) -> None:
        super().__init__(tokenizer, name, prompt + _FIRST, None)
        self._prompt += " "  # goes with the text's first word
        # In its context: alone, some tokenizers would put a space before it.
        self._between = self._ids("a" + _SECOND)[len(self._ids("a")) :]
        self._n_around = self.n_prompt_tokens + len(self._between) + len(self.after)
        self._n_most = None if max_length is None else (max_length - self._n_around) // 2
        if self._n_most is not None and self._n_most < 1:
            raise InvalidParameterError(
                f"max_length={max_length} leaves no room for text: attention='echo' reads it twice "
                f"and puts {self._n_around} tokens around it."
            )

    def start_of(self, length: int) -> int:
        """Return where the second copy begins in a sequence of this length."""
        n_text = (length - self._n_around) // 2
        return length - len(self.after) - n_text

    def size(self, ids: list[int]) -> int:
        """Return the number of tokens of a whole text, read twice; 0 if it has none."""
        n_text = len(self._split(ids)[1])
        return self._n_around + 2 * n_text if n_text else 0

    def cut(self, ids: list[int], rng: np.random.Generator | None = None) -> Ids:
        """Return a text as one sequence, cut if it is too long; with `rng`, at a random place."""
        text, n_most = self._split(ids)[1], self._n_most
        if n_most is None or len(text) <= n_most:
            return self._twice(text)
        if rng is not None:
            start = int(rng.integers(len(text) - n_most + 1))
            return self._twice(text[start : start + n_most])
        return self._twice(text[-n_most:] if self._cuts_left else text[:n_most])

    def chunks(self, ids: list[int]) -> list[Ids]:
        """Return a text as one or more sequences, each with its chunk twice."""
        text = self._split(ids)[1]
        step = self._n_most or len(text)
        return [self._twice(text[start : start + step]) for start in range(0, len(text), step)]

    def _twice(self, text: list[int]) -> Ids:
        parts = self.before, self._prompt_ids, text, self._between, text, self.after
        return np.concatenate([np.array(part, dtype=np.int64) for part in parts])
