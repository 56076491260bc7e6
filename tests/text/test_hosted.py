"""Models on a server: their vectors, what is sent, what is stored, and where it works."""

import multiprocessing
import os
import pickle

import numpy as np
import pandas as pd
import pytest
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import skembed
from skembed import Contrastive, EmbeddingStore, FineTune, TextEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    ServiceError,
    UnsupportedModelError,
)
from skembed.text.hosted import _server
from tests.text.openai_server import WIDTH, OpenAIServer, error, vector_of, vectors_of

ROWS = ["a cat", "a kitten", "a tax return", "Ünïcödé — 朴素贝叶斯", " ", "a cat"]
SMALL = "openai:text-embedding-3-small"


def assert_equal(vectors, expected):
    """Assert that vectors are equal, but for the rounding of their lengths to 1."""
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=2e-7)


@pytest.fixture
def embedder(server):
    return TextEmbedder("openai:tiny", base_url=server.url, cache=EmbeddingStore())


def test_vectors_are_the_servers_in_the_order_of_the_rows(embedder):
    assert_equal(embedder.fit_transform(ROWS), vectors_of(ROWS))
    assert embedder.n_features_out_ == WIDTH


def test_floats_are_read_from_a_server_that_sends_no_base64(embedder, server):
    server.sends_base64 = False
    assert_equal(embedder.transform(ROWS), vectors_of(ROWS))
    assert {request.body["encoding_format"] for request in server.requests} == {"base64"}


def test_each_distinct_row_is_sent_once(embedder, server):
    embedder.fit(ROWS)
    assert server.texts == ["a"]  # how wide are your vectors?
    server.forget()
    embedder.transform(ROWS)
    assert sorted(server.texts) == sorted(set(ROWS))
    embedder.transform(ROWS)
    clone(embedder).fit_transform(ROWS[::-1])
    assert len(server.texts) == len(set(ROWS))
    report = embedder.report_
    assert (report.n_encoded, report.n_reused, report.n_tokens_used) == (0, 5, 0)


def test_tokens_used_are_those_that_the_server_counted(embedder):
    embedder.fit_transform(ROWS)
    n_tokens = sum(len(row.split()) for row in set(ROWS))
    assert embedder.report_.n_tokens_used == n_tokens
    assert str(embedder.report_).endswith(f"; {n_tokens} tokens used")


def test_a_folder_keeps_vectors_for_another_process_which_needs_no_server(tmp_path):
    server = OpenAIServer()
    settings = {"base_url": server.url, "cache": tmp_path / "store"}
    vectors = TextEmbedder("openai:tiny", **settings).fit_transform(ROWS)
    server.close()
    assert_equal(TextEmbedder("openai:tiny", **settings).transform(ROWS), vectors)


@pytest.mark.filterwarnings("ignore:.*It is asked again:skembed.exceptions.SkembedWarning")
def test_stored_vectors_are_read_though_the_server_is_gone(server, tmp_path):
    settings = {"base_url": server.url, "cache": tmp_path / "store"}
    TextEmbedder("openai:tiny", **settings).fit_transform(ROWS)
    skembed.unload_models()
    server.embed = lambda texts: 3 * vectors_of(texts, WIDTH + 1)
    changed = TextEmbedder("openai:tiny", **settings).fit_transform(ROWS)
    skembed.unload_models()  # as in a new process
    _server._servers.clear()
    server.always = error(503, {"message": "gone"})
    server.forget()
    again = TextEmbedder("openai:tiny", **settings).fit_transform(ROWS)
    assert {*server.texts} == {"a"}
    assert_equal(again, changed)  # what it was last, not what it was first
    with pytest.raises(ServiceError, match="gone"):
        TextEmbedder("openai:tiny", **settings).transform(["a new one"])


def test_models_and_servers_do_not_share_vectors(embedder, server):
    embedder.transform(ROWS)
    server.forget()
    other = clone(embedder).set_params(model="openai:another")
    other.transform(ROWS)
    assert {request.body["model"] for request in server.requests} == {"another"}
    assert len(server.texts) == 1 + len(set(ROWS))
    second = OpenAIServer()
    clone(embedder).set_params(base_url=second.url).transform(ROWS)
    assert len(second.texts) == 1 + len(set(ROWS))
    second.close()


def test_an_address_means_the_same_however_it_is_written(embedder, server):
    embedder.transform(ROWS)
    server.forget()
    same = server.url.replace("http://", "HTTP://") + "/"
    assert_equal(clone(embedder).set_params(base_url=same).transform(ROWS), vectors_of(ROWS))
    assert not server.requests


def test_the_environment_names_the_server_where_the_parameter_does_not(
    embedder, server, monkeypatch
):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    vectors = TextEmbedder("openai:tiny", cache=None).transform(ROWS)
    assert_equal(vectors, vectors_of(ROWS))


def test_many_rows_are_several_requests_at_once(embedder, server):
    def slow(request, right):
        right.delay = 0.05
        return right

    server.always = slow
    rows = [f"text {i}" for i in range(1000)]
    vectors = embedder.transform(rows)
    assert_equal(vectors, vectors_of(rows))
    sizes = [len(request.texts) for request in server.requests[1:]]
    assert sum(sizes) == 1000
    assert max(sizes) <= 64
    assert 1 < server.most_at_once <= 8


def test_the_batch_size_is_the_users_but_the_limits_are_the_servers(embedder, server, monkeypatch):
    monkeypatch.setattr("skembed.text.hosted._server.MOST_TEXTS", 30)
    rows = [f"text {i}" for i in range(100)]
    skembed.unload_models()
    embedder.set_params(batch_size=10).transform(rows)
    assert max(len(request.texts) for request in server.requests) == 10
    server.forget()
    model = "openai:of few texts"
    embedder.set_params(model=model, batch_size=5000).transform(rows)
    assert max(len(request.texts) for request in server.requests) == 30


def test_one_vector_serves_every_number_of_components(embedder, server):
    full = embedder.transform(ROWS)
    server.forget()
    cut = clone(embedder).set_params(n_components=3).transform(ROWS)
    assert not server.requests
    expected = full[:, :3] / np.linalg.norm(full[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, rtol=1e-6)
    plain = clone(embedder).set_params(n_components=3, normalize=False).transform(ROWS)
    assert_equal(plain, full[:, :3])
    with pytest.raises(InvalidParameterError, match="openai:tiny gives 8 features"):
        clone(embedder).set_params(n_components=9).fit(ROWS)


def test_vectors_of_other_lengths_stay_as_they_are(embedder, server):
    server.embed = lambda texts: 3 * vectors_of(texts)
    assert_equal(embedder.transform(ROWS), 3 * vectors_of(ROWS))
    unit = clone(embedder).set_params(normalize=True).transform(ROWS)
    np.testing.assert_allclose(unit, vectors_of(ROWS), atol=1e-6)


def test_a_prompt_comes_before_every_text(embedder, server):
    prompted = embedder.set_params(prompt="query: ").transform(["a cat", ""])
    assert_equal(prompted, vectors_of(["query: a cat", "query: "]))
    with pytest.raises(InvalidParameterError, match="'query' looks like a name"):
        embedder.set_params(prompt="query").fit(ROWS)


def test_an_empty_text_is_a_bad_row_and_is_not_sent(embedder, server):
    with pytest.raises(InvalidRowsError, match="row 1: no tokens"):
        embedder.transform(["a cat", ""])
    with pytest.warns(InvalidRowsWarning, match="2 of 4 rows"):
        vectors = embedder.set_params(on_error="nan").transform(["a cat", "", None, "a dog"])
    np.testing.assert_array_equal(np.isnan(vectors).all(axis=1), [False, True, True, False])
    assert "" not in server.texts


def test_no_rows_and_odd_indices_are_as_ever(embedder):
    assert embedder.fit_transform([]).shape == (0, WIDTH)
    rows = pd.Series(ROWS[:3], index=[7, "x", None])
    frame = embedder.set_output(transform="pandas").fit_transform(rows)
    assert list(frame.index[:2]) == [7, "x"]
    assert_equal(frame.to_numpy(), vectors_of(ROWS[:3]))


def test_openais_own_models_are_known_without_asking():
    embedder = TextEmbedder(SMALL).fit(ROWS)
    assert embedder.n_features_out_ == 1536
    assert (
        embedder.set_params(model="openai:text-embedding-3-large").fit([]).n_features_out_ == 3072
    )
    names = [model.name for model in skembed.list_models("text")]
    assert {SMALL, "openai:text-embedding-ada-002"} <= set(names)


@pytest.mark.parametrize(
    "params",
    [
        {"tokenizer": object()},
        {"pooling": "mean"},
        {"attention": "echo"},
        {"device": "cpu"},
        {"dtype": "bfloat16"},
        {"revision": "main"},
        {"trust_remote_code": True},
    ],
    ids=lambda params: next(iter(params)),
)
def test_parameters_that_a_server_decides_are_refused(params, embedder, server):
    (name,) = params
    with pytest.raises(InvalidParameterError, match=f"^{name}=.*: of a hosted model, expected"):
        embedder.set_params(**params).fit(ROWS)
    assert not server.requests


def test_all_such_parameters_are_named_at_once(embedder):
    with pytest.raises(InvalidParameterError, match=r"(?s)pooling=.*revision=.*training__method="):
        embedder.set_params(pooling="cls", revision="v", training=FineTune()).fit(ROWS, ROWS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("cohere:embed-v4", r"'cohere' is not a source of models.*'openai:NAME'"),
        ("opnai:x", "Did you mean 'openai'"),
        ("nomic-embed-text:latest", "'nomic-embed-text' is not a source"),
        ("openai:", "expected a name after the colon"),
    ],
)
def test_other_sources_are_refused_with_those_that_are_known(model, message):
    with pytest.raises(InvalidParameterError, match=message):
        TextEmbedder(model).fit(ROWS)


def test_a_servers_name_may_have_a_colon_itself(server):
    TextEmbedder("openai:nomic-embed-text:latest", base_url=server.url).fit(ROWS)
    assert server.requests[0].body["model"] == "nomic-embed-text:latest"


def test_an_address_is_only_for_hosted_models():
    with pytest.raises(InvalidParameterError, match="base_url: only hosted models"):
        TextEmbedder(base_url="http://localhost:8000/v1").fit(ROWS)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/b", "http://", "http://a:b/v1", "x y"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidParameterError, match=r"base_url=.*expected the address of a server"):
        TextEmbedder("openai:tiny", base_url=url).fit(ROWS)


def test_a_head_is_trained_on_stored_vectors(embedder, server):
    rows, y = ["a cat", "a dog", "a bill", "a fee"] * 3, ["pet", "pet", "money", "money"] * 3
    embedder.transform(rows)
    server.forget()
    trained = clone(embedder).set_params(training=FineTune("head")).fit(rows, y)
    assert trained.transform(rows).shape == (12, WIDTH)
    assert not server.requests
    assert not np.allclose(trained.transform(rows), vectors_of(rows))
    again = pickle.loads(pickle.dumps(trained))
    assert_equal(again.transform(rows), trained.transform(rows))


@pytest.mark.parametrize("training", [FineTune("lora"), Contrastive(method="full")])
def test_weights_that_are_not_here_are_not_trained(training, embedder, server):
    with pytest.raises(InvalidParameterError, match="the weights of a hosted model are not here"):
        embedder.set_params(training=training).fit(ROWS, ROWS)
    assert not server.requests


def test_a_model_on_a_server_is_not_exported(embedder, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"runs on a server.*cannot be exported"):
        embedder.export(tmp_path / "model")


def test_a_search_over_models_asks_each_for_each_row_once(server):
    rows = [f"text {i}" for i in range(24)]
    pipe = make_pipeline(TextEmbedder(base_url=server.url), LogisticRegression())
    grid = {
        "textembedder__model": ["openai:one", "openai:two"],
        "textembedder__n_components": [2, None],
        "logisticregression__C": [1, 10],
    }
    GridSearchCV(pipe, grid, cv=3).fit(rows, [0, 1] * 12)
    assert sorted(server.texts) == sorted(2 * [*rows, "a"])


def embed_in_worker(embedder, rows):
    return os.getpid(), embedder.transform(rows)


def test_workers_have_clients_of_their_own(server):
    embedder = TextEmbedder("openai:tiny", base_url=server.url).fit(ROWS)
    embedder.transform(ROWS)
    shares = [[f"{i} {row}" for row in ROWS] for i in range(4)]
    found = Parallel(n_jobs=2)(delayed(embed_in_worker)(embedder, share) for share in shares)
    assert os.getpid() not in {process for process, _ in found}
    for share, (_, vectors) in zip(shares, found, strict=True):
        assert_equal(vectors, vectors_of(share))


def _embed_in_fork(embedder, rows, queue):
    queue.put(embedder.transform(rows))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_asks_for_itself(server):
    embedder = TextEmbedder("openai:tiny", base_url=server.url, cache=None)
    embedder.transform(ROWS)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    rows = [f"forked {row}" for row in ROWS] * 40
    child = context.Process(target=_embed_in_fork, args=(embedder, rows, queue))
    child.start()
    assert_equal(queue.get(timeout=60), vectors_of(rows))
    child.join()
    assert_equal(embedder.transform(["after"]), [vector_of("after")])


def test_a_run_that_is_repeated_gives_the_same_vectors_in_any_batches(server):
    rows = [f"text {i}" for i in range(50)]
    vectors = [
        TextEmbedder("openai:tiny", base_url=server.url, cache=None, batch_size=size).transform(
            rows
        )
        for size in ("auto", 1, 7)
    ]
    assert_equal(vectors[0], vectors[1])
    assert_equal(vectors[0], vectors[2])
