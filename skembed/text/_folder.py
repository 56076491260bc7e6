"""Read what the JSON files of a model folder say: its transformer, pooling, head, prompts, limits.

Reads sentence-transformers folders (of every release: the module names and the pooling keys have
changed) and plain transformers folders. Loads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.text._head import HeadModule
from skembed.text._models import TextModel
from skembed.weights import read_json, read_modules

__all__ = ["HEAD_TYPES", "POOLING_FLAGS", "TextFolder", "completed", "read_folder", "read_head"]

# In the order in which several poolings are joined.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last_token",
}
_POOLING_NAMES = {
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
HEAD_TYPES = ("Dense", "LayerNorm", "Normalize", "Dropout")

# Settings of sentence-transformers' modules that change vectors and that only these values leave
# as skembed makes them. What is not listed either changes none or is read above.
_TRANSFORMER_SETTINGS: dict[str, tuple[Any, ...]] = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    **dict.fromkeys(("query_length", "document_length", "query_expansion"), (None,)),
    "tokenizer_name_or_path": (None,),
}
_HEAD_SETTINGS: dict[str, tuple[Any, ...]] = {
    "module_input_name": (None, "sentence_embedding"),
    "module_output_name": (None, "sentence_embedding"),
    "use_residual": (None, False),
}
_SIZES = {"Dense": ("in_features", "out_features"), "LayerNorm": ("dimension",), "Normalize": ()}
_TEXT_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}
# Arguments for loading, under their names of two releases, that change no vector beyond rounding.
_HARMLESS_ARGUMENTS = {
    *("dtype", "torch_dtype", "attn_implementation", "device_map", "low_cpu_mem_usage"),
    *("trust_remote_code", "add_pooling_layer", "use_safetensors", "use_cache", "padding_side"),
    *("unpad_inputs", "use_memory_efficient_attention", "use_fast", "local_files_only"),
}
_ARGUMENTS = (
    *("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs"),
    *("config_args", "config_kwargs"),
)


@dataclass(frozen=True)
class TextFolder:
    """What a model folder says of itself; None where it does not say."""

    transformer: Path
    pooling: str | None = None  # names, joined with "+" in their order
    head: tuple[HeadModule, ...] = ()
    pools_prompt: bool = True  # whether a prompt's tokens take part in the pooling
    max_length: int | None = None
    lower_case: bool = False  # whether texts are lower-cased before the tokenizer
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    n_components: int | None = None
    similarity: str | None = None  # how vectors are compared: "cosine", "dot", ...

    @property
    def normalizes(self) -> bool:
        """Whether unit length is the last step; where vectors are cut after it, they lose it."""
        is_last = bool(self.head) and self.head[-1].kind == "Normalize"
        return is_last and self.n_components is None


def read_folder(folder: Path) -> TextFolder:
    """Read a sentence-transformers folder, or a plain transformers folder."""
    if not (folder / "modules.json").is_file():
        return TextFolder(transformer=folder)
    try:
        return _read_modules(folder)
    except (AttributeError, KeyError, TypeError) as error:
        raise UnsupportedModelError(
            f"A JSON file in {folder} has unexpected values: {type(error).__name__}: {error}"
        ) from None


def completed(folder: TextFolder, row: TextModel | None) -> TextFolder:
    """Return what a folder says, and what a row of the table of models adds to it."""
    if row is None:
        return folder
    if folder.pooling is None and row.pooling is not None:
        unit_length = (HeadModule("Normalize", folder.transformer, {}),)
        folder = replace(folder, pooling=row.pooling, head=unit_length, pools_prompt=False)
    # sentence-transformers writes empty ones where a model names none.
    named = {name: text for name, text in folder.prompts.items() if text or name not in row.prompts}
    return replace(
        folder,
        prompts={**row.prompts, **named},
        default_prompt=folder.default_prompt or row.default_prompt,
    )


def _read_modules(folder: Path) -> TextFolder:
    kinds, folders = [], []
    for kind, place in read_modules(folder):
        if not kind.startswith("sentence_transformers."):
            raise UnsafeModelError(
                f"{folder} lists the module {kind}, which is custom code and not part of "
                "sentence-transformers. skembed does not run it; use a model without it."
            )
        kinds.append(kind.rsplit(".", 1)[-1])
        folders.append(place)
    if kinds == ["CLIPModel"]:
        return TextFolder(transformer=folders[0])
    known = kinds[:1] == ["Transformer"] and (
        len(kinds) == 1 or (kinds[1] == "Pooling" and all(kind in HEAD_TYPES for kind in kinds[2:]))
    )
    if not known:
        raise UnsupportedModelError(
            f"{folder} chains the modules {', '.join(kinds)}; skembed reads a Transformer, then "
            f"Pooling, then any of {', '.join(HEAD_TYPES)}."
        )
    # "sentence_bert_config.json", in older releases also of roberta, distilbert, ...
    transformer = _first_json(folders[0], "sentence_*_config.json")
    pooling = read_json(folders[1] / "config.json") if len(kinds) > 1 else {}
    model = _first_json(folder, "config_sentence_transformers.json")
    head = read_head(kinds[2:], folders[2:])
    _refuse_settings(folders[0], transformer, _TRANSFORMER_SETTINGS)
    _refuse_arguments(folders[0], transformer)
    max_length, default = transformer.get("max_seq_length"), model.get("default_prompt_name")
    n_components = model.get("truncate_dim")
    prompts = {name: text or "" for name, text in (model.get("prompts") or {}).items()}
    for name, value in (("max_seq_length", max_length), ("truncate_dim", n_components)):
        if value is not None:
            _check_number(name, value)
    if not all(isinstance(text, str) for text in prompts.values()):
        raise TypeError(f"prompts are {prompts!r:.200}")
    if default is not None and default not in prompts:
        raise KeyError(f"default_prompt_name {default!r} is not among the prompts")
    return TextFolder(
        transformer=folders[0],
        pooling=_read_pooling(pooling) if pooling else None,
        head=head,
        pools_prompt=bool(pooling.get("include_prompt", True)),
        max_length=max_length,
        lower_case=bool(transformer.get("do_lower_case", False)),
        prompts=prompts,
        default_prompt=default,
        n_components=n_components,
        similarity=model.get("similarity_fn_name"),
    )


def read_head(kinds: Sequence[str], folders: Sequence[Path]) -> tuple[HeadModule, ...]:
    """Read what follows the pooling: modules of kinds that are among `HEAD_TYPES`."""
    head = [
        HeadModule(kind, path, _first_json(path, "config.json"))
        for kind, path in zip(kinds, folders, strict=True)
        if kind != "Dropout"  # does nothing outside training
    ]
    for module in head:
        for name in _SIZES[module.kind]:
            _check_number(name, module.config[name])
        _refuse_settings(module.folder, module.config, _HEAD_SETTINGS)
    return tuple(head)


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise TypeError(f"{name} is {value!r}")


def _refuse_settings(
    folder: Path, config: Mapping[str, Any], settings: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuse settings under which sentence-transformers gives other vectors than skembed."""
    for name, known in settings.items():
        if config.get(name) not in known:
            raise UnsupportedModelError(
                f"A module in {folder} has {name}={config[name]!r}, which skembed does not "
                f"support (only {known[-1]!r}): the vectors would not be the model's."
            )


def _refuse_arguments(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse arguments for loading and calling that change vectors."""
    text = (config.get("modality_config") or {"text": _TEXT_MODALITY}).get("text")
    if text != _TEXT_MODALITY:
        raise UnsupportedModelError(
            f"The transformer in {folder} reads texts with {text!r}; skembed reads them "
            f"with {_TEXT_MODALITY!r} and would give other vectors."
        )
    given = {name: set(config.get(name) or ()) - _HARMLESS_ARGUMENTS for name in _ARGUMENTS}
    calls = config.get("processing_kwargs") or {}
    given["processing_kwargs"] = {kind for kind in ("common", "text") if calls.get(kind)}
    if faults := [f"{name} ({', '.join(sorted(each))})" for name, each in given.items() if each]:
        raise UnsupportedModelError(
            f"The transformer in {folder} asks for {'; '.join(faults)}, which skembed does not "
            "support: the vectors would not be the model's."
        )


def _read_pooling(config: Mapping[str, Any]) -> str:
    """Read the pooling's settings in either of their two forms."""
    named = config.get("pooling_mode")
    if named:
        names = [named] if isinstance(named, str) else list(named)
        return "+".join(_POOLING_NAMES.get(name, name) for name in names)
    flagged = [name for flag, name in POOLING_FLAGS.items() if config.get(flag)]
    return "+".join(flagged) or "mean"


def _first_json(folder: Path, pattern: str) -> dict[str, Any]:
    """Read the first file that matches; {} where there is none."""
    for path in sorted(folder.glob(pattern)):
        found: dict[str, Any] = read_json(path)
        return found
    return {}
