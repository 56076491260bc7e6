"""A small table of five kinds of columns, with labels that no line can tell."""

import numpy as np
import pandas as pd

FEW = {"n_epochs": 3}
N = 80


def frame(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "price": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(size=n)),
            "city": rng.choice(["Rome", "Oslo", "Bern", None], n),
            "is_new": rng.random(n) < 0.5,
            "day": pd.Timestamp("2020-01-30") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "rooms": rng.integers(1, 6, n),
        }
    )


def labels(X):
    return np.where((X["city"] == "Rome") ^ X["is_new"], "yes", "no")
