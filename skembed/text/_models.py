"""The table of text models that skembed knows by name.

Any other hub id or folder works too; the table adds what a model's own files do not say: which
prompts it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skembed._models import ModelInfo

__all__ = ["DEFAULT_MODEL", "MODELS", "TextModel"]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class TextModel(ModelInfo):
    """A text model that skembed knows by name.

    Attributes
    ----------
    max_length : int
        Most tokens read.
    prompts : mapping of str to str
        Texts put before each row, by name.
    default_prompt : str or None
        Name of the prompt that `prompt="auto"` uses.
    encoding : str or None
        Of a hosted model: how tiktoken calls its tokens.
    price : float or None
        Of a hosted model: dollars for a million tokens, on the day that `note` names.
    """

    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    encoding: str | None = None
    price: float | None = None


_SBERT = "sentence-transformers"
_APACHE = "Apache-2.0"
_QUESTIONS = "retrieval; prompt='query' for questions"
_E5 = {"query": "query: ", "passage": "passage: "}
_CLIP, _SPACE = "arXiv:2103.00020", "shares a space with pictures"
_JOINT = "pictures and sounds share its space; prompt='query' for questions"
_BGE = {"query": "Represent this sentence for searching relevant passages: "}

# The E5 cards ask for "query: " wherever the task is not retrieval (clustering, classification).
# fmt: off
_ROWS = (
    (DEFAULT_MODEL, 384, _APACHE, "arXiv:2002.10957", "the default: small, fast, English", 256),
    (f"{_SBERT}/all-MiniLM-L12-v2", 384, _APACHE, "arXiv:2002.10957",
     "twice the layers of the default", 128),
    (f"{_SBERT}/all-mpnet-base-v2", 768, _APACHE, "arXiv:2004.09297",
     "larger, more accurate, English", 384),
    (f"{_SBERT}/paraphrase-multilingual-MiniLM-L12-v2", 384, _APACHE, "arXiv:2004.09813",
     "fifty languages", 128),
    ("intfloat/e5-small-v2", 384, "MIT", "arXiv:2212.03533", "retrieval, English", 512,
     _E5, "query"),
    ("intfloat/e5-base-v2", 768, "MIT", "arXiv:2212.03533", "retrieval, English", 512,
     _E5, "query"),
    ("intfloat/multilingual-e5-small", 384, "MIT", "arXiv:2402.05672",
     "retrieval, a hundred languages", 512, _E5, "query"),
    ("BAAI/bge-small-en-v1.5", 384, "MIT", "arXiv:2309.07597", _QUESTIONS, 512, _BGE),
    ("BAAI/bge-base-en-v1.5", 768, "MIT", "arXiv:2309.07597", _QUESTIONS, 512, _BGE),
    ("google/embeddinggemma-2", 768, _APACHE, "arXiv:2509.20354", _JOINT, 8192),
    ("openai/clip-vit-base-patch32", 512, "MIT", _CLIP, _SPACE, 77),
    ("google/siglip-base-patch16-224", 768, _APACHE, "arXiv:2303.15343",
     f"{_SPACE} (skembed[sentencepiece])", 64),
    ("google/siglip2-base-patch16-224", 768, _APACHE, "arXiv:2502.14786",
     f"{_SPACE}; many languages", 64),
    ("laion/clap-htsat-unfused", 512, _APACHE, "arXiv:2211.06687", "shares a space with sounds",
     512),
)
# fmt: on

# List prices of OpenAI's announcement of 25 January 2024 (that of ada: of 13 June 2023).
_ANNOUNCED = "https://openai.com/index/new-embedding-models-and-api-updates/"
_OF_2024 = "$ a million tokens in January 2024"
_HOSTED = (
    ("openai:text-embedding-3-small", 1536, 0.02, "hosted by OpenAI"),
    ("openai:text-embedding-3-large", 3072, 0.13, "hosted by OpenAI, more accurate"),
    ("openai:text-embedding-ada-002", 1536, 0.10, "hosted by OpenAI, of 2022"),
)

MODELS: dict[str, TextModel] = {row[0]: TextModel(*row) for row in _ROWS} | {
    name: TextModel(
        *(name, width, "", _ANNOUNCED, f"{note}; {price:.2f} {_OF_2024}", 8192),
        encoding="cl100k_base",
        price=price,
    )
    for name, width, price, note in _HOSTED
}
