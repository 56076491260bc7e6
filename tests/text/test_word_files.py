"""Files of word vectors: all formats give the same words and vectors; damage is named."""

import gzip
import json
import multiprocessing
import os
import pickle
import stat

import numpy as np
import pytest

from skembed import TextEmbedder, unload_models
from skembed.exceptions import (
    InvalidParameterError,
    ModelNotFoundError,
    SkembedWarning,
    UnsupportedModelError,
)
from skembed.text.static import _table
from skembed.text.static._fasttext import Ngrams
from skembed.weights import FilesSource
from tests.materials import material
from tests.text.words import (
    WORDS,
    bucket_of,
    letters_of,
    vectors_of,
    write_binary,
    write_fasttext,
    write_text,
)

VECTORS = vectors_of()


def write_npy(path, words=WORDS, vectors=VECTORS, beside="txt", order="C"):
    np.save(path, np.asarray(vectors, order=order))
    listed = "".join(f"{word}\n" for word in words) if beside == "txt" else json.dumps(words)
    path.with_suffix(f".{beside}").write_text(listed, encoding="utf-8")
    return path


WRITERS = {
    "glove.txt": lambda path: write_text(path),
    "word2vec.txt": lambda path: write_text(path, header=True),
    "fasttext.vec": lambda path: write_text(path, header=True),
    "word2vec.bin": lambda path: write_binary(path),
    "gensim.bin": lambda path: write_binary(path, ending=b""),
    "array.npy": lambda path: write_npy(path),
    "list.npy": lambda path: write_npy(path, beside="json"),
    "fortran.npy": lambda path: write_npy(path, order="F"),
}


@pytest.mark.parametrize("name", [*WRITERS, "glove.txt.gz", "fasttext.vec.gz", "word2vec.bin.gz"])
def test_each_word_of_each_format_has_its_vector(tmp_path, name):
    path = WRITERS[name.removesuffix(".gz")](tmp_path / name.removesuffix(".gz"))
    if name.endswith(".gz"):
        packed = path.with_name(name)
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    np.testing.assert_array_equal(TextEmbedder(path).transform(WORDS), VECTORS)
    assert TextEmbedder(str(path)).fit(["a"]).n_features_out_ == 6


def test_numbers_of_other_types_become_float32(tmp_path):
    path = write_npy(tmp_path / "a.npy", vectors=VECTORS.astype(np.float16))
    expected = VECTORS.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(TextEmbedder(path).transform(WORDS), expected)


def test_a_word_with_spaces_is_kept_whole_and_of_equal_words_the_first_counts(tmp_path):
    # As GloVe of Common Crawl has them.
    words = ["cat", "at name@domain.com", "cat", ". . ."]
    path = write_text(tmp_path / "g.txt", words, VECTORS[:4])
    embedder = TextEmbedder(path)
    np.testing.assert_array_equal(embedder.transform(["cat"]), VECTORS[:1])
    similar = dict(embedder.most_similar(VECTORS[0], n=9))
    assert set(similar) == set(words)


# fastText ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crime-and-punishment", "toy-model"])
def test_words_of_fasttexts_own_files_have_the_vectors_that_it_wrote_beside_them(name):
    # The .vec was written by fastText from the same model, words made of their n-grams.
    folder = material("gensim")
    _, *lines = (folder / f"{name}.vec").read_text(encoding="utf-8").splitlines()
    words = [line.split(" ")[0] for line in lines]
    expected = np.array([line.split()[1:] for line in lines], dtype=np.float32)
    vectors = TextEmbedder(folder / f"{name}.bin").transform(words)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=2e-5)


@pytest.mark.parametrize("word", ["cat", "unseen", "naïve", "朴素贝叶斯", "x", "a\u0301b"])
@pytest.mark.parametrize(("shortest", "longest"), [(3, 6), (1, 2), (5, 5)])
def test_groups_of_letters_are_those_of_the_slow_way(word, shortest, longest):
    expected = sorted(bucket_of(each, 100) for each in letters_of(word, shortest, longest))
    rows, counts = Ngrams(shortest, longest, 100).rows_of([b"before", word.encode(), b""])
    before = counts[0]
    assert sorted(rows[before : before + counts[1]].tolist()) == expected


def test_a_word_that_fasttext_does_not_know_is_the_mean_of_its_groups(tmp_path):
    words, table = ["cat", "naïve", "</s>"], vectors_of(3 + 40, 8, seed=1)
    embedder = TextEmbedder(write_fasttext(tmp_path / "model.bin", words, table))

    def expected(word):
        rows = [3 + bucket_of(each, 40) for each in letters_of(word, 3, 5)]
        own = [words.index(word)] if word in words else []
        return table[own + rows].mean(0)

    texts = ["cat", "catty", "naïve", "Naïveté", "cat catty, unheard"]
    vectors = embedder.transform(texts)
    known = [expected(word) for word in ("cat", "catty", "naïve", "naïveté")]
    np.testing.assert_allclose(vectors[:4], known, atol=1e-6)
    np.testing.assert_allclose(
        vectors[4], np.mean([known[0], known[1], expected("unheard")], axis=0), atol=1e-6
    )
    np.testing.assert_array_equal(embedder.transform(["</s>"]), table[2:3])
    assert embedder.report_.n_unknown.tolist() == [0]


def test_a_maximum_over_groups_of_letters_is_refused(tmp_path):
    path = write_fasttext(tmp_path / "model.bin", ["cat"], vectors_of(5, 4))
    with pytest.raises(InvalidParameterError, match="pooling='max': words outside the vocabulary"):
        TextEmbedder(path, pooling="max").fit(["a"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 13}, "format 13; skembed reads 11 and 12"),
        ({"is_quantized": 1}, "quantized .*Pass the .bin"),
        ({"n_pruned": 0}, "quantized"),
    ],
)
def test_fasttext_files_that_cannot_be_read_say_why(tmp_path, changes, message):
    path = write_fasttext(tmp_path / "m.bin", ["cat"], vectors_of(5, 4), **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        TextEmbedder(path).fit(["a"])


# What is damaged ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["word2vec.txt", "word2vec.bin", "array.npy", "model.bin"])
@pytest.mark.parametrize("share", [0.6, 0.97])
def test_a_file_that_was_cut_short_is_refused(tmp_path, name, share):
    path = tmp_path / name
    if name == "model.bin":
        write_fasttext(path, ["cat", "dog"], vectors_of(12, 4))
        path.write_bytes(path.read_bytes()[:-17])  # the output matrix is not read
    else:
        WRITERS[name](path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UnsupportedModelError, match=r"ends too early|line \d+ has"):
        TextEmbedder(path).fit(["a"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat 1 2 3", "line 22 has 3 numbers, expected 6"),
        ("cat 1 2 three 4 5 6", "line 22 has something that is not a number"),
        ("cat 1 2 nan 4 5 6", r"vector 21 \('cat'\) has values that are not finite"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    path = write_text(tmp_path / "glove.txt")
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=message):
        TextEmbedder(path).fit(["a"])


def test_an_array_without_its_words_says_what_is_missing(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS)
    with pytest.raises(
        UnsupportedModelError, match=r"expected a\.txt, one word a line, or a\.json"
    ):
        TextEmbedder(tmp_path / "a.npy").fit(["a"])
    write_npy(tmp_path / "b.npy", words=WORDS[:-1])
    with pytest.raises(UnsupportedModelError, match=r"21 vectors, and b\.txt 20 words"):
        TextEmbedder(tmp_path / "b.npy").fit(["a"])


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([["a", object()]]), allow_pickle=True)
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(UnsupportedModelError, match="expected a 2-D array of numbers, got object"):
        TextEmbedder(tmp_path / "a.npy").fit(["a"])
    for name in ("vectors.kv", "glove.model", "words.magnitude"):
        (tmp_path / name).write_bytes(pickle.dumps({"a": [1.0]}))
    with pytest.raises(ModelNotFoundError, match=r"never opened.*save_word2vec_format"):
        TextEmbedder(tmp_path / "vectors.kv").fit(["a"])
    with pytest.raises(ModelNotFoundError, match="Magnitude"):
        TextEmbedder(tmp_path / "words.magnitude").fit(["a"])


def test_a_file_that_is_not_there_is_missed_by_its_path():
    with pytest.raises(
        ModelNotFoundError, match=r"There is no .*glove\.6B\.50d\.txt.*word vectors"
    ):
        TextEmbedder("glove.6B.50d.txt").fit(["a"])


# The copy in the cache folder --------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_copy_is_made_once_for_a_content_wherever_it_lies(tmp_path, home, monkeypatch):
    vectors = vectors_of(seed=5)
    first = TextEmbedder(write_text(tmp_path / "one.txt", vectors=vectors)).transform(["cat"])
    monkeypatch.setattr(_table, "open_words", None)  # a second conversion would fail
    (tmp_path / "two.txt").write_bytes((tmp_path / "one.txt").read_bytes())
    np.testing.assert_array_equal(TextEmbedder(tmp_path / "two.txt").transform(["cat"]), first)
    (copy,) = (each for each in (home / "words").iterdir() if each.is_dir())
    assert {stat.S_IMODE(each.stat().st_mode) for each in copy.iterdir()} == {0o400}


def test_a_file_that_changes_gives_its_new_vectors(tmp_path, home):
    path = write_text(tmp_path / "glove.txt", vectors=vectors_of(seed=6))
    embedder = TextEmbedder(path)
    embedder.transform(["cat"])
    write_text(path, vectors=vectors_of(seed=7))
    np.testing.assert_array_equal(embedder.transform(["cat"]), vectors_of(seed=7)[1:2])


def test_a_file_that_changes_while_it_is_read_leaves_no_copy_under_its_old_digest(
    tmp_path, home, monkeypatch
):
    first, second = vectors_of(seed=1), vectors_of(seed=2)
    path = write_text(tmp_path / "glove.txt", vectors=first)
    open_words = _table.open_words

    def open_another(place):
        write_text(place, vectors=second)
        return open_words(place)

    with monkeypatch.context() as patched:
        patched.setattr(_table, "open_words", open_another)
        with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
            TextEmbedder(path).transform(["cat"])
    write_text(path, vectors=first)
    unload_models()
    np.testing.assert_array_equal(TextEmbedder(path).transform(["cat"]), first[1:2])


def test_marks_and_line_ends_of_windows_belong_to_no_word(tmp_path, home):
    text = tmp_path / "bom.txt"
    text.write_bytes(b"\xef\xbb\xbfcat 1 2\r\ndog 3 4\r\n")
    np.testing.assert_array_equal(TextEmbedder(text).transform(["cat", "dog"]), [[1, 2], [3, 4]])
    np.save(tmp_path / "n.npy", np.float32([[1, 2], [3, 4]]))
    (tmp_path / "n.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    embedder = TextEmbedder(tmp_path / "n.npy")
    np.testing.assert_array_equal(embedder.transform(["cat", "dog"]), [[1, 2], [3, 4]])


def test_a_damaged_copy_is_made_anew(tmp_path, home):
    vectors = vectors_of(seed=8)
    path = write_text(tmp_path / "glove.txt", vectors=vectors)
    TextEmbedder(path).transform(["cat"])
    unload_models()
    (copy,) = (each for each in (home / "words").iterdir() if each.is_dir())
    (copy / "vectors").chmod(0o600)
    os.truncate(copy / "vectors", 12)
    np.testing.assert_array_equal(TextEmbedder(path).transform(["cat"]), vectors[1:2])


def _find_in_child(path, queue):
    table = _table.find_table(FilesSource(str(path), (path,)))
    queue.put(table.vectors[table.find("w1999")].tolist())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_begin_together_agree(tmp_path, home):
    vectors = vectors_of(2000, 8, seed=9)
    path = write_text(tmp_path / "g.txt", [f"w{i}" for i in range(2000)], vectors)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_find_in_child, args=(path, queue)) for _ in range(3)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [vectors[1999].tolist()] * 3
    for child in children:
        child.join(timeout=60)
    (copy,) = (each for each in (home / "words").iterdir() if each.is_dir())
    assert not copy.name.startswith(".")


def test_without_a_cache_folder_vectors_are_in_memory_and_a_warning_says_so(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file stands where the folder should be")
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    vectors = vectors_of(seed=10)
    embedder = TextEmbedder(write_text(tmp_path / "glove.txt", vectors=vectors))
    with pytest.warns(SkembedWarning, match=r"cannot be kept in .*SKEMBED_HOME"):
        found = embedder.transform(WORDS)
    np.testing.assert_array_equal(found, vectors)


def test_nothing_is_left_of_a_conversion_that_failed(tmp_path, home):
    path = write_binary(tmp_path / "w.bin")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UnsupportedModelError, match="ends too early"):
        TextEmbedder(path).fit(["a"])
    assert not [each for each in (home / "words").iterdir() if each.is_dir()]
