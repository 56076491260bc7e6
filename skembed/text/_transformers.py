"""Transformers over tokens: encoders and decoders, as sentence-transformers or plain folders.

Knows configurations, tokens and modules; loads weights only when asked for the module.
"""

from __future__ import annotations

import copy
import inspect
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from skembed._backbone import Backbone, Ending, Exported, Source, thawed
from skembed.engine import resolve_dtype
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    UnsupportedModelError,
    did_you_mean,
)
from skembed.modules import (
    TokenBatch,
    TokenTransformer,
    fill_part,
    has_weights,
    pooled_width,
)
from skembed.store import digest_of
from skembed.text._attention import is_causal, refuse_attention, see_all
from skembed.text._backbone import POOLINGS, TextModule, TextSettings
from skembed.text._echo import ECHO_TEMPLATE, EchoTokenizer
from skembed.text._export import Chain, write_chain
from skembed.text._folder import TextFolder
from skembed.text._head import check_head, load_head
from skembed.text._large import INT4, QUANTIZED, placement
from skembed.text._models import MODELS
from skembed.text._settings import NO_TOKENS
from skembed.text._tokens import (
    TOKENIZER_FILES,
    Ids,
    Padding,
    TextTokenizer,
    load_tokenizer,
)
from skembed.weights import (
    count_bytes,
    kept_recent,
    load_pretrained,
    refuse_custom_code,
    releases_of,
    save_pretrained,
)

__all__ = ["MOST_BYTES_IN_FLOAT32", "TransformerBackbone"]

_T5_FAMILY = ("t5", "mt5", "umt5")

# Learned positions that start after the padding token's: two of them never hold a token.
_OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "xmod", "ibert"),
    *("camembert", "mpnet", "data2vec-text", "longformer", "luke", "esm", "lilt", "markuplm"),
    "clap_text_model",
)

MOST_BYTES_IN_FLOAT32 = 4 * 500_000_000
"""Where the weight files are small, the float32 model of four bytes a parameter is, too."""

_ENDLESS = 1_000_000
"""Tokenizers without a limit name one beyond this."""


class TransformerBackbone(Backbone):
    """A transformer, how its states are pooled, and what follows.

    `max_length` is the most tokens read at once; `normalizes`, `n_components` and `similarity` are
    what the files say of unit length, leading features and how vectors are compared.
    """

    can_be_placed = True
    """Whether transformers can put its weights onto several devices, or quantise them."""

    def __init__(
        self, source: Source, folder: TextFolder, config: Any, settings: TextSettings
    ) -> None:
        self.source = source
        self.name = source.name
        self.config = config
        self.normalizes, self.n_components = folder.normalizes, folder.n_components
        self.similarity = folder.similarity
        # Whether a last Normalize is wanted is a setting.
        self._head = folder.head[:-1] if folder.normalizes else folder.head
        self._transformer = folder.transformer
        self._trusts_code = settings.trust_remote_code
        self.attention = settings.attention
        if self.attention != "auto":
            refuse_attention(self.name, config, self.attention)
        elif not self._trusts_code:  # else the model's own code has it
            self.attention = getattr(MODELS.get(self.name), "attention", "auto")
        is_auto = settings.pooling == "auto"
        self.pooling: str | None = self._own_pooling(folder) if is_auto else settings.pooling
        is_unsaid = is_auto and folder.pooling is None and settings.attention == "auto"
        self.is_plain_decoder = is_unsaid and self.name not in MODELS and is_causal(config)
        self._folder = folder
        self.prompts = folder.prompts
        prompt = self.prompt = self._choose_prompt(folder, settings.prompt)
        self._tokenizer = self._load_tokenizer(folder)
        self.max_length = self._choose_max_length(folder, settings.max_length)
        self.tokens = self._make_tokens(prompt)
        skips_prompt = bool(prompt) and not folder.pools_prompt
        self._n_skipped = self.tokens.n_prompt_tokens if skips_prompt else 0
        self.width = check_head(self._head, self._width_of_states())
        self.digest = digest_of(
            {
                "core": self.core_digest,
                "libraries": releases_of("transformers", "tokenizers"),
                "pooling": self.pooling,
                "prompt": prompt,
                **({"echo": ECHO_TEMPLATE} if self.attention == "echo" else {}),
            }
        )

    @property
    def core_digest(self) -> bytes:
        """Digest of all that decides the hidden states of given tokens."""
        kind = {"kind": type(self).__name__, "trust_remote_code": self._trusts_code}
        return digest_of({**kind, "files": self.source.digest, **self._seen()})

    def prepare(self, text: str, rng: np.random.Generator | None = None) -> Ids:
        """Return the tokens of a text, cut to the model's limit; with `rng`, at a random place."""
        (ids,) = self.tokens.encode([text])
        if not self.tokens.size(ids):
            raise InvalidInputError(f"{text!r}: {NO_TOKENS}.")
        return self.tokens.cut(ids, rng)

    def cost(self, part: Ids) -> int:
        """Return the number of tokens."""
        return len(part)

    def collate(self, parts: Sequence[Ids]) -> TokenBatch:
        """Put tokens of texts end to end."""
        return TokenBatch.of(parts)

    def load(
        self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None
    ) -> TextModule:
        """Load the module, or put it around a core; see `Backbone`."""
        if core is None:
            core = thawed(self._load_core(dtype))
        layers = [*self._load_projection(), *load_head(self._head)]
        module = TextModule(
            *(core, self.pooling),
            n_skipped=self._n_skipped,
            start_of=getattr(self.tokens, "start_of", None),
            layers=layers,
        )
        thawed(module.layers)
        return module.eval()

    def load_placed(
        self, device: torch.device, dtype: torch.dtype, *, is_sharded: bool
    ) -> TokenTransformer:
        """Load the core quantised, or spread over all devices, where libraries put it."""
        placed = placement(self.name, device, dtype, is_sharded)
        return self._load_core(_computed_in(dtype, device), **placed)

    def loaded_as(self, dtype: torch.dtype | None) -> torch.dtype:
        """Return the format in which weights are read, to be converted to `dtype` later."""
        is_small = self.source.n_bytes() <= MOST_BYTES_IN_FLOAT32
        if dtype is None or is_small:
            return torch.float32
        return _computed_in(dtype, torch.device("cpu"))

    def n_bytes(self, dtype: torch.dtype) -> int:
        """Return the size of the core's weights in a format, without reading them."""
        other = 2.0 if dtype in QUANTIZED else dtype.itemsize
        linear = {torch.int8: 1.0, INT4: 0.53}.get(dtype, other)  # with scales of blocks
        return count_bytes(
            self.config,
            auto=self._auto(),
            n_bytes={"linear": linear, "other": other},
            trust_remote_code=self._trusts_code,
        )

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write a sentence-transformers folder, whose transformer is in the folder itself."""
        refuse_custom_code(self.name, self._trusts_code)
        if self.attention == "echo":
            raise UnsupportedModelError(
                f"{self.name} reads each text twice (attention='echo'), which a folder of "
                "sentence-transformers cannot say: it cannot be exported. Train it with "
                "attention='auto' or 'bidirectional'."
            )
        assert isinstance(module, TextModule)
        core: Any = module.core
        whole, lacking = self._whole(core.model)
        save_pretrained(whole, folder, is_left_out=lacking.__contains__)
        self._write_tokenizer(folder)
        return write_chain(
            folder,
            Chain(
                n_states=self._n_states(),
                pooling=str(self.pooling),
                pools_prompt=self._folder.pools_prompt,
                max_length=self.max_length,
                lower_case=self._folder.lower_case,
                prompts=self.prompts,
                prompt=self.prompt,
            ),
            module.layers,
            ending,
        )

    # What other families do in another way --------------------------------------------------

    def _own_pooling(self, folder: TextFolder) -> str:
        """Return the pooling that the model's files say, else that of its kind."""
        if folder.pooling is None:
            has_seen_all = self.attention == "auto" and is_causal(self.config)
            return "last_token" if has_seen_all else "mean"
        unknown = [name for name in folder.pooling.split("+") if name not in POOLINGS]
        if unknown:
            raise InvalidParameterError(
                f"{self.name} uses the pooling {', '.join(unknown)}, which skembed does not know; "
                f"set pooling to one of {', '.join(map(repr, POOLINGS))}."
            )
        return folder.pooling

    def _row_padding(self) -> Padding | None:
        """Return how rows are padded, if the model was trained on such rows."""
        return None

    def _width_of_states(self) -> int:
        """Return the number of features before the head."""
        return pooled_width(self._n_states(), str(self.pooling))

    def _n_states(self) -> int:
        """Return the number of features of a token's state."""
        return int(self.config.get_text_config().hidden_size)

    def _load_core(self, dtype: torch.dtype | None, **placed: Any) -> TokenTransformer:
        special = self.tokens.before, self.tokens.after
        transformer = self._load_transformer(dtype, **placed).eval()
        if self.attention == "bidirectional":
            see_all(self.name, transformer)
        pad_token_id = self._pad_token_id()
        return TokenTransformer(transformer, pad_token_id, special, is_placed=bool(placed))

    def _load_transformer(self, dtype: torch.dtype | None, **placed: Any) -> Any:
        return self._load_pretrained(self._auto(), dtype, **placed)

    def _auto(self) -> Any:
        from transformers import AutoModel, AutoModelForTextEncoding

        return AutoModelForTextEncoding if self.config.model_type in _T5_FAMILY else AutoModel

    def _whole(self, model: Any) -> tuple[Any, frozenset[str]]:
        """Return the transformer as AutoModel loads it, and which weights the files lack."""
        if not hasattr(model, "pooler") or model.pooler is not None:
            return model, frozenset()
        from transformers import AutoModel

        whole = self._load_pretrained(AutoModel, None, has_pooler=True)
        fill_part(whole, model)
        names = [name for name in whole.state_dict() if name.startswith("pooler.")]
        return whole, frozenset(n for n in names if not has_weights(self._transformer, [n]))

    def _write_tokenizer(self, folder: Path) -> None:
        for pattern in TOKENIZER_FILES:
            for path in self._transformer.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        if (folder / "tokenizer.json").is_file():  # with what is put right when it is loaded
            self._tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    def _load_projection(self) -> list[nn.Module]:
        """Load what comes between pooling and head."""
        return []

    def _seen(self) -> dict[str, str]:
        """Return what the core's digest has to say of attention."""
        is_open = self.attention == "bidirectional"
        return {"attention": self.attention} if is_open else {}

    # Plumbing -------------------------------------------------------------------------------

    def _load_pretrained(
        self,
        auto: Any,
        dtype: torch.dtype | None,
        *,
        has_pooler: bool = False,
        left_out: tuple[str, ...] = (),
        part: str = "",
        **arguments: Any,
    ) -> Any:
        """Load a model of transformers; in `dtype` only where it is large, or placed at once."""
        config = self._config_to_load()
        architecture = getattr(auto, "_model_mapping", {}).get(type(config), None)
        parameters: Any = ()
        if inspect.isclass(architecture):
            parameters = inspect.signature(architecture).parameters
        return load_pretrained(
            self._transformer,
            config,
            auto=auto,
            dtype=dtype if dtype and "device_map" in arguments else self.loaded_as(dtype),
            trust_remote_code=self._trusts_code,
            is_unused=lambda name: name.startswith("pooler."),
            left_out=left_out,
            part=part,
            **({"add_pooling_layer": has_pooler} if "add_pooling_layer" in parameters else {}),
            **arguments,
        )

    def _config_to_load(self) -> Any:
        config = copy.deepcopy(self.config)
        config.use_cache = False
        return config

    def _load_tokenizer(self, folder: TextFolder) -> Any:
        """Return the tokenizer, one for all backbones of these files."""
        place, lower_case, trusts = folder.transformer, folder.lower_case, self._trusts_code
        n_tokens = getattr(self.config.get_text_config(), "vocab_size", None)
        key = ("tokenizer", self.source.digest, str(place), lower_case, trusts)

        def load() -> Any:
            return load_tokenizer(place, lower_case, trusts, n_tokens)

        return kept_recent(key, lambda: self.source.read(load))

    def _make_tokens(self, prompt: str) -> TextTokenizer:
        args = self._tokenizer, self.name, prompt, self.max_length
        return (
            EchoTokenizer(*args)
            if self.attention == "echo"
            else TextTokenizer(*args, self._row_padding())
        )

    def _pad_token_id(self) -> int:
        own, other = self._tokenizer.pad_token_id, getattr(self.config, "pad_token_id", None)
        return int(next((token for token in (own, other) if token is not None), 0))

    def _choose_prompt(self, folder: TextFolder, prompt: str | None) -> str:
        prompts, default = folder.prompts, folder.default_prompt
        if prompt is None:
            return ""
        if prompt == "auto":
            return prompts.get(default, "") if default is not None else ""
        if re.fullmatch(r"[\w.-]+", prompt) and prompt not in prompts:
            known = ", ".join(map(repr, prompts)) or "it has none"
            raise InvalidParameterError(
                f"prompt={prompt!r} looks like a name, but {self.name} has no prompt of that name "
                f"({known}).{did_you_mean(prompt, prompts)} If it is the text itself, end it with "
                "a space or a colon."
            )
        return prompts.get(prompt, prompt)

    def _choose_max_length(self, folder: TextFolder, max_length: int | None) -> int | None:
        limit = position_limit(self.config)
        if max_length is not None:
            if limit is not None and max_length > limit:
                raise InvalidParameterError(
                    f"max_length={max_length}, but {self.name} has positions for at most {limit} "
                    "tokens. For longer texts use on_truncate='mean_of_chunks'."
                )
            return max_length
        wanted = folder.max_length or int(self._tokenizer.model_max_length)
        smallest = wanted if limit is None else min(wanted, limit)
        return smallest if smallest < _ENDLESS else None


def _computed_in(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the format beside quantised layers: what the device is fastest in."""
    return resolve_dtype("auto", device) if dtype in QUANTIZED else dtype


def position_limit(config: Any) -> int | None:
    """Return the most tokens for which a row's states depend on that row alone."""
    limit = getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))
    if not isinstance(limit, int) or limit <= 0:
        return None
    # LongRoPE (arXiv:2402.13753) turns every position of a batch otherwise as soon as one row is
    # longer than in the first training. (Dynamic scaling begins at the limit itself.)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") == "longrope":
            limit = min(limit, int(parameters["original_max_position_embeddings"]))
    if config.model_type not in _OFFSET_POSITIONS:
        return limit
    return limit - 1 - max(1, getattr(config, "pad_token_id", None) or 1)
