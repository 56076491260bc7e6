"""One fresh process from `import torch` to the first vector; run by `latency.py`.

    python _cold.py WAY FOLDER [STAGES]

Prints JSON: seconds of each stage, the first vector, and the modules that the run has loaded.
STAGES is a JSON list of [name, modules]: what is imported, in this order, before the rest. Nothing
that a stage is to pay for may be imported here.
"""

import json
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

TEXT = "a cat"


def embed_with_skembed(folder: str) -> Any:
    """Return the first vector from skembed."""
    from skembed import TextEmbedder

    embedder = TextEmbedder(Path(folder))
    return embedder.fit_transform([TEXT])[0], embedder.dtype_


def embed_with_sentence_transformers(folder: str) -> Any:
    """Return the first vector from sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    return model.encode([TEXT], show_progress_bar=False)[0], "float32"


def import_only(folder: str) -> Any:
    """Return no vector: the stages are all there is."""
    return [], ""


WAYS = {
    "skembed": embed_with_skembed,
    "sentence-transformers": embed_with_sentence_transformers,
    "imports": import_only,
}


def main(way: str, folder: str, stages: list[tuple[str, list[str]]]) -> None:
    """Run the stages and print what they took."""
    seconds = {}
    started = time.perf_counter()
    import torch  # noqa: F401

    seconds["torch"] = time.perf_counter() - started
    for name, modules in stages:
        started = time.perf_counter()
        for module in modules:
            with suppress(ImportError):  # made by its package, and there with it
                import_module(module)
        seconds[name] = time.perf_counter() - started
    started = time.perf_counter()
    vector, dtype = WAYS[way](folder)
    seconds["the rest"] = time.perf_counter() - started
    print(
        json.dumps(
            {
                "seconds": seconds,
                "vector": [float(x) for x in vector],
                "dtype": dtype,
                "modules": list(sys.modules),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3] if len(sys.argv) > 3 else "[]"))
