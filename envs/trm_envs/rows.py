"""Tasks that a user brings, from `.jsonl`, `.json` and `.parquet` files.

`read_rows` reads any of them. A converter makes a task of one row: `math_row` here, others beside their environments.
`once_per_file` keeps what was made of a file, so that all environments of a process share one copy.
"""

import functools
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from trm_envs.options import check_integer
from trm_envs.scoring import Verdict, extract_answer, score_math

SUFFIXES = (".jsonl", ".json", ".parquet")
QUESTION_FIELDS = ("prompt", "problem", "Problem", "question", "Question")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "Answer", "solution")
BATCH_ROWS = 1000
T = TypeVar("T")


@dataclass(frozen=True)
class MathRow:
    """A problem with one checkable answer."""

    question: str
    """What the user asks, as it stands in the file."""
    answer: str
    """The true answer, without a box; `score_math` takes it as truth."""
    system: str = ""
    """The system message of the row's prompt, if it has one."""


def load_math_rows(path: str) -> tuple[MathRow, ...]:
    """Return the problems of a file; one copy a process, read again when the file changes.

    Known forms: DAPO-Math (`prompt`: chat messages or text, `reward_model.ground_truth`), AIME (`Problem`, `Answer`),
    MATH (`problem`, `answer`, or `solution` with a box), plain (`question`, `answer`).

    Raises:
        ValueError: if the file cannot be read or a row is no such problem; it names file, row and field.
        ImportError: if a Parquet file needs pyarrow and it is missing.
    """
    return once_per_file(path, _read_math_rows)


def read_rows(path: str) -> list[dict[str, Any]]:
    """Return the rows of a file as they are; see `iter_rows`."""
    return list(iter_rows(path))


def iter_rows(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as they are, a few at a time in memory (but for `.json`, one list).

    Raises:
        ValueError: if there is no such file, it is empty, damaged or not UTF-8, or a row is no object.
        ImportError: if it is a Parquet file and pyarrow is missing.
    """
    _stamp(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}; convert or rename the file")
    readers = {".jsonl": _jsonl_values, ".json": _json_values, ".parquet": _parquet_values}
    number = -1
    for number, value in enumerate(readers[suffix](path)):
        if not isinstance(value, dict):
            raise ValueError(f"{path}, row {number}: is {_kind(value)}; each row must be an object with named fields")
        yield value
    if number < 0:
        raise ValueError(f"{path}: holds no rows; give a file with at least one")


def convert_rows(path: str, convert: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Yield what a converter makes of each row of a file.

    Args:
        path: the file.
        convert: row -> task; a ValueError that it raises says which field is wrong, and gets the file and the row.

    Raises:
        ValueError: see `iter_rows`, and whatever the converter refuses.
    """
    for number, row in enumerate(iter_rows(path)):
        try:
            yield convert(row)
        except ValueError as error:
            raise ValueError(f"{path}, row {number} (counted from 0): {error}") from error


_made: dict[tuple[str, Any], tuple[tuple[int, int], Any]] = {}
_making = threading.RLock()


def once_per_file(path: str, make: Callable[[str], T]) -> T:
    """Return `make(path)`, made once a process and again when the file changes; any number of threads may ask.

    Args:
        path: the file.
        make: a function of a module (not a lambda or a method, which would be another one each time).

    Raises:
        ValueError: if there is no such file, or `make` refuses it.
    """
    stamp, key = _stamp(path), (os.path.abspath(path), make)
    with _making:
        if key not in _made or _made[key][0] != stamp:
            _made[key] = stamp, make(path)
        return _made[key][1]


def math_row(row: dict[str, Any]) -> MathRow:
    """Return the problem of one row; see `load_math_rows` for the forms.

    Raises:
        ValueError: if it holds no question, or no answer that can be scored.
    """
    name, value = _find(row, QUESTION_FIELDS)
    system, question = _messages(name, value) if isinstance(value, list) else ("", _text(name, value))
    name, value = _find(row, ANSWER_FIELDS)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'field "{name}": is {_kind(value)}; expected text or a number, the final answer alone')
    text = _text(name, str(value))
    answer = extract_answer(text).answer or text.strip()
    problem = _why_unscorable(answer)
    if problem:
        raise ValueError(f'field "{name}": {answer[:60]!r} cannot be scored ({problem}); give the final answer alone')
    return MathRow(question, answer, system)


def check_row_options(rows: Any, row: Any, split: str, horizon: int) -> None:
    """Raise a ValueError if the options of an environment with one problem a row do not go together."""
    if not isinstance(rows, str):
        raise ValueError(f'rows = {rows!r}: expected the name of a file; e.g. rows="problems.jsonl"')
    if rows and horizon != 1:
        raise ValueError(f"horizon = {horizon}: a row is one problem; pass horizon=1 with rows")
    if row is None:
        return
    check_integer("row", row, 0, 10**9)
    if not rows:
        raise ValueError(f'row = {row}: is of no use without rows; pass e.g. rows="problems.jsonl"')
    if split != "all":
        raise ValueError(f'split = "{split}": a chosen row may be of either split; pass split="all" with row')


def _forget_lock() -> None:
    """In a forked child: the parent's lock may be held for ever."""
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)


def _read_math_rows(path: str) -> tuple[MathRow, ...]:
    # Some files repeat each problem a hundred times.
    seen: dict[MathRow, MathRow] = {}
    return tuple(seen.setdefault(row, row) for row in convert_rows(path, math_row))


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no such file (looked in {os.getcwd()}); give an absolute path") from error
    return status.st_mtime_ns, status.st_size


def _jsonl_values(path: str) -> Iterator[Any]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            text = _decode(line, f"{path}, line {number}")
            if text.strip():
                yield _parse(text, f"{path}, line {number}")


def _json_values(path: str) -> Iterable[Any]:
    with open(path, "rb") as file:
        text = _decode(file.read(), path)
    values = _parse(text, path) if text.strip() else []
    if not isinstance(values, list):
        raise ValueError(f"{path}: holds {_kind(values)}; expected a list of rows (one row a line is .jsonl)")
    return values


def _parquet_values(path: str) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path}: needs pyarrow: pip install pyarrow, or convert the file to .jsonl") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: holds text that is not UTF-8; write it again as UTF-8") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: is no Parquet file, or is damaged ({error}); download or write it again") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not JSON ({error}); the file may be cut off, or be of another form") from error


def _find(row: dict[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """Return the first field that is there, with its name; empty cells of a table are not there."""
    for name in names:
        value: Any = row
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and not (isinstance(value, float) and math.isnan(value)):
            return name, value
    has = ", ".join(map(str, row)) or "none"
    raise ValueError(f"has none of the fields {', '.join(names)}; its fields are: {has}; rename one")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "empty" if isinstance(value, str) else _kind(value)
        raise ValueError(f'field "{name}": is {found}; expected text')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'field "{name}": character {error.start} is half a surrogate pair; remove it') from error
    return value


def _messages(name: str, value: list[Any]) -> tuple[str, str]:
    """Return the system message and the user's of a chat prompt."""
    parts: dict[str, list[str]] = {"system": [], "user": []}
    for message in value:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in parts:
            raise ValueError(f'field "{name}": has a message of role {role!r}; allowed are "system" and "user"')
        parts[role].append(_text(f"{name}.content", message.get("content")))
    if len(parts["user"]) != 1:
        raise ValueError(f'field "{name}": has {len(parts["user"])} user messages; expected one, with the question')
    return "\n".join(parts["system"]), parts["user"][0]


@functools.lru_cache(maxsize=1 << 16)
def _why_unscorable(answer: str) -> str:
    """Return why an answer is no truth, or ""; the same text on both sides never needs math-verify."""
    if "\n" in answer and "\\begin" not in answer:
        return "it has several lines"
    try:
        outcome = score_math(answer, answer, bare=True)
    except ValueError as error:
        return str(error)
    return "" if outcome.verdict is Verdict.CORRECT else outcome.detail


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
