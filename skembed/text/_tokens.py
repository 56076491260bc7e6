"""Texts to token ids: truncation, chunks and prompts.

Knows tokenizers, not models. A tokenizer is shared and never changed: what a model's settings ask
for (limit, prompt, chunks) is done to the ids it gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skembed._encoder import Fault, Prepared
from skembed._optional import import_optional
from skembed.exceptions import InvalidParameterError, UnsupportedModelError

__all__ = ["Filling", "Ids", "TextTokenizer", "load_tokenizer"]

Ids = NDArray[np.int64]

# One of these holds the vocabulary. Without any, transformers makes an empty tokenizer that turns
# every word into the unknown one.
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)

_TEXTS_AT_ONCE = 256
"""Most texts whose encodings are in memory together."""


def load_tokenizer(folder: Path, *, lower_case: bool, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a model folder.

    Raises
    ------
    UnsupportedModelError
        If the folder has none, or one that cannot be read or is of another kind.
    MissingDependencyError
        If it needs SentencePiece, which is not installed.
    """
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Normalizers
    from transformers import AutoTokenizer

    if not any(next(folder.glob(pattern), None) for pattern in _VOCABULARIES):
        raise UnsupportedModelError(
            f"{folder} has no tokenizer (none of {', '.join(_VOCABULARIES)}): save the model's "
            "tokenizer there (`tokenizer.save_pretrained(folder)`)."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
        token_types = tokenizer("a").get("token_type_ids", [])
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        int(tokenizer.model_max_length)
    except Exception as error:  # tokenizers raises bare Exceptions for files it cannot read
        if isinstance(error, ImportError):
            for name in ("sentencepiece", "google.protobuf"):
                import_optional(name, extra="sentencepiece", purpose=f"The tokenizer in {folder}")
        raise UnsupportedModelError(
            f"The tokenizer in {folder} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if len(words) < 2:
        raise UnsupportedModelError(
            f"The tokenizer in {folder} knows no words: its vocabulary is missing or of another "
            "kind. Save the model's tokenizer there (`tokenizer.save_pretrained(folder)`)."
        )
    if any(token_types):
        raise UnsupportedModelError(
            f"{folder}: the tokenizer gives single texts token types other than 0, which skembed "
            "does not pass on."
        )
    if not tokenizer.is_fast:
        if lower_case:
            raise UnsupportedModelError(
                f"{folder} asks for lower-cased texts, which skembed cannot do for a tokenizer "
                f"written in Python ({type(tokenizer).__name__}). Use a model with a "
                "tokenizer.json, or lower-case the texts and remove do_lower_case."
            )
        return tokenizer
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    if lower_case:
        steps = [Lowercase(), backend.normalizer] if backend.normalizer else [Lowercase()]
        backend.normalizer = Normalizers(steps)
    return tokenizer


class _Encoding(NamedTuple):
    ids: list[int]


class _PythonTokenizer:
    """A tokenizer of transformers that is written in Python, behind what the fast ones offer.

    SigLIP's is one: SentencePiece after its own cleaning of texts.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool = True) -> _Encoding:
        """Return the ids of one text."""
        # Not verbose: that a text is longer than the model reads is told elsewhere.
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False)
        return _Encoding(ids)

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[_Encoding]:
        """Return the ids of texts."""
        return [self.encode(text, add_special_tokens) for text in texts]


@dataclass(frozen=True)
class Filling:
    """How sequences are filled up, for models that read padding as they read words.

    Parameters
    ----------
    length : int
        Tokens of every sequence.
    token_id : int
        The padding token.
    on_left : bool
        Whether padding comes before the text.
    """

    length: int
    token_id: int
    on_left: bool


class TextTokenizer:
    """Turns texts into the token ids that a model reads.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        From `load_tokenizer`.
    prompt : str
        Put before every text, and before every chunk of one.
    max_length : int or None
        Most tokens of a sequence, special tokens and prompt included.
    in_chunks : bool
        Whether a longer text becomes several sequences instead of a cut one.
    is_parallel : bool
        Whether texts are tokenised on all cores at once. One core keeps up with a CPU's model, and
        the tokenizers' thread pool does not survive a fork.
    filling : Filling or None
        How sequences are filled up; a text's size does not count it.

    Raises
    ------
    InvalidParameterError
        If special tokens and prompt leave no room for text.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        prompt: str,
        max_length: int | None,
        in_chunks: bool,
        is_parallel: bool = False,
        filling: Filling | None = None,
    ) -> None:
        self._filling = filling
        is_fast = tokenizer.is_fast
        self._backend = tokenizer.backend_tokenizer if is_fast else _PythonTokenizer(tokenizer)
        self._prompt = prompt
        self._in_chunks = in_chunks
        self._is_parallel = is_parallel
        self._cuts_left = tokenizer.truncation_side == "left"
        self._before, self._after = self._special_tokens()
        self._prompt_ids = self._backend.encode(prompt, add_special_tokens=False).ids
        n_special = len(self._before) + len(self._after)
        self._capacity = None if max_length is None else max_length - n_special
        if self._capacity is not None and self._capacity <= len(self._prompt_ids):
            raise InvalidParameterError(
                f"max_length={max_length} leaves no room for text: the model adds {n_special} "
                f"special tokens and the prompt {prompt!r:.60} has {len(self._prompt_ids)}."
            )

    def n_prompt_tokens(self) -> int:
        """Return how many tokens of a row precede its text: leading special tokens and prompt."""
        return len(self._before) + len(self._prompt_ids)

    @property
    def special_token_ids(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        return self._before, self._after

    def prepare(self, texts: Sequence[str]) -> list[Prepared | Fault]:
        """Tokenise texts; parts are arrays of token ids, sizes count all tokens of a text."""
        return [self._prepared(ids) for ids in self._encode(texts)]

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before and after a text."""
        bare = self._backend.encode("a", add_special_tokens=False).ids
        whole = self._backend.encode("a").ids
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        raise UnsupportedModelError("The model's tokenizer changes a text to add special tokens.")

    def _encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yield the ids of each prompted text, without special tokens."""
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = [self._prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]]
            if self._is_parallel:
                encodings = self._backend.encode_batch(some, add_special_tokens=False)
            else:
                encodings = (self._backend.encode(text, add_special_tokens=False) for text in some)
            yield from (encoding.ids for encoding in encodings)

    def _prepared(self, ids: list[int]) -> Prepared | Fault:
        size = len(self._before) + len(ids) + len(self._after)
        if not size:
            return Fault("no tokens: the model's tokenizer makes nothing of this text")
        capacity = self._capacity
        if capacity is None or len(ids) <= capacity:
            return Prepared([self._sequence(ids)], size)
        if self._in_chunks:
            return Prepared([self._sequence(piece) for piece in self._pieces(ids, capacity)], size)
        kept = ids[-capacity:] if self._cuts_left else ids[:capacity]
        return Prepared([self._sequence(kept)], size)

    def _pieces(self, ids: list[int], capacity: int) -> Iterator[list[int]]:
        """Yield a long text in pieces, the prompt before each."""
        # The last tokens of a prompt may merge with the first of the text: what both share is the
        # prompt, and all that follows belongs to the text.
        pairs = zip(ids, self._prompt_ids, strict=False)
        n_prompt = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        prompt, text = ids[:n_prompt], ids[n_prompt:]
        step = capacity - n_prompt
        for start in range(0, len(text), step):
            yield prompt + text[start : start + step]

    def _sequence(self, ids: list[int]) -> Ids:
        ids = self._before + ids + self._after
        if self._filling is not None:
            padding = [self._filling.token_id] * (self._filling.length - len(ids))
            ids = padding + ids if self._filling.on_left else ids + padding
        return np.array(ids, dtype=np.int64)
