"""One language model that reads texts, pictures and sounds (EmbeddingGemma 2): its parts.

A tower turns pictures or sounds into states that stand between tokens, as those of words would.
The rooms have the language model in common; each adds its own tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skembed.modules._tokens import TokenTransformer
from skembed.store import digest_of
from skembed.weights import (
    FolderSource,
    check_weights,
    kept_recent,
    load_pretrained,
    load_processor,
    load_state,
    releases_of,
)

__all__ = ["JOINT_MODELS", "Joint", "JointModel", "LanguageModel", "TowerStates"]

JOINT_MODELS = ("embedding_gemma2",)
"""By the `model_type` of their configuration."""

_LANGUAGE = "language_model."


class Joint(nn.Module):
    """Runs a tower, and the language model on its states between `before` and `after`, token ids.

    Maps a stack of pictures or sounds to the states of all tokens, (n, tokens, d).
    """

    before: Tensor
    after: Tensor

    def __init__(
        self, tower: nn.Module, language: TokenTransformer, before: Any, after: Any
    ) -> None:
        super().__init__()
        self.tower, self.language = tower, language
        for name, ids in (("before", before), ("after", after)):
            self.register_buffer(name, torch.as_tensor(ids), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return the language model's last states, (n, tokens, d)."""
        states: Tensor = self.tower(values)
        device = states.device  # buffers stay where they were made
        first, last = (
            self.language.embed(ids.to(device)).expand(len(states), -1, -1)
            for ids in (self.before, self.after)
        )
        return self.language.read(torch.cat([first, states.to(first), last], 1))


class TowerStates(nn.Module):
    """A tower, and the map of its states to the width of the language model's."""

    def __init__(self, tower: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, *values: Tensor) -> Tensor:
        """Return states (n, tokens, d); those that the tower gives without rows are parted."""
        found = self.tower(*values).last_hidden_state
        states: Tensor = self.projection(inputs_embeds=found)
        return states.reshape(len(values[0]), -1, states.shape[-1])


@dataclass(frozen=True)
class LanguageModel:
    """The part that all rooms run: for one source, device and format it is loaded once."""

    source: FolderSource
    folder: Path
    config: Any  # of this part
    is_whole: bool = True  # whether towers lie in the same files

    @property
    def digest(self) -> bytes:
        """Digest of all that decides the states."""
        releases = releases_of("transformers")
        return digest_of({"language": self.source.digest, "libraries": releases})

    def n_bytes(self) -> int:
        """Return the size of the weight files."""
        return self.source.n_bytes()

    def load(self) -> TokenTransformer:
        """Load it, in float32."""
        from transformers import AutoModel

        config = self.config
        model = load_pretrained(
            self.folder,
            config,
            auto=AutoModel,
            dtype=torch.float32,
            trust_remote_code=False,
            part=_LANGUAGE if self.is_whole else "",
        ).eval()
        special = (config.bos_token_id,), (config.eos_token_id,)
        return TokenTransformer(model, int(config.pad_token_id), special)


class JointModel:
    """What the files of a model say, and its parts, for a room with a tower of `kind`.

    Kinds are those of the files: "vision", "audio". `language` is the part that rooms share.
    """

    def __init__(self, source: FolderSource, config: Any, kind: str) -> None:
        self._source, self._config, self._kind = source, config, kind
        self.language = LanguageModel(source, source.folder, config.text_config)
        self.tower_config = getattr(config, f"{kind}_config")
        self.width = int(config.text_config.embedding_dim)

    def join(self, tower: nn.Module, language: TokenTransformer | None) -> Joint:
        """Return a tower before the language model, which is loaded if it is not given."""
        return Joint(tower, language or self.language.load(), *self._tokens_around())

    def load_tower(self) -> TowerStates:
        """Load the tower and what maps its states to the language model's width, in float32."""
        from transformers import AutoModel
        from transformers.models.embedding_gemma2 import modeling_embedding_gemma2 as library

        folder, kind = self._source.folder, self._kind
        tower = load_pretrained(
            folder,
            self.tower_config,
            auto=AutoModel,
            dtype=torch.float32,
            trust_remote_code=False,
            part=f"{kind}_tower.",
        ).eval()
        part = f"embed_{kind}."
        projection = library.EmbeddingGemma2MultimodalEmbedder(
            self.tower_config, self._config.text_config
        )
        states = [load_state(path, lambda n: n.startswith(part)) for path in check_weights(folder)]
        own = {n.removeprefix(part): v.float() for each in states for n, v in each.items()}
        projection.load_state_dict(own)
        return TowerStates(tower, projection.eval())

    def _tokens_around(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the ids before and after the tower's states: what a text has, and the marks."""
        config, folder = self._config, self._source.folder
        begin, token, end = {
            "vision": (config.boi_token_id, config.image_token_id, config.eoi_token_id),
            "audio": (config.boa_token_id, config.audio_token_id, config.eoa_token_index),
        }[self._kind]

        def read(tokenizer: Any) -> list[int]:
            ids: list[int] = tokenizer(tokenizer.convert_ids_to_tokens(token))["input_ids"]
            return ids

        def load() -> list[int]:
            return load_processor(
                "AutoTokenizer", folder, read, what="tokenizer", trust_remote_code=False
            )

        ids = kept_recent(("tokens around", self._source.digest, str(folder), token), load)
        at = ids.index(token)
        return [*ids[:at], begin], [end, *ids[at + 1 :]]
