"""Files of word vectors as others write them, and folders of static vectors."""

import json
import struct

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

WORDS = [
    *("the", "cat", "sat", "on", "a", "mat", ",", ".", "n't", "do", "'s", "dog", "e.g."),
    *("well-known", "known", "well", "u.s.", "naïve", "朴素", "$", "10,000"),
]


def vectors_of(n=21, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def write_text(path, words=WORDS, vectors=None, header=False):
    """Write GloVe's text, or word2vec's with its header."""
    vectors = vectors_of(len(words)) if vectors is None else vectors
    lines = [f"{len(words)} {vectors.shape[1]}"] if header else []
    lines += [f"{w} {' '.join(map(repr, v.tolist()))}" for w, v in zip(words, vectors, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_binary(path, words=WORDS, vectors=None, ending=b"\n"):
    """Write word2vec's binary, as Google's tool does it."""
    vectors = vectors_of(len(words)) if vectors is None else vectors
    data = f"{len(words)} {vectors.shape[1]}\n".encode()
    for word, vector in zip(words, vectors, strict=True):
        data += word.encode() + b" " + vector.astype("<f4").tobytes() + ending
    path.write_bytes(data)
    return path


def letters_of(word, shortest, longest):
    """Return a word's groups of letters by fastText's rule, the slow and obvious way."""
    marked = f"<{word}>"
    groups = [
        marked[i : i + n]
        for i in range(len(marked))
        for n in range(shortest, longest + 1)
        if i + n <= len(marked)
    ]
    return [group for group in groups if group not in ("<", ">")]


def bucket_of(group, n_buckets):
    """Return the bucket of a group of letters: FNV-1a over bytes taken for signed."""
    found = 2166136261
    for byte in group.encode():
        signed = byte - 256 if byte > 127 else byte
        found = ((found ^ (signed & 0xFFFFFFFF)) * 16777619) % 2**32
    return found % n_buckets


def write_fasttext(path, words, table, shortest=3, longest=5, **changes):
    """Write fastText's binary: settings, words with counts, the rows of words and buckets."""
    n_buckets = len(table) - len(words)
    settings = [table.shape[1], 5, 5, 1, 5, 1, 2, 2, n_buckets, shortest, longest, 100]
    data = struct.pack("<ii", 793712314, changes.get("version", 12))
    data += struct.pack("<12id", *settings, 1e-4)
    data += struct.pack("<iiiqq", len(words), len(words), 0, 1000, changes.get("n_pruned", -1))
    for word in words:
        data += word.encode() + b"\0" + struct.pack("<qb", 7, 0)
    data += bytes([changes.get("is_quantized", 0)]) + struct.pack("<qq", *table.shape)
    data += table.astype("<f4").tobytes() + b"\0" + struct.pack("<qq", 0, table.shape[1])
    path.write_bytes(data)
    return path


def make_tokenizer(words=("[UNK]", *WORDS), *, unknown="[UNK]"):
    """Return a tokenizer of whole words."""
    vocabulary = {word: row for row, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def write_static_embedding(
    folder, vectors, tokenizer, *, normalize=False, settings=None, layers=()
):
    """Write a StaticEmbedding as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    modules = [StaticEmbedding(tokenizer, embedding_weights=vectors), *layers]
    model = SentenceTransformer(modules=modules + [Normalize()] * normalize, device="cpu")
    model.save(str(folder), create_model_card=False)
    if settings is not None:
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder
