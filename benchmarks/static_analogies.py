"""How many of Mikolov's analogies do static vectors solve, over their full vocabulary?

GloVe 6B of 50 features and the 19,544 questions in gensim's tests (`python tests/materials.py`
fetches both); gensim's `evaluate_word_analogies` with `restrict_vocab=400_000` gives 46.2%.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet
from _common import make_parser, write_results

sys.path.insert(0, str(Path(__file__).parents[1]))

from skembed import TextEmbedder
from tests.materials import material

_QUESTIONS_AT_ONCE = 256
_EXPECTED = 0.462


def main() -> None:
    """Solve every question and print the share that is right."""
    options = make_parser(__doc__).parse_args()
    data = material("glove")
    words = pyarrow.parquet.read_table(data / "glove_6B_index.parquet").column(0).to_pylist()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "glove.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
        (folder / "glove.npy").symlink_to(data / "glove_6B_50d_emb.npy")
        vectors = TextEmbedder(folder / "glove.npy", normalize=True).transform(words)
    lines = (material("gensim") / "questions-words.txt").read_text(encoding="utf-8").splitlines()
    place = {word: row for row, word in enumerate(words)}
    asked = [line.lower().split() for line in lines if not line.startswith(":")]
    rows = np.array([[place[word] for word in each] for each in asked])
    n_right = 0
    for start in range(0, len(rows), _QUESTIONS_AT_ONCE):
        some = rows[start : start + _QUESTIONS_AT_ONCE]
        a, b, c = (vectors[some[:, i]] for i in range(3))
        scores = (b - a + c) @ vectors.T
        for i, given in enumerate(some[:, :3]):
            scores[i, given] = -np.inf
        n_right += int((scores.argmax(1) == some[:, 3]).sum())
    share = n_right / len(rows)
    print(f"{n_right:,} of {len(rows):,} analogies: {share:.4f} (gensim: {_EXPECTED})")
    if abs(share - _EXPECTED) > 5e-4:
        raise SystemExit("That is not what gensim finds.")
    results = {"n_questions": len(rows), "n_right": n_right, "share": share}
    write_results(options.out, results)


if __name__ == "__main__":
    main()
