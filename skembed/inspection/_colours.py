"""Points coloured by class, by number or not at all, their legend, and names on the map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import is_missing
from skembed._optional import import_optional

__all__ = ["Colours", "Legend"]

_MOST_CLASSES = 20
"""Beyond so many the least frequent are drawn as one, "other"; numbers are then no classes."""
_MOST_COMPARED = 500  # points of a class, to find where most of them are
_GREY = "0.75"
_N_SHADES = 256


@dataclass(frozen=True)
class Legend:
    """Colours, and which of them each row has.

    `colours` are as "#1f77b4", None is grey. `codes` count them; None is the only one. `names` are
    those of classes, one of each colour, `values` the numbers that colours stand for.
    """

    colours: list[str | None]
    codes: NDArray[np.uint32] | None = None
    names: list[str] = field(default_factory=list)
    values: NDArray[np.float64] | None = None


class Colours:
    """What is known of the rows, as colours.

    `kind` is "none", "numbers" or "classes".
    """

    def __init__(self, y: Any) -> None:
        self.kind, self.classes = "none", []
        if y is None:
            return
        values = np.asarray(y)
        if values.dtype.kind in "fiu" and values.dtype != bool:
            numbers = values.astype(np.float64)
            known = numbers[np.isfinite(numbers)]
            is_fraction = bool((known != np.round(known)).any())
            # Clusters may be many, and are whole numbers with -1 for none.
            is_clusters = values.dtype.kind == "i" and bool((known == -1).any())
            if is_fraction or (len(np.unique(known)) > _MOST_CLASSES and not is_clusters):
                self.kind, self.values = "numbers", numbers
                return
            values = np.array([_name(each) for each in numbers.tolist()], dtype=object)
        self.kind = "classes"
        names = np.array([_name(each) for each in values.tolist()], dtype=object)
        found, counts = np.unique(names.astype(str), return_counts=True)
        order = sorted(zip(-counts, found.tolist(), strict=True))
        kept = [name for _, name in order if name not in ("-1", "None", "nan")]
        is_many = len(kept) > _MOST_CLASSES
        self.classes = sorted(kept[: _MOST_CLASSES - 1] if is_many else kept, key=_as_number)
        self.names = names.astype(str)
        self.others = [name for name in kept if name not in self.classes]
        self.n_others = len(self.others)

    def draw(
        self, ax: Any, places: NDArray[np.float32], cmap: Any, look: dict[str, Any]
    ) -> list[Any]:
        """Draw the points; return their collections, one of each class."""
        x, y = places.T
        if self.kind == "none":
            return [ax.scatter(x, y, **look)]
        if self.kind == "numbers":
            return [ax.scatter(x, y, c=self.values, cmap=cmap, plotnonfinite=True, **look)]
        rest = ~np.isin(self.names, self.classes)
        drawn = []
        if rest.any():  # below the others
            of_some = f"{self.n_others} other classes" if self.n_others else "none"
            drawn.append(ax.scatter(x[rest], y[rest], **{"color": _GREY, "label": of_some, **look}))
        for name, colour in zip(self.classes, self._palette(), strict=True):
            here = self.names == name
            drawn.append(ax.scatter(x[here], y[here], **{"color": colour, "label": name, **look}))
        return drawn

    def explain(self, ax: Any, points: list[Any]) -> None:
        """Add a legend of classes, or a bar of numbers."""
        if self.kind == "numbers":
            ax.figure.colorbar(points[0], ax=ax)
        elif points and self.kind == "classes":
            legend = ax.legend(
                loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small"
            )
            for handle in legend.legend_handles:  # points of a large map are small
                handle.set_sizes([30])

    def write_names(self, ax: Any, places: NDArray[np.float32]) -> list[Any]:
        """Write the name of each class where most of its points are, none over another."""
        if self.kind != "classes":
            return []
        adjust = import_optional("adjustText", extra="plot", purpose="Names on a map").adjust_text
        effects = import_optional("matplotlib.patheffects", extra="plot", purpose="Names on a map")
        around = [effects.withStroke(linewidth=3, foreground="white")]
        written = [
            ax.text(
                *_middle(places[self.names == name]),
                name,
                ha="center",
                va="center",
                fontweight="bold",
                fontsize="small",
                path_effects=around,
            )
            for name in self.classes
        ]
        if len(written) > 1:
            adjust(written, ax=ax, ensure_inside_axes=True)
        return written

    def legend(self, cmap: Any) -> Legend:
        """Return the same colours, where each of the rare classes keeps its name."""
        colormaps = import_optional("matplotlib", extra="plot", purpose="A map").colormaps
        as_hex = import_optional("matplotlib.colors", extra="plot", purpose="A map").to_hex
        if self.kind == "none":
            return Legend([as_hex("C0")])
        if self.kind == "classes":
            names = [*self.classes, *self.others]
            codes = {name: code for code, name in enumerate(names)}
            found = np.array([codes.get(name, len(names)) for name in self.names.tolist()], "<u4")
            colours = [*map(as_hex, self._palette()), *[None] * self.n_others]
            has_none = bool((found == len(names)).any())
            return Legend([*colours, *[None] * has_none], found, [*names, *["none"] * has_none])
        is_known = np.isfinite(self.values)
        low, high = (self.values[is_known].min(), self.values[is_known].max())
        shares = (self.values - low) / ((high - low) or 1.0)
        codes = np.where(is_known, shares * (_N_SHADES - 1), _N_SHADES).round().astype("<u4")
        shades = colormaps.get_cmap(cmap)(np.linspace(0, 1, _N_SHADES))
        return Legend([*map(as_hex, shades), None], codes, values=self.values)

    def _palette(self) -> list[Any]:
        colormaps = import_optional("matplotlib", extra="plot", purpose="A map").colormaps
        n = len(self.classes)
        colours = colormaps["tab10" if n <= 10 else "tab20"].colors
        return list(colours[:n])


def _middle(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the point around which those of a class are densest: a quarter of them is nearest."""
    some = places[:: len(places) // _MOST_COMPARED + 1]
    distances = np.linalg.norm(some[:, None] - some[None], axis=-1)
    reach = np.partition(distances, len(some) // 4, axis=1)[:, len(some) // 4]
    middle: NDArray[np.float32] = some[reach.argmin()]
    return middle


def _name(value: Any) -> str:
    """Return a class's name: 3.0 is "3"; a blank one would not be seen, in a legend not at all."""
    if is_missing(value):
        return "None"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if str(value).strip() else "(blank)"


def _as_number(name: str) -> tuple[float, str]:
    """Sort numbers by value, before other names."""
    try:
        return float(name), name
    except ValueError:
        return np.inf, name
