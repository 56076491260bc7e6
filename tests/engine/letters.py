"""An encoder whose every step can be watched: counts letters, no model."""

import itertools
import threading
from dataclasses import replace

import numpy as np
import torch

from skembed._encoder import BatchPolicy, Encoder, Fault, Prepared

_numbers = itertools.count()


def letter_counts(text):
    return np.array([text.count(chr(97 + i)) for i in range(26)], dtype=np.float32)


class LetterEncoder(Encoder):
    """Counts letters; "!" is a fault; "?" gives infinity.

    Texts longer than `limit` are cut there, or in chunks of `chunk`. The first `n_letters` counts
    are its output.
    """

    def __init__(
        self,
        *,
        layout="packed",
        budget=40,
        chunk=None,
        window=2048,
        fits=None,
        limit=None,
        n_letters=26,
    ):
        self.digest = b"letters"
        self.model_key = f"letters {next(_numbers)}".encode()
        self.width = n_letters
        self.limit = limit
        self.cut_digest = f"{limit} {chunk}".encode()
        self.device = "cpu"
        self.dtype = "float32"
        self._policy = BatchPolicy(budget, layout, window)
        self.chunk = chunk
        self.fits = fits  # most characters in a batch before memory "runs out"
        self.encoded = []
        self.batches = []
        self.lock = threading.Lock()
        self.before_batch = lambda: None

    def set_policy(self, **changes):
        self._policy = replace(self._policy, **changes)

    @property
    def full_width(self):
        return 26

    def finish(self, vectors):
        return vectors[:, : self.width]

    @property
    def policy(self):
        return self._policy

    def contents(self, items):
        return [item.encode() for item in items]

    def prepare(self, items):
        return [self._prepare(item) for item in items]

    def _prepare(self, item):
        if "!" in item:
            return Fault("exclamation")
        text = item[: self.limit] if self.chunk is None else item
        step = self.chunk or max(len(text), 1)
        parts = [text[i : i + step] for i in range(0, max(len(text), 1), step)]
        return Prepared(parts, len(item))

    def costs(self, parts):
        return np.array([max(len(part), 1) for part in parts], dtype=np.int64)

    def collate(self, parts):
        return list(parts)

    def encode(self, batch):
        self.before_batch()
        if self.fits is not None and sum(map(len, batch)) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        with self.lock:
            self.batches.append(batch)
            self.encoded.extend(batch)
        rows = [letter_counts(text) + (np.inf if "?" in text else 0) for text in batch]
        return torch.tensor(np.stack(rows))
