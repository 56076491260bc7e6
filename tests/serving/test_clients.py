"""The official client and raw HTTP get the vectors that the embedder gives in this process."""

import base64
import http.client
import json
import warnings

import numpy as np
import openai
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from transformers import AutoTokenizer

from skembed import TextEmbedder
from skembed.exceptions import TruncationWarning
from tests.serving.servers import ask, error_of, running, vectors_of
from tests.text.checkpoints import TEXTS


@pytest.fixture(scope="module", params=[True, False], ids=["unit", "any length"])
def served(request, folder):
    """Give a client, and an embedder like the one that is served."""
    params = {"dtype": "float32", "normalize": request.param, "cache": None}
    with running(TextEmbedder(folder, **params), "tiny") as client:
        yield client, TextEmbedder(folder, **params)


def official(client):
    url = str(client.base_url.join("/v1"))
    return openai.OpenAI(base_url=url, api_key="any", max_retries=0)


class TestAgreement:
    @pytest.mark.parametrize("encoding", [None, "float", "base64"])
    @pytest.mark.parametrize("dimensions", [None, 1, 7, 32])
    def test_the_official_client_gets_the_same_vectors(self, served, encoding, dimensions):
        client, embedder = served
        options = {} if encoding is None else {"encoding_format": encoding}
        if dimensions is not None:
            options["dimensions"] = dimensions
        with official(client) as api:
            answer = api.embeddings.create(model="tiny", input=TEXTS, **options)
        found = [each.embedding for each in answer.data]
        if encoding == "base64":
            found = [np.frombuffer(base64.b64decode(each), "<f4") for each in found]
        expected = embedder.set_params(n_components=dimensions).transform(TEXTS)
        assert np.allclose(found, expected, atol=1e-6)
        assert [each.index for each in answer.data] == list(range(len(TEXTS)))
        assert answer.model == "tiny"
        assert answer.usage.prompt_tokens == embedder.report_.n_tokens.sum()
        assert answer.usage.total_tokens == answer.usage.prompt_tokens

    def test_raw_http_gets_the_same_vectors(self, served):
        client, embedder = served
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
        body = json.dumps({"model": "tiny", "input": TEXTS[0]})
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        content = json.loads(connection.getresponse().read())
        connection.close()
        expected = embedder.set_params(n_components=None).transform(TEXTS[:1])
        assert np.allclose([content["data"][0]["embedding"]], expected, atol=1e-6)

    def test_a_hosted_embedder_gets_the_same_vectors(self, served, monkeypatch):
        client, embedder = served
        monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
        url = str(client.base_url.join("/v1"))
        hosted = TextEmbedder("openai:tiny", base_url=url, cache=None)
        texts = [text for text in TEXTS if text]  # the protocol has no place for an empty one
        expected = embedder.set_params(n_components=None).transform(texts)
        assert np.allclose(hosted.transform(texts), expected, atol=1e-6)
        assert hosted.report_.n_tokens_used == embedder.report_.n_tokens.sum()

    def test_the_official_client_lists_the_model_and_knows_the_errors(self, served):
        with official(served[0]) as api:
            assert [each.id for each in api.models.list()] == ["tiny"]
            assert api.models.retrieve("tiny").id == "tiny"
            with pytest.raises(openai.NotFoundError, match="does not exist here"):
                api.embeddings.create(model="large", input="a")
            with pytest.raises(openai.BadRequestError, match=r"input\[1\]") as caught:
                api.embeddings.create(model="tiny", input=["a", None])
            assert caught.value.param == "input"


def test_a_pipeline_gives_its_own_vectors_and_counts_tokens(folder):
    embedder = TextEmbedder(folder, dtype="float32", cache=None)
    pipeline = make_pipeline(embedder, PCA(3)).set_output(transform="pandas").fit(TEXTS)
    with running(pipeline, "small") as client:
        response = ask(client, TEXTS, "small")
        assert np.allclose(vectors_of(response), pipeline.transform(TEXTS), atol=1e-6)
        assert response.json()["usage"]["prompt_tokens"] == embedder.report_.n_tokens.sum()
        response = ask(client, ["a", "\ud800"], "small")
    assert response.status_code == 400
    assert error_of(response)["param"] == "input[1]"


def test_texts_that_were_cut_are_named_in_the_answer(folder):
    embedder = TextEmbedder(folder, max_length=8, dtype="float32", cache=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        with running(embedder, "tiny") as client:
            response = ask(client, TEXTS, "tiny")
            assert "truncated" not in ask(client, ["x"], "tiny").json()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    assert response.json()["truncated"] == [i for i, ids in enumerate(tokens) if len(ids) > 8]
    assert response.json()["usage"]["prompt_tokens"] == sum(map(len, tokens))


def test_texts_that_are_too_long_are_refused_where_the_embedder_says_so(folder):
    embedder = TextEmbedder(folder, max_length=8, on_truncate="raise", cache=None)
    with running(embedder, "tiny") as client:
        response = ask(client, ["x", TEXTS[1]], "tiny")
        assert response.status_code == 400
        assert error_of(response)["message"] == "input[1]: 25 tokens."
        assert ask(client, ["x"], "tiny").status_code == 200
