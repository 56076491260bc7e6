"""How many texts a second do static vectors embed, beside model2vec on the same vectors?

Two tables: GloVe's words (400,000 x 50, `python tests/materials.py` fetches them), which model2vec
gets with a tokenizer of whole words; and the tokens of MiniLM (30,522 x 384) in a model2vec folder,
whose tokenizer both run. The vectors are compared first; rounds take turns.

    python benchmarks/static_throughput.py --out benchmarks/results/static_throughput.json
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from _common import least_cosine, make_parser, minilm_folder, summarize, write_results
from _data import cut_texts, document_lengths, short_lengths
from model2vec import StaticModel
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

sys.path.insert(0, str(Path(__file__).parents[1]))

from skembed import TextEmbedder
from tests.materials import material

Way = Callable[[list[str]], np.ndarray]


def glove_ways(folder: Path) -> dict[str, Way]:
    """Return both libraries on GloVe's words; texts have spaces between words."""
    import pyarrow.parquet

    data = material("glove")
    words = pyarrow.parquet.read_table(data / "glove_6B_index.parquet").column(0).to_pylist()
    (folder / "glove.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    vectors = np.ascontiguousarray(np.load(data / "glove_6B_50d_emb.npy"))
    np.save(folder / "glove.npy", vectors)
    known = {word: row + 1 for row, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **known}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rows = np.concatenate([np.zeros_like(vectors[:1]), vectors])
    return _ways(StaticModel(rows, tokenizer, max_length=None), folder / "glove.npy")


def minilm_ways(folder: Path) -> dict[str, Way]:
    """Return both libraries on the vectors of MiniLM's tokens."""
    state = load_file(minilm_folder() / "model.safetensors")
    vectors = state["embeddings.word_embeddings.weight"]
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    model = StaticModel(vectors, tokenizer, normalize=True)
    model.save_pretrained(folder / "m2v")
    return _ways(StaticModel.from_pretrained(folder / "m2v"), folder / "m2v")


def _ways(model: Any, path: Path) -> dict[str, Way]:
    embedder = TextEmbedder(path).fit(["a text"])
    return {
        "skembed": embedder.transform,
        "model2vec": lambda texts: model.encode(texts, show_progress_bar=False),
    }


def spaced(texts: list[str]) -> list[str]:
    """Put spaces between words and marks, so that both libraries see the same words."""
    marks = re.compile(r"[a-z]+|\d+|[.,()]")
    return [" ".join(["the", *marks.findall(text.lower())]) for text in texts]  # none is unknown


def measure(ways: dict[str, Way], texts: list[str], rounds: int) -> dict[str, Any]:
    """Return rows a second of each way, and their ratios within rounds."""
    found = {name: way(texts) for name, way in ways.items()}
    cosine = least_cosine(found["skembed"], found["model2vec"])
    if cosine < 0.99999:
        raise SystemExit(f"the vectors differ: a cosine of {cosine}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way(texts)
            seconds[name].append(time.perf_counter() - started)
    pairs = zip(seconds["model2vec"], seconds["skembed"], strict=True)
    return {
        "least_cosine": cosine,
        "rows_per_second": {n: summarize([len(texts) / s for s in t]) for n, t in seconds.items()},
        "times_model2vec": summarize([theirs / ours for theirs, ours in pairs]),
    }


def main() -> None:
    """Measure both tables on short rows and documents, and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    options = parser.parse_args()
    lengths = {"short rows": short_lengths, "documents": document_lengths}
    results: dict[str, Any] = {"n_rows": options.rows}
    with TemporaryDirectory() as name:
        for table, make in (("GloVe's words", glove_ways), ("MiniLM's tokens", minilm_ways)):
            ways = make(Path(name))
            for kind, draw in lengths.items():
                texts = cut_texts(draw(options.rows), minilm_folder())
                texts = spaced(texts) if make is glove_ways else texts
                found = measure(ways, texts, options.rounds or 5)
                results.setdefault(table, {})[kind] = found
                speeds = {n: each["median"] for n, each in found["rows_per_second"].items()}
                ratio = found["times_model2vec"]
                print(
                    f"{table}, {kind}: skembed {speeds['skembed']:,.0f} rows/s, model2vec "
                    f"{speeds['model2vec']:,.0f} rows/s, {ratio['median']:.2f} times "
                    f"({ratio['min']:.2f} to {ratio['max']:.2f})"
                )
    write_results(options.out, results)


if __name__ == "__main__":
    main()
