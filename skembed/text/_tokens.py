"""Texts to token ids: truncation, chunks and prompts.

Knows tokenizers, not models. A tokenizer is shared and never changed: limits, prompts and chunks
are applied to the ids that it returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._optional import import_optional
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.weights import read_json

__all__ = [
    "TOKENIZER_FILES",
    "Ids",
    "Padding",
    "TextTokenizer",
    "check_tokenizer",
    "load_tokenizer",
]

Ids = NDArray[np.int64]

# One of these holds the vocabulary. Without any, transformers makes an empty tokenizer that turns
# every word into the unknown one.
_VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("*.model", "*.tiktoken", "tekken.json"),
)

TOKENIZER_FILES = (
    *_VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab*"),
    *("merges.txt", "bpe.codes", "dict.txt", "*.spm"),
)
"""All that a tokenizer is read from."""

_TEXTS_AT_ONCE = 256
"""Most texts whose encodings are in memory together."""


def load_tokenizer(
    folder: Path, lower_case: bool, trust_remote_code: bool, n_tokens: int | None = None
) -> Any:
    """Load the tokenizer of a model folder; refuse one that gives other tokens than the model's.

    `n_tokens` is how many the model knows.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raises bare Exceptions for files it cannot read
        raise _unreadable(folder, error) from None
    if not any(next(folder.glob(pattern), None) for pattern in _VOCABULARIES):
        raise _no_words(folder)
    # transformers drops this setting where there is a tokenizer.json.
    settings = folder / "tokenizer_config.json"
    adds_eos = bool(settings.is_file() and read_json(settings).get("add_eos_token"))
    return check_tokenizer(
        tokenizer, folder, n_tokens=n_tokens, lower_case=lower_case, adds_eos=adds_eos
    )


def check_tokenizer(
    tokenizer: Any,
    folder: Path,
    *,
    n_tokens: int | None,
    lower_case: bool = False,
    adds_eos: bool = False,
) -> Any:
    """Return a tokenizer that neither cuts nor pads; refuse one that is not the model's.

    `folder` is where it comes from; `adds_eos` tells that it ends texts with its end-of-text token.
    """
    from tokenizers import processors
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Normalizers

    try:
        token_types = tokenizer("a").get("token_type_ids", [])
        words = tokenizer.get_vocab()
        for token in tokenizer.all_special_tokens:  # some are never used, and lack a state
            words.pop(token, None)
        int(tokenizer.model_max_length)
    except Exception as error:
        raise _unreadable(folder, error) from None
    if len(words) < 2:
        raise _no_words(folder)
    highest = max(words.values())
    if n_tokens is not None and highest >= n_tokens:
        raise UnsupportedModelError(
            f"The tokenizer in {folder} has tokens up to number {highest:,}, but the model knows "
            f"{n_tokens:,}: it belongs to another model, or was extended without the model "
            "(`model.resize_token_embeddings(len(tokenizer))`)."
        )
    if any(token_types):
        raise UnsupportedModelError(
            f"{folder}: the tokenizer gives single texts token types other than 0, which skembed "
            "does not pass on."
        )
    if not tokenizer.is_fast:
        if lower_case:
            raise UnsupportedModelError(
                f"{folder} asks for lower-cased texts, but its {type(tokenizer).__name__} is "
                "written in Python. Use a model with a tokenizer.json."
            )
        return tokenizer
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    if adds_eos and eos is not None and tokenizer("a")["input_ids"][-1] != eos_id:
        ending = processors.TemplateProcessing(f"$A {eos}", special_tokens=[(eos, eos_id)])
        before = [backend.post_processor] if backend.post_processor else []
        backend.post_processor = processors.Sequence([*before, ending])
    if lower_case:
        steps = [Lowercase(), backend.normalizer] if backend.normalizer else [Lowercase()]
        backend.normalizer = Normalizers(steps)
    return tokenizer


def _unreadable(folder: Path, error: Exception) -> UnsupportedModelError:
    if isinstance(error, ImportError):
        for name in ("sentencepiece", "google.protobuf"):
            import_optional(name, extra="sentencepiece", purpose=f"The tokenizer in {folder}")
    return UnsupportedModelError(
        f"The tokenizer in {folder} cannot be read: {type(error).__name__}: {error}"
    )


def _no_words(folder: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{folder} has no tokenizer, or an empty one. Save the model's tokenizer there "
        "(`tokenizer.save_pretrained(folder)`)."
    )


@dataclass(frozen=True)
class Padding:
    """How rows are padded to one length, for models that read padding as they read words."""

    length: int
    token_id: int
    on_left: bool  # whether padding comes before the text


class TextTokenizer:
    """Turns texts into the token ids that a model reads.

    Before every text, and every chunk of one, stands the prompt. A sequence has at most
    `max_length` tokens, special tokens and prompt included; what fills it up is not counted.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        prompt: str,
        max_length: int | None,
        padding: Padding | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        self._prompt = prompt
        self._padding = padding
        self._cuts_left = tokenizer.truncation_side == "left"
        self.before, self.after = self._special_tokens(name)
        self._prompt_ids = self._ids(prompt)
        self.n_prompt_tokens = len(self.before) + len(self._prompt_ids)
        """How many tokens of a sequence precede its text: special tokens and prompt."""
        n_special = len(self.before) + len(self.after)
        self._capacity = None if max_length is None else max_length - n_special
        if self._capacity is not None and self._capacity <= len(self._prompt_ids):
            raise InvalidParameterError(
                f"max_length={max_length} leaves no room for text: the model adds {n_special} "
                f"special tokens and the prompt {prompt!r:.60} has {len(self._prompt_ids)}."
            )

    def encode(self, texts: Sequence[str], *, is_parallel: bool = False) -> Iterator[list[int]]:
        """Yield the ids of each text after the prompt, without special tokens.

        `is_parallel` takes all cores at once. One core keeps up with a CPU's model, and the
        tokenizers' thread pool does not survive a fork.
        """
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = [self._prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]]
            if is_parallel and self._backend is not None:
                encodings = self._backend.encode_batch(some, add_special_tokens=False)
                yield from (encoding.ids for encoding in encodings)
            else:
                yield from map(self._ids, some)

    def size(self, ids: list[int]) -> int:
        """Return the number of tokens of a whole text."""
        return len(self.before) + len(ids) + len(self.after)

    def cut(self, ids: list[int], rng: np.random.Generator | None = None) -> Ids:
        """Return a text as one sequence, cut if it is too long; with `rng`, at a random place."""
        capacity = self._capacity
        if capacity is None or len(ids) <= capacity:
            return self._sequence(ids)
        if rng is not None:
            prompt, text = self._split(ids)
            n_kept = capacity - len(prompt)
            start = int(rng.integers(len(text) - n_kept + 1))
            return self._sequence(prompt + text[start : start + n_kept])
        return self._sequence(ids[-capacity:] if self._cuts_left else ids[:capacity])

    def chunks(self, ids: list[int]) -> list[Ids]:
        """Return a text as one or more sequences, the prompt before each."""
        if self._capacity is None or len(ids) <= self._capacity:
            return [self._sequence(ids)]
        prompt, text = self._split(ids)
        step = self._capacity - len(prompt)
        starts = range(0, len(text), step)
        return [self._sequence(prompt + text[start : start + step]) for start in starts]

    def _ids(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int]
        if self._backend is not None:
            ids = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        else:  # written in Python, as SigLIP's; that a text is too long is told elsewhere
            ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False)
        return ids

    def _special_tokens(self, name: str) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before and after a text."""
        bare, whole = self._ids("a"), self._ids("a", add_special_tokens=True)
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        raise UnsupportedModelError(
            f"The tokenizer of {name} changes a text when it adds special tokens, which skembed "
            "does not support."
        )

    def _split(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """Part the prompt from the text.

        The last tokens of a prompt may merge with the first of the text: what both share is the
        prompt, and all that follows belongs to the text.
        """
        pairs = zip(ids, self._prompt_ids, strict=False)
        n_prompt = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return ids[:n_prompt], ids[n_prompt:]

    def _sequence(self, ids: list[int]) -> Ids:
        ids = self.before + ids + self.after
        if self._padding is not None:
            padding = [self._padding.token_id] * (self._padding.length - len(ids))
            ids = padding + ids if self._padding.on_left else ids + padding
        return np.array(ids, dtype=np.int64)
