"""sentence-transformers behind FastAPI, with the fields of OpenAI's protocol that clients send.

A route that isn't `async` runs in FastAPI's threads, as its documentation advises for work that
blocks. With SERVING_LOCK set, one request at a time runs the model.
"""

from __future__ import annotations

import base64
import os
import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
from _common import minilm_folder
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(str(minilm_folder()), device="cpu")
model.encode(["a text to load the weights with"], show_progress_bar=False)
turn = threading.Lock() if os.environ.get("SERVING_LOCK") else nullcontext()


class Wanted(BaseModel):
    """A request."""

    input: str | list[str]
    model: str
    encoding_format: str = "float"


@app.get("/health")
def health() -> dict[str, str]:
    """Say that the model is loaded."""
    return {"status": "ok"}


@app.post("/v1/embeddings")
def embeddings(wanted: Wanted) -> dict[str, Any]:
    """Embed the texts of a request."""
    texts = [wanted.input] if isinstance(wanted.input, str) else wanted.input
    with turn:
        vectors = model.encode(texts, show_progress_bar=False)
    if wanted.encoding_format == "base64":
        values = [base64.b64encode(np.ascontiguousarray(row)).decode() for row in vectors]
    else:
        values = vectors.tolist()
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(values)]
    return {"object": "list", "data": data, "model": wanted.model}
