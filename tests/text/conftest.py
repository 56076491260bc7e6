"""A tiny model that the tests of this room share."""

import pytest

from skembed import EmbeddingStore, TextEmbedder
from skembed.text.hosted import _server
from tests.text.checkpoints import write_checkpoint
from tests.text.openai_server import OpenAIServer


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture
def embedder(folder):
    return TextEmbedder(folder, dtype="float32", cache=EmbeddingStore())


@pytest.fixture
def server(monkeypatch, tmp_path_factory):
    """Give a server of OpenAI's protocol, and no other: no key, waits of milliseconds."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_server, "_FIRST_WAIT", 0.01)
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path_factory.mktemp("home")))
    _server._servers.clear()  # another test may have had this port
    server = OpenAIServer()
    yield server
    server.close()
