"""A function as an embedder: called once for each distinct row, again where that may help."""

import functools
import itertools
import pickle
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import EmbeddingStore, FunctionEmbedder
from skembed.exceptions import (
    FunctionError,
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    SkembedWarning,
)
from skembed.function import _encoder
from skembed.testing import embedder_checks

ROWS = ["a", "bee", "sea foam", "deed", "easy does it", "off"]


def letters(rows):
    return [[len(row), row.count("e"), row.count("a") / 3] for row in rows]


def other_letters(rows):
    return np.array([[len(row), row.count("f"), 1] for row in rows])


CHECKS = embedder_checks(
    FunctionEmbedder(letters),
    ROWS,
    set_params={"function": other_letters},
    bad_rows=[None, float("nan"), object(), {1, 2}, 1 + 2j],
)


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[name for name, _ in CHECKS])
def test_a_function_keeps_the_common_contract(name, check):
    check()


class Service:
    """Counts what it is asked; `answer` may fail. It holds a lock, as clients do."""

    n_made = itertools.count()

    def __init__(self, answer=letters):
        self.answer, self.asked, self.lock = answer, [], threading.Lock()
        self.version = str(next(self.n_made))

    def embed(self, rows):
        with self.lock:
            self.asked.append(list(rows))
        return self.answer(rows)

    def embedder(self, **params):
        params = {"version": self.version, "cache": EmbeddingStore()} | params
        return FunctionEmbedder(self.embed, **params)

    @property
    def n_asked(self):
        return sum(map(len, self.asked))


# Most do not ask what is said before a wait.
pytestmark = pytest.mark.filterwarnings("ignore:.*It is called again:UserWarning")


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Let no test wait; return how long it would have."""
    waits = []
    monkeypatch.setattr(_encoder, "time", SimpleNamespace(sleep=waits.append))
    return waits


def test_each_distinct_row_is_asked_for_once_in_batches():
    service = Service()
    embedder = service.embedder(batch_size=2)
    vectors = embedder.fit_transform([*ROWS, *ROWS[::-1]])
    np.testing.assert_allclose(vectors, letters([*ROWS, *ROWS[::-1]]))
    assert sorted(row for rows in service.asked for row in rows) == sorted(ROWS)
    assert max(map(len, service.asked)) == 2
    clone(embedder).fit(ROWS[3:]).transform([*ROWS, "new"])
    assert service.asked[-1] == ["new"]
    assert service.n_asked == len(ROWS) + 1


def test_known_width_spares_the_first_call():
    service = Service()
    service.embedder(n_features=3).fit([]).transform(ROWS)
    assert service.asked == [ROWS]
    with pytest.raises(InvalidRowsError, match="it gave 3 features, expected 4"):
        service.embedder(n_features=4).transform(ROWS[:2])


def test_without_rows_the_width_has_to_be_given():
    service = Service()
    with pytest.raises(InvalidParameterError, match=r"no good rows.*Set n_features"):
        service.embedder().fit([])
    assert service.embedder(n_features=3).fit_transform([]).shape == (0, 3)
    again = pickle.loads(pickle.dumps(FunctionEmbedder(letters).fit(["a"])))
    assert again.transform([]).shape == (0, 3)
    assert len(again.get_feature_names_out()) == 3


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_search_asks_for_each_distinct_row_once(n_jobs, tmp_path):
    def embed(rows):
        for row in rows:
            with (tmp_path / row.replace(" ", "_")).open("a") as file:
                file.write("x")
        return letters(rows)

    rows = [f"{row} {i}" for i in range(5) for row in ROWS]
    pipeline = make_pipeline(FunctionEmbedder(embed, version=str(tmp_path)), LogisticRegression())
    grid = {"logisticregression__C": [0.1, 1, 10]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=n_jobs).fit(rows, np.arange(30) % 2)
    assert np.isfinite(search.best_score_)
    counts = {path.name: len(path.read_text()) for path in tmp_path.iterdir()}
    assert len(counts) == 30
    # The row by which one worker learns the width, another may ask for at that very moment.
    assert sum(counts.values()) <= 30 + (n_jobs - 1)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1, 2.5, True, np.float32(4)], [1, 2.5, 1, 4]),
        ([b"abc", b""], [3, 0]),
        ([("a", 1), ("a", 2)], [2, 2]),
        ([np.ones(3), np.ones((2, 2))], [3, 4]),
        (np.arange(6.0).reshape(2, 3), [3, 12]),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}).to_dict("records"), [4, 6]),
    ],
)
def test_rows_are_plain_values(rows, expected):
    def embed(rows):
        sizes = (len(r) if isinstance(r, (bytes, tuple)) else r for r in rows)
        return [[np.sum(list(r.values()) if isinstance(r, dict) else r)] for r in sizes]

    np.testing.assert_array_equal(FunctionEmbedder(embed).fit_transform(rows)[:, 0], expected)


def test_rows_of_other_content_are_other_rows():
    rows = ["1", b"1", 1, 1.0, True, (1,), [1], {"a": 1, "b": 2}, {"b": 2, "a": 1}, np.ones(1)]
    rows += [np.ones(1, np.float32), np.ones((1, 1)), np.float64(1), ("a", ("b",)), ("a", "b")]
    embedder = FunctionEmbedder(lambda rows: np.ones((len(rows), 2)))
    embedder.fit_transform([*rows, *rows])
    assert embedder.report_.n_distinct == len(rows)


def test_bad_rows_say_what_a_row_is(tmp_path):
    holds_itself = []
    holds_itself.append(holds_itself)
    with pytest.raises(InvalidRowsError, match="expected a str, bytes") as error:
        FunctionEmbedder(letters).fit(["a", tmp_path, torch.ones(2), holds_itself, None])
    assert "pass the file's bytes" in error.value.faults[1]
    assert "np.asarray" in error.value.faults[2]
    assert "contains itself" in error.value.faults[3]
    assert "missing" in error.value.faults[4]
    with pytest.raises(InvalidInputError, match="of 2 columns"):
        FunctionEmbedder(letters).fit(pd.DataFrame({"a": ["x"], "b": ["y"]}))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda rows: [letters([row])[0] for row in rows if row != "bee"], r"shape \(0,\)"),
        (lambda rows: letters(rows) if "bee" not in rows else 1 / 0, "ZeroDivisionError"),
        (lambda rows: [[np.nan if row == "bee" else 1.0] for row in rows], "not finite"),
        (lambda rows: [[1e300 if row == "bee" else 1.0] for row in rows], "not finite"),
        (lambda rows: [[1.0] * (1 + (row == "bee")) for row in rows], "2 features, expected 1"),
        (
            lambda rows: Path("no/such").read_text() if "bee" in rows else letters(rows),
            "FileNotFoundError",
        ),
    ],
    ids=["dropped", "error", "nan", "too large", "other width", "no file"],
)
def test_a_row_on_which_the_function_fails_is_named_and_harms_no_other(answer, reason):
    service = Service(answer)
    with pytest.raises(InvalidRowsError, match=f"1 of 6 rows.*\n  row 1: .*{reason}"):
        service.embedder().fit_transform(ROWS)
    with pytest.warns(InvalidRowsWarning, match=reason):
        vectors = service.embedder(on_error="nan").transform(ROWS)
    assert np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist() == [1]


async def later(rows):
    return letters(rows)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rows: 1 / 0, "failed on each of the first 3 rows: ZeroDivisionError"),
        (
            lambda rows: np.zeros(len(rows)),
            r"for a single feature, return vectors\.reshape\(-1, 1\)",
        ),
        (lambda rows: [[]] * len(rows), r"shape \(1, 0\) for 1 row"),
        (lambda rows: sparse.eye(len(rows), format="csr"), "gives a sparse"),
        (lambda rows: {"data": []}, r"returned \{'data': \[\]\}; expected an array of numbers"),
        (lambda rows: [["a"] for _ in rows], r"returned \[\['a'\]"),
        (later, "later is async"),
    ],
)
def test_a_function_that_gives_no_vectors_is_refused(function, message):
    with pytest.raises(FunctionError, match=message):
        FunctionEmbedder(function).fit(ROWS)


def test_the_functions_own_error_is_the_cause():
    with pytest.raises(FunctionError, match="no attribute 'nothing'") as error:
        FunctionEmbedder(lambda rows: rows.nothing).fit(["a"])
    assert isinstance(error.value.__cause__, AttributeError)


def busy(**attributes):
    error = RuntimeError("slow down")
    vars(error).update(attributes)
    return error


def http_error(code, **headers):
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://service", code, "no", message, None)


def wrapped(inner):
    error = RuntimeError("the client's own")
    error.__cause__ = inner
    return error


@pytest.mark.parametrize(
    ("error", "is_temporary"),
    [
        (ConnectionResetError("gone"), True),
        (TimeoutError("late"), True),
        (wrapped(ConnectionRefusedError("down")), True),
        (busy(status_code=429), True),
        (busy(status=503), True),
        (busy(response=busy(status_code=500)), True),
        (busy(retry_after=3), True),
        (http_error(529), True),
        (busy(status_code=400), False),
        (http_error(404), False),
        (http_error(422), False),
        (ValueError("too long"), False),
        (FileNotFoundError("no file"), False),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error, is_temporary, waits):
    def answer(rows):
        if "deed" in rows and (not is_temporary or len(waits) < 2):
            raise error
        return letters(rows)

    embedder = Service(answer).embedder()
    if is_temporary:
        np.testing.assert_allclose(embedder.fit_transform(ROWS), letters(ROWS))
        assert len(waits) == 2
    else:
        with pytest.raises(InvalidRowsError, match=r"1 of 6 rows.*\n  row 3: .*failed on it"):
            embedder.fit_transform(ROWS)
        assert not waits


def test_the_first_wait_is_told_and_why(waits):
    def answer(rows):
        if len(waits) < 3:
            raise ConnectionError("no route")
        return letters(rows)

    said = r"embed failed with ConnectionError: no route\. It is called again in \d\.\d s"
    with pytest.warns(SkembedWarning, match=said) as caught:
        Service(answer).embedder().fit(ROWS)
    assert len(waits) == 3
    assert [each.filename for each in caught] == [__file__]


def test_waits_grow_and_a_service_may_say_how_long(waits):
    errors = [busy(status_code=429), busy(status_code=500), busy(status_code=500)]
    errors += [busy(retry_after=7.5), http_error(429, Retry_After="2")]

    def answer(rows):
        if errors:
            raise errors.pop(0)
        return letters(rows)

    Service(answer).embedder().fit(ROWS)
    assert len(waits) == 5
    for wait, longest in zip(waits[:3], [1, 2, 4], strict=True):
        assert longest / 2 <= wait <= longest
    assert waits[3:] == [7.5, 2]


def test_what_was_embedded_before_a_service_went_down_is_kept():
    answers = Service()

    def answer(rows):
        if "off" in rows and is_down:
            raise ConnectionError("down")
        return answers.embed(rows)

    is_down = True
    embedder = Service(answer).embedder(batch_size=2, max_retries=1)
    with pytest.raises(
        FunctionError, match=r"failed 2 times in a row, most recently with Connection"
    ):
        embedder.fit_transform(ROWS)
    is_down = False
    embedder.transform(ROWS)
    assert answers.n_asked == len(ROWS)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_who_is_refused_asks_once(status, waits):
    service = Service(lambda rows: (_ for _ in ()).throw(busy(status_code=status)))
    with pytest.raises(FunctionError, match=r"Service\.embed was refused: RuntimeError"):
        service.embedder().fit(ROWS)
    assert len(service.asked) == 1
    assert not waits


def test_a_wait_of_an_hour_is_an_error():
    def answer(rows):
        raise busy(retry_after=3600)

    with pytest.raises(FunctionError, match="asks to wait 3,600 s"):
        Service(answer).embedder().fit(ROWS)


def test_what_a_function_is_decides_what_is_stored(tmp_path):
    def scaled(rows, scale):
        return np.ones((len(rows), 1)) * scale

    for scale in (2, 3):
        embedder = FunctionEmbedder(functools.partial(scaled, scale=scale), cache=tmp_path)
        assert embedder.fit_transform(["a"]) == [[scale]]
        assert embedder.report_.n_encoded == 1
        clone(embedder).fit_transform(["a"])
    named = FunctionEmbedder(functools.partial(scaled, scale=4), version="4, 5", cache=tmp_path)
    named.fit_transform(["a"])
    renamed = named.set_params(function=functools.partial(scaled, scale=5))
    assert renamed.transform(["a"]) == [[4]]  # whoever names a version answers for it
    assert renamed.set_params(version="w").transform(["a"]) == [[5]]


def test_a_function_that_cannot_be_known_asks_for_a_version():
    service = Service()
    with pytest.raises(InvalidParameterError, match=r"function=Service\.embed: set version.*lock"):
        service.embedder(version=None).fit(ROWS)
    calls = []

    def counting(rows):
        calls.append(rows)
        return letters(rows)

    with pytest.raises(InvalidParameterError, match=r"set version.*changes what it uses when it"):
        FunctionEmbedder(counting).fit(ROWS)
    with pytest.raises(InvalidParameterError, match="version=' ': expected the name"):
        FunctionEmbedder(counting, version=" ").fit(ROWS)


def test_what_comes_is_copied():
    buffer = torch.zeros(6, 2, dtype=torch.bfloat16)

    def embed(rows):
        return buffer[: len(rows)].add_(1)

    vectors = FunctionEmbedder(embed, version="buffer").fit_transform(ROWS)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    first = vectors.copy()
    embed(ROWS)
    np.testing.assert_array_equal(vectors, first)


def test_an_interrupt_ends_a_wait(monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(_encoder.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Service(lambda rows: (_ for _ in ()).throw(TimeoutError())).embedder().fit(ROWS)


def test_a_function_may_change_the_rows_it_is_given():
    def double(rows):
        for row in rows:
            row *= 2
        if any(row[0] < 0 for row in rows):
            raise ValueError("no negative rows")
        return rows

    X = np.array([[1.0, 1], [2, 3], [-1, 0]])
    with pytest.warns(InvalidRowsWarning, match="row 2"):
        found = FunctionEmbedder(double, version="double", on_error="nan").fit_transform(X)
    np.testing.assert_array_equal(found, [[2, 2], [4, 6], [np.nan, np.nan]])
    np.testing.assert_array_equal(X, [[1, 1], [2, 3], [-1, 0]])


def test_a_function_may_embed_by_other_threads():
    other = FunctionEmbedder(letters, cache=None)

    def in_threads(rows):
        with ThreadPoolExecutor(2) as pool:
            return np.vstack(list(pool.map(lambda row: other.transform([row]), rows)))

    found = FunctionEmbedder(in_threads, version="threads", cache=None).fit_transform(["ab", "c"])
    np.testing.assert_array_equal(found, np.float32(letters(["ab", "c"])))


def test_another_function_has_a_width_of_its_own():
    embedder = FunctionEmbedder(letters, cache=None).fit(["a"])
    assert (
        embedder.set_params(function=lambda rows: [[1]] * len(rows)).transform(["a"]).shape[1] == 1
    )
    embedder.set_params(function=letters)
    with pytest.raises(InvalidParameterError, match="Set n_features"):
        embedder.transform([])
