"""A server that speaks OpenAI's protocol for embeddings, with faults to order.

`OpenAIServer()` runs in a thread on a free port of this machine. Each request takes the next of
`faults`, a list of functions: one gets the request and the answer that would have been right, and
returns what is sent instead. Other tests give it `embed`, a function of texts.
"""

import base64
import contextlib
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

WIDTH = 8
MODEL = "tiny"


def vector_of(text, width=WIDTH):
    """Return the vector of a text: random, of length 1, the same in every process."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def vectors_of(texts, width=WIDTH):
    return np.stack([vector_of(text, width) for text in texts])


class Request:
    """What came: a JSON body, its headers, and in which order."""

    def __init__(self, path, headers, body, number):
        self.path, self.headers, self.body, self.number = path, headers, body, number

    @property
    def texts(self):
        return self.body["input"]


class Reply:
    """What is sent: a status, a body (JSON or bytes), more headers; `cut` breaks the body off."""

    def __init__(self, body, status=200, headers=None, *, delay=0.0, cut=None):
        self.body, self.status, self.headers = body, status, headers or {}
        self.delay, self.cut = delay, cut

    @property
    def content(self):
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class OpenAIServer:
    """A server on this machine; `url` is its base URL, `requests` what it was asked."""

    def __init__(self, embed=vectors_of, *, sends_base64=True):
        self.embed, self.sends_base64 = embed, sends_base64
        self.requests, self.faults = [], []
        self.always = None
        self.lock = threading.Lock()
        self.n_now = self.most_at_once = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def texts(self):
        """All texts that it was asked for, in order."""
        return [text for request in self.requests for text in request.texts]

    def forget(self):
        self.requests.clear()
        self.most_at_once = 0

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            request = Request(handler.path, headers, body, len(self.requests))
            self.requests.append(request)
            self.n_now += 1
            self.most_at_once = max(self.most_at_once, self.n_now)
            fault = self.faults.pop(0) if self.faults else self.always
        try:
            right = self.right(request)
            reply = right if fault is None else fault(request, right) or right
            time.sleep(reply.delay)
        finally:
            with self.lock:
                self.n_now -= 1
        # Whoever has lost patience is not there any more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(handler, reply)

    def right(self, request):
        if request.path != "/v1/embeddings":
            return Reply({"error": {"message": f"no route {request.path}"}}, 404)
        vectors = np.asarray(self.embed(request.texts), dtype="<f4")
        is_base64 = self.sends_base64 and request.body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": as_json(vector, is_base64)}
            for i, vector in enumerate(vectors)
        ]
        n_tokens = sum(len(text.split()) for text in request.texts)
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        model = request.body["model"]
        return Reply({"object": "list", "data": data, "model": model, "usage": usage})


def as_json(vector, is_base64):
    if is_base64:
        return base64.b64encode(vector.tobytes()).decode()
    return [float(value) for value in vector]


def send(handler, reply):
    content = reply.content
    handler.send_response(reply.status)
    is_json = not isinstance(reply.body, bytes)
    headers = {"Content-Type": "application/json" if is_json else "text/html", **reply.headers}
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content if reply.cut is None else content[: reply.cut])
    if reply.cut is not None:
        handler.close_connection = True


def error(status, body, headers=None):
    """Return a fault: this answer, whatever is asked."""
    return lambda request, right: Reply(body, status, headers)


def changed(change):
    """Return a fault: the right answer with its list of vectors changed."""

    def fault(request, right):
        right.body["data"] = change(right.body["data"])
        return right

    return fault


def refuse_if(is_too_much, status, message):
    """Return a fault: requests that are too much are refused, under OpenAI's key."""

    def fault(request, right):
        if is_too_much(request.texts):
            return Reply({"error": {"message": message, "type": "invalid_request_error"}}, status)
        return right

    return fault
