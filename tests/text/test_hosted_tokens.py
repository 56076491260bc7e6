"""Lengths of texts for a server: tokens by tiktoken, or bytes."""

import itertools
import re
import threading

import numpy as np
import pytest
import requests
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from skembed.exceptions import SkembedWarning
from skembed.text.hosted import _tokens
from skembed.text.hosted._tokens import ByteCounter, TokenCounter, counter_of


def tiny_encoding(name="tiny"):
    """Return an encoding of tiktoken: all bytes, and a few merges of them."""
    merges = [b"th", b"the", b" t", b" th", b" the", b"an", b"and", b"\xc3\xa9", b"  ", b"\xe2\x82"]
    tokens = [bytes([i]) for i in range(256)] + merges
    return tiktoken.Encoding(
        name,
        pat_str=r"\s?\p{L}+|\s?[^\s\p{L}]+|\s+",
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={"<|endoftext|>": len(tokens)},
    )


TINY = tiny_encoding()


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    counter_of.cache_clear()
    yield
    counter_of.cache_clear()


TEXTS = st.text(alphabet="the and€éa \n🙂", max_size=80)


@given(TEXTS, st.integers(1, 9))
def test_pieces_in_tokens_are_the_text_and_fit(text, size):
    pieces = list(TokenCounter(TINY).pieces(text, size))
    assert "".join(pieces) == text
    # A character of several tokens is not taken apart.
    assert all(len(TINY.encode_ordinary(piece)) <= size or len(piece) == 1 for piece in pieces)


@given(TEXTS, st.integers(1, 9))
def test_pieces_in_bytes_are_the_text_and_fit(text, size):
    pieces = list(ByteCounter().pieces(text, size))
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= size or len(piece) == 1 for piece in pieces)


@given(TEXTS)
def test_a_text_has_at_most_as_many_tokens_as_bytes(text):
    assert TokenCounter(TINY).size(text) <= ByteCounter().size(text)


def test_a_long_text_is_cut_in_time_that_grows_with_it():
    text = "the end and then " * 20_000
    pieces = list(TokenCounter(TINY).pieces(text, 100))
    assert "".join(pieces) == text
    ids = TINY.encode_ordinary(text)
    assert len(pieces) == pytest.approx(len(ids) / 100, rel=0.05)


def test_what_looks_like_a_special_token_is_text():
    counter = TokenCounter(TINY)
    assert counter.size("<|endoftext|>") == len(TINY.encode_ordinary("<|endoftext|>")) > 1


def test_a_known_encoding_is_tiktokens(monkeypatch):
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", tiny_encoding("cl100k_base"))
    counter = counter_of("cl100k_base")
    assert (counter.unit, counter.name, counter.size("the and")) == ("tokens", "cl100k_base", 3)


def no_network(*args, **kwargs):
    raise requests.exceptions.ConnectionError("no network")


def test_without_a_network_bytes_are_counted_and_it_is_told_when_a_text_is_cut(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base", raising=False)
    monkeypatch.setattr(requests, "get", no_network)
    counter = counter_of("cl100k_base")
    assert (counter.unit, counter.size("é")) == ("UTF-8 bytes", 2)
    expected = "ConnectionError: no network.*TIKTOKEN_CACHE_DIR"
    with pytest.warns(SkembedWarning, match=re.compile(expected, re.DOTALL)):
        counter.tell()


def test_a_download_that_hangs_is_not_waited_for(monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(_tokens, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: let_go.wait(60))
    try:
        counter = counter_of("cl100k_base")
    finally:
        let_go.set()
    with pytest.warns(SkembedWarning, match="it took too long"):
        counter.tell()


def test_bytes_of_a_model_that_is_not_known_are_no_news(recwarn):
    counter = counter_of(None)
    counter.tell()
    assert not list(recwarn)
    lengths = [len(piece) for piece in itertools.islice(counter.pieces("a" * 10, 4), 3)]
    np.testing.assert_array_equal(lengths, [4, 4, 2])
