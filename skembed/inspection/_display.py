"""A map of embeddings, drawn with matplotlib, which is imported when it is drawn.

Knows vectors and what the user says of their rows, not where they come from.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from skembed._optional import import_optional
from skembed.exceptions import InvalidInputError, InvalidParameterError
from skembed.inspection._checks import (
    check_choices,
    check_classes,
    check_file,
    check_lengths,
    check_places,
    check_vectors,
    numbers_of,
)
from skembed.inspection._colours import Colours
from skembed.inspection._map import (
    MapQuality,
    choose_rows,
    find_places,
    judge,
    place_one_by_one,
)
from skembed.inspection._page import page_of
from skembed.inspection._thumbnails import draw_thumbnails

__all__ = ["EmbeddingMapDisplay"]

_INCHES_OF_CHARACTER = 0.07  # of the caption
_NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA", "given": "Map"}


class EmbeddingMapDisplay:
    """Draw embeddings as points in two dimensions, coloured by what is known of the rows.

    Use `from_estimator` or `from_embeddings`. A map in two dimensions cannot keep all distances:
    how far this one does is printed below it.

    Parameters
    ----------
    places : ndarray of shape (n, 2)
        Where each row is drawn.
    vectors : ndarray of shape (n, n_features), default=None
        The rows' vectors, by which the map is judged and new rows are placed.
    y : array-like of shape (n,), default=None
        Of each row its class, a number, or its cluster (-1: none, drawn in grey). Numbers with a
        fraction, or more than 20 different ones without -1, are shown as numbers, others as
        classes.
    rows : ndarray of shape (n,), default=None
        Positions of the rows in what was given, of which they may be a sample; None is all.
    n_rows : int, default=None
        How many rows were given; None is those of the map.
    method : str, default="given"
        How the places were found, for the caption.
    metric : str, default="cosine"
        Distance between vectors.
    random_state : int, default=None
        Seed of the rows by which a map of more than 2,000 is judged.

    Attributes
    ----------
    places, vectors, y, rows
        As given.
    quality_ : MapQuality or None
        `trustworthiness` and `knn_recall` of the map; None without vectors.
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
        Where the map is drawn.
    points_ : list of matplotlib PathCollection
        The points, of each class, or of all rows.
    labels_ : list of matplotlib Text
        Names written on the map.

    See Also
    --------
    sklearn.manifold.TSNE, sklearn.decomposition.PCA

    References
    ----------
    .. [1] L. McInnes, J. Healy and J. Melville, "UMAP: Uniform Manifold Approximation and
       Projection", arXiv:1802.03426.
    .. [2] L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    .. [3] J. Venna and S. Kaski, "Neighborhood preservation in nonlinear projection methods",
       ICANN 2001, doi:10.1007/3-540-44668-0_68.

    Examples
    --------
    >>> from skembed import EmbeddingMapDisplay, TextEmbedder
    >>> X = ["a cat", "a kitten", "a dog", "a bill", "a tax return", "a fee"]
    >>> y = ["pet"] * 3 + ["money"] * 3
    >>> display = EmbeddingMapDisplay.from_estimator(
    ...     TextEmbedder(), X, y, method="pca"
    ... )  # doctest: +SKIP
    >>> display.quality_.knn_recall  # doctest: +SKIP
    0.75
    """

    def __init__(
        self,
        *,
        places: NDArray[np.float32],
        vectors: NDArray[np.float32] | None = None,
        y: Any = None,
        rows: NDArray[np.int64] | None = None,
        n_rows: int | None = None,
        method: str = "given",
        metric: str = "cosine",
        random_state: int | None = None,
    ) -> None:
        check_choices("pca", metric, 1)
        places = check_places(places)
        vectors = None if vectors is None else check_vectors(vectors)
        check_lengths(len(places), "places", vectors=vectors, y=y, rows=rows)
        self.places, self.vectors, self.y = places, vectors, check_classes(y)
        self.rows = np.arange(len(places)) if rows is None else rows
        self.n_rows = len(places) if n_rows is None else n_rows
        self.method, self.metric, self.random_state = method, metric, random_state
        self.quality_: MapQuality | None = None
        if vectors is not None:
            self.quality_ = judge(vectors, places, metric=metric, seed=random_state or 0)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any = None, *, ax: Any = None, **options: Any
    ) -> EmbeddingMapDisplay:
        """Embed rows and draw their map.

        Parameters
        ----------
        estimator : transformer
            An embedder, or a fitted pipeline, of which a last step that predicts is left out.
        X : collection of rows
            As the estimator's `transform` takes them.
        y : array-like of shape (n_rows,), default=None
            Classes, numbers or clusters.
        ax : matplotlib Axes, default=None
            As for `plot`.
        **options
            As for `from_embeddings`.

        Returns
        -------
        display : EmbeddingMapDisplay
        """
        if isinstance(estimator, Pipeline) and not hasattr(estimator, "transform"):
            estimator = estimator[:-1]
        if not hasattr(estimator, "transform"):
            raise InvalidParameterError(
                f"estimator: expected an embedder or a pipeline, got {estimator!r:.200}, which has "
                "no transform. For vectors use from_embeddings."
            )
        return cls.from_embeddings(estimator.transform(X), y, ax=ax, **options)

    @classmethod
    def from_embeddings(
        cls,
        vectors: Any,
        y: Any = None,
        *,
        method: str = "tsne",
        places: Any = None,
        metric: str = "cosine",
        max_rows: int = 10_000,
        random_state: int | None = 0,
        method_options: dict[str, Any] | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> EmbeddingMapDisplay:
        """Find places for vectors and draw their map.

        Parameters
        ----------
        vectors : array-like of shape (n_rows, n_features)
            Rows with NaN (bad rows of an embedder with `on_error="nan"`) are left out, with a
            warning.
        y : array-like of shape (n_rows,), default=None
            Classes, numbers or clusters.
        method : {"tsne", "umap", "pca"}, default="tsne"
            How places are found; "umap" needs umap-learn (`pip install skembed[maps]`).
        places : array-like of shape (n_rows, 2), default=None
            Places that are known already; `method` is then not used.
        metric : str, default="cosine"
            Distance between vectors: one of scikit-learn's, such as "euclidean".
        max_rows : int, default=10000
            Of more rows as many are drawn at random; the caption says so.
        random_state : int or None, default=0
            With the same number the same map is drawn again. None: another one each time.
        method_options : dict, default=None
            Passed to `umap.UMAP`, `TSNE` or `PCA`, such as {"n_neighbors": 50}.
        ax, **kwargs
            As for `plot`.

        Returns
        -------
        display : EmbeddingMapDisplay

        Raises
        ------
        InvalidInputError
            If vectors, y and places do not fit each other.
        MissingDependencyError
            If matplotlib, or umap-learn for "umap", is not installed.
        """
        check_choices(method, metric, max_rows)
        given = check_vectors(vectors)
        places = None if places is None else numbers_of(places, "places")
        check_lengths(len(given), y=y, places=places)
        y = check_classes(y)
        rows = choose_rows(given, max_rows, random_state)
        if places is None:
            found = find_places(
                given[rows],
                method,
                metric=metric,
                random_state=random_state,
                options=method_options or {},
            )
        else:
            found, method = places[rows], "given"
        display = cls(
            places=found,
            vectors=given[rows],
            y=None if y is None else y[rows],
            rows=rows,
            n_rows=len(given),
            method=method,
            metric=metric,
            random_state=random_state,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        labels: bool = True,
        legend: bool = True,
        images: Sequence[Any] | None = None,
        n_images: int = 40,
        cmap: Any = None,
        **kwargs: Any,
    ) -> EmbeddingMapDisplay:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None is a new figure.
        labels : bool, default=True
            Whether the names of classes that have a colour, 20 at most, stand where most of their
            points are.
        legend : bool, default=True
            Whether classes have a legend, or numbers a colour bar.
        images : sequence of n_rows pictures, default=None
            The rows' pictures (paths, PIL images or arrays, also of rows that are not on the
            map), of which `n_images` far from each other are drawn beside their points.
        n_images : int, default=40
            The most pictures drawn.
        cmap : str or matplotlib Colormap, default=None
            Colours of numbers; None is "viridis".
        **kwargs
            Passed to matplotlib's `scatter`.

        Returns
        -------
        self
        """
        purpose = "EmbeddingMapDisplay.plot"
        import_optional("matplotlib", extra="plot", purpose=purpose)
        pyplot = import_optional("matplotlib.pyplot", extra="plot", purpose=purpose)
        check_lengths(self.n_rows, images=images)
        if ax is None:
            _, ax = pyplot.subplots(figsize=(8, 6.5), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        look = {"s": float(np.clip(8000 / max(len(self.places), 1), 4, 40)), "linewidths": 0}
        colours = Colours(self.y)
        self.points_ = colours.draw(ax, self.places, cmap, {**look, **kwargs})
        self.labels_: list[Any] = []
        if legend:
            colours.explain(ax, self.points_)
        if labels:
            self.labels_ = colours.write_names(ax, self.places)
        if images is not None:
            draw_thumbnails(ax, self.places, images, self.rows, n_images)
        ax.set(xticks=[], yticks=[], aspect="auto")
        ax.spines[:].set_color("0.8")
        # So that captions of maps side by side do not run into each other.
        inches = ax.get_window_extent().width / ax.figure.dpi
        width = max(20, round(inches / _INCHES_OF_CHARACTER))
        lines = [textwrap.fill(line, width) for line in self._caption().splitlines()]
        ax.set_xlabel("\n".join(lines), fontsize="small", color="0.3")
        return self

    def place(self, vectors: Any) -> NDArray[np.float32]:
        """Return where new rows belong on the map.

        Each is put among its ten nearest rows on the map, by their nearness: what is drawn already
        stays where it is, and a row's place does not depend on the other new rows.

        Parameters
        ----------
        vectors : array-like of shape (n, n_features)
            Vectors from the same embedder. Rows with NaN get places of NaN.

        Returns
        -------
        places : ndarray of shape (n, 2)
        """
        if self.vectors is None:
            raise InvalidParameterError("place: the map has no vectors to compare new rows with.")
        new = check_vectors(vectors)
        if new.shape[1] != self.vectors.shape[1]:
            raise InvalidInputError(
                f"vectors: expected shape (n, {self.vectors.shape[1]}), got {new.shape}."
            )
        return place_one_by_one(new, self.vectors, self.places, metric=self.metric)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        texts: Any = None,
        images: Any = None,
        sounds: Any = None,
        title: str = "Map of embeddings",
        cmap: Any = None,
        image_size: int = 128,
        sound_seconds: float = 5.0,
        sampling_rate: float | None = None,
        max_megabytes: float = 100.0,
    ) -> Path:
        """Write the map as one HTML file to explore in a browser.

        It needs no network. The map can be moved and searched, shows a row's text, picture and
        sound where the pointer is, hides classes, and copies the positions of the rows in a lasso.
        A click shows the row's ten nearest neighbours among the vectors, wherever they are drawn.

        Parameters
        ----------
        path : str or path-like
            The file to write.
        texts, images, sounds : sequence of n_rows, default=None
            What to show of each row, also of rows that are not on the map: texts; pictures, as for
            `ImageEmbedder`; sounds, as for `AudioEmbedder`; None for a row without one. Without
            texts, files show their names.
        title : str, default="Map of embeddings"
        cmap : str or matplotlib Colormap, default=None
            Colours of numbers, as for `plot`.
        image_size : int, default=128
            Pixels that pictures have at most, high and wide.
        sound_seconds : float, default=5.0
            How much of the beginning of each sound is kept.
        sampling_rate : float, default=None
            Rate in Hz of sounds that are arrays without one, as for `AudioEmbedder`.
        max_megabytes : float, default=100.0
            A larger file is an error.

        Returns
        -------
        path : Path

        Raises
        ------
        InvalidInputError
            If there is not one text, picture or sound for each row.
        InvalidRowsError
            If pictures or sounds cannot be read; each is named.
        InvalidParameterError
            If the file cannot be there, or would be too large.
        """
        path = Path(path).expanduser()
        sizes: dict[str, Any] = {"sound_seconds": sound_seconds, "max_megabytes": max_megabytes}
        check_file(path, title, image_size, **sizes)
        of_rows = {"texts": texts, "images": images, "sounds": sounds}
        looks = {"title": title, "cmap": cmap, "image_size": image_size}
        page = page_of(
            self, caption=self._caption(), sampling_rate=sampling_rate, **of_rows, **looks, **sizes
        )
        path.write_bytes(page)
        return path

    def _caption(self) -> str:
        n, name = len(self.places), _NAMES.get(self.method, self.method)
        of = f"{n:,} rows" if n == self.n_rows else f"{n:,} of {self.n_rows:,} rows"
        return f"{name} of {of}" + (f"\n{self.quality_}" if self.quality_ is not None else "")
