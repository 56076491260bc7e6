"""The skeleton of embedders of tables: columns are learned in `fit`, and looked for afterwards.

Knows columns and rows, not what is trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from skembed._inputs import CheckedRows
from skembed._trainable import TrainableEmbedder
from skembed.columns import Column, TableEncoder, read_table
from skembed.exceptions import InvalidParameterError, InvalidRowsError
from skembed.tabular._inputs import check_table

__all__ = ["ColumnsEmbedder"]

Self = TypeVar("Self", bound="ColumnsEmbedder")


class ColumnsEmbedder(TrainableEmbedder):
    """Base class of embedders whose rows are those of a table."""

    columns: Mapping[str, str] | None
    text: Any
    random_state: int

    _table: TableEncoder
    """What was learned of the columns."""
    _keeps_columns: bool
    """Whether the present fit goes on with the columns of the one before."""

    def _checked(self, X: Any) -> CheckedRows:
        if isinstance(X, CheckedRows):
            return X
        return super()._checked(X)

    def _check_rows(self, X: Any) -> CheckedRows:
        is_fit = bool(self.__dict__.get("_is_learning")) and not self._keeps_columns
        if not is_fit and "_table" not in self.__dict__:
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        table = read_table(X)
        validate_data(self, X, reset=is_fit, skip_check_array=True)
        if is_fit:
            kinds = None if self.columns is None else dict(self.columns)
            self._table = TableEncoder(kinds, text=self.text, random_state=self.random_state)
            self._table.fit(table)
            if not self._table.shape.n_cells:
                why = ", ".join(f"{each.name!r} ({each.why})" for each in self.columns_.values())
                raise InvalidRowsError(
                    f"X: there is nothing to learn in {table.n_rows} sample(s): {why:.500}."
                )
        return check_table(table, self._table)

    @property
    def columns_(self) -> dict[str, Column]:
        """What each column was taken for."""
        if "_table" not in self.__dict__:
            raise AttributeError(f"This {type(self).__name__} is not fitted yet.")
        found: dict[str, Column] = self._table.columns_
        return found

    def _refuse_other_columns(self) -> None:
        """Refuse to go on with other columns, or a network of another shape."""
        changed = self._changed_since(self.trained_, self._settings())
        said = [f"{k} was {v}" for k, v in changed.items() if not k.startswith("training")]
        if said:
            raise InvalidParameterError(
                f"{type(self).__name__}: cannot go on from what was learned with other parameters: "
                f"{', '.join(said)}. Set them back, or set training__warm_start=False."
            )

    def _untrained(self: Self) -> Self:
        other: Self = clone(self)
        other._table = self._table
        return other

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = False
        tags.input_tags.sparse = True
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags
