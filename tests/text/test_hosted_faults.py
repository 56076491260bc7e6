"""What goes wrong with servers: what is asked again, refused and kept, and who sees keys."""

import threading
import time
from email.utils import formatdate

import numpy as np
import pytest

from skembed import EmbeddingStore, TextEmbedder
from skembed.exceptions import (
    InvalidRowsError,
    InvalidRowsWarning,
    ServiceError,
    SkembedWarning,
)
from skembed.text.hosted import _server, _settings
from tests.text.openai_server import (
    OpenAIServer,
    Reply,
    changed,
    error,
    refuse_if,
    vectors_of,
)

ROWS = [f"text {i}" for i in range(40)]
KEY = "sk-secret-0123456789"


@pytest.fixture
def embedder(server):
    """Return an embedder that has asked for its width."""
    embedder = TextEmbedder(
        "openai:tiny", base_url=server.url, cache=EmbeddingStore(), batch_size=10
    )
    embedder.fit(ROWS)
    server.forget()
    return embedder


def assert_right(vectors, rows=ROWS):
    np.testing.assert_allclose(vectors, vectors_of(rows), rtol=0, atol=2e-7)


def drop_connection(request, right):
    right.cut = 30
    return right


def half_of_it(request, right):
    return Reply(right.content[: len(right.content) // 2])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (error(500, {"error": {"message": "oh dear"}}), "500 Internal Server Error: oh dear"),
        (error(503, {"message": "busy"}), "503 Service Unavailable: busy"),
        (
            error(502, b"<html><title>Bad &amp; worse</title></html>"),
            "502 Bad Gateway: Bad & worse",
        ),
        (error(429, {"detail": "slow down"}), "429 Too Many Requests: slow down"),
        (error(408, b""), "408 Request Timeout: no explanation"),
        (error(529, {"error": "overloaded"}), "529: overloaded"),
        (half_of_it, "its answer is not JSON"),
        (drop_connection, "RemoteProtocolError"),
    ],
    ids=["500", "503", "html", "429", "408", "529", "truncated", "broken off"],
)
def test_what_may_pass_is_asked_again(fault, said, embedder, server):
    server.faults = [fault]
    with pytest.warns(SkembedWarning, match=f"{said}.*It is asked again"):
        assert_right(embedder.transform(ROWS))
    assert len(server.requests) == 5
    assert sorted(server.texts[:40]) != sorted(server.texts)


def test_a_server_that_does_not_answer_in_time_is_asked_again(embedder, server, monkeypatch):
    def late(request, right):
        right.delay = 4.0
        return right

    monkeypatch.setattr(_server, "_SECONDS", 1.5)
    other = TextEmbedder("openai:late", base_url=server.url, cache=None)
    other.fit(ROWS)
    server.faults = [late]
    with pytest.warns(SkembedWarning, match=r"no answer within 1\.5 s"):
        assert_right(other.transform(ROWS))


@pytest.mark.filterwarnings("ignore::skembed.exceptions.SkembedWarning")
@pytest.mark.parametrize("asked", ["seconds", "milliseconds", "date"])
def test_a_server_is_given_the_time_that_it_asks_for(asked, embedder, server):
    headers = {
        "seconds": {"Retry-After": "0.3"},
        "milliseconds": {"retry-after-ms": "300"},
        "date": {"Retry-After": formatdate(time.time() + 2, usegmt=True)},
    }[asked]
    times = []

    def noted(request, right):
        times.append(time.monotonic())
        return Reply({"error": {}}, 429, headers) if len(times) == 1 else right

    server.always = noted
    embedder.transform(ROWS[:1])
    assert len(times) == 2
    assert times[1] - times[0] >= 0.3


@pytest.mark.filterwarnings("ignore::skembed.exceptions.SkembedWarning")
def test_all_requests_wait_while_a_server_wants_quiet(embedder, server):
    times = []

    def noted(request, right):
        times.append(time.monotonic())
        return Reply({"error": {}}, 429, {"Retry-After": "0.5"}) if len(times) == 1 else right

    server.always = noted
    embedder.transform(ROWS[:10])
    embedder.set_params(batch_size=1).transform(ROWS)
    assert min(np.diff(times)[:1]) >= 0.5


@pytest.mark.filterwarnings("ignore::skembed.exceptions.SkembedWarning")
def test_a_server_that_stays_away_is_given_up(embedder, server, monkeypatch):
    monkeypatch.setattr(_server, "_MOST_TRIES", 3)
    server.always = error(500, {"error": {"message": "oh dear"}})
    message = (
        "asked 3 times, most recently: 500 Internal Server Error: oh dear.*call again to go on"
    )
    with pytest.raises(ServiceError, match=message):
        embedder.transform(ROWS[:10])
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_wants_hours_is_not_waited_for(status, embedder, server):
    server.always = error(status, {"error": {"message": "daily limit"}}, {"Retry-After": "9000"})
    with pytest.raises(ServiceError, match="daily limit, which asks to wait 9,000 s"):
        embedder.transform(ROWS[:10])
    assert len(server.requests) == 1


def test_a_quota_that_is_spent_does_not_come_back(embedder, server):
    spent = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    server.always = error(429, spent)
    with pytest.raises(ServiceError, match="You exceeded your quota"):
        embedder.transform(ROWS[:10])
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 429])
def test_a_budget_that_is_spent_is_not_the_fault_of_the_texts(status, embedder, server):
    message = "Budget has been exceeded! Current cost: 5.1, Max budget: 5.0"
    server.always = error(status, {"error": {"message": message}})
    with pytest.raises(ServiceError, match=r"Max budget: 5\.0.*call again to go on"):
        embedder.set_params(on_error="nan").transform(ROWS[:10])
    assert len(server.requests) == 1


@pytest.mark.filterwarnings("ignore::skembed.exceptions.SkembedWarning")
def test_a_quota_for_a_minute_comes_back(embedder, server):
    server.faults = [error(429, {"error": {"message": "Quota exceeded: requests per minute"}})]
    assert_right(embedder.transform(ROWS))


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "last"])
def test_what_arrives_is_kept_when_another_request_fails(is_first, embedder, server):
    everyone_is_here = threading.Barrier(4)

    def one_fails(request, right):
        everyone_is_here.wait(timeout=60)
        is_bad = "text 39" in request.texts
        if is_bad:
            right = Reply({"error": {"message": "no"}}, 400)
        right.delay = 0.0 if is_bad == is_first else 0.3
        return right

    server.always = one_fails
    with pytest.raises(ServiceError, match=r"400 Bad Request: no\. .*call again to go on"):
        embedder.transform(ROWS)
    server.always = None
    refused = next(request.texts for request in server.requests if "text 39" in request.texts)
    server.forget()
    assert_right(embedder.transform(ROWS))
    assert sorted(server.texts) == sorted(refused)
    assert embedder.report_.n_encoded == len(refused) == 10


def test_a_failure_ends_the_waiting_of_the_others(embedder, server, monkeypatch):
    monkeypatch.setattr(_server, "_FIRST_WAIT", 250.0)  # beyond what a test may take

    def one_is_final(request, right):
        if "text 0" in request.texts:
            return Reply({"error": {"message": "no"}}, 400, delay=0.3)
        return Reply({"error": {"message": "later"}}, 503)

    server.always = one_is_final
    with pytest.warns(SkembedWarning, match="later"), pytest.raises(ServiceError, match="400"):
        embedder.transform(ROWS)
    assert len(server.texts) == len(set(server.texts))


class TestTooMuch:
    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (413, "batch size 40 > maximum allowed batch size 16"),
            (400, "'$.input' is invalid: array too long, expected a maximum length of 16"),
            (422, "List should have at most 16 items after validation, not 40"),
            (400, "input: expected a text or a list of texts, 16 at most; got 40."),
        ],
    )
    def test_too_many_texts_are_halved_and_the_limit_is_remembered(
        self, status, message, embedder, server
    ):
        server.always = refuse_if(lambda texts: len(texts) > 16, status, message)
        assert_right(embedder.set_params(batch_size=40).transform(ROWS))
        sizes = [len(request.texts) for request in server.requests]
        assert sorted(sizes) == [10, 10, 10, 10, 20, 40]
        server.forget()
        rows = [f"later {i}" for i in range(40)]
        assert_right(embedder.transform(rows), rows)
        assert max(len(request.texts) for request in server.requests) == 10

    def test_too_many_tokens_are_halved(self, embedder, server):
        rows = [f"word {i} " * 50 for i in range(16)]
        message = "Requested 800 tokens, max 300 tokens per request"
        server.always = refuse_if(lambda texts: sum(map(len, texts)) > 2000, 400, message)
        assert_right(embedder.set_params(batch_size=16).transform(rows), rows)
        server.forget()
        short = [f"short {i}" for i in range(40)]  # more of them than of the long ones
        assert_right(embedder.set_params(batch_size=40).transform(short), short)
        assert len(server.requests) == 1

    def test_more_than_a_minute_allows_is_halved_not_waited_for(self, embedder, server):
        message = "Request too large for tiny on tokens per min (TPM): Limit 10, Requested 20"
        server.always = refuse_if(lambda texts: len(texts) > 20, 429, message)
        assert_right(embedder.set_params(batch_size=40).transform(ROWS))
        assert len(server.requests) == 3

    def test_a_text_that_is_refused_alone_is_a_bad_row(self, embedder, server):
        message = "This model's maximum context length is 4 tokens"
        server.always = refuse_if(lambda texts: any("long" in t for t in texts), 400, message)
        rows = [*ROWS[:5], "long long", *ROWS[5:9]]
        expected = r"row 5: the server refuses it \(400 Bad Request: This model's maximum context"
        with pytest.raises(InvalidRowsError, match=expected):
            embedder.transform(rows)
        server.forget()
        embedder.set_params(on_error="nan")
        with pytest.warns(InvalidRowsWarning, match="1 of 10 rows"):
            vectors = embedder.transform(rows)
        assert server.texts == ["long long"]  # the others are in the store
        assert np.isnan(vectors[5]).all()
        assert_right(np.delete(vectors, 5, axis=0), ROWS[:9])

    def test_a_text_that_a_server_names_is_a_bad_row(self, embedder, server):
        def refuse(request, right):
            bad = [i for i, text in enumerate(request.texts) if text == "\n"]
            message = f"input[{bad[0]}]: no tokens in it." if bad else ""
            return Reply({"error": {"message": message}}, 400) if bad else right

        server.always = refuse
        with pytest.raises(InvalidRowsError, match=r"row 3: the server refuses it .*no tokens in"):
            embedder.transform([*ROWS[:3], "\n", *ROWS[3:]])
        server.forget()
        assert_right(embedder.transform(ROWS))
        assert not server.texts

    def test_many_long_texts_are_bad_rows_as_long_as_others_are_answered(self, embedder, server):
        server.always = refuse_if(lambda texts: any("long" in t for t in texts), 413, "too long")
        rows = [f"long {i}" for i in range(20)]
        with pytest.warns(InvalidRowsWarning, match="20 of 60 rows"):
            vectors = embedder.set_params(on_error="nan").transform([*rows, *ROWS])
        assert_right(vectors[20:])

    def test_a_server_that_begins_to_refuse_every_text_is_at_fault_itself(self, embedder, server):
        embedder.set_params(on_error="nan", batch_size=64).transform(["an answered text"])
        server.always = error(400, {"error": {"message": "you exceed what you may"}})
        rows = [f"text {i}" for i in range(640)]
        with pytest.raises(ServiceError, match=r"what you may.*call again to go on"):
            embedder.transform(rows)
        assert len(server.requests) < 150

    def test_a_server_that_refuses_every_text_is_at_fault_itself(self, server, monkeypatch):
        monkeypatch.setattr(_settings, "OPENAI", server.url)
        monkeypatch.setattr("skembed.text.hosted._backbone.OPENAI", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        server.always = error(413, {"detail": "too large"})
        embedder = TextEmbedder("openai:text-embedding-3-small", cache=None)
        with pytest.raises(ServiceError, match=r"413 .*too large"):
            embedder.transform(ROWS)


def test_a_server_without_base64_is_asked_for_numbers(server):
    def only_floats(request, right):
        if request.body["encoding_format"] != "float":
            detail = [{"loc": ["body", "encoding_format"], "msg": "Input should be 'float'"}]
            return Reply({"detail": detail}, 422)
        return right

    server.always = only_floats
    embedder = TextEmbedder("openai:tiny", base_url=server.url, cache=None)
    assert_right(embedder.transform(ROWS))
    assert [request.body["encoding_format"] for request in server.requests].count("base64") == 1


def test_vectors_are_put_in_order_by_their_indices(embedder, server):
    server.always = changed(lambda data: data[::-1])
    assert_right(embedder.transform(ROWS))


def with_values(*values):
    def change(data):
        data[1]["embedding"] = [*values, *[0.0] * (8 - len(values))]
        return data

    return changed(change)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (changed(lambda data: data[:-1]), "it gave 9 vectors for 10 texts"),
        (changed(lambda data: data + data), "it gave 20 vectors for 10 texts"),
        (changed(lambda data: [{**each, "index": 0} for each in data]), "which texts they belong"),
        (changed(lambda data: [{"embedding": [1.0]} for each in data]), "which texts they belong"),
        (changed(lambda data: ["x"] * len(data)), "which texts they belong"),
        (changed(lambda data: [{**d, "embedding": [1, 2]} for d in data]), "vectors of 2 features"),
        (with_values(*range(9)), "vectors of 8 and 9 features, expected 8"),
        (with_values("x"), "expected a list of numbers or base64"),
        (changed(lambda d: [{**x, "embedding": "!"} for x in d]), "expected a list of numbers"),
        (error(200, {"error": {"message": "no such model"}}), "without vectors: no such model"),
        (error(200, ["x"]), "it answered without vectors"),
        (error(401, {"error": {"message": "who?"}}), "401 Unauthorized: who"),
        (error(404, {"detail": "Not Found"}), "404 Not Found: Not Found. Check the model's name"),
        (error(400, {"errors": ["bad", "worse"]}), "400 Bad Request: bad"),
        (error(422, {"detail": [{"msg": "wrong type"}]}), "422 .*: wrong type"),
    ],
)
def test_what_makes_no_sense_is_refused(fault, message, embedder, server):
    server.always = fault
    with pytest.raises(ServiceError, match=message) as caught:
        embedder.transform(ROWS[:10])
    assert len(server.requests) == 1
    assert "openai:tiny at http://127.0.0.1" in str(caught.value)
    server.always = None
    assert_right(embedder.transform(ROWS))  # nothing wrong was stored


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, 1e300])
def test_values_that_are_not_finite_are_named_by_row(value, embedder, server):
    server.faults = [with_values(value)]
    with pytest.raises(InvalidRowsError, match=r"(?s)1 of 10 rows .*values that are not finite"):
        embedder.transform(ROWS[:10])
    server.forget()
    assert_right(embedder.transform(ROWS[:10]), ROWS[:10])
    assert len(server.texts) == 1


@pytest.mark.filterwarnings("ignore::skembed.exceptions.SkembedWarning")
def test_a_server_that_was_never_there_is_not_waited_for_long():
    server = OpenAIServer()
    server.close()
    with pytest.raises(ServiceError, match=r"It was asked 3 times.*ConnectError"):
        TextEmbedder("openai:gone", base_url=server.url).fit(ROWS)
