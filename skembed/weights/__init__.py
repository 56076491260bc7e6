"""Model weights: resolve a name to a folder, verify it, load it safely, once per process.

This room owns where weights come from and whether they may be loaded. It knows files and state
dicts; it must not know encoders, modalities or estimators. Importing it imports neither torch nor
transformers nor huggingface_hub.
"""

from __future__ import annotations

from skembed.weights._checkpoints import find_checkpoint
from skembed.weights._digest import file_sha256, folder_digest
from skembed.weights._files import read_json, read_modules
from skembed.weights._fingerprint import fingerprint
from skembed.weights._foreign import looks_like_a_file
from skembed.weights._gguf import (
    find_gguf,
    gguf_fields,
    gguf_source,
    load_gguf,
    load_gguf_config,
    load_gguf_tokenizer,
)
from skembed.weights._hub import fetch_file
from skembed.weights._load import check_weights, load_content, load_state
from skembed.weights._memory import available_memory, is_out_of_memory
from skembed.weights._models import (
    forget_model,
    free_memory,
    is_loaded,
    kept_recent,
    shared_model,
    unload_models,
)
from skembed.weights._packages import PACKAGES
from skembed.weights._pretrained import (
    copy_processor,
    count_bytes,
    has_processor,
    kind_of,
    load_config,
    load_pretrained,
    load_processor,
    quiet_transformers,
    refuse_code_from_elsewhere,
    refuse_custom_code,
    save_pretrained,
)
from skembed.weights._remember import recalled, remember, remembered, user_cache_folder
from skembed.weights._resolve import resolve_model
from skembed.weights._sources import (
    FileSource,
    FilesSource,
    FolderSource,
    RandomSource,
    releases_of,
)
from skembed.weights._workers import send_weights_once

__all__ = [
    "PACKAGES",
    "FileSource",
    "FilesSource",
    "FolderSource",
    "RandomSource",
    "available_memory",
    "check_weights",
    "copy_processor",
    "count_bytes",
    "fetch_file",
    "file_sha256",
    "find_checkpoint",
    "find_gguf",
    "fingerprint",
    "folder_digest",
    "forget_model",
    "free_memory",
    "gguf_fields",
    "gguf_source",
    "has_processor",
    "is_loaded",
    "is_out_of_memory",
    "kept_recent",
    "kind_of",
    "load_config",
    "load_content",
    "load_gguf",
    "load_gguf_config",
    "load_gguf_tokenizer",
    "load_pretrained",
    "load_processor",
    "load_state",
    "looks_like_a_file",
    "quiet_transformers",
    "read_json",
    "read_modules",
    "recalled",
    "refuse_code_from_elsewhere",
    "refuse_custom_code",
    "releases_of",
    "remember",
    "remembered",
    "resolve_model",
    "save_pretrained",
    "send_weights_once",
    "shared_model",
    "unload_models",
    "user_cache_folder",
]
