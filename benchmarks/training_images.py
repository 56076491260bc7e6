"""Rows per second of training a small torchvision network: skembed beside skorch.

Both train SqueezeNet 1.1 with random weights and a linear head on the same 28 x 28 pictures of
Fashion-MNIST, enlarged to 224 x 224 as the network's preset does, with AdamW and the same batches.
skorch is given its best: pictures that are prepared already, in memory, so that its epochs hold
nothing but training. Parity comes first: with equal weights, head and batches the mean loss of two
steps must be the same, which the second step's is only if the first changed the weights alike.
Every way runs in a process of its own, in turn (A B C A B C ...); ratios are taken within a round.

    python benchmarks/training_images.py --out benchmarks/results/training_images.json
"""

from __future__ import annotations

import gzip
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from _common import call_apart, make_parser, peak_rss_bytes, rss_bytes, summarize, write_results

MODEL, WIDTH, BATCH, RATE = "squeezenet1_1", 512, 32, 1e-3
WAYS = {
    "skorch, float32": ("skorch", "float32"),
    "skembed, float32": ("skembed", "float32"),
    "skorch, bfloat16": ("skorch", "bfloat16"),
    "skembed, bfloat16": ("skembed", "bfloat16"),
}
MOST_CHANGE = {"float32": 1e-3, "bfloat16": 3e-2}
"""Of the loss, as a share, between skembed and skorch in the same format."""

FASHION = Path("/usr/share/datasets/fashion-mnist")


def read_pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n pictures (n, 28, 28) and their classes."""
    if not FASHION.is_dir():
        raise SystemExit(
            f"Fashion-MNIST is not in {FASHION}: apt-get install dataset-fashion-mnist"
        )

    def read(name: str, offset: int) -> np.ndarray:
        data = gzip.decompress((FASHION / name).read_bytes())
        return np.frombuffer(data, np.uint8, offset=offset)

    X = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return X[:n], read("t10k-labels-idx1-ubyte.gz", 8)[:n]


def train(way: str, dtype: str, n_rows: int, n_epochs: int) -> dict[str, Any]:
    """Train, and return losses and seconds of the epochs, seconds of `fit`, and memory taken."""
    X, y = read_pictures(n_rows)
    run = train_skembed if way == "skembed" else train_skorch
    return run(X, y, dtype, n_epochs)


def make_embedder(dtype: str, n_epochs: int) -> Any:
    from skembed import FineTune, ImageEmbedder

    strategy = FineTune(
        n_epochs=n_epochs,
        batch_size=BATCH,
        learning_rate=RATE,
        weight_decay=0.0,
        warmup=0.0,
        max_grad_norm=None,
        validation_fraction=None,
        dtype=dtype,
    )
    return ImageEmbedder(MODEL, weights=None, training=strategy, cache=None, device="cpu")


def train_skembed(X: np.ndarray, y: np.ndarray, dtype: str, n_epochs: int) -> dict[str, Any]:
    embedder = make_embedder(dtype, n_epochs)
    before = rss_bytes()
    started = time.perf_counter()
    embedder.fit(list(X), y)
    return {
        "losses": embedder.history_["loss"][1:],
        "epoch_seconds": embedder.history_["seconds"][1:],
        "fit_seconds": time.perf_counter() - started,
        "mib": (peak_rss_bytes() - before) / 2**20,
    }


def train_skorch(X: np.ndarray, y: np.ndarray, dtype: str, n_epochs: int) -> dict[str, Any]:
    import torch
    from skorch import NeuralNet
    from torch import nn

    from skembed import ImageEmbedder
    from skembed.training._supervised import LinearHead
    from skembed.training._targets import Targets

    frozen = ImageEmbedder(MODEL, weights=None, cache=None, device="cpu").fit(list(X))
    encoder = frozen.encoder_
    prepared = encoder.prepare(frozen._check_rows(list(X)).items)
    pixels = torch.stack([each.parts[0] for each in prepared])
    plain = encoder.backbone.load()
    targets = Targets("classes", y.astype(np.int64), np.ones(len(y), np.float32), np.unique(y))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = plain.core, plain.scale
            self.head = LinearHead.fresh(WIDTH, targets, 0)

        def forward(self, pixels: Any) -> Any:
            kept = dtype == "float32"
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not kept):
                maps = self.body(pixels)
            return self.head(maps.float().mean((2, 3)))

    network = Network()
    with torch.no_grad():
        ready = network.scale(pixels)
    # The batches that skembed draws in its first epoch.
    order = np.random.default_rng([0, 1]).permutation(len(y))
    ready, classes = ready[order], torch.from_numpy(y[order].astype(np.int64))
    before = rss_bytes()
    net = NeuralNet(
        network,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=0.0,
        optimizer__fused=True,
        lr=RATE,
        max_epochs=n_epochs,
        batch_size=BATCH,
        iterator_train__shuffle=False,
        train_split=None,
        verbose=0,
    )
    torch.manual_seed(0)
    started = time.perf_counter()
    net.fit(ready, classes)
    return {
        "losses": [float(each) for each in net.history[:, "train_loss"]],
        "epoch_seconds": [float(each) for each in net.history[:, "dur"]],
        "fit_seconds": time.perf_counter() - started,
        "mib": (peak_rss_bytes() - before + ready.nbytes) / 2**20,
    }


def check_parity() -> dict[str, float]:
    """Return by how much losses of two steps differ; refuse what differs too much."""
    changes = {}
    for dtype, most in MOST_CHANGE.items():
        losses = [
            call_apart(train, way, dtype, 2 * BATCH, 1)["losses"][0]
            for way in ("skorch", "skembed")
        ]
        changes[dtype] = abs(losses[1] - losses[0]) / losses[0]
        print(f"parity in {dtype}: losses {losses[0]:.6f} and {losses[1]:.6f}")
        if changes[dtype] > most:
            raise SystemExit(f"The losses differ by {changes[dtype]:.2g}, over {most:g}: no times.")
    return changes


def measure(n_rows: int, n_epochs: int, n_rounds: int) -> dict[str, Any]:
    """Train every way in turn, and return what was found for each."""
    found: dict[str, Any] = {name: [] for name in WAYS}
    for _ in range(n_rounds):
        for name, (way, dtype) in WAYS.items():
            found[name].append(call_apart(train, way, dtype, n_rows, n_epochs))
    lines = {}
    for name, (_, dtype) in WAYS.items():
        rates = [n_rows / statistics.median(each["epoch_seconds"][1:]) for each in found[name]]
        peer = f"skorch, {dtype}"
        peers = [n_rows / statistics.median(each["epoch_seconds"][1:]) for each in found[peer]]
        lines[name] = {
            "rows_per_second": summarize(rates),
            "times_skorch": summarize([a / b for a, b in zip(rates, peers, strict=True)]),
            "fit_seconds": summarize([each["fit_seconds"] for each in found[name]]),
            "mib": summarize([each["mib"] for each in found[name]]),
            "last_loss": found[name][0]["losses"][-1],
        }
    return lines


def main() -> None:
    """Check, measure, print and write."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    parity = check_parity()
    found = measure(options.rows, options.epochs, options.rounds or 3)
    print(f"\n{'':<20} {'rows/s':>7}  {'times skorch':<18} {'fit s':>6} {'MiB':>6}")
    for name, line in found.items():
        r = line["times_skorch"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        print(
            f"{name:<20} {line['rows_per_second']['median']:7.1f}  {times:<18} "
            f"{line['fit_seconds']['median']:6.1f} {line['mib']['median']:6.0f}"
        )
    settings = {"model": MODEL, "batch": BATCH, "rows": options.rows, "epochs": options.epochs}
    write_results(options.out, {**settings, "parity": parity, "ways": found})


if __name__ == "__main__":
    main()
