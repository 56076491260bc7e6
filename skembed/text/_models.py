"""The table of text models that skembed knows by name.

Any other hub id or folder works too; the table adds what a model's own files do not say: which
prompts it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DEFAULT_MODEL", "TEXT_MODELS", "TextModel"]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class TextModel:
    """One row of the table.

    Parameters
    ----------
    width : int
        Number of features.
    max_length : int
        Most tokens read.
    licence : str
        SPDX name of the licence of the weights.
    source : str
        Paper or model card.
    note : str
        What it is good for.
    prompts : mapping of str to str
        Texts put before each row, by name.
    default_prompt : str or None
        Name of the prompt that `prompt="auto"` uses.
    """

    width: int
    max_length: int
    licence: str
    source: str
    note: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


_E5 = {"query": "query: ", "passage": "passage: "}
_BGE = {"query": "Represent this sentence for searching relevant passages: "}

# The E5 cards ask for "query: " wherever the task is not retrieval (clustering, classification).
TEXT_MODELS: dict[str, TextModel] = {
    "sentence-transformers/all-MiniLM-L6-v2": TextModel(
        384, 256, "Apache-2.0", "arXiv:2002.10957", "the default: small, fast, English"
    ),
    "sentence-transformers/all-MiniLM-L12-v2": TextModel(
        384, 128, "Apache-2.0", "arXiv:2002.10957", "twice the layers of the default"
    ),
    "sentence-transformers/all-mpnet-base-v2": TextModel(
        768, 384, "Apache-2.0", "arXiv:2004.09297", "larger, more accurate, English"
    ),
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": TextModel(
        384, 128, "Apache-2.0", "arXiv:2004.09813", "fifty languages"
    ),
    "intfloat/e5-small-v2": TextModel(
        384, 512, "MIT", "arXiv:2212.03533", "retrieval, English", _E5, "query"
    ),
    "intfloat/e5-base-v2": TextModel(
        768, 512, "MIT", "arXiv:2212.03533", "retrieval, English", _E5, "query"
    ),
    "intfloat/multilingual-e5-small": TextModel(
        384, 512, "MIT", "arXiv:2402.05672", "retrieval, a hundred languages", _E5, "query"
    ),
    "BAAI/bge-small-en-v1.5": TextModel(
        384, 512, "MIT", "arXiv:2309.07597", "retrieval; prompt='query' for questions", _BGE
    ),
    "BAAI/bge-base-en-v1.5": TextModel(
        768, 512, "MIT", "arXiv:2309.07597", "retrieval; prompt='query' for questions", _BGE
    ),
}
