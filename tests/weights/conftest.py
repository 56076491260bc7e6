"""A private cache, a private hub cache and a hub in this process for every test of weights."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from skembed import _files
from skembed.weights import _hub, _models, _remember
from tests.hub_cache import COMMIT, OLD_COMMIT, lay_out


@pytest.fixture(autouse=True)
def private_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_remember, "_facts", {})
    _files._remembered.clear()
    monkeypatch.setattr(_hub, "_guessed", set())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture(autouse=True)
def no_models():
    _models.unload_models()
    yield
    _models.unload_models()


@pytest.fixture
def later(monkeypatch):
    """Let the files of the test be long unchanged, so that their digests are remembered."""
    true_now = _files._now
    monkeypatch.setattr(_files, "_now", lambda: true_now() + 60)


@pytest.fixture
def write_model():
    """Write a small model folder; returns it."""

    def write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text('{"model_type": "bert"}')
        save_file({"w": torch.arange(4.0)}, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def write_snapshot(tmp_path, write_model):
    """Lay out a model in the hub's cache as huggingface_hub does; returns the snapshot.

    Unless `is_undecided`, the cache knows that the repository has no modules.json.
    """

    def write(model, commit=COMMIT, ref="main", is_undecided=False):
        return write_model(lay_out(tmp_path / "hub", model, commit, ref, is_undecided))

    return write


class Hub:
    """What a hub serves: files by repository, and the requests that it saw."""

    def __init__(self):
        self.repositories = {}
        self.refs = {"main": COMMIT, COMMIT: COMMIT, "old": OLD_COMMIT, OLD_COMMIT: OLD_COMMIT}
        self.refusal = None
        self.is_gated = False
        self.requests = []

    def add(self, model, folder):
        self.repositories[model] = {
            str(p.relative_to(folder).as_posix()): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file()
        }

    def downloaded(self):
        return sorted(
            p.split("/", 5)[5] for verb, p in self.requests if verb == "GET" and "/resolve/" in p
        )


def _make_handler(hub):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def reply(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path))
            if hub.refusal:
                status, code = hub.refusal
                return self.reply(status, **({"X_Error_Code": code} if code else {}))
            is_api = path.startswith("/api/models/")
            owner, name, *rest = [*path.removeprefix("/api/models/").strip("/").split("/"), ""]
            rest = [part for part in rest if part]
            files = hub.repositories.get(f"{owner}/{name}")
            if files is None:
                return self.reply(404, X_Error_Code="RepoNotFound")
            commit = hub.refs.get(rest[1] if rest else "main")
            if commit is None:
                return self.reply(404, X_Error_Code="RevisionNotFound")
            if is_api:
                return self.reply_api(
                    f"{owner}/{name}", files, commit, is_tree=rest[:1] == ["tree"]
                )
            if hub.is_gated:
                return self.reply(403, X_Error_Code="GatedRepo")
            body = files.get("/".join(rest[2:]))
            if body is None:
                return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            etag = '"' + hashlib.sha1(body).hexdigest() + '"'
            return self.reply(200, body, ETag=etag, X_Repo_Commit=commit)

        do_HEAD = do_GET

        def reply_api(self, model, files, commit, is_tree):
            if is_tree:
                content = [
                    {
                        "type": "file",
                        "path": path,
                        "size": len(body),
                        "oid": hashlib.sha1(body).hexdigest(),
                    }
                    for path, body in files.items()
                ]
            else:
                siblings = [{"rfilename": path} for path in files]
                content = {"id": model, "sha": commit, "siblings": siblings}
            self.reply(200, json.dumps(content).encode(), Content_Type="application/json")

    return Handler


@pytest.fixture
def hub(monkeypatch):
    """Serve a hub from this process and let huggingface_hub ask it."""
    served = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(served))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    # Clients remember the mode they were made in; versions before 1.0 have no such function.
    close_session = getattr(huggingface_hub, "close_session", lambda: None)
    close_session()
    yield served
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()
