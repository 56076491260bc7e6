"""A server that embeds texts, as this process knows it: its client, its limits, when to ask again.

Knows texts and vectors, not rows, stores or estimators. The client is made in each process, after a
fork too, and holds the key, which is in nothing else.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._forks import after_fork_in_child
from skembed._optional import import_optional
from skembed.engine import plan_batches
from skembed.exceptions import ServiceError, SkembedWarning, warn_user
from skembed.text.hosted._answers import (
    Answer,
    Failure,
    failure_of_status,
    read_answer,
    redacted,
)
from skembed.text.hosted._settings import key_for

__all__ = ["MOST_TEXTS", "MOST_TOKENS", "SHORTEST", "Part", "Run", "Server", "server_of"]

SHORTEST = "a"
"""What a server is asked for to learn something of it, not of the text."""

MOST_TEXTS, MOST_TOKENS = 2048, 300_000
"""Of one request, as OpenAI limits it."""

_SECONDS, _SECONDS_TO_CONNECT = 300.0, 10.0
_MOST_TRIES, _TRIES_OF_A_STRANGER = 8, 3
_FIRST_WAIT, _LONGEST_BACK_OFF, _LONGEST_WAIT = 1.0, 60.0, 600.0
_SUSPICIOUS = 8
"""Texts that a server refuses one after another before it is asked whether it answers at all."""

_NO_KEY = "none"  # the client wants one, also for a server that does not

_random = random.SystemRandom()  # the global state is the user's, and forks would share another


@dataclass(frozen=True)
class Part:
    """A text that is sent, and its size in the unit in which limits are counted."""

    text: str
    size: int


@dataclass
class Run:
    """What the requests of one run share: tokens used, texts refused, whether to go on."""

    n_tokens: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    is_over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, n_tokens: int) -> None:
        """Count tokens."""
        with self._lock:
            self.n_tokens += n_tokens


class Server:
    """A server, and one model on it."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self.name = f"openai:{model} at {url}"
        self._openai = import_optional("openai", extra="hosted", purpose="A hosted model")
        self._lock = threading.Lock()
        self._client: Any = None
        self._key: str | None = None
        # What was found out: limits below OpenAI's, the format, a time before which to be quiet.
        self._most_texts, self._most_tokens = MOST_TEXTS, MOST_TOKENS
        self._format = "base64"
        self._quiet_until = 0.0
        self._n_answered = self._n_refused = 0

    def embed(self, parts: Sequence[Part], width: int | None, run: Run) -> NDArray[np.float32]:
        """Return vectors (parts, width), in as few requests as the server's limits allow.

        A text that the server refuses by itself gets NaN, and `run.refused` says why.
        ServiceError says what else went wrong.
        """
        costs = np.array([part.size for part in parts], dtype=np.int64)
        plan = plan_batches(costs, budget=self._most_tokens, max_parts=self._most_texts)
        found = [self._embed_at_once([parts[i] for i in chosen], width, run) for chosen in plan]
        vectors = np.empty((len(parts), found[0].shape[1]), dtype=np.float32)
        for chosen, some in zip(plan, found, strict=True):
            vectors[chosen] = some
        return vectors

    def _embed_at_once(self, parts: list[Part], width: int | None, run: Run) -> NDArray[np.float32]:
        found = self._ask_until_it_answers([part.text for part in parts], width, run)
        if isinstance(found, Answer):
            return found.vectors
        if found.kind != "unfit" or width is None:
            raise self._error(found)
        if len(parts) == 1:
            self._n_refused += 1
            if self._n_refused >= _SUSPICIOUS:
                self._check_that_it_answers(width, run)
            run.refused[parts[0].text] = f"the server refuses it ({found.text})"
            return np.full((1, width), np.nan, dtype=np.float32)
        middle = (len(parts) + 1) // 2
        halves = parts[:middle], parts[middle:]
        vectors = np.concatenate([self.embed(half, width, run) for half in halves])
        if np.isfinite(vectors).all():  # the texts were too many, not one of them too long
            if found.counts == "rows":
                self._most_texts = min(self._most_texts, middle)
            else:
                most = max(sum(part.size for part in half) for half in halves)
                self._most_tokens = min(self._most_tokens, most)
        return vectors

    def _check_that_it_answers(self, width: int, run: Run) -> None:
        """Refuse a server that refuses even a text that no model finds too long."""
        found = self._ask_until_it_answers([SHORTEST], width, run)
        if isinstance(found, Failure):
            raise self._error(found)

    def _ask_until_it_answers(
        self, texts: list[str], width: int | None, run: Run
    ) -> Answer | Failure:
        """Return an answer, or why there is none; ask again where that may help."""
        for n_tries in itertools.count(1):
            run.is_over.wait(max(0.0, self._quiet_until - time.monotonic()))
            sent_as = self._format
            found = self._ask(texts, width, sent_as)
            if isinstance(found, Answer):
                self._n_answered += 1
                self._n_refused = 0
                run.add(found.n_tokens)
                return found
            if found.kind == "format" and sent_as == "base64":
                self._format = "float"
                continue
            if found.kind != "temporary":
                return found
            wait = _seconds_to_wait(found, n_tries)
            # One that says why it cannot answer, as while it loads its model, is there.
            is_there = self._n_answered or found.status is not None
            most = _MOST_TRIES if is_there else _TRIES_OF_A_STRANGER
            if n_tries >= most or wait > _LONGEST_WAIT:
                asked = f", which asks to wait {wait:,.0f} s" if wait > _LONGEST_WAIT else ""
                tried = f"It was asked {n_tries} times, most recently: " if n_tries > 1 else ""
                return Failure("final", f"{tried}{found.text}{asked}", status=found.status)
            if found.wait is not None:  # the other requests wait too
                self._quiet_until = max(self._quiet_until, time.monotonic() + found.wait)
            warn_user(
                f"{self.name}: {found.text.rstrip('.')}. It is asked again in {wait:.1f} s, up to "
                f"{most} times, after ever longer waits. (Shown once for this answer.)",
                SkembedWarning,
                once=f"{self.name} {found.status}",
            )
            if run.is_over.wait(wait):  # another request has failed for good
                return replace(found, kind="final")
        raise AssertionError

    def _ask(self, texts: list[str], width: int | None, sent_as: str) -> Answer | Failure:
        """Send one request, and return what came of it.

        What the client raises holds the request, and so the key: none of it leaves this function.
        """
        client, key = self._client_and_key()
        errors = self._openai
        content = b""
        failure: Failure | None = None
        try:
            content = client.embeddings.with_raw_response.create(
                model=self.model, input=texts, encoding_format=sent_as
            ).content
        except errors.APIStatusError as error:
            response = error.response
            failure = failure_of_status(error.status_code, response.content, response.headers)
        except errors.APITimeoutError:
            failure = Failure("temporary", f"no answer within {_SECONDS:g} s")
        except errors.APIConnectionError as error:
            cause = error.__cause__ or error
            failure = Failure("temporary", f"{type(cause).__name__}: {cause}")
        except errors.OpenAIError as error:
            failure = Failure("final", f"{type(error).__name__}: {error}")
        found = failure or read_answer(content, len(texts), width)
        if isinstance(found, Failure):
            return replace(found, text=redacted(found.text, key))
        return found

    def _client_and_key(self) -> tuple[Any, str | None]:
        """Return this process's client, a new one if the key has changed, and its key."""
        found = key_for(self.url)
        if found.value is None and found.is_needed:
            raise ServiceError(f"{self.name} needs a key. {found.advice}")
        with self._lock:
            if self._client is None or found.value != self._key:
                self._client, self._key = self._make_client(found.value), found.value
            return self._client, found.value

    def _make_client(self, key: str | None) -> Any:
        timeout = self._openai.Timeout(_SECONDS, connect=_SECONDS_TO_CONNECT)
        client = self._openai.OpenAI(
            api_key=key or _NO_KEY, base_url=self.url, timeout=timeout, max_retries=0
        )
        if key is None:  # nor what else the environment tells of the user
            client.organization = client.project = None
            client._custom_headers = {}
        return client

    def _error(self, failure: Failure) -> ServiceError:
        text = failure.text.rstrip(".")
        advice = ""
        if failure.is_of_key:
            advice = f" {key_for(self.url).advice}"
        elif failure.status == 404:
            advice = " Check the model's name and base_url, which mostly ends in /v1."
        if self._n_answered:
            advice += (
                " Vectors that arrived before are in the cache, if there is one: call again to go "
                "on from there."
            )
        return ServiceError(f"{self.name}: {text}.{advice}")


def _seconds_to_wait(failure: Failure, n_tries: int) -> float:
    """Return how long to wait, with jitter: requests refused together do not come back together."""
    back_off: float = min(_FIRST_WAIT * 2 ** (n_tries - 1), _LONGEST_BACK_OFF)
    if failure.wait is None:
        return back_off * _random.uniform(0.5, 1.0)
    return failure.wait + _random.uniform(0.0, min(_FIRST_WAIT, failure.wait))


_servers: dict[tuple[str, str], Server] = {}
_of_parent: list[dict[tuple[str, str], Server]] = []


def server_of(url: str, model: str) -> Server:
    """Return what this process knows of a model on a server."""
    key = url, model
    return _servers.get(key) or _servers.setdefault(key, Server(url, model))


def _after_fork() -> None:
    """Begin anew in a child, and leave the parent's connections alone: do not even close them."""
    _of_parent.append(dict(_servers))
    _servers.clear()


after_fork_in_child(_after_fork)
