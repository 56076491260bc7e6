"""What a column is: its kind, and why; one form read as another.

Knows what a column holds, not what is learned from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import shown
from skembed.columns._values import TRUTHS, Values, word_of

__all__ = ["KINDS", "Decision", "decide", "numbers_of", "read_as", "strictly", "words_of"]

KINDS = ("boolean", "category", "date", "drop", "duration", "number", "tags", "text")

_MOST_DISTINCT_CODES = 12
_ROWS_PER_CODE = 10
_MANY_DISTINCT_WORDS = 1_000
_FEWEST_IDENTIFIERS = 50
_WORDS_PER_TEXT = 2.0
_LEAST_READ = 0.95
_MOST_LOOKED_AT = 64
# "007" is a code, not a number, and neither is "V27".
_NUMBER = re.compile(
    r"^ *[+-]?(?:(?:0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)? *$",
    re.M | re.A,
)
_CODE = re.compile(r" *(?:0\d|[A-Za-z]+[-_]?\d)")
_DATE = re.compile(
    r"^ *(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)(Z|[+-]\d\d:?\d\d)? *$",
    re.M | re.A,
)
_NAMES = {"words": "words", "lists": "lists", "number": "numbers", "boolean": "booleans"}
_BLANK = frozenset(["", "n/a", "#n/a", "na", "<na>", "nan", "null", "none", "?", "-"])
"""What says of a number or a date that there is none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a column is, the form it is read as (the same at transform), and why."""

    kind: str
    form: str
    why: str
    is_given: bool = False


def decide(values: Values, given: str | None) -> tuple[Decision, Values]:
    """Return what a column is and its values in that form; a ValueError says what can't be.

    Whole numbers of 3 to 12 distinct values, each for 10 rows or more on average, are categories
    that are numbers, too: if they are no codes, nothing is lost. Words that are mostly distinct, or
    of which there are more than 1,000, are text if they are two or more on average. If each is
    another, of letters and digits and as long as the others, they identify rows, and are dropped:
    that leaves dates and amounts in formats of their own, which are text. Words of which 95% are
    numbers or dates are such, and the others are missing. Every other choice is by type.
    """
    if given == "drop":
        return Decision("drop", values.form, "given"), values
    if values.form == "missing":
        return Decision("drop", "missing", "all missing: nothing to learn"), values
    decision = _given(values, given) if given else _infer(values)
    raw, values = values, read_as(values, decision.form)
    if given:
        values = strictly(values)
    n_distinct, n_missing = count_distinct(values), int(values.missing.sum())
    if n_distinct == 0 and values.faults:  # all are
        asked = f"given as {given!r}, but " if given else ""
        raise ValueError(f"{asked}{next(iter(values.faults.values()))}")
    if n_distinct == 0:
        return Decision("drop", decision.form, "nothing that could be read"), values
    if n_distinct == 1 and not n_missing and values.form != "lists":
        return Decision("drop", decision.form, "constant: nothing to learn"), values
    if n_distinct == 1 and decision.kind not in ("tags", "category", "boolean"):
        return Decision("category", "words", "one value, or missing"), words_of(raw)
    return decision, values


def _given(values: Values, kind: str) -> Decision:
    form = {"category": "words", "text": "words", "tags": "lists"}.get(kind, kind)
    if kind == "date" and values.form == "time":
        form = "time"
    if kind == "boolean" and count_distinct(words_of(values)) > 2:
        raise ValueError("given as 'boolean', but it has more than two values; try 'category'")
    return Decision(kind, form, "given", is_given=True)


def _infer(values: Values) -> Decision:
    if values.form == "words":
        return _infer_of_words(values)
    if values.form == "number":
        return _infer_of_numbers(values, values.dtype)
    kind = {"time": "date", "lists": "tags"}.get(values.form, values.form)
    return Decision(kind, values.form, "time of the day" if values.form == "time" else values.dtype)


def _infer_of_numbers(values: Values, why: str) -> Decision:
    ordered = np.sort(values.data[~values.missing])
    distinct = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    n_distinct, n_rows = len(distinct), len(ordered)
    is_few = n_distinct <= _MOST_DISTINCT_CODES and n_rows >= _ROWS_PER_CODE * n_distinct
    if not n_distinct or not is_few or (distinct != np.rint(distinct)).any():
        return Decision("number", "number", why)
    low, high = word_of(distinct[0].item()), word_of(distinct[-1].item())
    why = f"{n_distinct} distinct integers of {n_rows:,} rows, {low} to {high}"
    return Decision("category", "words" if n_distinct <= 2 else "number", why)


def _infer_of_words(values: Values) -> Decision:
    n_distinct, n_present = len(values.levels), int((~values.missing).sum())
    if values.is_category:
        return Decision("category", "words", "category type")
    read = _read_most(values)
    if read is not None:
        return read
    if values.is_mixed:
        return Decision("category", "words", "mixed types, as text")
    is_mostly_distinct = n_distinct > n_present / 2
    if not is_mostly_distinct and n_distinct <= _MANY_DISTINCT_WORDS:
        return Decision("category", "words", f"{n_distinct:,} distinct of {n_present:,} strings")
    said = f"{n_distinct:,} distinct of {n_present:,} strings"
    n_words = sum(map(len, map(str.split, values.levels))) / max(1, n_distinct)
    if n_words >= _WORDS_PER_TEXT:
        return Decision("text", "words", f"{said}, of {n_words:.1f} words on average")
    if not is_mostly_distinct:
        return Decision("category", "words", said)
    if n_present < _FEWEST_IDENTIFIERS:
        return Decision("category", "words", said)
    is_code = len(set(map(len, values.levels))) == 1 and all(map(_is_code, values.levels))
    if n_distinct == n_present and is_code:
        why = "every value is another code: it names the row; kind 'text' would use it"
        return Decision("drop", "words", why)
    return Decision("text", "words", f"{said}, too rare to be categories")


_is_code: Callable[[str], Any] = re.compile(r"(?=.*\d)(?=.*[A-Za-z])").match


def _read_most(values: Values) -> Decision | None:
    """Return what words are that are numbers or dates but for a few; None if they are words."""
    step = max(1, -(-len(values.levels) // _MOST_LOOKED_AT))
    for form, name, pattern in (("number", "numbers", _NUMBER), ("date", "ISO dates", _DATE)):
        some = [level for level in values.levels[::step] if not _is_blank(level)]
        if sum(map(bool, map(pattern.fullmatch, some))) <= len(some) / 2:
            continue
        read = _parse(values, form)
        n_read, n_unread = int((~read.missing).sum()), len(read.unread)
        if read.faults or n_read < _LEAST_READ * (n_read + n_unread):
            continue
        said = f"{'values' if values.is_mixed else 'strings'} that are all {name}"
        if not n_unread:
            return _infer_of_numbers(read, said) if form == "number" else Decision(form, form, said)
        bad = {values.levels[values.data[row]] for row in read.unread}
        if form == "number" and any(map(_CODE.match, bad)):
            continue
        n_all, examples = n_read + n_unread, ", ".join(map(shown, sorted(bad)[:3]))
        said += f" but {n_unread:,} of {n_all:,}, counted as missing: {examples}"
        said += ", ..." * (len(bad) > 3)
        if form == "date" or _infer_of_numbers(read, said).kind == "number":
            return Decision(form, form, said)
    return None


def _is_blank(level: str) -> bool:
    return level.strip().lower() in _BLANK


def _matches(pattern: re.Pattern[str], levels: list[str]) -> list[Any]:
    joined = "\n".join(levels)
    return pattern.findall(joined) if joined.count("\n") == len(levels) - 1 else []


def count_distinct(values: Values) -> int:
    """Return the number of distinct values: of lists, of their items."""
    if values.form in ("words", "lists"):
        return len(values.levels)
    ordered = np.sort(values.data[~values.missing])  # faster than np.unique where most differ
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + bool(len(ordered))


def numbers_of(values: Values) -> NDArray[np.float64]:
    """Return numbers, or seconds of times, NaN where missing."""
    numbers = values.data
    if values.form == "date":
        numbers = numbers.astype(np.int64)
    numbers = numbers.astype(np.float64)
    if values.form in ("date", "time", "duration"):
        numbers /= 1e6
    numbers[values.missing] = np.nan
    return numbers


def words_of(values: Values) -> Values:
    """Return values as the words they are as categories."""
    if values.form in ("words", "missing"):
        return values
    if values.form == "lists":
        raise ValueError("it has lists, which are no categories; expected single values")
    distinct, inverse = np.unique(values.data[~values.missing], return_inverse=True)
    codes = np.full(len(values.data), -1, dtype=np.int64)
    codes[~values.missing] = inverse
    convert = word_of if values.form == "number" else str
    return replace(values, form="words", data=codes, levels=list(map(convert, distinct.tolist())))


def read_as(values: Values, form: str) -> Values:
    """Return values in another form; what can't be read is missing.

    A word that is no number or date is noted as unread; whatever else it is a fault of its row. A
    ValueError says where a column holds something else altogether.
    """
    if values.form in (form, "missing"):
        return values
    if form == "words" and values.form != "lists":
        return words_of(values)
    if form == "number" and values.form == "boolean":
        return replace(values, form="number", data=values.data.astype(np.int64))
    if form == "boolean" and values.form == "number":
        values = words_of(values)
    if values.form == "words" and form in ("number", "date", "boolean"):
        return _parse(values, form)
    hint = ""
    if form == "lists" and values.form == "words":
        hint = "; split the strings first"
    elif form in ("date", "duration"):
        hint = "; convert it first, as with pandas.to_" + form.replace("duration", "timedelta")
        hint = hint.replace("to_date", "to_datetime")
    there, expected = (_NAMES.get(each, f"{each}s") for each in (values.form, form))
    raise ValueError(f"{there} ({values.dtype}), expected {expected}{hint}")


def strictly(values: Values) -> Values:
    """Return values whose unread cells are faults of their rows."""
    if not values.unread:
        return values
    return replace(
        values, faults=dict(sorted({**values.faults, **values.unread}.items())), unread={}
    )


def _parse(values: Values, form: str) -> Values:
    parse = {"number": _parse_numbers, "date": _parse_dates, "boolean": _parse_booleans}[form]
    levels = values.levels
    try:
        parsed, local = parse(levels)
        is_bad = np.zeros(len(levels), dtype=bool)
    except ValueError:  # some of them: one at a time
        parsed, local, is_bad = _parse_each(
            levels, parse, {"number": _NUMBER, "date": _DATE}.get(form)
        )
    is_blank = np.array(list(map(_is_blank, levels)), dtype=bool)
    is_gone = np.append(is_bad | is_blank, True)  # the last is that of missing values
    faults, unread = dict(values.faults), dict[int, str]()
    noted = faults if form == "boolean" else unread
    for row in np.flatnonzero(np.append(is_bad & ~is_blank, False)[values.data]).tolist():
        noted[row] = f"{shown(levels[values.data[row]])} is no {form}"

    def spread(of_levels: Any) -> Any:
        return np.append(of_levels, of_levels[:1] if len(of_levels) else np.int64(0))[values.data]

    read = replace(
        values,
        form=form,
        data=spread(parsed),
        missing=is_gone[values.data],
        levels=[],
        local=None if local is None else spread(local),
        faults=faults,
        unread=unread,
        is_category=False,
    )
    if form != "number":
        return read
    infinite = np.isinf(read.data) & ~read.missing
    for row in np.flatnonzero(infinite).tolist():
        faults[row] = f"{read.data[row]}, expected no infinity"
    return replace(read, missing=read.missing | infinite)


def _parse_each(
    levels: list[str], parse: Callable[..., Any], pattern: re.Pattern[str] | None
) -> tuple[Any, Any, NDArray[np.bool_]]:
    """Parse strings of which some can't be: these count as blank."""
    are_like = [pattern is None or bool(pattern.fullmatch(level)) for level in levels]
    like = [level for level, is_like in zip(levels, are_like, strict=True) if is_like]
    is_bad = ~np.array(are_like, dtype=bool)
    is_bad[~is_bad] = _cannot_be_parsed(like, parse)
    return *parse(["" if bad else x for x, bad in zip(levels, is_bad, strict=True)]), is_bad


def _cannot_be_parsed(levels: list[str], parse: Callable[..., Any]) -> list[bool]:
    """Return which strings can't be parsed, such as the 31st of February: few, found by halves."""
    try:
        parse(levels)
    except ValueError:
        if len(levels) == 1:
            return [True]
        middle = len(levels) // 2
        return [
            *_cannot_be_parsed(levels[:middle], parse),
            *_cannot_be_parsed(levels[middle:], parse),
        ]
    return [False] * len(levels)


def _parse_numbers(levels: list[str]) -> tuple[Any, None]:
    filled = ["0" if _is_blank(level) else level for level in levels]
    if len(_matches(_NUMBER, filled)) != len(levels):
        raise ValueError
    plain = [level.strip().replace(",", "") for level in filled]
    return np.array(plain, dtype=str).astype(np.float64) + 0.0, None


def _parse_booleans(levels: list[str]) -> tuple[Any, None]:
    try:
        said = ["no" if _is_blank(level) else level.strip().lower() for level in levels]
        return np.array([TRUTHS[word] for word in said], dtype=bool), None
    except KeyError:
        raise ValueError from None


def _parse_dates(levels: list[str]) -> tuple[Any, Any]:
    found = _matches(_DATE, ["1970-01-01" if _is_blank(level) else level for level in levels])
    if len(found) != len(levels):
        raise ValueError
    local = np.array([date for date, _ in found], dtype="datetime64[us]")
    zones = [zone for _, zone in found]
    if not any(zones):
        return local, None
    minutes = {zone: _minutes_of(zone) for zone in set(zones)}
    return local - np.array([minutes[zone] for zone in zones], dtype="timedelta64[m]"), local


def _minutes_of(zone: str) -> int:
    if zone in ("", "Z"):
        return 0
    minutes = 60 * int(zone[1:3]) + int(zone[-2:])
    return -minutes if zone[0] == "-" else minutes
