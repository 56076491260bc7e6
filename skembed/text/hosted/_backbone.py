"""Models on a server that speaks OpenAI's protocol: what they are to the engine.

Knows the model's name, width and limit, and how texts are cut; the server is another file's.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from skembed._backbone import Backbone, Source
from skembed._encoder import BatchPolicy, Fault, Prepared
from skembed.engine import BackboneEncoder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    ServiceError,
    SkembedWarning,
    UnsupportedModelError,
    warn_user,
)
from skembed.store import digest_of
from skembed.text._encoder import TextEncoder
from skembed.text._models import MODELS
from skembed.text._settings import NO_TOKENS, TextSettings
from skembed.text.hosted._server import SHORTEST, Part, Run, Server, server_of
from skembed.text.hosted._settings import OPENAI, address_of, host_of, is_local
from skembed.text.hosted._tokens import Counter, counter_of
from skembed.weights import kept_recent, recalled, remember

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["HostedBackbone", "HostedEncoder", "HostedSource", "find_hosted"]

_N_AT_ONCE = 8
"""Requests on their way at the same time."""

_TOKENS_PER_REQUEST = 100_000
_TEXTS_PER_REQUEST, _TEXTS_OF_A_STRANGER = 512, 64
"""Well below what OpenAI allows: eight smaller requests arrive sooner than one that waits for all
its texts, and less is sent twice when one fails. A server of unknown size may run on one CPU."""

_MANY_TOKENS = 10_000_000
_N_SAMPLED = 1000
_BYTES_PER_TOKEN = 4  # of English

_UNIT_LENGTH = 1e-3
_NAMESPACE = "hosted"


class HostedSource(Source):
    """A model on a server: nothing of it is here, and it may change behind its name."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url
        self.digest = digest_of({"hosted": "openai", "model": name, "url": url})

    def n_bytes(self) -> int:
        """Return 0: it takes no memory here."""
        return 0

    def check_unchanged(self) -> None:
        """Do nothing: nobody but the server knows."""


class HostedBackbone(Backbone):
    """A hosted model: its width, its limit, and the prompt before each text.

    A model that skembed does not know is asked for one vector, which tells its width and whether
    vectors have unit length. `normalizes` and `n_components` are as of other text models.
    """

    prefers_float32 = True
    n_components: int | None = None

    def __init__(self, name: str, url: str, settings: TextSettings) -> None:
        self.name, self.model, self.url = f"openai:{name}", name, url
        self.encoder_type = HostedEncoder
        self.source = HostedSource(self.name, url)
        known = self.known = MODELS.get(self.name)
        self.prompt = _check_prompt(settings.prompt, self.name)
        self.max_length = _limit_of(settings.max_length, known.max_length if known else None, name)
        server = self.server()  # a missing library is missed at once
        if known is not None and url == OPENAI:
            self.width, self.normalizes = known.width, True
        else:
            self.width, self.normalizes = kept_recent(
                ("what it gives", url, name), lambda: _ask_what_it_gives(server), imports=False
            )
        if self.prompt and self.max_length is not None and self.room() < 1:
            raise InvalidParameterError(
                f"max_length={self.max_length} leaves no room for text: the prompt "
                f"{self.prompt!r:.60} has {self.counter.size(self.prompt)} {self.counter.unit}."
            )
        of_vectors = {"width": self.width, "prompt": self.prompt}
        self.digest = digest_of({"source": self.source.digest, **of_vectors})

    @property
    def counter(self) -> Counter:
        """What counts the tokens of texts; the first use may load tiktoken's encoding."""
        return counter_of(self.known.encoding if self.known else None)

    def server(self) -> Server:
        """Return the server as this process knows it."""
        return server_of(self.url, self.model)

    def room(self) -> int:
        """Return the most tokens of a text after the prompt, with which its first may not merge."""
        assert self.max_length is not None
        return self.max_length - (self.counter.size(self.prompt) + 1 if self.prompt else 0)

    def prepare(self, text: str, rng: np.random.Generator | None = None) -> Part:
        """Return what is sent of a text, cut to the model's limit."""
        prepared = self.parts_of(text, in_chunks=False)
        if isinstance(prepared, Fault):
            raise InvalidInputError(f"{text!r}: {prepared.reason}.")
        part: Part = prepared.parts[0]
        return part

    def parts_of(self, text: str, *, in_chunks: bool) -> Prepared | Fault:
        """Return a text as it is sent, whole, cut, or in chunks with the prompt before each."""
        whole = self.prompt + text
        if not whole:  # the protocol knows no empty text
            return Fault(NO_TOKENS)
        counter = self.counter
        size = counter.size(whole)
        if self.max_length is None or size <= self.max_length:
            return Prepared([Part(whole, size)], size)
        counter.tell()
        pieces = counter.pieces(text, self.room())
        kept = [self.prompt + piece for piece in (pieces if in_chunks else [next(pieces)])]
        return Prepared([Part(each, counter.size(each)) for each in kept], size)

    def cost(self, part: Part) -> int:
        """Return the number of tokens."""
        return part.size

    def collate(self, parts: Sequence[Part]) -> list[Part]:
        """Return the parts: they are sent as they are."""
        return list(parts)

    def load(self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """Refuse: the weights are elsewhere."""
        raise UnsupportedModelError(
            f"{self.name} runs on a server and its weights are not here: it cannot be exported, "
            "nor trained but by method='head', a projection of its vectors."
        )


class HostedEncoder(BackboneEncoder):
    """Encodes texts by asking a server, several requests at once."""

    backbone: HostedBackbone
    describe = TextEncoder.describe
    contents = TextEncoder.contents

    def __init__(
        self, backbone: HostedBackbone, settings: TextSettings, device: torch.device
    ) -> None:
        is_auto = settings.normalize == "auto"
        normalize = backbone.normalizes if is_auto else settings.normalize
        settings = replace(settings, dtype="float32", normalize=normalize)
        super().__init__(backbone, settings, device)
        self.device = host_of(backbone.url)
        self.in_chunks = settings.in_chunks
        self.limit = backbone.max_length
        self.run = Run()
        self.replicas = (self,) * _N_AT_ONCE

    @property
    def cut_digest(self) -> bytes:  # type: ignore[override]
        """Digest of how texts beyond the limit are cut."""
        counted_by = self.backbone.counter.name
        return digest_of({"limit": self.limit, "in_chunks": self.in_chunks, "by": counted_by})

    @property
    def unit(self) -> str:
        """What lengths are counted in, as messages call it."""
        return self.backbone.counter.unit

    @property
    def is_loaded(self) -> bool:
        """Whether it can run at once: always."""
        return True

    @property
    def n_used(self) -> int:  # type: ignore[override]
        """How many tokens the server has counted in this run."""
        return self.run.n_tokens

    @property
    def policy(self) -> BatchPolicy:
        """A batch is one request."""
        is_known = self.backbone.known is not None
        return BatchPolicy(
            budget=_TOKENS_PER_REQUEST,
            max_parts=_TEXTS_PER_REQUEST if is_known else _TEXTS_OF_A_STRANGER,
            # Chunks of long texts are all kept until they have been sent.
            n_ahead=256 if self.in_chunks else 2048,
        )

    def begin(self, items: Sequence[str]) -> HostedEncoder:
        """Tell what many texts will cost; return an encoder that counts what this run uses."""
        self._tell_cost(items)
        running = copy.copy(self)
        running.run = Run()
        running.replicas = (running,) * _N_AT_ONCE
        return running

    def stop(self) -> None:
        """Let requests that wait to be sent again be."""
        self.run.is_over.set()

    def prepare(self, items: Sequence[str]) -> list[Prepared | Fault]:
        """Count the tokens of texts, and cut those that are too long."""
        return [self.backbone.parts_of(text, in_chunks=self.in_chunks) for text in items]

    def collate(self, parts: Sequence[Part]) -> list[Part]:
        """Return the parts of one request."""
        return list(parts)

    def encode(self, batch: list[Part]) -> Tensor:
        """Return the server's vectors, NaN of texts that it refuses."""
        vectors = self.backbone.server().embed(batch, self.backbone.width, self.run)
        return torch.from_numpy(vectors)

    def why_not_finite(self, part: Part) -> str:
        """Return what the server said of a text, or that it sent such values."""
        return self.run.refused.get(part.text) or super().why_not_finite(part)

    def _tell_cost(self, items: Sequence[str]) -> None:
        """Warn before more than ten million tokens are sent, by a sample of the texts."""
        n_characters = sum(map(len, items)) + len(items) * len(self.backbone.prompt)
        if is_local(self.backbone.url) or n_characters < _MANY_TOKENS:
            return
        sample = [items[i] for i in np.linspace(0, len(items) - 1, _N_SAMPLED, dtype=int)]
        counter, known = self.backbone.counter, self.backbone.known
        most = None if self.in_chunks else self.limit
        sizes = [counter.size(self.backbone.prompt + text) for text in sample]
        mean = float(np.minimum(sizes, most or np.inf).mean())
        n_tokens = mean * len(items) / (1 if counter.is_exact else _BYTES_PER_TOKEN)
        if n_tokens < _MANY_TOKENS:
            return
        price = ""
        if known is not None and known.price is not None:
            dollars = n_tokens / 1e6 * known.price
            price = f", ${dollars:,.2f} at OpenAI's list price of January 2024"
        warn_user(
            f"{self.backbone.name} will be sent {len(items):,} texts with about "
            f"{n_tokens / 1e6:,.0f} million tokens{price}. Vectors are stored as they arrive; "
            "report_.n_tokens_used says afterwards what the server has counted. (Shown once.)",
            SkembedWarning,
            once=f"cost of {self.backbone.name}",
        )


def find_hosted(settings: TextSettings) -> HostedBackbone:
    """Return the backbone for these settings, the same one for each server, model and prompt."""
    name = str(settings.model).partition(":")[2].strip()
    url = address_of(settings.base_url)
    key = ("hosted", url, name, settings.prompt, settings.max_length)
    # A server may take its time to answer, which those that want another model do not wait for.
    return kept_recent(key, lambda: HostedBackbone(name, url, settings), imports=False)


def _check_prompt(prompt: str | None, name: str) -> str:
    if prompt is None or prompt == "auto":
        return ""
    if re.fullmatch(r"[\w.-]+", prompt):
        raise InvalidParameterError(
            f"prompt={prompt!r} looks like a name, but hosted models ({name}) have no named "
            "prompts. If it is the text itself, end it with a space or a colon."
        )
    return prompt


def _limit_of(max_length: int | None, most: int | None, name: str) -> int | None:
    if max_length is not None and most is not None and max_length > most:
        raise InvalidParameterError(
            f"max_length={max_length}, but openai:{name} reads at most {most:,} tokens. For longer "
            "texts use on_truncate='mean_of_chunks'."
        )
    return max_length or most


def _ask_what_it_gives(server: Server) -> tuple[int, bool]:
    """Return the width of a model's vectors, and whether they have unit length.

    Of a server that is not there, what it said last: stored vectors can then still be read.
    """
    key = f"{server.url} {server.model}"
    try:
        (vector,) = server.embed([Part(SHORTEST, 1)], None, Run())
    except ServiceError:
        known = recalled(_NAMESPACE, key)
        if known is None:
            raise
        width, is_unit = json.loads(known)
        return int(width), bool(is_unit)
    given = len(vector), bool(abs(np.linalg.norm(vector) - 1) < _UNIT_LENGTH)
    remember(_NAMESPACE, key, json.dumps(given))
    return given
