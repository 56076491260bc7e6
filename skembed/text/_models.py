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
    attention : {"auto", "bidirectional"}
        What `attention="auto"` means, where the model's files don't say.
    pooling : str or None
        What `pooling="auto"` means, where the model's files don't say; vectors then have unit
        length, and a prompt's tokens take no part.
    encoding : str or None
        Of a hosted model: how tiktoken calls its tokens.
    price : float or None
        Of a hosted model: dollars for a million tokens, on the day that `note` names.
    """

    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    attention: str = "auto"
    pooling: str | None = None
    encoding: str | None = None
    price: float | None = None


_SBERT = "sentence-transformers"
_APACHE = "Apache-2.0"
_QUESTIONS = "retrieval; prompt='query' for questions"
_E5 = {"query": "query: ", "passage": "passage: "}
_CLIP, _SPACE = "arXiv:2103.00020", "shares a space with pictures"
_JOINT = "pictures and sounds share its space; prompt='query' for questions"
_BGE = {"query": "Represent this sentence for searching relevant passages: "}
_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_E5_MISTRAL = {
    "web_search_query": f"Instruct: {_SEARCH}\nQuery: ",
    "sts_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
    "summarization_query": "Instruct: Given a news summary, retrieve other semantically similar "
    "summaries\nQuery: ",
    "bitext_query": "Instruct: Retrieve parallel sentences.\nQuery: ",
}
_QWEN3 = {"query": f"Instruct: {_SEARCH}\nQuery:", "document": ""}  # without a space at its end
_GTE_QWEN2 = {"query": f"Instruct: {_SEARCH}\nQuery: "}
_GRITLM = {"document": "<|embed|>\n"}  # an instruction: "<|user|>\n...\n<|embed|>\n"
_GEMMA = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "BitextMining": "task: search result | query: ",
    "Clustering": "task: clustering | query: ",
    "Classification": "task: classification | query: ",
    "InstructionRetrieval": "task: code retrieval | query: ",
    "MultilabelClassification": "task: classification | query: ",
    "PairClassification": "task: sentence similarity | query: ",
    "Reranking": "task: search result | query: ",
    "Retrieval": "task: search result | query: ",
    "Retrieval-query": "task: search result | query: ",
    "Retrieval-document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
    "Summarization": "task: summarization | query: ",
}
_INSTRUCTED = "a decoder that takes an instruction as prompt"

# The E5 cards ask for "query: " wherever the task is not retrieval (clustering, classification).
# fmt: off
# Those of E5-Mistral and EmbeddingGemma name prompts for such tasks; the most general is taken.
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
    ("google/embeddinggemma-300m", 768, "Gemma", "arXiv:2509.20354",
     "a hundred languages; prompt='Clustering', 'Classification' for these", 2048, _GEMMA, "STS"),
    ("Qwen/Qwen3-Embedding-0.6B", 1024, _APACHE, "arXiv:2506.05176", _INSTRUCTED, 32768, _QWEN3),
    ("Qwen/Qwen3-Embedding-4B", 2560, _APACHE, "arXiv:2506.05176", _INSTRUCTED, 32768, _QWEN3),
    ("Qwen/Qwen3-Embedding-8B", 4096, _APACHE, "arXiv:2506.05176", _INSTRUCTED, 32768, _QWEN3),
    ("intfloat/e5-mistral-7b-instruct", 4096, "MIT", "arXiv:2401.00368", _INSTRUCTED, 4096,
     _E5_MISTRAL, "sts_query"),
    ("GritLM/GritLM-7B", 4096, _APACHE, "arXiv:2402.09906", _INSTRUCTED, 32768,
     _GRITLM, "document", "bidirectional", "mean"),
    ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", 1536, _APACHE, "arXiv:2308.03281", _INSTRUCTED, 32768,
     _GTE_QWEN2, None, "bidirectional"),
    ("Alibaba-NLP/gte-Qwen2-7B-instruct", 3584, _APACHE, "arXiv:2308.03281", _INSTRUCTED, 32768,
     _GTE_QWEN2, None, "bidirectional"),
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
