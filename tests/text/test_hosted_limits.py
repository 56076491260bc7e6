"""Models on a server: texts that are too long, and what many texts will cost."""

import numpy as np
import pytest
import tiktoken

from skembed import EmbeddingStore, TextEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    SkembedWarning,
    TruncatedRowsError,
    TruncationWarning,
)
from skembed.text.hosted import _backbone
from skembed.text.hosted._tokens import counter_of
from tests.text.openai_server import vectors_of
from tests.text.test_hosted_tokens import no_network, tiny_encoding

SMALL = "openai:text-embedding-3-small"


def assert_equal(vectors, expected):
    """Assert that vectors are equal, but for the rounding of their lengths to 1."""
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=2e-7)


@pytest.fixture
def embedder(server):
    return TextEmbedder("openai:tiny", base_url=server.url, cache=EmbeddingStore())


@pytest.fixture
def counted(monkeypatch):
    """Let OpenAI's models have 20 tokens at most, of an encoding of few words."""
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", tiny_encoding("cl100k_base"))
    counter_of.cache_clear()
    yield tiny_encoding()
    counter_of.cache_clear()


class TestLongTexts:
    LONG = "the bee and the cat and the dog and the elk and the fox"

    @pytest.fixture
    def small(self, server, counted):
        return TextEmbedder(
            SMALL, base_url=server.url, max_length=10, cache=EmbeddingStore(), on_truncate="ignore"
        )

    def test_they_are_cut_by_tokens_before_they_are_sent(self, small, server, counted):
        with pytest.warns(TruncationWarning, match="1 of 2 rows was cut at 10 tokens"):
            small.set_params(on_truncate="warn").transform([self.LONG, "the cat"])
        (sent,) = [text for text in server.texts if text.startswith("the bee")]
        n_tokens = len(counted.encode_ordinary(sent))
        assert self.LONG.startswith(sent)
        assert n_tokens == 10
        assert small.report_.n_tokens[0] == len(counted.encode_ordinary(self.LONG))
        assert small.report_.truncated.tolist() == [0]

    def test_they_are_refused_before_any_is_sent(self, small, server):
        small.set_params(on_truncate="raise").fit(["a"])
        server.forget()
        with pytest.raises(TruncatedRowsError, match=r"row 1: \d\d tokens"):
            small.transform(["the cat", self.LONG])
        assert not server.requests

    def test_they_are_the_weighted_mean_of_their_chunks(self, small, server, counted):
        found = small.set_params(on_truncate="mean_of_chunks", normalize=False)
        (vector,) = found.transform([self.LONG])
        chunks = [text for text in server.texts if text != "a"]
        assert sorted(chunks) == sorted(set(chunks))
        sizes = [len(counted.encode_ordinary(chunk)) for chunk in chunks]
        expected = np.average(vectors_of(chunks), axis=0, weights=sizes)
        np.testing.assert_allclose(vector, expected, atol=1e-6)

    def test_the_prompt_is_part_of_each_chunk_and_of_the_limit(self, small, server, counted):
        small.set_params(on_truncate="mean_of_chunks", prompt="and: ").transform([self.LONG])
        chunks = [text for text in server.texts if text != "a"]
        assert all(text.startswith("and: ") for text in chunks)
        assert all(len(counted.encode_ordinary(text)) <= 10 for text in chunks)
        assert "".join(text[len("and: ") :] for text in sorted(chunks, key=self.place)) == self.LONG
        with pytest.raises(InvalidParameterError, match="max_length=3 leaves no room for text"):
            small.set_params(max_length=3).fit(["a"])

    def place(self, chunk):
        return self.LONG.find(chunk[len("and: ") :])

    def test_a_limit_above_the_models_is_refused(self, small):
        with pytest.raises(InvalidParameterError, match="reads at most 8,192 tokens"):
            small.set_params(max_length=9000).fit(["a"])

    def test_without_tiktokens_encoding_they_are_cut_by_bytes_and_it_is_told(
        self, server, monkeypatch, tmp_path
    ):
        counter_of.cache_clear()
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base", raising=False)
        monkeypatch.setattr("requests.get", no_network)
        embedder = TextEmbedder(SMALL, base_url=server.url, cache=None)
        embedder.transform(["a cat"])  # which says nothing: it fits by any count
        message = "tiktoken cannot load its encoding 'cl100k_base'"
        with (
            pytest.warns(SkembedWarning, match=message),
            pytest.warns(TruncationWarning, match="cut at 8,192 UTF-8 bytes"),
        ):
            embedder.transform(["é" * 5000])
        assert server.texts[-1] == "é" * 4096
        counter_of.cache_clear()

    def test_of_a_model_that_is_not_known_bytes_are_counted(self, embedder, server):
        embedder.set_params(max_length=6, on_truncate="warn")
        with pytest.warns(TruncationWarning, match="cut at 6 UTF-8 bytes"):
            vectors = embedder.transform(["éééé", "a cat"])
        assert_equal(vectors, vectors_of(["ééé", "a cat"]))


class TestCost:
    @pytest.fixture(autouse=True)
    def elsewhere(self, monkeypatch, counted):
        monkeypatch.setattr(_backbone, "_MANY_TOKENS", 100)
        monkeypatch.setattr(_backbone, "is_local", lambda url: False)

    def test_many_tokens_are_announced_once_with_their_price(self, server):
        embedder = TextEmbedder(SMALL, base_url=server.url, cache=None)
        rows = [f"the {i}" for i in range(200)]
        message = r"200 texts with about 0 million tokens, \$0.00 at OpenAI's list price of January"
        with pytest.warns(SkembedWarning, match=message) as seen:
            embedder.transform(rows)
            embedder.transform(rows)
        assert len(seen) == 1

    def test_the_estimate_is_of_the_tokens_that_are_sent(self, server, monkeypatch):
        monkeypatch.setattr(_backbone, "_MANY_TOKENS", 1_000_000)
        known = TextEmbedder(SMALL, base_url=server.url, max_length=1000)
        encoder = known.fit(["a"]).encoder_
        text = "the end " * 1000  # 3 tokens of 8 bytes each: " ", "end", "the"
        n_tokens = 1000 * 1000
        message = rf"1,000 texts with about {n_tokens / 1e6:.0f} million tokens, \$0.02"
        with pytest.warns(SkembedWarning, match=message):
            encoder.begin([text] * 1000)

    def test_few_are_not(self, server, recwarn):
        TextEmbedder(SMALL, base_url=server.url).transform(["the cat"])
        assert not list(recwarn)
