"""Rows per second of tables: skembed beside pytorch-frame, the same network and batches.

Ten numbers and ten categories a row. pytorch-frame materialises the frame and feeds its loader's
batches to a plain loop with AdamW, as its examples do; the network is skembed's, with the same
weights. Its cells are made by pytorch-frame's encoders, or, as "plain loop", by skembed's module,
so that the times differ by what is around it. It is spared the preparation: its frame holds the
numbers that skembed's `fit` makes of the columns. Parity comes first: the vectors of the untrained
networks must be equal, with random weights of the encoders' bins, too. Every way runs in a process
of its own, in turn, on 2,000 rows before the clock starts, so that all is imported; ratios are
taken within a round. "fit" is all that leads from the frame to the trained network, "training" its
epochs alone.

In bfloat16, where the processor computes that faster, both are shown beside; vectors are always
computed in float32.

``--growth`` shows how `fit` (two epochs) and `transform` grow with rows and columns, and what
memory `transform` takes beside its output.

    python benchmarks/tables_throughput.py --out benchmarks/results/tables_throughput.json
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from _common import (
    call_apart,
    forget_peak_rss,
    make_parser,
    peak_rss_bytes,
    rss_bytes,
    summarize,
    write_results,
)
from _floor import is_bfloat16_faster

BATCH, RATE, N_EPOCHS = 512, 1e-3, 3
WAYS = ("pytorch-frame", "plain loop", "skembed")
IN_BFLOAT16 = ("pytorch-frame, bfloat16", "skembed, bfloat16")
N_ROWS = {"mlp": 20_000, "ft_transformer": 5000}
GROWTH = [(10_000, 20), (100_000, 20), (1_000_000, 20), (100_000, 5), (100_000, 80)]


def make_table(n_rows: int, n_columns: int = 20, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table of as many numbers as categories, and two classes."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for i in range(n_columns // 2):
        numbers = rng.lognormal(size=n_rows)
        columns[f"number {i}"] = np.where(rng.random(n_rows) < 0.05, np.nan, numbers)
        words = np.array([f"word {j}" for j in range(5 + 5 * (i % 10))])
        columns[f"category {i}"] = words[rng.integers(len(words), size=n_rows)]
    y = (columns["number 0"] > 1) ^ (columns["category 0"] == "word 1")
    return pd.DataFrame(columns), y.astype(np.int64)


def make_embedder(model: str, n_epochs: int = N_EPOCHS, dtype: str = "float32") -> Any:
    """Return an embedder that trains as the plain loop does."""
    from skembed import FineTune, TabularEmbedder

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
    return TabularEmbedder(model, training=strategy, cache=None, device="cpu")


def run_skembed(
    model: str, X: Any, y: np.ndarray, n_epochs: int, dtype: str = "float32"
) -> dict[str, Any]:
    """Train and embed with skembed."""
    embedder = make_embedder(model, n_epochs, dtype)
    started = time.perf_counter()
    embedder.fit(X, y)
    fitted = time.perf_counter()
    vectors = embedder.transform(X)
    return {
        "epoch_seconds": embedder.history_["seconds"][1:],
        "fit_seconds": fitted - started,
        "transform_seconds": time.perf_counter() - fitted,
        "vectors": vectors[:100],
        "loss": embedder.history_["loss"][-1],
    }


def run_plain_loop(model: str, X: Any, y: np.ndarray, n_epochs: int) -> dict[str, Any]:
    """Train and embed skembed's network on pytorch-frame's frames, in a plain loop."""
    return run_loop(model, X, y, n_epochs, with_encoders=False)


def run_pytorch_frame(
    model: str, X: Any, y: np.ndarray, n_epochs: int, dtype: str = "float32"
) -> dict[str, Any]:
    """Train and embed the same network on pytorch-frame's encoders, in a plain loop."""
    return run_loop(model, X, y, n_epochs, with_encoders=True, dtype=dtype)


def run_loop(
    model: str,
    X: Any,
    y: np.ndarray,
    n_epochs: int,
    *,
    with_encoders: bool,
    dtype: str = "float32",
) -> dict[str, Any]:
    import torch
    import torch.nn.functional as F
    from torch_frame.data import DataLoader

    network, shape, arrays = read_network(model, X)
    frame = make_frame(arrays, shape).assign(y=y)
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 2)
    started = time.perf_counter()
    data = materialize(frame, with_encoders=with_encoders)
    cells = make_cells(network.cells, data, with_encoders=with_encoders)
    trunk = network.trunk
    loader = DataLoader(data.tensor_frame, batch_size=BATCH, shuffle=True)
    parameters = [*cells.parameters(), *trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    seconds, loss = [], 0.0
    for _ in range(n_epochs):
        trunk.train()
        begun, total = time.perf_counter(), 0.0
        for batch in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", enabled=dtype == "bfloat16"):
                outputs = head(trunk(cells(batch)))
            found = F.cross_entropy(outputs.float(), batch.y)
            found.backward()
            optimizer.step()
            total += float(found)
        loss = total / len(loader)
        seconds.append(time.perf_counter() - begun)
    fitted = time.perf_counter()
    new = materialize(frame, with_encoders=with_encoders)
    trunk.eval()
    with torch.no_grad():
        vectors = [trunk(cells(b)) for b in DataLoader(new.tensor_frame, batch_size=4096)]
    vectors = torch.cat(vectors).numpy()
    return {
        "epoch_seconds": seconds,
        "fit_seconds": fitted - started,
        "transform_seconds": time.perf_counter() - fitted,
        "vectors": vectors[:100],
        "loss": loss,
    }


def read_network(model: str, X: Any) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return skembed's network as torch has it, and its columns' shape and numbers."""
    import torch
    import torch.nn.functional as F

    from skembed.columns import TableEncoder
    from skembed.modules import Dropout, DroppedReLU
    from skembed.tabular import _networks
    from skembed.tabular._backbones import TableBackbone
    from skembed.tabular._settings import TableSettings

    encoder = TableEncoder().fit(X)
    network = TableBackbone(TableSettings(model), encoder.shape, encoder.digest).load().core
    for each in list(network.modules()):  # torch's own dropout, as anybody's network has
        if type(each) is Dropout:
            each.__class__ = torch.nn.Dropout
        for name, layer in each.named_children():
            if type(layer) is DroppedReLU:
                both = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Dropout(layer.p))
                setattr(each, name, both)
    _networks.attend = lambda q, k, v, dropout: F.scaled_dot_product_attention(
        *(q, k, v), dropout_p=dropout
    )
    return network, encoder.shape, encoder.transform(X)[0].arrays


def make_frame(arrays: dict[str, np.ndarray], shape: Any) -> pd.DataFrame:
    names = {kind: [f"{kind} {i}" for i in range(arrays[kind].shape[1])] for kind in arrays}
    parts = [pd.DataFrame(arrays[kind], columns=names[kind]) for kind in ("numbers", "codes")]
    frame = pd.concat(parts, axis=1)
    frame.attrs["shape"] = shape
    return frame


def materialize(frame: pd.DataFrame, *, with_encoders: bool) -> Any:
    """Return pytorch-frame's data; codes are numbers to skembed's network, which looks them up."""
    from torch_frame import stype
    from torch_frame.data import Dataset

    of_codes = stype.categorical if with_encoders else stype.numerical
    kinds = {name: of_codes if name.startswith("codes") else stype.numerical for name in frame}
    data = Dataset(frame, {**kinds, "y": stype.categorical}, target_col="y").materialize()
    data.shape = frame.attrs["shape"]
    return data


def make_cells(own: Any, data: Any, *, with_encoders: bool) -> Any:
    """Return what makes vectors of a frame's cells: skembed's module, or pytorch-frame's encoders.

    The encoders are pytorch-frame's piecewise-linear one and that of categories, with skembed's
    bins, a line beside the bins, and skembed's first weights. Missing numbers are 0: they have no
    vector of their own there.
    """
    import torch
    from torch import nn
    from torch_frame import NAStrategy, stype
    from torch_frame.data.stats import StatType
    from torch_frame.nn import EmbeddingEncoder, LinearBucketEncoder, StypeWiseFeatureEncoder

    names = data.tensor_frame.col_names_dict

    class OwnCells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = own
            at = {name: i for i, name in enumerate(names[stype.numerical])}
            self.at = [[at[n] for n in at if n.startswith(kind)] for kind in ("numbers", "codes")]

        def forward(self, batch: Any) -> Any:
            values = batch.feat_dict[stype.numerical]
            numbers, codes = (values[:, at] for at in self.at)
            return self.own({"numbers": numbers, "codes": codes.int(), "dense": values[:, :0]})

    class LineAndBins(LinearBucketEncoder):
        def init_modules(self) -> None:
            super().init_modules()
            order = [int(name.split()[1]) for name in names[stype.numerical]]
            edges = np.stack([data.shape.bins[i] for i in order])
            self.boundaries = torch.from_numpy(edges)
            self.weight = nn.Parameter(own.numbers.weight[order].detach().clone())
            self.bias = nn.Parameter(own.numbers.bias[order].detach().clone())
            self.line = nn.Parameter(own.numbers.line[order].detach().clone())

        def encode_forward(self, feat: Any, col_names: Any = None) -> Any:
            return super().encode_forward(feat, col_names) + feat.unsqueeze(-1) * self.line

    class TheirCells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoders = {
                stype.categorical: EmbeddingEncoder(),
                stype.numerical: LineAndBins(na_strategy=NAStrategy.ZEROS),
            }
            self.encoders = StypeWiseFeatureEncoder(own.d, data.col_stats, names, encoders)
            table = self.encoders.encoder_dict["categorical"].emb.weight
            first = 1
            for name in names[stype.categorical]:
                known = list(data.col_stats[name][StatType.COUNT][0])
                start = int(own.first[int(name.split()[1])])
                with torch.no_grad():
                    for i, code in enumerate(known):
                        table[first + i] = own.codes.weight[start + int(code)]
                first += len(known)

        def forward(self, batch: Any) -> Any:
            return self.encoders(batch)[0]

    return TheirCells() if with_encoders else OwnCells()


RUNS: dict[str, Callable[..., dict[str, Any]]] = {
    "pytorch-frame": run_pytorch_frame,
    "plain loop": run_plain_loop,
    "skembed": run_skembed,
    "pytorch-frame, bfloat16": partial(run_pytorch_frame, dtype="bfloat16"),
    "skembed, bfloat16": partial(run_skembed, dtype="bfloat16"),
}


def run(way: str, model: str, n_rows: int, n_epochs: int) -> dict[str, Any]:
    """Run one way in this process."""
    warnings.simplefilter("ignore")
    RUNS[way](model, *make_table(2000), 1)
    return RUNS[way](model, *make_table(n_rows), n_epochs)


def check_parity() -> dict[str, dict[str, float]]:
    """Return by how much vectors differ while nothing is trained; refuse what differs."""
    found: dict[str, dict[str, float]] = {}
    for model in N_ROWS:
        theirs = call_apart(run, "plain loop", model, 2000, 0)["vectors"]
        ours = call_apart(untrained, model, 2000)
        found[model] = {
            "skembed": float(np.abs(ours - theirs).max()),
            "encoders": call_apart(compare_encoders, model),
        }
        if max(found[model].values()) > 1e-5:
            raise SystemExit(f"{model}: vectors differ by {found[model]}: no times.")
    return found


def compare_encoders(model: str) -> float:
    """Return by how much vectors on pytorch-frame's encoders differ, on rows without missing."""
    import torch

    X, y = make_table(2000)
    network, shape, arrays = read_network(model, X.ffill().bfill())
    torch.nn.init.normal_(network.cells.numbers.weight)  # 0 at first: bins would not count
    frame = make_frame(arrays, shape).assign(y=y)
    network.eval()
    vectors = []
    for with_encoders in (True, False):
        data = materialize(frame, with_encoders=with_encoders)
        cells = make_cells(network.cells, data, with_encoders=with_encoders)
        with torch.no_grad():
            vectors.append(network.trunk(cells(data.tensor_frame)))
    return float((vectors[0] - vectors[1]).abs().max())


def untrained(model: str, n_rows: int) -> np.ndarray:
    """Return vectors of skembed's network before it is trained."""
    X, y = make_table(n_rows)
    embedder = make_embedder(model, 1).set_params(training__learning_rate=1e-30)
    return embedder.fit(X, y).transform(X)[:100]


def measure(n_rounds: int, *, in_bfloat16: bool) -> dict[str, Any]:
    """Run every way in turn, and return rates and ratios."""
    lines = {}
    ways = (*WAYS, *IN_BFLOAT16) if in_bfloat16 else WAYS
    for model, n_rows in N_ROWS.items():
        found: dict[str, list[Any]] = {way: [] for way in ways}
        for _ in range(n_rounds):
            for way in ways:
                found[way].append(call_apart(run, way, model, n_rows, N_EPOCHS))
        for way in ways:
            line: dict[str, Any] = {"loss": found[way][0]["loss"]}
            for key, seconds_of in (
                ("training", lambda each: statistics.median(each["epoch_seconds"])),
                ("transform", lambda each: each["transform_seconds"]),
                ("fit", lambda each: each["fit_seconds"] / N_EPOCHS),
            ):
                ours = [n_rows / seconds_of(each) for each in found[way]]
                theirs = [n_rows / seconds_of(each) for each in found["pytorch-frame"]]
                line[f"{key}_rows_per_second"] = summarize(ours)
                times = [a / b for a, b in zip(ours, theirs, strict=True)]
                line[f"{key}_times_pytorch_frame"] = summarize(times)
            lines[f"{model}, {way}"] = line
            said = ", ".join(
                f"{key} {line[f'{key}_rows_per_second']['median']:,.0f} rows/s "
                f"({line[f'{key}_times_pytorch_frame']['median']:.2f})"
                for key in ("training", "fit", "transform")
            )
            print(f"{model}, {way}: {said}", flush=True)
    return lines


def grow(n_rows: int, n_columns: int) -> dict[str, float]:
    """Fit and transform a table with the defaults' network; return seconds and memory."""
    X, y = make_table(n_rows, n_columns)
    embedder = make_embedder("mlp", 2)
    started = time.perf_counter()
    embedder.fit(X.iloc[:10_000], y[:10_000])
    few = time.perf_counter() - started
    embedder.transform(X.iloc[:100])
    forget_peak_rss()
    before, started = rss_bytes(), time.perf_counter()
    vectors = embedder.transform(X)
    seconds = time.perf_counter() - started
    beside = peak_rss_bytes() - before - vectors.nbytes
    started = time.perf_counter()
    embedder.fit(X, y)
    return {
        "fit_of_10,000_seconds": few,
        "fit_seconds": time.perf_counter() - started,
        "transform_seconds": seconds,
        "transform_mib_beside_output": beside / 2**20,
    }


def main() -> None:
    """Check, measure, print and write."""
    parser = make_parser(__doc__)
    parser.add_argument("--growth", action="store_true", help="measure growth alone")
    options = parser.parse_args()
    results: dict[str, Any] = {"growth": {}}
    if not options.growth:
        results["parity"] = check_parity()
        print("parity: vectors differ by at most", results["parity"])
        in_bfloat16 = call_apart(is_bfloat16_faster)
        results["ways"] = measure(options.rounds or 5, in_bfloat16=in_bfloat16)
    for n_rows, n_columns in GROWTH:
        found = call_apart(grow, n_rows, n_columns)
        results["growth"][f"{n_rows:,} x {n_columns}"] = found
        print(f"{n_rows:,} x {n_columns}: { ({k: round(v, 2) for k, v in found.items()}) }")
    write_results(options.out, results)


if __name__ == "__main__":
    main()
