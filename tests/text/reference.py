"""The plain way: texts padded to the longest, one forward pass of transformers, NumPy pooling."""

import numpy as np
import torch
from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer


@torch.inference_mode()
def hidden_states(folder, texts, *, max_length=128):
    """Return a float64 array of shape (length, d) for each text: the states of its own tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    auto = AutoModelForTextEncoding if folder.name == "t5" else AutoModel
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    batch.pop("token_type_ids", None)
    hidden = model(**batch).last_hidden_state.double().numpy()
    masks = batch["attention_mask"].numpy().astype(bool)
    return [states[mask] for states, mask in zip(hidden, masks, strict=True)]


def pooled(states, mode):
    """Pool states of shape (length, d), each mode as its paper writes it."""
    n = len(states)
    if mode == "mean":
        return states.sum(0) / n
    if mode == "cls":
        return states[0]
    if mode == "max":
        return states.max(0)
    if mode == "mean_sqrt_len":
        return states.sum(0) / np.sqrt(n)
    if mode == "weighted_mean":
        weights = np.arange(1, n + 1)
        return (weights[:, None] * states).sum(0) / weights.sum()
    return states[-1]


def embeddings(folder, texts, mode="mean", **settings):
    """Return the reference vectors of texts, shape (n, d)."""
    return np.stack([pooled(states, mode) for states in hidden_states(folder, texts, **settings)])
