"""The server's process: socket, signals, what it says on its standard error.

Knows uvicorn and the application, not requests.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from sklearn.exceptions import NotFittedError

from skembed.exceptions import SkembedError
from skembed.serving._app import make_app

__all__ = ["KEY_VARIABLE", "is_loopback", "run_server"]

KEY_VARIABLE = "SKEMBED_API_KEY"
_SECONDS_TO_END = 30
# Clients keep connections for 5 s and more; one that the server closes first may fail a request.
_SECONDS_KEPT = 75


def run_server(
    model: Any,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_body: int = 8 << 20,
    max_batch: int = 2048,
    max_queue: int = 4096,
    say: Callable[[str], object] | None = None,
) -> int:
    """Serve a model until SIGINT or SIGTERM; return the exit code, 1 if it could not be loaded.

    Requests that have come are answered before the end; a second SIGINT doesn't wait for them.

    Parameters
    ----------
    model, name
        As for `make_app`.
    host : str, default="127.0.0.1"
        Address to listen on.
    port : int, default=8000
        Port to listen on; 0 is any that is free.
    max_body, max_batch, max_queue
        As for `make_app`.
    say : callable, default=None
        Gets each line for the user; None writes them to the standard error.
    """
    say = say or _write_line
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not is_loopback(host):
        say(
            f"warning: {host} can be reached from other machines, and there is no API key: anybody "
            f"there may use the model. Set {KEY_VARIABLE}, or listen on 127.0.0.1."
        )
    failed: list[BaseException] = []

    def when_ready(error: BaseException | None) -> None:
        if server.should_exit:
            return
        if error is None:
            say(f"serving {name} ({app.state.served.describe()}) at {address}/v1")
            return
        failed.append(error)
        server.should_exit = True

    app = make_app(
        model,
        name,
        api_key=key,
        max_body=max_body,
        max_batch=max_batch,
        max_queue=max_queue,
        when_ready=when_ready,
    )
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        ws="none",
        server_header=False,
        timeout_keep_alive=_SECONDS_KEPT,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    server = uvicorn.Server(config)

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn raises the signal again when all is done, for the handlers that were there before it:
    # the exit code is then 0, not the signal's.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        listening = config.bind_socket()
        # asyncio asks for it on sockets that it makes itself. Without it the second part of an
        # answer waits for the client's word on the first: 40 ms a request.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = f"http://{_in_url(host)}:{listening.getsockname()[1]}"
        say(f"loading {name}; {address}/health says when it is ready")
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not failed:
        return 0
    if not isinstance(failed[0], (SkembedError, NotFittedError)):
        raise failed[0]
    say(f"error: {failed[0]}")
    return 1


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be any address
        return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _write_line(line: str) -> None:
    sys.stderr.write(f"skembed: {line}\n")
    sys.stderr.flush()
