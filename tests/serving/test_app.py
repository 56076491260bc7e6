"""The server over HTTP: limits, errors, back-pressure."""

import threading

import httpx
import numpy as np
import pytest
from sklearn.base import BaseEstimator

from skembed import FunctionEmbedder
from tests.serving.servers import Gated, Letters, ask, error_of, running, until, vectors_of


@pytest.fixture(scope="module")
def client():
    with running(Letters(), max_body=2000, max_batch=5) as client:
        yield client


def in_threads(client, requests):
    """Send requests at once; return their responses, when all have come, by joining threads."""
    found = {}
    threads = []
    for texts in requests:
        ask_one = lambda texts=texts: found.update({str(texts): ask(client, texts)})  # noqa: E731
        threads.append(threading.Thread(target=ask_one))
        threads[-1].start()

    def join():
        for thread in threads:
            thread.join()
        return [found[str(texts)] for texts in requests]

    return join


class TestAnswers:
    def test_texts_become_vectors_in_their_order(self, client):
        response = ask(client, ["abba", "dad"])
        assert vectors_of(response).tolist() == [[2, 2, 0, 0], [1, 0, 0, 2]]
        assert response.headers["content-type"] == "application/json"

    def test_many_numbers_are_written_as_few_are(self):
        with running(FunctionEmbedder(wide, version="wide", cache=None), "wide") as client:
            found = vectors_of(ask(client, ["a", "bb", "c"] * 20, "wide"))
        assert found.shape == (60, 2000)
        assert np.array_equal(found, wide(["a", "bb", "c"] * 20))

    def test_models_are_listed_and_described(self, client):
        listed = client.get("/v1/models").json()
        assert [each["id"] for each in listed["data"]] == ["letters"]
        assert client.get("/v1/models/letters").json() == listed["data"][0]
        error = error_of(client.get("/v1/models/numbers"))
        assert error["code"] == "model_not_found"

    def test_a_hub_id_is_found_with_its_slash(self):
        with running(Letters(), "org/name") as client:
            for path in ("org/name", "org%2Fname"):
                assert client.get(f"/v1/models/{path}").json()["id"] == "org/name"


def wide(texts):
    return np.array([np.arange(2000) * len(text) for text in texts])


class TestRefusals:
    def test_what_is_wrong_with_a_request_has_the_shape_of_openai(self, client):
        response = client.post("/v1/embeddings", json={"input": [], "model": "letters"})
        assert response.status_code == 400
        error = error_of(response)
        assert (error["type"], error["param"]) == ("invalid_request_error", "input")

    def test_bad_json_is_refused(self, client):
        json = {"content-type": "application/json"}
        response = client.post("/v1/embeddings", content=b"{", headers=json)
        assert response.status_code == 400
        assert "not valid JSON" in error_of(response)["message"]

    def test_what_a_web_page_may_send_unasked_is_refused(self, client):
        content = b'{"input": "a", "model": "letters"}'
        for kind in ("text/plain", ""):
            headers = {"content-type": kind}
            response = client.post("/v1/embeddings", content=content, headers=headers)
            assert response.status_code == 400
            assert "expected application/json" in error_of(response)["message"]
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        assert client.post("/v1/embeddings", content=content, headers=headers).status_code == 200

    def test_another_model_is_404(self, client):
        response = ask(client, "a", "text-embedding-3-small")
        assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")

    def test_too_many_texts_are_400(self, client):
        assert ask(client, ["a"] * 5).status_code == 200
        response = ask(client, ["a"] * 6)
        assert (response.status_code, error_of(response)["param"]) == (400, "input")

    def test_a_body_that_is_too_large_is_413_announced_or_not(self, client):
        headers = {"content-type": "application/json"}
        pieces = (b"a" * 500 for _ in range(20))
        for content in (b"a" * 10_000, pieces):
            response = client.post("/v1/embeddings", content=content, headers=headers)
            assert response.status_code == 413
            assert "at most 2,000 bytes" in error_of(response)["message"]
        assert ask(client, "a" * 1900).status_code == 200

    def test_other_addresses_and_methods_are_refused_alike(self, client):
        for response, status in (
            (client.get("/v1/embeddings"), 405),
            (client.get("/embeddings"), 404),
            (client.post("/health"), 405),
        ):
            assert response.status_code == status
            assert error_of(response)["type"] == "invalid_request_error"

    def test_a_bad_text_fails_its_own_request_by_its_index(self):
        embedder = FunctionEmbedder(of_ascii, version="ascii", n_features=1, cache=None)
        gated = Behind(embedder)
        with running(gated) as client:
            first = in_threads(client, [["first"]])
            until(lambda: len(gated.calls) == 2)
            join = in_threads(client, [["a", "good"], ["b", "\u00e9", "\u00e8"], ["c"]])
            until(lambda: client.app.state.batcher.n_waiting == 6)
            gated.gate.release(3)
            first()
            good, bad, other = join()
        assert sorted(gated.calls[2]) == ["a", "b", "c", "good", "\u00e8", "\u00e9"]
        assert vectors_of(good).tolist() == [[1], [4]]
        assert vectors_of(other).tolist() == [[1]]
        assert bad.status_code == 400
        error = error_of(bad)
        assert error["param"] == "input[1]"
        assert "input[1]" in error["message"]
        assert "input[2]" in error["message"]

    def test_a_vector_that_is_not_finite_is_never_sent(self):
        with running(NotFinite()) as client:
            response = ask(client, ["a", "nan", "inf"])
            assert response.status_code == 400
            assert error_of(response)["message"].startswith("input[1]: its vector is not finite")
            assert vectors_of(ask(client, "a")).tolist() == [[1]]

    def test_a_model_that_fails_is_500_and_the_server_goes_on(self, caplog):
        with running(Fails()) as client:
            response = ask(client, "fail")
            assert response.status_code == 500
            error = error_of(response)
            assert error["type"] == "server_error"
            assert "secret" not in error["message"]
            assert ask(client, "a").status_code == 200
        assert "a secret path" in caplog.text


def of_ascii(texts):
    if not all(map(str.isascii, texts)):
        raise ValueError("not ASCII")
    return [[len(text)] for text in texts]


class Behind(Gated):
    """Another embedder behind the gate."""

    def __init__(self, embedder):
        super().__init__()
        self.embedder = embedder

    def transform(self, texts):
        super().transform(texts)
        return self.embedder.transform(texts)


class NotFinite(BaseEstimator):
    def transform(self, texts):
        known = {"nan": np.nan, "inf": np.inf}
        return np.array([[known.get(text, 1.0)] for text in texts])


class Fails(BaseEstimator):
    def transform(self, texts):
        if "fail" in texts:
            raise RuntimeError("a secret path")
        return np.ones((len(texts), 1))


class TestWaiting:
    def test_a_text_of_several_requests_is_embedded_once(self):
        seen = []

        def embed(texts):
            seen.append(list(texts))
            return [[len(text)] for text in texts]

        gated = Behind(FunctionEmbedder(embed, version="seen", n_features=1, cache=None))
        with running(gated) as client:
            first = in_threads(client, [["first"]])
            until(lambda: len(gated.calls) == 2)
            join = in_threads(client, [["same"], ["same", "x"], ["x", "y", "same"]])
            until(lambda: client.app.state.batcher.n_waiting == 6)
            gated.gate.release(2)
            first()
            found = list(map(vectors_of, join()))
        assert [each.ravel().tolist() for each in found] == [[4], [4, 1], [1, 1, 4]]
        assert sorted(seen[-1]) == ["same", "x", "y"]

    def test_a_full_queue_is_429_with_when_to_try_again(self):
        gated = Gated()
        with running(gated, max_queue=3) as client:
            first = in_threads(client, [["first"]])
            until(lambda: len(gated.calls) == 2)
            join = in_threads(client, [["a"], ["b", "c"]])
            until(lambda: client.app.state.batcher.n_waiting == 3)
            response = ask(client, "d")
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            error = error_of(response)
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            gated.gate.release(4)
            assert [each.status_code for each in (*first(), *join())] == [200] * 3
            assert ask(client, "d").status_code == 200
        assert ["d"] in gated.calls

    def test_a_request_whose_client_has_left_does_not_run(self):
        gated = Gated()
        with running(gated) as client:
            first = in_threads(client, [["first"]])
            until(lambda: len(gated.calls) == 2)
            with pytest.raises(httpx.ReadTimeout, match="timed out"):
                client.post(
                    "/v1/embeddings", json={"input": "left", "model": "letters"}, timeout=0.5
                )
            until(lambda: client.app.state.batcher.n_waiting == 0)
            join = in_threads(client, [["stays"]])
            until(lambda: client.app.state.batcher.n_waiting == 1)
            gated.gate.release(3)
            assert [each.status_code for each in (*first(), *join())] == [200] * 2
        assert gated.calls[1:] == [["first"], ["stays"]]


class TestReadiness:
    def test_until_the_model_is_loaded_it_answers_503(self):
        class Loads(Gated):
            def transform(self, texts):
                assert self.gate.acquire(timeout=60)
                return np.ones((len(texts), 2))

        model = Loads()
        with running(model, is_ready=False) as client:
            response = client.get("/health")
            assert (response.status_code, response.json()) == (503, {"status": "loading"})
            response = ask(client, "a")
            assert response.status_code == 503
            assert response.headers["retry-after"] == "5"
            assert error_of(response)["code"] == "not_ready"
            model.gate.release(2)
            until(lambda: client.get("/health").status_code == 200)
            assert client.get("/health").json() == {"status": "ok"}
            assert ask(client, "a").status_code == 200

    def test_without_a_key_no_one_is_served_where_there_is_one(self):
        with running(Letters(), api_key="a key") as client:
            for headers in ({}, {"authorization": "Bearer another"}, {"authorization": "a key"}):
                for response in (
                    client.get("/v1/models", headers=headers),
                    client.get("/v1/models/letters", headers=headers),
                    client.post("/v1/embeddings", headers=headers, json={}),
                ):
                    assert response.status_code == 401
                    assert error_of(response)["code"] == "invalid_api_key"
            client.headers["authorization"] = "Bearer a key"
            assert ask(client, "a").status_code == 200
            assert client.get("/health", headers={"authorization": ""}).status_code == 200
