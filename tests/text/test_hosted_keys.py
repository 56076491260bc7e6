"""Keys of servers: one server sees them, and nothing that stays has them."""

import logging
import pickle

import pytest

from skembed import TextEmbedder
from skembed.exceptions import InvalidParameterError, ServiceError
from skembed.text.hosted import _server
from tests.text.openai_server import error

ROWS = [f"text {i}" for i in range(40)]
KEY = "sk-secret-0123456789"


class TestKeys:
    """The key goes to one server, and into nothing that stays."""

    @pytest.fixture(autouse=True)
    def key(self, server, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def test_the_server_of_the_environment_sees_it(self, server, monkeypatch):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        TextEmbedder("openai:tiny").transform(ROWS)
        assert {each.headers["authorization"] for each in server.requests} == {f"Bearer {KEY}"}
        server.forget()
        monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}-new\n")
        TextEmbedder("openai:tiny").transform(["another"])
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}-new"

    def test_a_server_that_a_parameter_names_does_not(self, server, monkeypatch):
        monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Token: secret")
        TextEmbedder("openai:tiny", base_url=server.url).transform(ROWS)
        assert "secret" not in str([each.headers for each in server.requests])

    def test_it_is_said_how_such_a_server_gets_it(self, server):
        embedder = TextEmbedder("openai:tiny", base_url=server.url)
        server.always = error(401, {"error": "no key"})
        with pytest.raises(ServiceError, match=f"was not sent.*set OPENAI_BASE_URL={server.url}"):
            embedder.transform(ROWS)

    def test_openai_needs_one(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY")
        embedder = TextEmbedder("openai:text-embedding-3-large", cache=None).fit(ROWS)
        with pytest.raises(ServiceError, match=r"needs a key.* variable OPENAI_API_KEY"):
            embedder.transform(ROWS)

    def test_one_that_cannot_be_sent_is_refused_and_not_shown(self, server, monkeypatch):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nmore")
        with pytest.raises(ServiceError, match="characters that no key has") as caught:
            TextEmbedder("openai:tiny").fit(ROWS)
        assert KEY not in str(caught.value)

    @pytest.mark.filterwarnings("ignore::skembed.exceptions.SkembedWarning")
    @pytest.mark.parametrize("status", [401, 400, 500])
    def test_it_is_in_nothing_that_is_kept_or_shown(
        self, status, server, monkeypatch, tmp_path, caplog
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setattr(_server, "_MOST_TRIES", 2)
        caplog.set_level(logging.DEBUG)
        embedder = TextEmbedder("openai:tiny", cache=tmp_path / "store")
        embedder.fit_transform(ROWS)
        server.always = error(status, {"error": {"message": f"Bearer {KEY} is wrong"}})
        with pytest.raises(ServiceError, match=r"Bearer \[key\] is wrong") as caught:
            embedder.transform(["another"])
        seen: BaseException | None = caught.value
        while seen is not None:  # what it came of, too
            assert KEY not in f"{seen!r} {vars(seen)}"
            seen = seen.__cause__ or seen.__context__
        kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        told = f"{embedder!r} {embedder.encoder_!r} {embedder.get_params()}"
        kept += [pickle.dumps(embedder), pickle.dumps(caught.value), told.encode()]
        assert all(KEY.encode() not in each for each in kept)
        assert KEY not in caplog.text

    @pytest.mark.parametrize(
        "url", ["https://me:s3cret@host/v1", "https://s3cret@host/v1", "http://host/v1?key=s3cret"]
    )
    def test_an_address_with_a_secret_is_refused_and_not_shown(self, url, monkeypatch):
        with pytest.raises(InvalidParameterError, match="base_url: expected an address") as caught:
            TextEmbedder("openai:tiny", base_url=url).fit(ROWS)
        assert "s3cret" not in str(caught.value)
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(InvalidParameterError, match="variable OPENAI_BASE_URL") as caught:
            TextEmbedder("openai:tiny").fit(ROWS)
        assert "s3cret" not in str(caught.value)
