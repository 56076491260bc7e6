"""The service that docs/serving.md shows answers with vectors."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

PAGE = (Path(__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")


class Routes:
    """Stands in for FastAPI."""

    def __init__(self):
        self.of = {}

    def post(self, path):
        return lambda function: self.of.setdefault(path, function)


def test_the_service_answers_with_vectors(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(FastAPI=Routes))
    names = {}
    exec(re.search(r"```python\n(from fastapi .*?)```", PAGE, re.DOTALL).group(1), names)
    assert names["embedder"].encoder_.is_loaded
    vectors = names["app"].of["/embed"](["a cat", "a kitten", "a tax return"])
    assert np.shape(vectors) == (3, 384)
    assert np.dot(vectors[0], vectors[1]) > np.dot(vectors[0], vectors[2])
