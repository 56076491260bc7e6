"""Columns of a table as arrays: what each column is, what it teaches, rows as arrays.

Knows tables and arrays; no network, no device, no estimator of a room. Does not import torch.
"""

from skembed.columns._encoder import Column, TableEncoder
from skembed.columns._rows import TableRows, TableShape
from skembed.columns._table import Table, read_table

__all__ = ["Column", "Table", "TableEncoder", "TableRows", "TableShape", "read_table"]
