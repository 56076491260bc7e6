"""Static vectors in folders: model2vec's, and StaticEmbedding of sentence-transformers.

One folder may be both, and the two libraries read it differently. Where the weights bear the names
of model2vec, its rules hold: unknown tokens are left out, and a text is cut at 512 tokens unless
its configuration says otherwise. (model2vec also cuts a text's letters before it splits it, to save
time; here tokens alone count.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import nn

from skembed._backbone import Ending, Exported
from skembed.exceptions import (
    InvalidParameterError,
    UnsafeModelError,
    UnsupportedModelError,
    did_you_mean,
)
from skembed.modules import write_state
from skembed.store import digest_of
from skembed.text._folder import HEAD_TYPES, read_head
from skembed.text._head import HeadModule, check_head, load_head
from skembed.text._models import MODELS
from skembed.text._settings import TextSettings
from skembed.text.static._backbone import (
    Spread,
    StaticBackbone,
    check_settings,
    choose_pooling,
    find_words,
)
from skembed.weights import (
    FolderSource,
    check_weights,
    kept_recent,
    load_state,
    read_json,
    read_modules,
    releases_of,
    resolve_model,
)

__all__ = ["find_static", "find_static_folder"]

_OF_MODEL2VEC, _OF_SENTENCE_TRANSFORMERS = "embeddings", "embedding.weight"
_LIMIT_OF_MODEL2VEC = 512


def find_static(settings: TextSettings) -> StaticBackbone:
    """Return the backbone of static vectors, in a file or a folder."""
    if Path(settings.model).expanduser().is_file():
        return find_words(settings)
    source = resolve_model(settings.model, revision=settings.revision, known=MODELS)
    return find_static_folder(source, settings)


def find_static_folder(source: FolderSource, settings: TextSettings) -> StaticBackbone:
    """Return the backbone of a folder of static vectors."""
    check_settings(settings, source.name)
    key = (
        *("static", source.digest, str(source.folder), source.name),
        *(settings.pooling, settings.prompt, settings.max_length),
    )
    make = lambda: source.read(lambda: StaticFolderBackbone(source, settings))  # noqa: E731
    found: StaticBackbone = kept_recent(key, make)
    return found


@dataclass(frozen=True)
class _Folder:
    """What the files of a folder say; None where they do not say."""

    place: Path
    sizes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[HeadModule, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_model2vec(self) -> bool:
        """Whether it is read by model2vec's rules."""
        return _OF_MODEL2VEC in self.sizes


def _read_folder(folder: Path) -> _Folder:
    kinds: list[str] = ["StaticEmbedding"]
    folders = [folder]
    if (folder / "modules.json").is_file():
        modules = read_modules(folder)
        for kind, _ in modules:
            if not kind.startswith("sentence_transformers."):
                raise UnsafeModelError(
                    f"{folder} lists the module {kind}, which is custom code and not part of "
                    "sentence-transformers. skembed does not run it."
                )
        kinds = [kind.rpartition(".")[2] for kind, _ in modules]
        folders = [place for _, place in modules]
    if any(kind not in HEAD_TYPES for kind in kinds[1:]):
        raise UnsupportedModelError(
            f"{folder} chains the modules {', '.join(kinds)}; skembed reads a StaticEmbedding, "
            f"then any of {', '.join(HEAD_TYPES)}."
        )
    weights = check_weights(folders[0])[0]
    sizes = _sizes_in(weights)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    st = folder / "config_sentence_transformers.json"
    settings = read_json(st) if st.is_file() else {}
    names = (_OF_MODEL2VEC, _OF_SENTENCE_TRANSFORMERS)
    if not any(len(sizes.get(name, ())) == 2 for name in names):
        raise UnsupportedModelError(
            f"{weights} holds no table of vectors: expected {' or '.join(names)}, got "
            f"{', '.join(sizes)}."
        )
    return _Folder(folders[0], sizes, config, read_head(kinds[1:], folders[1:]), settings)


def _sizes_in(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in load_state(path).items()}
    with safe_open(path, framework="numpy", backend="pread") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


class StaticFolderBackbone(StaticBackbone):
    """Vectors of the tokens that a folder's own tokenizer makes of texts."""

    def __init__(self, source: FolderSource, settings: TextSettings) -> None:
        self.source, self.name = source, source.name
        folder = self._folder = _read_folder(source.folder)
        self.pooling = choose_pooling(settings, self.name)
        self._tokenizer = _load_tokenizer(folder.place)
        is_model2vec = folder.is_model2vec
        truncation = self._tokenizer.truncation or {}
        own: int | None = truncation.get("max_length")
        self._unknown = -1
        if is_model2vec:
            own = folder.config.get("max_length", _LIMIT_OF_MODEL2VEC)
            self._unknown = _unknown_token(self._tokenizer)
        elif truncation.get("direction", "right") != "right":
            raise UnsupportedModelError(
                f"The tokenizer of {self.name} cuts texts at their beginning, which skembed does "
                "not support for static vectors."
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_length = own if settings.max_length is None else settings.max_length
        self.n_components = folder.settings.get("truncate_dim")
        has_norm = bool(folder.head) and folder.head[-1].kind == "Normalize"
        self._head = folder.head[:-1] if has_norm else folder.head
        if is_model2vec:
            has_norm = bool(folder.config.get("normalize", has_norm))
        # Where vectors are cut after it, they lose it.
        self.normalizes = has_norm and self.n_components is None
        if has_norm and not self.normalizes:
            self._head = folder.head
        self.prompt = self._choose_prompt(settings.prompt)
        table = folder.sizes[_OF_MODEL2VEC if is_model2vec else _OF_SENTENCE_TRANSFORMERS]
        self.n_words = folder.sizes.get("mapping", table)[0] if is_model2vec else table[0]
        if self._tokenizer.get_vocab_size() > self.n_words:
            raise UnsupportedModelError(
                f"The tokenizer of {self.name} has {self._tokenizer.get_vocab_size():,} tokens, "
                f"but there are vectors of {self.n_words:,}: it belongs to another model."
            )
        self.width = check_head(self._head, table[1])
        self.n_bytes = 4 * self.n_words * table[1]
        self.digest = digest_of(
            {
                "core": self.core_digest,
                "libraries": releases_of("tokenizers"),
                "pooling": self.pooling,
                "prompt": self.prompt,
            }
        )

    def words(self) -> Callable[[int], str]:
        """Return what gives the token of a row."""
        tokens: dict[int, str] = {}
        tokens = {row: token for token, row in self._tokenizer.get_vocab().items()}
        return lambda row: tokens.get(row, "")

    def row_of(self, word: str) -> int:
        """Return the row of a token, or of a text that is one token."""
        rows = self._tokenizer.encode(word, add_special_tokens=False).ids
        row = rows[0] if len(rows) == 1 else self._tokenizer.token_to_id(word)
        return -1 if row is None or row == self._unknown else int(row)

    def _find(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], Spread]:
        rows: list[int] = []
        ends = [0]
        for each in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            rows += each.ids
            ends.append(len(rows))
        found = np.array(rows, dtype=np.int64)
        if self._unknown >= 0:
            found[found == self._unknown] = -1
        return found, np.diff(np.array(ends)), _as_they_are

    def _vectors(self) -> torch.Tensor:
        state = load_state(check_weights(self._folder.place)[0])
        if self._folder.is_model2vec:
            vectors, mapping = state[_OF_MODEL2VEC], state.get("mapping")
            vectors = vectors.float() if mapping is None else vectors.float()[mapping.long()]
            if (weights := state.get("weights")) is not None:
                vectors = vectors * weights.float()[:, None]
        else:
            vectors = state[_OF_SENTENCE_TRANSFORMERS].float()
        if not torch.isfinite(vectors).all():
            raise UnsupportedModelError(f"{self.name} has vectors that are not finite.")
        return vectors.contiguous()

    def _layers(self) -> list[nn.Module]:
        return load_head(self._head)

    def _choose_prompt(self, prompt: str | None) -> str:
        """Return the text before each text, given by the name of one of the model's or itself."""
        prompts = self._folder.settings.get("prompts") or {}
        if prompt == "auto":
            prompt = self._folder.settings.get("default_prompt_name")
        elif prompt and re.fullmatch(r"[\w.-]+", prompt) and prompt not in prompts:
            raise InvalidParameterError(
                f"prompt={prompt!r} looks like a name, but {self.name} has no prompt of that name."
                f"{did_you_mean(prompt, prompts)} If it is the text itself, end it with a space."
            )
        return "" if prompt is None else str(prompts.get(prompt, prompt) or "")

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write a folder of the kind that it was read from; all that is linear is in its table."""
        is_idf = self._state is not None and "component" not in self._state.arrays
        if self.pooling != "mean" or self._head or is_idf or self.prompt:
            raise UnsupportedModelError(
                f"{self.name} cannot be exported as it is used: the format has a mean of vectors, "
                "without idf weights, a prompt or layers after it."
            )
        core: Any = module.core
        table = core.weight.detach()
        if self._of_words is not None:
            table = table * torch.from_numpy(self._of_words[:-1, None])
        if ending.projection is not None:
            projection = map(torch.from_numpy, (ending.projection.weight, ending.projection.bias))
            table = F.linear(table, *projection)
        table = table[:, : ending.n_components].contiguous()
        name = _OF_MODEL2VEC if self._folder.is_model2vec else _OF_SENTENCE_TRANSFORMERS
        write_state({name: table}, folder / "model.safetensors")
        tokenizer = type(self._tokenizer).from_str(self._tokenizer.to_str())
        if self.max_length is not None and not self._folder.is_model2vec:
            tokenizer.enable_truncation(self.max_length)
        tokenizer.save(str(folder / "tokenizer.json"))
        kinds = ["StaticEmbedding", *["Normalize"] * ending.normalize]
        listed = [
            {
                "idx": i,
                "name": str(i),
                "path": f"{i}_{kind}" if i else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for i, kind in enumerate(kinds)
        ]
        _write_json(folder / "modules.json", listed)
        if self._folder.is_model2vec:
            config = {
                "model_type": "model2vec",
                "architectures": ["StaticModel"],
                "normalize": ending.normalize,
                "max_length": self.max_length,
            }
            _write_json(folder / "config.json", config)
            return Exported("model2vec", _MODEL2VEC_CODE, is_finished=True)
        _write_json(folder / "config_sentence_transformers.json", {"prompts": {}})
        return Exported("sentence_transformers", _CODE, is_finished=True)


_MODEL2VEC_CODE = """
import torch
from model2vec import StaticModel

# texts: a list of str
vectors = torch.from_numpy(StaticModel.from_pretrained(".").encode(texts))
"""

_CODE = """
from sentence_transformers import SentenceTransformer

# texts: a list of str
vectors = SentenceTransformer(".").encode(texts, convert_to_tensor=True)
"""


def _as_they_are(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], None]:
    return rows, None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _load_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # a bare Exception for whatever is wrong
        raise UnsupportedModelError(
            f"The tokenizer in {folder} cannot be read: {error}. Static vectors need its "
            "tokenizer.json."
        ) from None


def _unknown_token(tokenizer: Any) -> int:
    """Return the token of what is not in the vocabulary, -1 if there is none."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_token") is not None:
        row = tokenizer.token_to_id(model["unk_token"])
    else:
        row = model.get("unk_id")
    return -1 if row is None else int(row)
