"""A real server in a thread, and embedders that wait until they are told to go on."""

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import uvicorn
from sklearn.base import BaseEstimator, TransformerMixin

from skembed.serving import make_app


def until(condition, seconds=60):
    """Wait for a condition that another thread or process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_up(url):
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(model, name="letters", *, is_ready=True, **limits):
    """Serve a model on a free port; give a client, and the application as its `app`."""
    app = make_app(model, name, **limits)
    config = uvicorn.Config(app, port=0, log_level="critical", access_log=False, ws="none")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            client.app = app
            until(lambda: is_up(url) or (server.started and not is_ready))
            yield client
    finally:
        server.should_exit = True
        thread.join()


def ask(client, texts, name="letters", **fields):
    # Not httpx's own JSON, which half of a surrogate pair cannot be in.
    content = json.dumps({"input": texts, "model": name, **fields})
    headers = {"content-type": "application/json"}
    return client.post("/v1/embeddings", content=content, headers=headers)


def vectors_of(response):
    assert response.status_code == 200, response.text
    return np.array([each["embedding"] for each in response.json()["data"]], dtype=np.float32)


def error_of(response):
    """Return the error of a response, which has OpenAI's shape."""
    content = response.json()
    assert content.keys() == {"error"}
    error = content["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


class Letters(TransformerMixin, BaseEstimator):
    """Counts four letters of each text; the texts of each call are kept."""

    def __init__(self):
        self.calls = []

    def transform(self, texts):
        self.calls.append(list(texts))
        return np.array([[text.count(each) for each in "abcd"] for text in texts], dtype=float)


class Gated(Letters):
    """Waits in each call, but for the first, which is the server's own, until it is let go."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Semaphore(0)

    def transform(self, texts):
        vectors = super().transform(texts)
        if len(self.calls) > 1:
            assert self.gate.acquire(timeout=60)
        return vectors


def embed_slowly(texts):
    """Mark that a slow text has come, and wait until the mark is taken away."""
    mark = Path(os.environ.get("TESTS_MARK", "no mark"))
    if "slow" in texts:
        mark.touch()
        until(lambda: not mark.exists())
    return [[text.count(each) for each in "abcd"] for text in texts]
