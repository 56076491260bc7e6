"""One table of every kind of column, in every container."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

N_ROWS = 60
START = datetime.datetime(2020, 1, 30, 22, 15)


def data(seed=0, n_rows=N_ROWS, *, has_gaps=False):
    """Return columns of Python's values by name; with gaps, row 5 has no value but `full`."""
    random = np.random.default_rng(seed)
    days = [START + datetime.timedelta(days=1.37 * i) for i in range(n_rows)]
    columns = {
        "number": random.normal(size=n_rows).tolist(),
        "whole": random.integers(0, 1000, n_rows).tolist(),
        "few": random.integers(1, 5, n_rows).tolist(),
        "flag": [bool(x) for x in random.integers(0, 2, n_rows)],
        "color": [["red", "green", "blue"][x] for x in random.integers(0, 3, n_rows)],
        "title": [f"order {i * 31 % 97} of the {['shop', 'market'][i % 2]}" for i in range(n_rows)],
        "time": days,
        "day": [day.date() for day in days],
        "instant": [day.replace(tzinfo=datetime.timezone.utc) for day in days],
        "took": [datetime.timedelta(seconds=i * i) for i in range(n_rows)],
        "clock": [datetime.time(i % 24, i % 60) for i in range(n_rows)],
        "tags": [["a", "b", "c"][: i % 4] for i in range(n_rows)],
        "price": [Decimal("1.10") * (i % 37) for i in range(n_rows)],
        "written": [str(i / 7) for i in range(n_rows)],
        "iso": [day.isoformat() for day in days],
        "zip": [f"{i % 5:05}" for i in range(n_rows)],
    }
    if has_gaps:
        for values in columns.values():
            values[5] = None
    return {**columns, "full": random.normal(size=n_rows).tolist()}


def objects(columns):
    """Return the columns as an array of objects."""
    matrix = np.empty((len(next(iter(columns.values()))), len(columns)), dtype=object)
    for j, values in enumerate(columns.values()):
        for i, value in enumerate(values):
            matrix[i, j] = value
    return matrix


CONTAINERS = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "arrow": pa.table,
    "numpy": objects,
    "lists": lambda columns: [list(row) for row in zip(*columns.values(), strict=True)],
    "pandas, nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pandas on Arrow": lambda columns: pl.DataFrame(columns).to_pandas(
        use_pyarrow_extension_array=True
    ),
}
