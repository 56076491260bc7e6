"""Models passed in memory by the user: torch modules with a tokenizer, sentence-transformers.

Owns what such objects may be and how they are read. Must not know model folders, rows or devices.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skembed._backbone import OF_THE_HUB, Ending, Exported
from skembed._inputs import shown
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.modules import (
    ModuleSource,
    TokenModule,
    pooled_width,
    try_out,
    write_state,
)
from skembed.store import digest_of
from skembed.text._backbone import TextSettings
from skembed.text._folder import TextFolder, read_folder
from skembed.text._head import HeadModule, load_head
from skembed.text._towers import TOWERS
from skembed.text._transformers import TransformerBackbone
from skembed.weights import fingerprint, kept_recent

__all__ = ["find_module"]

_FUNCTION = 'Or use its own function: FunctionEmbedder(model.encode, version="its name").'


def find_module(model: nn.Module, settings: TextSettings) -> TransformerBackbone:
    """Return the backbone of a module of the user's."""
    name = type(model).__name__
    settings.refuse(revision=OF_THE_HUB)
    for kind, what in {
        "CrossEncoder": "scores of pairs of texts",
        "SparseEncoder": "sparse vectors, one feature per word",
        "MultiVectorEncoder": "one vector per token",
    }.items():
        if _is_a(model, "sentence_transformers", kind):
            raise UnsupportedModelError(
                f"{name} gives {what}, not one dense vector per text. Pass a SentenceTransformer."
            )
    if _is_a(model, "sentence_transformers", "SentenceTransformer"):
        return _find_sentence_transformer(model, settings)
    if settings.tokenizer is None:
        raise InvalidParameterError(
            f"tokenizer=None, but model={name}, a torch.nn.Module, reads tokens: set tokenizer to "
            'the model\'s own, such as AutoTokenizer.from_pretrained("org/name").'
        )
    folder = TextFolder(transformer=Path())
    if _is_a(model, "transformers", "PreTrainedModel"):
        _check_transformer(model)
        return _kept(TransformerInMemory, model, settings.tokenizer, folder, settings)
    settings.refuse(attention="only a model of transformers can attend in another way.")
    return _kept(ModuleBackbone, model, settings.tokenizer, folder, settings)


def _is_a(model: nn.Module, library: str, kind: str) -> bool:
    """Return whether a model is of a library's class or one made of it; imports no library."""
    return any(
        each.__name__ == kind and each.__module__.partition(".")[0] == library
        for each in type(model).__mro__
    )


def _check_transformer(model: Any) -> None:
    name, config = type(model).__name__, model.config
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{name} reads one text and writes another; pass the part that reads: "
            "model=model.get_encoder()."
        )
    if config.model_type in TOWERS:
        raise UnsupportedModelError(
            f"{name} can only be read from a folder: save it and its tokenizer with "
            "save_pretrained, and pass the folder."
        )
    if model.base_model is not model:
        raise UnsupportedModelError(
            f"{name} has a head that gives no token states; pass the model below it: "
            "model=model.base_model."
        )


def _find_sentence_transformer(model: Any, settings: TextSettings) -> TransformerBackbone:
    """Return the backbone of a SentenceTransformer: its chain is read as that of a folder."""
    if settings.tokenizer is not None:
        raise InvalidParameterError(
            "tokenizer: a SentenceTransformer has its own; leave it at None."
        )
    chain = list(model)
    try:
        folder = _describe(model, chain)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{error} {_FUNCTION}") from None
    transformer = getattr(chain[0], "auto_model", None)
    if not isinstance(transformer, nn.Module):
        raise UnsupportedModelError(
            f"This SentenceTransformer runs a {type(transformer).__name__}, which is not "
            f"a torch.nn.Module. {_FUNCTION}"
        )
    head = [each for each in chain[2:] if type(each).__name__ != "Dropout"]
    layers = tuple(map(_layer_of, head[:-1] if folder.normalizes else head))
    rest = (HeadModule("Normalize", Path(), {}),) if folder.normalizes else ()
    folder = replace(folder, transformer=Path(), head=rest)
    return _kept(TransformerInMemory, transformer, chain[0].tokenizer, folder, settings, layers)


def _describe(model: Any, chain: Sequence[Any]) -> TextFolder:
    """Return what a SentenceTransformer's files would say of it, but for its weights."""
    with tempfile.TemporaryDirectory(prefix="skembed-") as place:
        root, listed = Path(place), []
        for i, module in enumerate(chain):
            kind = type(module)
            (root / str(i)).mkdir()
            config: dict[str, Any] = getattr(module, "get_config_dict", dict)()
            name = getattr(module, "config_file_name", "config.json")
            (root / str(i) / name).write_text(json.dumps(config, default=str))
            listed.append(
                {"idx": i, "path": str(i), "type": f"{kind.__module__}.{kind.__qualname__}"}
            )
        (root / "modules.json").write_text(json.dumps(listed))
        settings = {
            "prompts": model.prompts,
            "default_prompt_name": model.default_prompt_name,
            "truncate_dim": model.truncate_dim,
            "similarity_fn_name": model.similarity_fn_name,
        }
        (root / "config_sentence_transformers.json").write_text(json.dumps(settings))
        try:
            return read_folder(root)
        except UnsupportedModelError as error:
            name = type(model).__name__
            raise UnsupportedModelError(str(error).replace(str(root), f"This {name}")) from None


def _layer_of(module: Any) -> nn.Module:
    """Return a module after the pooling as one from vectors to vectors, copied."""
    kind = type(module).__name__
    if kind == "Normalize":
        return load_head((HeadModule(kind, Path(), {}),))[0]
    parts = [module.norm] if kind == "LayerNorm" else [module.linear, module.activation_function]
    return copy.deepcopy(nn.Sequential(*parts)).cpu().float().eval().requires_grad_(False)


def _kept(
    family: type[TransformerInMemory],
    model: nn.Module,
    tokenizer: Any,
    folder: TextFolder,
    settings: TextSettings,
    layers: tuple[nn.Module, ...] = (),
) -> TransformerBackbone:
    """Return the backbone of a module, the same one while all that it is made of is the same."""
    source = ModuleSource(model)
    tokens = _digest_of_tokenizer(tokenizer, folder.lower_case)
    parts = [source.digest, tokens, *map(fingerprint, layers)]
    kind = {"kind": family.__name__, "pools_prompt": folder.pools_prompt}
    digest = digest_of({**kind, "parts": parts})
    chosen = settings.pooling, settings.prompt, settings.attention, settings.max_length
    key = (digest, repr(folder), *chosen)
    found = kept_recent(key, lambda: family(source, tokenizer, folder, settings, layers, digest))
    # Of modules of one content, the first may have been changed since: this one has not.
    found.source.module = source.module
    return found


def _digest_of_tokenizer(tokenizer: Any, lower_case: bool) -> bytes:
    """Return the digest of what a tokenizer makes of texts."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not callable(getattr(backend, "to_str", None)):
        raise InvalidParameterError(
            f"tokenizer={shown(tokenizer)}: expected a fast tokenizer from transformers "
            "(tokenizer.is_fast), or one from the tokenizers library."
        )
    text = backend.to_str()
    # What comes before is how others last cut and padded their texts with it.
    data = text[text.index('"added_tokens"') :].encode()
    names = ("pad_token_id", "model_max_length", "truncation_side")
    return digest_of(
        {
            "backend": blake2b(data, digest_size=16).digest(),
            "lower_case": lower_case,
            **{name: getattr(tokenizer, name, None) for name in names},
        }
    )


def _copy_of_tokenizer(tokenizer: Any, lower_case: bool, name: str) -> Any:
    """Return a copy that neither cuts nor pads."""
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Normalizers
    from transformers import PreTrainedTokenizerFast

    if isinstance(tokenizer, Tokenizer):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokenizer = copy.deepcopy(tokenizer)
    if any(tokenizer("a").get("token_type_ids", [])):
        raise UnsupportedModelError(
            f"The tokenizer of {name} gives single texts token types other than 0, which skembed "
            "does not pass on."
        )
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    if lower_case:
        steps = [Lowercase(), backend.normalizer] if backend.normalizer else [Lowercase()]
        backend.normalizer = Normalizers(steps)
    return tokenizer


class TransformerInMemory(TransformerBackbone):
    """A model of transformers in memory, run as those of folders are, and what follows its pooling.

    The module is copied and never changed.
    """

    source: ModuleSource
    prefers_float32 = True
    can_be_placed = False

    def __init__(
        self,
        source: ModuleSource,
        tokenizer: Any,
        folder: TextFolder,
        settings: TextSettings,
        layers: Sequence[nn.Module],
        digest: bytes,
    ) -> None:
        self._given, self._layers, self._parts_digest = tokenizer, layers, digest
        self._asked_pooling = settings.pooling
        super().__init__(source, folder, getattr(source.module, "config", None), settings)

    @property
    def core_digest(self) -> bytes:
        """Digest of all that decides the hidden states of given tokens."""
        seen = self._seen()
        return digest_of({"parts": self._parts_digest, **seen}) if seen else self._parts_digest

    def n_bytes(self, dtype: torch.dtype) -> int:
        """Return the size of the module's weights in a format."""
        return self.source.n_bytes() * dtype.itemsize // 4

    def _load_tokenizer(self, folder: TextFolder) -> Any:
        return _copy_of_tokenizer(self._given, folder.lower_case, self.name)

    def _whole(self, model: Any) -> tuple[Any, frozenset[str]]:
        return model, frozenset()

    def _write_tokenizer(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(folder)

    def _load_transformer(self, dtype: torch.dtype | None, **placed: Any) -> Any:
        module: Any = self.source.copy()
        module.config.use_cache = False
        return module

    def _width_of_states(self) -> int:
        width = super()._width_of_states()
        for layer in self._layers:
            linear = next((each for each in layer.modules() if isinstance(each, nn.Linear)), None)
            if linear is None:
                continue
            if linear.in_features != width:
                raise UnsupportedModelError(
                    f"The model's dense layer takes {linear.in_features} features, but the pooling "
                    f"gives {width}. Use the model's own pooling: pooling='auto'."
                )
            width = linear.out_features
        return width

    def _load_projection(self) -> list[nn.Module]:
        return copy.deepcopy(list(self._layers))


class ModuleBackbone(TransformerInMemory):
    """Any other module, from tokens to states (n, tokens, d) or vectors (n, d)."""

    is_foreign = True
    _layout: Literal["padded", "equal"] = "equal"

    @property
    def core_digest(self) -> bytes:
        """Digest of all that decides the module's output: who asks for a pooling means states."""
        is_auto = self._asked_pooling == "auto"
        return digest_of({"parts": self._parts_digest, "is_auto": is_auto})

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write the state dict of the user's module, by its own names, and the tokenizer."""
        # Around it: one thread at a time, its features, its arguments.
        own: Any = module.core.module.module.module.module  # type: ignore[union-attr]
        write_state(own.state_dict(), folder / "model.safetensors")
        self._write_tokenizer(folder)
        code = f"""
import torch
from safetensors.torch import load_file

# model: your {self.name}
model.load_state_dict(load_file("model.safetensors"))
# vectors: what it gives for texts, pooled: a tensor (n, {self.width})
"""
        return Exported("torch", code, "model, tokenizer=tokenizer")

    def _own_pooling(self, folder: TextFolder) -> str:
        return "mean"  # where it gives states; see `_width_of_states`

    def _width_of_states(self) -> int:
        """Try the module out; return the width of what is made of its states."""
        (ids,) = self.tokens.encode(["one, two, three: a text on which the module is tried out"])
        row = torch.from_numpy(self.tokens.cut(ids))
        core = self._make_core()
        _, features = try_out(
            lambda values: core.run(values, torch.ones_like(values)),  # type: ignore[arg-type]
            [row],
            [row.flip(0)],
            row="text",
            shapes="(1, tokens, features) or (1, features)",
            name=self.name,
            advice="It is called with the tokenizer's input_ids and attention_mask, by name if its "
            "forward has these names.",
        )
        if features.ndim == 3 and features.shape[1] == len(row):
            self._layout = self._find_layout(core, row)
            return pooled_width(features.shape[2], str(self.pooling))
        if features.ndim != 2:
            raise UnsupportedModelError(
                f"{self.name} gives features of shape {tuple(features.shape)} for a text of "
                f"{len(row)} tokens; expected one vector, or one state per token."
            )
        if self._asked_pooling != "auto":
            raise InvalidParameterError(
                f"pooling={self._asked_pooling!r}: {self.name} ends in one vector, so there "
                "is nothing to pool. Use pooling='auto'."
            )
        self.pooling = None
        self._layout = self._find_layout(core, row)
        return int(features.shape[1])

    @torch.inference_mode()
    def _find_layout(self, core: TokenModule, row: Tensor) -> Literal["padded", "equal"]:
        """Return whether a text's features stay the same beside a longer one."""
        short = row[: max(len(row) // 2, 1)]
        batch = self.collate([row.numpy(), short.numpy()])
        try:
            both, alone = core(batch), core(self.collate([short.numpy()]))
        except Exception:  # whatever it is, of rows of one length it does not come
            return "equal"
        n = len(alone)
        is_same = torch.allclose(both[-n:], alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))
        return "padded" if is_same else "equal"

    def _make_core(self) -> TokenModule:
        core = TokenModule(
            self.source.copy(),
            self._pad_token_id(),
            self.name,
            most_finished=self._asked_pooling == "auto",
        )
        core.layout = self._layout
        return core.eval()

    def _load_core(self, dtype: torch.dtype | None, **placed: Any) -> Any:
        return self._make_core()
