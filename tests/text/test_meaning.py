"""Distances mean something: people's judgements of similarity, on the packaged MiniLM."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from skembed import TextEmbedder
from tests.materials import material


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", pytest.param("int8", marks=pytest.mark.int8)]
)
def test_documents_are_as_similar_as_people_find_them(dtype):
    # Lee, Pincombe and Welsh, 2005: 50 news texts, each pair judged by about ten people. Two
    # people agree to about 0.6; latent semantic analysis reached 0.6 at best.
    folder = material("gensim")
    texts = (folder / "lee.cor").read_text(encoding="latin-1").splitlines()
    human = np.loadtxt(folder / "similarities0-1.txt")
    vectors = TextEmbedder(dtype=dtype).transform(texts)
    pairs = np.triu_indices(len(texts), k=1)
    assert len(texts) == 50
    assert pearsonr((vectors @ vectors.T)[pairs], human[pairs]).statistic > 0.64


def test_words_are_as_similar_as_people_find_them():
    # Hill, Reichart and Korhonen, 2015, arXiv:1408.3456. word2vec reaches 0.41 on the whole set.
    lines = (material("gensim") / "simlex999.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][:999]
    first, second, human = zip(*rows, strict=True)
    embedder = TextEmbedder()
    similarity = (embedder.transform(first) * embedder.transform(second)).sum(1)
    assert spearmanr(similarity, np.array(human, dtype=float)).statistic > 0.4
