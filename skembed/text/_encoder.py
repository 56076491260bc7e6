"""The text encoder: tokenizer, transformer, pooling, head, behind the engine's contract.

Everything that decides a vector is settled when the encoder is made, from the model's JSON files
and the digest of its weights; the weights are loaded when the first row has to be encoded.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skembed._encoder import Encoder, Fault, Prepared, join_replicas
from skembed.engine import POOLINGS, pool, resolve_devices, resolve_dtype, tokens_per_batch
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.store import digest_of
from skembed.text._config import find_tower, is_causal, position_limit, refuse_other_end
from skembed.text._folder import HeadModule, read_folder
from skembed.text._head import Head, build_head, check_head, head_width
from skembed.text._layout import TextTransformer
from skembed.text._models import TEXT_MODELS
from skembed.text._tokens import Filling, Ids, TextTokenizer, load_tokenizer
from skembed.text._transformer import load_transformer
from skembed.weights import (
    ModelSource,
    check_weights,
    folder_digest,
    kept_recent,
    load_config,
    refuse_code_from_elsewhere,
    releases_of,
    resolve_model,
    shared_model,
)

__all__ = ["TextEncoder", "TextSettings", "make_text_encoder"]

_FORMAT = 3
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""


@dataclass(frozen=True)
class TextSettings:
    """What the user asked for, as the estimator's parameters say it."""

    model: str
    is_path: bool
    revision: str | None
    pooling: str
    normalize: bool | str
    prompt: str | None
    max_length: int | None
    n_components: int | None
    in_chunks: bool
    device: str | tuple[str, ...]
    dtype: str
    trust_remote_code: bool


def make_text_encoder(settings: TextSettings) -> TextEncoder:
    """Return the encoder for these settings; the same one as long as the model's files are."""
    name = Path(settings.model) if settings.is_path else settings.model
    source = resolve_model(name, revision=settings.revision)
    digest = folder_digest(source.folder)
    place = {"kind": "text encoder", "files": digest, "folder": str(source.folder)}
    key = digest_of({**place, **asdict(settings)})

    def make() -> TextEncoder:
        devices = resolve_devices(settings.device)
        return join_replicas([TextEncoder(settings, source, digest, each) for each in devices])

    return kept_recent(key, make)


class TextEncoder(Encoder):
    """Encodes texts with a transformer.

    Parameters
    ----------
    settings : TextSettings
        What the user asked for.
    source : ModelSource
        Where the model's files are.
    files_digest : bytes
        Digest of the files' content.
    device : device
        Where it runs.
    """

    def __init__(
        self,
        settings: TextSettings,
        source: ModelSource,
        files_digest: bytes,
        device: torch.device,
    ) -> None:
        self.source = source
        self.folder = read_folder(source.folder)
        check_weights(self.folder.transformer)
        check_head(self._head_modules())
        if settings.trust_remote_code:
            refuse_code_from_elsewhere(self.folder.transformer)
        config = load_config(self.folder.transformer, trust_remote_code=settings.trust_remote_code)
        self._tower = find_tower(config)
        self.config = config if self._tower is None else self._tower.config
        self.torch_device = device
        self.torch_dtype = resolve_dtype(settings.dtype, self.torch_device)
        self.device = str(self.torch_device)
        self.dtype = str(self.torch_dtype).removeprefix("torch.")
        self.budget = tokens_per_batch(self.torch_device)
        self.poolings = self._choose_poolings(settings)
        self._is_projected = (
            self._tower is not None
            and self._tower.projection is not None
            and settings.pooling == "auto"
        )
        self.normalize = self._choose_normalize(settings)
        self.prompt = self._choose_prompt(settings)
        self._trust_remote_code = settings.trust_remote_code
        self._files_digest = files_digest
        self._tokenizer = self._load_tokenizer()
        self.max_length = self._choose_max_length(settings)
        self._tokens = TextTokenizer(
            self._tokenizer,
            prompt=self.prompt,
            max_length=self.max_length,
            in_chunks=settings.in_chunks,
            is_parallel=self.torch_device.type == "cuda",
            filling=self._choose_filling(),
        )
        if self._is_projected and self._tower is not None:
            after = self._tokens.special_token_ids[1]
            highest = max(self._tokenizer.get_vocab().values())
            refuse_other_end(self._tower, after[-1] if after else None, highest, self.source.name)
        self._n_skipped = (
            self._tokens.n_prompt_tokens() if self.prompt and not self.folder.pools_prompt else 0
        )
        # Chunks of long texts are all kept until they have run.
        self.window = 256 if settings.in_chunks else 2048
        self.width = self._choose_width(settings)
        self.n_components = settings.n_components
        self.model_key = digest_of(
            {
                "kind": "text transformer",
                "files": files_digest,
                "device": self.device,
                "dtype": self.dtype,
                "trust_remote_code": settings.trust_remote_code,
            }
        )
        self.digest = digest_of(
            {
                "format": _FORMAT,
                "libraries": releases_of("transformers", "tokenizers"),
                "files": files_digest,
                "dtype": self._number_formats(),
                "pooling": list(self.poolings),
                "projected": self._is_projected,
                "normalize": self.normalize,
                "prompt": self.prompt,
                "max_length": self.max_length,
                "n_components": self.n_components,
                "in_chunks": settings.in_chunks,
                "trust_remote_code": settings.trust_remote_code,
            }
        )

    def __repr__(self) -> str:
        return (
            f"TextEncoder({self.source.name!r}, width={self.width}, "
            f"pooling={'+'.join(self.poolings)!r}, max_length={self.max_length}, "
            f"device={self.device!r}, dtype={self.dtype!r})"
        )

    @property
    def layout(self) -> Any:  # type: ignore[override]
        """How rows share a batch; loads the model, which decides it."""
        return self._transformer().layout

    def content(self, item: str) -> bytes:
        """Return the text in UTF-8."""
        return item.encode()

    def prepare(self, items: Sequence[str]) -> list[Prepared | Fault]:
        """Tokenise texts; a part is an array of token ids."""
        return self._tokens.prepare(items)

    def cost(self, part: Ids) -> int:
        """Return the number of tokens."""
        return len(part)

    def collate(self, parts: Sequence[Ids]) -> dict[str, Any]:
        """Assemble token ids on the device."""
        return self._transformer().collate(parts, self.torch_device)

    def encode(self, batch: dict[str, Any]) -> Tensor:
        """Return vectors of shape (parts, width), float32."""
        hidden = self._transformer().hidden(batch)
        pooled = pool(hidden, batch["rows"], self.poolings, n_skipped=self._n_skipped)
        if self._is_projected:
            pooled = self._transformer().project(pooled)
        vectors: Tensor = self._head(pooled)
        return vectors

    def merge(self, vectors: NDArray[np.float32], costs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Average the chunks of a text by their tokens; at unit length again if rows are."""
        mean = super().merge(vectors, costs)
        if self.normalize:
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
        return mean

    def _transformer(self) -> TextTransformer:
        """Return the model, loading it once per process for all settings that can share it."""
        return shared_model(self.model_key, self._load_transformer, n_bytes=self._n_bytes)

    def _load_transformer(self) -> TextTransformer:
        loaded = load_transformer(
            self.folder.transformer,
            self.config,
            device=self.torch_device,
            dtype=self.torch_dtype,
            pad_token_id=self._pad_token_id(),
            special_token_ids=self._tokens.special_token_ids,
            trust_remote_code=self._trust_remote_code,
            tower=self._tower,
        )
        self._refuse_other_files()
        return loaded

    def _refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if folder_digest(self.source.folder) != self._files_digest:
            raise UnsupportedModelError(
                f"The files in {self.source.folder} changed while the model was in use. Call again "
                "when they are all written."
            )

    def _n_bytes(self) -> int:
        return sum(path.stat().st_size for path in check_weights(self.folder.transformer))

    @functools.cached_property
    def _head(self) -> Head:
        head = Head(build_head(self._head_modules()), self.n_components, self.normalize)
        self._refuse_other_files()
        return head.eval().requires_grad_(False).to(self.torch_device)

    def _load_tokenizer(self) -> Any:
        """Return the tokenizer, one for all encoders of these files."""
        options = {
            "lower_case": self.folder.lower_case,
            "trust_remote_code": self._trust_remote_code,
        }
        folder = self.folder.transformer
        place = {"kind": "tokenizer", "files": self._files_digest, "folder": str(folder)}
        key = digest_of({**place, **options})
        return kept_recent(key, lambda: load_tokenizer(folder, **options))

    def _head_modules(self) -> tuple[HeadModule, ...]:
        """Return the folder's modules after pooling, less a last Normalize: that is a setting."""
        head = self.folder.head
        while head and head[-1].kind == "Normalize":
            head = head[:-1]
        return head

    def _number_formats(self) -> str:
        """Return what the model computes in; beside int8 layers, what the machine is fastest in."""
        if self.dtype != "int8":
            return self.dtype
        return f"int8 and {resolve_dtype('auto', self.torch_device)}"

    def _pad_token_id(self) -> int:
        for name in (self._tokenizer.pad_token_id, getattr(self.config, "pad_token_id", None)):
            if name is not None:
                return int(name)
        return 0

    def _choose_poolings(self, settings: TextSettings) -> tuple[str, ...]:
        if settings.pooling != "auto":
            return (settings.pooling,)
        if self.folder.pooling is not None:
            unknown = [name for name in self.folder.pooling if name not in POOLINGS]
            if unknown:
                raise InvalidParameterError(
                    f"{self.source.name} pools by {', '.join(unknown)}, which skembed does not "
                    f"know; set pooling to one of {', '.join(map(repr, POOLINGS))}."
                )
            return self.folder.pooling
        if self._tower is not None:
            return ("last_token",)
        return ("last_token",) if is_causal(self.config) else ("mean",)

    def _choose_filling(self) -> Filling | None:
        """Return how rows are filled up, if the model was trained on such rows."""
        if self._tower is None or not self._tower.fills_rows:
            return None
        length = min(int(self._tokenizer.model_max_length), position_limit(self.config) or 64)
        on_left = self._tokenizer.padding_side == "left"
        return Filling(length, self._pad_token_id(), on_left)

    def _choose_normalize(self, settings: TextSettings) -> bool:
        if isinstance(settings.normalize, bool):
            return settings.normalize
        return bool(self.folder.head) and self.folder.head[-1].kind == "Normalize"

    def _choose_prompt(self, settings: TextSettings) -> str:
        prompts, default = self._known_prompts()
        if settings.prompt is None:
            return ""
        if settings.prompt == "auto":
            return prompts.get(default, "") if default is not None else ""
        if re.fullmatch(r"[\w.-]+", settings.prompt) and settings.prompt not in prompts:
            known = ", ".join(map(repr, prompts)) or "it has none"
            raise InvalidParameterError(
                f"prompt={settings.prompt!r} reads like a name, but {self.source.name} has no "
                f"prompt of that name ({known}). For a text of one word, add a space or a colon."
            )
        return prompts.get(settings.prompt, settings.prompt)

    def _known_prompts(self) -> tuple[dict[str, str], str | None]:
        """Return prompts by name and the default's name: the folder's, else the table's."""
        row = TEXT_MODELS.get(self.source.name)
        if self.folder.prompts or row is None:
            return dict(self.folder.prompts), self.folder.default_prompt
        return dict(row.prompts), row.default_prompt

    def _choose_max_length(self, settings: TextSettings) -> int | None:
        limit = position_limit(self.config)
        if settings.max_length is not None:
            if limit is not None and settings.max_length > limit:
                raise InvalidParameterError(
                    f"max_length={settings.max_length}, but {self.source.name} has positions for "
                    f"{limit} tokens at most. For longer texts use on_truncate='mean_of_chunks'."
                )
            return settings.max_length
        known = [self.folder.max_length, int(self._tokenizer.model_max_length)]
        wanted = next(length for length in known if length is not None)
        smallest = min(wanted, limit) if limit is not None else wanted
        return smallest if smallest < 1_000_000 else None

    def _choose_width(self, settings: TextSettings) -> int:
        hidden = int(self.config.get_text_config().hidden_size)
        pooled = hidden * len(self.poolings)
        if self._is_projected and self._tower is not None:
            pooled = self._tower.width
        width = head_width(self._head_modules(), pooled)
        if settings.n_components is None:
            return width
        if settings.n_components > width:
            raise InvalidParameterError(
                f"n_components={settings.n_components}, but {self.source.name} gives {width} "
                "features."
            )
        return settings.n_components
