"""Tables -> checked rows: the columns are learned in `fit`, and looked for in `transform`."""

from __future__ import annotations

import numpy as np

from skembed._inputs import CheckedRows
from skembed.columns import Table, TableEncoder

__all__ = ["check_table"]


def check_table(table: Table, columns: TableEncoder) -> CheckedRows:
    """Return the rows of a table as the columns' arrays, and why others are bad."""
    rows, faults, notes = columns.read(table)
    positions = np.delete(np.arange(table.n_rows, dtype=np.int64), list(faults))
    return CheckedRows(rows, positions, table.n_rows, faults, notes=notes)
