"""Real texts for the benchmarks, cut from the docstrings that NumPy, SciPy and scikit-learn bring.

Every text is a run of whole words of given length in tokens, and no two are the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

_MODULES = (
    *("numpy", "numpy.fft", "numpy.linalg", "numpy.ma", "numpy.random", "scipy.fft"),
    *("scipy.integrate", "scipy.interpolate", "scipy.linalg", "scipy.ndimage", "scipy.optimize"),
    *("scipy.signal", "scipy.sparse", "scipy.spatial", "scipy.special", "scipy.stats"),
    *(f"sklearn.{n}" for n in sklearn.__all__ if not callable(getattr(sklearn, n, None))),
)


def read_docstrings() -> dict[str, str]:
    """Return the docstrings of the public functions and classes, by name; each text once."""
    found: dict[str, str] = {}
    for module_name in _MODULES:
        module = import_module(module_name)
        for name in sorted(getattr(module, "__all__", ())):  # NumPy's is in no order
            thing = vars(module).get(name)
            text = inspect.getdoc(thing) if callable(thing) else None
            if text and len(text) >= 200:
                found.setdefault(text, f"{module_name}.{name}")
    return {name: text for text, name in found.items()}


def cut_texts(lengths: np.ndarray, tokenizer_folder: Path, *, is_exact: bool = False) -> list[str]:
    """Cut distinct texts of these lengths, in tokens with the two special ones, from docstrings.

    A text ends with the word that reaches its length, and may have some tokens more; if `is_exact`,
    words that would go beyond it are left out.

    Raises
    ------
    SystemExit
        If the docstrings do not have so many words.
    """
    runs = _runs_of_words(_load_tokenizer(tokenizer_folder))
    texts: dict[str, None] = {}
    for length in lengths:
        text = None
        while text is None or text in texts:
            words, n_tokens = [], 2
            while n_tokens < length:
                try:
                    word, n = next(runs)
                except StopIteration:
                    raise SystemExit(f"{len(lengths)} texts are more than there are") from None
                if is_exact and n_tokens + n > length:
                    continue
                words.append(word)
                n_tokens += n
            text = " ".join(words)
        texts[text] = None
    return list(texts)


def draw_texts(n_rows: int, n_tokens: int, tokenizer_folder: Path) -> list[str]:
    """Draw distinct texts of exactly so many tokens: words of the docstrings in random order.

    There are as many as one likes, for what embeds more than the docstrings have.
    """
    runs = dict(_runs_of_words(_load_tokenizer(tokenizer_folder)))
    words, sizes = np.array(list(runs), dtype=object), np.array(list(runs.values()))
    generator = np.random.default_rng(n_tokens)
    texts: dict[str, None] = {}
    while len(texts) < n_rows:
        left, chosen = n_tokens - 2, []
        for i in generator.integers(len(words), size=4 * n_tokens):
            if sizes[i] <= left:
                chosen.append(words[i])
                left -= sizes[i]
                if not left:
                    texts[" ".join(chosen)] = None
                    break
    return list(texts)


def count_tokens(texts: list[str], tokenizer_folder: Path) -> list[int]:
    """Return the tokens of each text, special ones included."""
    return [len(x.ids) for x in _load_tokenizer(tokenizer_folder).encode_batch(texts)]


def _load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, without padding or truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _runs_of_words(tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Yield the words of all docstrings, one after the other, with their number of tokens."""
    for docstring in read_docstrings().values():
        words = [word for word in docstring.split() if re.search(r"[A-Za-z]{2}", word)]
        for word, encoding in zip(
            words, tokenizer.encode_batch(words, add_special_tokens=False), strict=True
        ):
            yield word, len(encoding.ids)


def labelled_texts(n_rows: int, n_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first words of so many docstrings, and the modules they are from.

    Only modules with 40 docstrings or more take part; the texts are distinct.
    """
    texts, modules = [], []
    for name, docstring in read_docstrings().items():
        text = " ".join(docstring.split()[:n_words])
        if text not in texts:
            texts.append(text)
            modules.append(name.rpartition(".")[0])
    label, sizes = np.unique(modules, return_counts=True)
    large = np.flatnonzero(np.isin(modules, label[sizes >= 40]))
    chosen = np.random.default_rng(0).permutation(large)[:n_rows]
    return np.array(texts, dtype=object)[chosen], np.array(modules)[chosen]


def short_lengths(n_rows: int) -> np.ndarray:
    """Return lengths of short rows, about 16 tokens: titles, questions, search terms."""
    return np.random.default_rng(0).integers(9, 21, n_rows)


def document_lengths(n_rows: int) -> np.ndarray:
    """Return log-normal lengths of mixed documents, about 50 tokens, at most 256."""
    lengths = np.random.default_rng(1).lognormal(np.log(42.0), 0.7, n_rows)
    return np.clip(lengths, 5, 250).astype(int)
