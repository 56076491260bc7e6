"""GloVe's vectors mean what its authors' and gensim's evaluations say they mean."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from skembed import TextEmbedder
from tests.materials import material


@pytest.fixture(scope="module")
def glove(tmp_path_factory):
    """GloVe 6B of 50 features, as an array and its words."""
    parquet = pytest.importorskip("pyarrow.parquet")
    data, folder = material("glove"), tmp_path_factory.mktemp("glove")
    words = parquet.read_table(data / "glove_6B_index.parquet").column(0).to_pylist()
    (folder / "glove.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (folder / "glove.npy").symlink_to(data / "glove_6B_50d_emb.npy")
    return TextEmbedder(folder / "glove.npy", normalize=True), words


def pairs(name):
    """Return pairs of words, and how similar people find them."""
    lines = (material("gensim") / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t")[:3] for line in lines if line and not line.startswith("#")]
    first, second, human = zip(*rows, strict=True)
    return list(first), list(second), np.array(human, dtype=float)


@pytest.mark.parametrize(("name", "rho"), [("simlex999.txt", 0.2646), ("wordsim353.tsv", 0.5033)])
def test_words_are_as_similar_as_gensim_finds_them(glove, name, rho):
    first, second, human = pairs(name)
    embedder, _ = glove
    vectors = [embedder.transform(each) for each in (first, second)]
    assert not embedder.report_.n_unknown.any()
    similarity = (vectors[0] * vectors[1]).sum(1)
    assert spearmanr(similarity, human).statistic == pytest.approx(rho, abs=5e-5)


def test_analogies_are_those_that_gensim_finds(glove):
    # Its KeyedVectors.most_similar gives these of the same file.
    embedder, _ = glove
    found = embedder.most_similar(["king", "woman"], "man", n=3)
    assert [word for word, _ in found] == ["queen", "throne", "prince"]
    np.testing.assert_allclose([each for _, each in found], [0.85236, 0.76643, 0.75922], atol=1e-4)


def questions():
    """Return Mikolov's analogies, four words each: 8,869 of meaning and 10,675 of grammar."""
    lines = (material("gensim") / "questions-words.txt").read_text(encoding="utf-8").splitlines()
    return [line.lower().split() for line in lines if not line.startswith(":")]


def test_the_nearest_words_are_those_of_the_whole_product(glove):
    embedder, words = glove
    place = {word: row for row, word in enumerate(words)}
    some = questions()[::2500]
    vectors = embedder.transform(words)
    a, b, c, _ = (vectors[[place[q[i]] for q in some]] for i in range(4))
    scores = (b - a + c) @ vectors.T
    for row, (first, second, third, _) in enumerate(some):
        scores[row, [place[first], place[second], place[third]]] = -np.inf
        ((word, _),) = embedder.most_similar([second, third], first, n=1)
        assert word == words[scores[row].argmax()]
