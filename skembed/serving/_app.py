"""The ASGI application: routes, limits, errors in OpenAI's shape.

Knows HTTP and the queue, not how a model is loaded or sockets are opened.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from skembed.serving._batching import Batcher, Overloaded, Vectors
from skembed.serving._protocol import (
    EmbeddingRequest,
    RequestError,
    parse_request,
    refuse_texts,
    write_response,
)
from skembed.serving._served import Served

__all__ = ["make_app"]

logger = logging.getLogger("skembed.serving")

# From that many numbers on a response is written in another thread: it takes a tenth of a second.
_MANY = 100_000


def make_app(
    model: Any,
    name: str,
    *,
    api_key: str | None = None,
    max_body: int = 8 << 20,
    max_batch: int = 2048,
    max_queue: int = 4096,
    when_ready: Callable[[BaseException | None], object] | None = None,
) -> Starlette:
    """Return an ASGI application that serves the vectors of an embedder by OpenAI's protocol.

    `POST /v1/embeddings`, `GET /v1/models` and `GET /health`. Requests that arrive while the model
    is busy are joined into its next call of `transform`, so that a text that several of them have
    is embedded once. The model loads when the application starts; until then it answers 503.

    Parameters
    ----------
    model : TextEmbedder, FunctionEmbedder or Pipeline
        Makes vectors of a list of texts by `transform`; a pipeline has been fitted. Only this
        application may use it.
    name : str
        What clients call the model.
    api_key : str, default=None
        What clients have to send as a bearer token; None lets everybody in.
    max_body : int, default=8 MiB
        Most bytes of a request.
    max_batch : int, default=2048
        Most texts of a request, and of one call of `transform`.
    max_queue : int, default=4096
        Most texts that wait for the model; further requests get status 429 and when to try again.
    when_ready : callable, default=None
        Called in another thread when the model is loaded, with None or the error. By default an
        error is logged, and requests get status 503 for ever.

    Returns
    -------
    app : starlette.applications.Starlette

    Examples
    --------
    >>> from skembed import TextEmbedder
    >>> from skembed.serving import make_app
    >>> app = make_app(TextEmbedder(), "minilm")  # uvicorn module:app
    """
    service = _Service(model, name, api_key, max_body, max_batch, max_queue)

    def tell(error: BaseException | None) -> None:
        if when_ready is not None:
            when_ready(error)
        elif error is not None:
            logger.error("%s could not be loaded", name, exc_info=error)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.batcher.start(service.served.warm_up, tell)
        yield
        await asyncio.to_thread(service.batcher.close)

    app = Starlette(
        routes=[
            Route("/v1/embeddings", service.embeddings, methods=["POST"]),
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            Route("/health", service.health),
        ],
        exception_handlers={
            RequestError: _refuse,
            HTTPException: _refuse_route,
            ClientDisconnect: _drop,
            Exception: _fail,
        },
        lifespan=lifespan,
    )
    app.state.served, app.state.batcher = service.served, service.batcher
    return app


class _Service:
    """What the routes share."""

    def __init__(
        self,
        model: Any,
        name: str,
        api_key: str | None,
        max_body: int,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self.served = Served(model)
        self.batcher = Batcher(self.served.embed, max_batch=max_batch, max_queue=max_queue)
        self.name = name
        self._token = None if api_key is None else f"Bearer {api_key}".encode()
        self._max_body = max_body
        self._max_batch = max_batch
        self._created = int(time.time())

    # Routes ---------------------------------------------------------------------------------

    async def embeddings(self, request: Request) -> Response:
        """Embed the texts of a request."""
        self._check_key(request)
        self._check_ready()
        try:
            self.batcher.refuse_if_full()  # before the body is in memory
            body = await self._read(request)
            wanted = parse_request(
                body, name=self.name, width=self.served.width, max_texts=self._max_batch
            )
            answer = self.batcher.submit(wanted.texts)
        except Overloaded as error:
            raise RequestError(
                429,
                f"The server is busy: {error}.",
                code="rate_limit_exceeded",
                retry_after=error.seconds,
            ) from None
        found = await _unless_gone(asyncio.wrap_future(answer), request)
        if found is None:
            return _drop(request)
        if found.faults:
            raise refuse_texts(found.faults)
        return await self._respond(wanted, found)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        self._check_key(request)
        return _json({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        """Describe the model, if it is asked for by name."""
        self._check_key(request)
        asked = request.path_params["name"]
        if asked != self.name:
            raise RequestError(
                404,
                f"The model {asked!r:.60} does not exist here. This server has {self.name!r}.",
                param="model",
                code="model_not_found",
            )
        return _json(self._described())

    async def health(self, request: Request) -> Response:
        """Say whether the model is loaded."""
        is_ready = self.batcher.is_ready
        return _json({"status": "ok" if is_ready else "loading"}, 200 if is_ready else 503)

    # Their parts ----------------------------------------------------------------------------

    def _described(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "skembed",
        }

    def _check_key(self, request: Request) -> None:
        if self._token is None:
            return
        sent = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(sent, self._token):
            raise RequestError(
                401,
                "The API key is missing or wrong: send it as a bearer token.",
                code="invalid_api_key",
            )

    def _check_ready(self) -> None:
        if not self.batcher.is_ready:
            raise RequestError(503, "The model is loading.", code="not_ready", retry_after=5)

    async def _read(self, request: Request) -> bytes:
        """Return the body, refused as soon as it is known to be too large."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind.lower() != "application/json":  # what web pages may send anywhere unasked
            raise RequestError(400, f"Content-Type: expected application/json, got {kind!r:.60}.")
        too_large = RequestError(
            413, f"The body: expected at most {self._max_body:,} bytes. Send fewer texts at once."
        )
        announced = request.headers.get("content-length", "0")
        if int(announced) > self._max_body:  # the server has checked that it is a number
            raise too_large
        chunks, n_bytes = [], 0
        async for chunk in request.stream():
            n_bytes += len(chunk)
            if n_bytes > self._max_body:
                raise too_large
            chunks.append(chunk)
        return b"".join(chunks)

    async def _respond(self, wanted: EmbeddingRequest, found: Vectors) -> Response:
        def write() -> bytes:
            n_tokens, truncated = int(found.n_tokens.sum()), found.truncated.tolist()
            return write_response(self.name, wanted, found.vectors, n_tokens, truncated)

        is_large = found.vectors.size > _MANY
        body = await asyncio.to_thread(write) if is_large else write()
        return Response(body, media_type="application/json")


async def _unless_gone(answer: asyncio.Future[Vectors], request: Request) -> Vectors | None:
    """Return an answer; None, and drop the request, if its client leaves before."""
    # After the body, that the client has left is all that can be received.
    leaving: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    first: list[asyncio.Future[Any]] = [answer, leaving]
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    if not answer.done():
        answer.cancel()
        return None
    try:
        return answer.result()
    except Exception as error:  # the queue has logged it, once for all requests of the call
        raise RequestError(
            500,
            f"The model failed on this request, or on one that it was joined with "
            f"({type(error).__name__}); the server's log has the error.",
        ) from None


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status, media_type="application/json")


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error.body(), error.status, headers, media_type="application/json")


def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    refused = RequestError(error.status_code, message)
    return Response(refused.body(), error.status_code, error.headers, media_type="application/json")


def _drop(request: Request, error: Exception | None = None) -> Response:
    return Response(status_code=499)  # the client has left: nobody reads it


def _fail(request: Request, error: Exception) -> Response:
    return _refuse(request, RequestError(500, "The server failed; its log has the error."))
