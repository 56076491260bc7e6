"""A transformer from vectors to the graph of their neighbours, found by an index.

Checks what the user gives and keeps scikit-learn's conventions; searches nothing itself.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skembed._estimator import Estimator
from skembed._inputs import labels_of
from skembed._parameters import fault_of
from skembed.exceptions import InvalidParameterError
from skembed.neighbors._copies import Copies
from skembed.neighbors._search import Index, Search, put_first
from skembed.neighbors._vectors import METRICS, comparable, find_distinct

__all__ = ["ANNTransformer"]

_COUNT = Interval(Integral, 1, None, closed="left")


class ANNTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """Vectors in, the sparse graph of their nearest neighbours out, approximately and fast.

    It takes the place of scikit-learn's `KNeighborsTransformer` before whatever takes a
    precomputed graph: `KNeighborsClassifier`, `DBSCAN`, `TSNE`, `LocalOutlierFactor`, UMAP. Fitting
    builds an index of the vectors, a hierarchical navigable small world [1]_; up to `exact_up_to`
    different vectors, or where the index leads nowhere, all are compared instead.

    Parameters
    ----------
    n_neighbors : int, default=5
        Neighbours of each row. As in `KNeighborsTransformer`, with `mode="distance"` one more is
        in the graph, as a row of the training set is its own nearest.
    mode : {"distance", "connectivity"}, default="distance"
        Whether the graph has distances, or ones.
    metric : {"cosine", "euclidean"}, default="cosine"
        Distance between vectors; of "cosine" one minus the cosine.
    exact_up_to : int, default=50000
        How many different vectors are compared all with all: so many take `fit_transform` as long
        with the index. Where a transformer is fitted once and asked often it pays off from some
        10,000 on. More need voyager: `pip install skembed[ann]`.
    n_links : int, default=16
        Links of a vector in the index (HNSW's M). More find more of the true neighbours, and take
        longer and more memory.
    ef_construction : int, default=100
        How many candidates are looked at for the links of a vector.
    ef_search : int, default=64
        How many candidates are looked at for the neighbours of a row: the more, the more of the
        true ones are found. At least twice the neighbours asked for are.
    n_jobs : int, default=None
        Threads that build and search the index; None is 1, -1 all processors.
    random_state : int, RandomState instance or None, default=None
        Seed of the index. With an int it is built in one thread, and is the same each time.

    Attributes
    ----------
    n_samples_fit_ : int
        Rows that were fitted.
    is_exact_ : bool
        Whether all vectors are compared.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, if the vectors came as a frame

    See Also
    --------
    near_duplicates, outliers, sklearn.neighbors.KNeighborsTransformer

    Notes
    -----
    The distances in the graph are exact; what may be missing is a neighbour. A row's neighbours do
    not depend on the rows that are transformed with it, but for which of several at one distance
    are kept. Equal rows (of "cosine", rows of one direction) are one vector in the index: however
    many there are, they do not crowd out what the index leads to.

    References
    ----------
    .. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor search
       using Hierarchical Navigable Small World graphs", arXiv:1603.09320.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.cluster import DBSCAN
    >>> from sklearn.pipeline import make_pipeline
    >>> from skembed.neighbors import ANNTransformer
    >>> X = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1]])
    >>> ANNTransformer(n_neighbors=1).fit_transform(X).nnz
    10
    >>> make_pipeline(
    ...     ANNTransformer(n_neighbors=2), DBSCAN(eps=0.1, min_samples=2, metric="precomputed")
    ... ).fit_predict(X)
    array([ 0,  0,  1,  1, -1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_neighbors": [_COUNT],
        "mode": [StrOptions({"distance", "connectivity"})],
        "metric": [StrOptions(set(METRICS))],
        "exact_up_to": [Interval(Integral, 0, None, closed="left")],
        "n_links": [Interval(Integral, 2, None, closed="left")],
        "ef_construction": [_COUNT],
        "ef_search": [_COUNT],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }
    _are_places: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        mode: str = "distance",
        metric: str = "cosine",
        exact_up_to: int = 50_000,
        n_links: int = 16,
        ef_construction: int = 100,
        ef_search: int = 64,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.mode = mode
        self.metric = metric
        self.exact_up_to = exact_up_to
        self.n_links = n_links
        self.ef_construction = ef_construction
        self.ef_search = ef_search
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> ANNTransformer:
        """Index vectors.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InvalidParameterError
            If a parameter has an unusable value.
        InvalidRowsError
            If rows are not finite numbers, or, with the metric "cosine", all zeros.
        MissingDependencyError
            If there are more than `exact_up_to` different vectors and voyager is not installed.
        """
        self._validate_parameters(self.get_params(deep=False))
        vectors = self._vectors_of(X, reset=True)
        first, of = find_distinct(vectors)
        distinct = vectors if len(first) == len(vectors) else vectors[first]
        self.is_exact_ = len(first) <= self.exact_up_to
        seed = int(check_random_state(self.random_state).randint(2**31))
        n_threads = effective_n_jobs(self.n_jobs) if self.random_state is None else 1
        index = Index(self.n_links, self.ef_construction, seed, n_threads)
        self._search = Search(distinct, None if self.is_exact_ else index)
        self._copies = Copies(of)
        self.n_samples_fit_ = self._n_features_out = len(of)
        return self

    def transform(self, X: Any) -> Any:
        """Return the graph of the nearest fitted rows of each row.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        graph : csr_matrix of shape (n, n_fitted)
            In each row as many values, in order of distance; zeros are explicit.
        """
        check_is_fitted(self)
        k = self._width()
        return self._graph(*self._nearest_to(X, k), k)

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Index vectors and return their graph, in which each row comes first in its own.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        y : ignored

        Returns
        -------
        graph : csr_matrix of shape (n_rows, n_rows)
            As that of `transform`; it differs only in which of more than `n_neighbors` equal rows
            it names.
        """
        self.fit(X)
        k = self._width()
        return self._graph(*self._nearest_of_each(k), k)

    def kneighbors(
        self, X: Any = None, n_neighbors: Any = None, return_distance: bool = True
    ) -> Any:
        """Return the nearest fitted rows, as scikit-learn's `kneighbors` does.

        Parameters
        ----------
        X : array-like of shape (n, n_features), default=None
            None is the fitted rows, none its own neighbour.
        n_neighbors : int, default=None
            None is that of the transformer.
        return_distance : bool, default=True

        Returns
        -------
        distances : ndarray of shape (n, n_neighbors)
            Only with `return_distance`.
        positions : ndarray of int of shape (n, n_neighbors)
            Of fitted rows, the nearest first.
        """
        check_is_fitted(self)
        k: Any = self.n_neighbors if n_neighbors is None else n_neighbors
        fault = fault_of("kneighbors", "n_neighbors", k, [_COUNT])
        if fault is not None:
            raise InvalidParameterError(fault)
        if X is None:
            self._check_enough(k + 1)
            distances, rows = (each[:, 1:] for each in self._nearest_of_each(k + 1))
        else:
            self._check_enough(k)
            distances, rows = self._nearest_to(X, k)
        return (distances, rows) if return_distance else rows

    def _width(self) -> int:
        """Return how many values each row of the graph has."""
        k = self.n_neighbors + (self.mode == "distance")
        self._check_enough(k)
        return k

    def _check_enough(self, k: int) -> None:
        n = self.n_samples_fit_
        if k > n:
            raise InvalidParameterError(
                f"{type(self).__name__}: expected at least {k} fitted rows, a row itself and its "
                f"neighbours, got n_samples = {n}. Lower n_neighbors."
            )

    def _vectors_of(self, X: Any, *, reset: bool) -> NDArray[Any]:
        kinds = [np.float64, np.float32]
        checked = validate_data(self, X, reset=reset, dtype=kinds, ensure_all_finite=False)
        name = type(self).__name__
        return comparable(checked, self.metric, owner=name, labels=labels_of(X))

    def _nearest_to(self, X: Any, k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        n_distinct = len(self._search.vectors)
        queries = self._vectors_of(X, reset=False)
        numbers, squares = self._search.nearest(queries, min(k, n_distinct), **self._effort(k))
        rows, squares = self._copies.spread(numbers, squares, k)
        return self._distances(squares), rows

    def _nearest_of_each(self, k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        n_distinct = len(self._search.vectors)
        numbers, squares = self._search.nearest_of_each(min(k, n_distinct), **self._effort(k))
        of = self._copies.of
        rows, squares = self._copies.spread(numbers[of], squares[of], k)
        return self._distances(squares), put_first(rows, np.arange(len(of)))

    def _effort(self, k: int) -> dict[str, int]:
        return {"ef": max(self.ef_search, 2 * k), "n_threads": effective_n_jobs(self.n_jobs)}

    def _distances(self, squares: NDArray[np.float64]) -> NDArray[Any]:
        """Return distances of the metric, in scikit-learn's formats."""
        if self.metric == "euclidean":
            return np.sqrt(squares)
        return (squares / 2).astype(self._search.vectors.dtype)

    def _graph(self, distances: NDArray[Any], rows: NDArray[np.int64], k: int) -> Any:
        values = distances if self.mode == "distance" else np.ones(rows.shape)
        begins = np.arange(0, rows.size + 1, k)
        shape = (len(rows), self.n_samples_fit_)
        return csr_matrix((values.ravel(), rows.ravel(), begins), shape=shape)
