"""Files and folders passed as a model that aren't one: what they are, what to pass instead.

Goes by names alone. Must not load anything or know how a model is found.
"""

from __future__ import annotations

import re
from pathlib import Path

from skembed.weights._files import describe_folder, is_model_folder

__all__ = ["looks_like_a_file", "why_a_file", "why_a_folder"]

_ORIGINAL = (
    "skembed runs PyTorch models: pass the id or folder of the model that it was made from, or "
    "call it in a function and use FunctionEmbedder"
)
_WHOLE = (
    "Pass the folder of a whole model, as written by `save_pretrained` or a download from the hub"
)
_WORDS = (
    "TextEmbedder reads those of GloVe and word2vec (text or binary), fastText (.vec or .bin) and "
    "NumPy (.npy beside its words): check the path, or download it again"
)
_KV = (
    "Save it with gensim, `vectors.save_word2vec_format(path, binary=True)`, and pass that file to "
    "TextEmbedder"
)
_WEIGHTS = (
    "Pass the folder that also has the config.json; for torchvision, torchaudio or timm models "
    "pass the model's name, and this file as `weights`"
)

# By a pattern of the file's name, the first that fits.
_KINDS = (
    (r"(config|tokenizer|modules|preprocessor)\w*\.json", "one file of a model", "Pass its folder"),
    (r".*\.onnx", "an ONNX model", _ORIGINAL),
    (r".*\.gguf", "a GGUF file for llama.cpp", "TextEmbedder reads such a file of a text model"),
    (r".*\.ggml", "an old file for llama.cpp", "Convert it to GGUF, which TextEmbedder reads"),
    (r".*\.(tflite|h5|hdf5|keras|pb)", "a TensorFlow or Keras model", _ORIGINAL),
    (r".*\.kv", "a pickle of gensim's word vectors, which is never opened", _KV),
    (r".*\.magnitude", "a Magnitude file of word vectors, which skembed does not read", _WORDS),
    (r".*\.vec(\.gz)?", "a file of word vectors", _WORDS),
    (r".*\.npy", "an array of vectors", _WORDS),
    (
        r"(.*vectors|glove|word2vec|fasttext).*\.((txt|bin)(\.gz)?|\d+[bdw])",
        "a file of word vectors",
        _WORDS,
    ),
    (r".*\.(safetensors|pt|pth|ckpt|bin)", "a file of weights without their model", _WEIGHTS),
    (r".*\.(pkl|pickle|joblib|skops)", "a saved Python object, which is never opened", _WHOLE),
    (r".*\.(zip|tar|gz|tgz|7z|xz)", "an archive", "Unpack it and pass the folder"),
    (r".*\.txt(\.gz)?", "a text file", f"{_WHOLE}, or word vectors: a word and its numbers a line"),
    (r".*\.(csv|json)", "a text file", _WHOLE),
)


def looks_like_a_file(name: str) -> bool:
    """Return whether a name is that of a file of a kind given for models, there or not."""
    return "/" not in name and _kind_of(name) is not None


def why_a_file(name: str) -> str:
    """Say what a file is that was given for a model, and what to give instead."""
    what, advice = _kind_of(name) or ("a file, not a folder", _WHOLE)
    return f"{what}. {advice}."


def why_a_folder(folder: Path) -> str:
    """Say what a folder holds that was given for a model, and what to give instead."""
    has = f"no config.json or modules.json; {describe_folder(folder)}"
    try:
        within = sorted(each.name for each in folder.iterdir() if is_model_folder(each))
        names = [each.name for each in folder.iterdir()]
    except OSError:
        return f"{has}."
    if within:
        return f"{has}. Pass one of the models in it, for example {str(folder / within[0])!r}."
    if "adapter_config.json" in names:
        return f"{has}. It is a LoRA adapter: merge it into its base model and save that."
    if "saved_model.pb" in names:
        return f"{has}. It is a TensorFlow model. {_ORIGINAL}."
    if any(re.match("(tokenizer|vocab|spiece|sentencepiece)", name) for name in names):
        return (
            f"{has}. It is a tokenizer: save its model there too (`model.save_pretrained(folder)`)."
        )
    for name in names:
        if _kind_of(name) is not None:
            return f"{has}. {name} is {why_a_file(name)}"
    return f"{has}. {_WHOLE}."


def _kind_of(name: str) -> tuple[str, str] | None:
    last = name.rpartition("/")[2]
    for pattern, what, advice in _KINDS:
        if re.fullmatch(pattern, last, re.IGNORECASE):
            return what, advice
    return None
