"""Models in one GGUF file, as llama.cpp reads them: found, and loaded by transformers.

Owns how such a file is recognised and unpacked to full precision. Must not know what the model is
for. The optional packages gguf and accelerate are imported when the first file is read.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skembed._forks import one_at_a_time
from skembed._optional import import_optional
from skembed._random_state import own_random_state
from skembed.exceptions import ModelNotFoundError, SkembedError, UnsupportedModelError
from skembed.weights._files import is_model_folder
from skembed.weights._memory import is_out_of_memory
from skembed.weights._pretrained import quiet_transformers, refuse_random_weights
from skembed.weights._remember import remembered
from skembed.weights._sources import FileSource

if TYPE_CHECKING:
    import torch

__all__ = [
    "find_gguf",
    "gguf_fields",
    "gguf_source",
    "load_gguf",
    "load_gguf_config",
    "load_gguf_tokenizer",
]

T = TypeVar("T")

_MAGIC = b"GGUF"


def find_gguf(model: Any) -> Path | None:
    """Return the GGUF file that a name means, there or not: itself, or the only one in a folder.

    None if it means something else.
    """
    if not isinstance(model, (str, os.PathLike)) or isinstance(text := os.fspath(model), bytes):
        return None
    path = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111  (never raises)
    if text.lower().endswith(".gguf"):
        return path
    if not os.path.isdir(path) or is_model_folder(path):  # noqa: PTH112
        return None
    try:
        names = sorted(each.name for each in path.iterdir() if each.suffix.lower() == ".gguf")
    except OSError:
        return None
    if len(names) > 1:
        raise ModelNotFoundError(
            f"The folder {text!r} has {len(names)} GGUF files ({', '.join(names)}). Pass the path "
            f"of one, such as {str(path / names[0])!r}."
        )
    return path / names[0] if names else None


def gguf_source(model: Any) -> FileSource:
    """Return the file that `find_gguf` finds, named as the user did."""
    path, name = find_gguf(model), os.fspath(model)
    assert path is not None
    if not path.is_file():
        here = "" if Path(name).is_absolute() else f" The working directory is {Path.cwd()}."
        raise ModelNotFoundError(f"There is no {path}, which would be a GGUF file.{here}")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ModelNotFoundError(
                f"{name!r} is not a GGUF file, though it is called one: it does not begin with "
                f"{_MAGIC.decode()!r}. Download it again."
            )
    return FileSource(name, path)


def load_gguf_config(path: Path) -> Any:
    """Return the configuration that a file describes."""
    from transformers import AutoConfig

    return _read(path, "configuration", lambda **where: AutoConfig.from_pretrained(**where))


def load_gguf_tokenizer(path: Path, n_tokens: int) -> Any:
    """Return the tokenizer that a file describes, of a model that knows so many tokens."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    tokenizer: Any = _read(
        path, "tokenizer", lambda **where: AutoTokenizer.from_pretrained(**where)
    )
    # transformers' classes add special tokens of their own to a vocabulary that lacks them, which
    # the model has no states for; a text that holds their letters would meet them.
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [each for each in told["added_tokens"] if each["id"] < n_tokens]
    if len(kept) < len(told["added_tokens"]):
        told["added_tokens"] = kept
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(told))
    return tokenizer


def load_gguf(path: Path, config: Any, *, auto: Any, dtype: torch.dtype) -> Any:
    """Return the model with its weights unpacked to `dtype`, on the CPU."""
    import transformers

    # Later releases would leave some weights packed. Earlier ones always unpack.
    unpacked = getattr(transformers, "GgufConfig", None)
    how = {} if unpacked is None else {"quantization_config": unpacked(dequantize=True)}

    def load(**where: Any) -> Any:
        with own_random_state():
            return auto.from_pretrained(
                **where, **how, config=config, dtype=dtype, output_loading_info=True
            )

    module, info = _read(path, "weights", load)
    refuse_random_weights(path, info, lambda name: False)
    return module


def gguf_fields(source: FileSource, *names: str) -> dict[str, Any]:
    """Return what a file says under names that end so, such as "pooling_type"; plain values.

    Reading all that it says takes seconds, so it is remembered in the user's cache folder.
    """

    def read() -> str:
        reader = _gguf(source.path).GGUFReader
        try:
            fields = reader(source.path).fields.items()
        except (ValueError, IndexError, OSError) as error:
            raise UnsupportedModelError(
                f"{source.path} is damaged: {error}. Download it again."
            ) from error
        said = [(n, field) for key, field in fields for n in names if key.endswith(f".{n}")]
        return json.dumps({name: field.contents() for name, field in said})

    key = f"{source.digest.hex()} {' '.join(names)}"
    found: dict[str, Any] = json.loads(remembered("gguf", key, lambda: source.read(read)))
    return found


def _gguf(path: Path) -> Any:
    for name in ("gguf", "accelerate"):
        import_optional(name, extra="gguf", purpose=f"The model {path.name}")
    return import_optional("gguf", extra="gguf", purpose=f"The model {path.name}")


def _read(path: Path, what: str, load: Callable[..., T]) -> T:
    """Return what transformers loads of a file; it is told a folder and a name."""
    _gguf(path)
    try:
        with one_at_a_time(), quiet_transformers(), _without_bar(), _alone(path) as folder:
            return load(
                pretrained_model_name_or_path=str(folder),
                gguf_file=path.name,
                local_files_only=True,
            )
    except Exception as error:
        if isinstance(error, SkembedError) or is_out_of_memory(error):
            raise
        raise UnsupportedModelError(
            f"transformers cannot read the {what} in {path}: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _without_bar() -> Iterator[None]:
    """Keep the bar of unpacking to itself, which transformers draws whatever is set."""
    module: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    bar = getattr(module, "tqdm", None)
    module.tqdm = lambda rows, **settings: rows
    try:
        yield
    finally:
        module.tqdm = bar


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Give a folder with nothing but the file: others beside it would be read as its settings."""
    with tempfile.TemporaryDirectory(prefix="skembed-") as place:
        try:
            (Path(place) / path.name).symlink_to(path)
        except OSError:  # Windows asks for a right
            yield path.parent
        else:
            yield Path(place)
