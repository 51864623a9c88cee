r"""Math problems with one checkable answer, from the columns of DAPO-Math, AIME, MATH, GSM8K, or plain ones."""

import decimal
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trm_envs.answer_forms import BOX as BOX_FORM
from trm_envs.answer_forms import asked_forms
from trm_envs.rows.files import kind_of, once_per_file
from trm_envs.rows.options import REFUSE
from trm_envs.rows.problems import Problems, UnscorableRow, find_problems
from trm_envs.rows.verdicts import FileVerdicts
from trm_envs.scoring import extract_answer, parse_quantity
from trm_envs.scoring.extract import BOX, JOINED, after_thoughts, group_end

QUESTION_FIELDS = ("prompt", "problem", "Problem", "question", "Question")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "Answer", "solution")
TOLERANCE_FIELDS = ("tolerance", "reward_model.tolerance")
MAX_BOXES = 100
TOLERATED = 10
"""The inverse of the share of rows that may ask for another form of answer before a file is refused."""
BARE = "give the final answer alone"
_log = logging.getLogger(__name__)
# signs of a text that is more than a bare answer
_MARKED = re.compile(r"[<\n]|####|\\boxed|\\fbox")
_NAME = re.compile(r"([A-Za-z])(?:_\{?\w\}?)?\s*=[\s$]*$")


@dataclass(frozen=True)
class MathRow:
    """A problem with one checkable answer."""

    question: str
    """The user's question, as it stands in the file."""
    answer: str
    """The true answer, without a box; `score_math` takes it as truth."""
    system: str = ""
    """The system message of the row's prompt, if it has one."""
    tolerance: float | None = None
    """Tolerance of a decimal answer; None means exact."""
    field: str = field(default="answer", compare=False, repr=False)
    """The field that holds the answer."""

    @property
    def truth(self) -> str:
        """The answer, with its tolerance if it has one."""
        return self.answer if self.tolerance is None else f"{self.answer} ± {self.tolerance!r}"


def load_math_rows(path: str) -> tuple[MathRow, ...]:
    """Return the problem of each row of a file; one copy per process, read again when the file changes.

    Known forms: DAPO-Math (`prompt`: chat messages or text, `reward_model.ground_truth`), AIME (`Problem`, `Answer`),
    MATH (`problem`, `answer`, or `solution` with a box), GSM8K (`answer` with `####`), plain (`question`, `answer`).

    Raises:
        ValueError: if the file cannot be read, a row is not such a problem, or answers cannot be scored; it names file,
            row and field.
        ImportError: if a Parquet file needs pyarrow and it is missing.
    """
    return tuple(row for row in load_math_problems(path).rows if row is not None)


def load_math_problems(path: str, *, unscorable: str = REFUSE, form: str | None = None) -> Problems[MathRow]:
    """Return the problems of a file; one copy per process, read again when the file changes.

    Args:
        path: the file; see `load_math_rows` for its forms.
        unscorable: treatment of rows that cannot be scored: "refuse", or "drop" to leave them out.
        form: the form in which an answer has to be written, one of `ANSWER_FORMS` that is not a protocol's own; None if
            the rows' prompts may ask for any.

    Raises:
        ValueError: see `load_math_rows`; also if prompts ask for another form of answer.
    """
    return once_per_file(path, _read, unscorable, form)


def math_row(row: dict[str, Any]) -> MathRow:
    """Return the problem of one row; see `load_math_rows` for the forms.

    Raises:
        UnscorableRow: if its answer cannot be scored.
        ValueError: if it holds no question, or no answer.
    """
    name, value = _find(row, QUESTION_FIELDS)
    system, question = _messages(name, value) if isinstance(value, list) else ("", _text(name, value))
    name, value = _find(row, ANSWER_FIELDS)
    tolerance = _tolerance(row)
    try:
        return MathRow(question, _truth(value), system, tolerance, name)
    except ValueError as error:
        raise UnscorableRow(f'field "{name}": {error}') from error


def refuse_other_forms(path: str, prompts: Mapping[int, str], form: str) -> None:
    """Raise a ValueError if a file's prompts ask for another form of answer than the given one.

    Fewer than one row in ten is the wording of single problems, not the file's habit: these are only logged.

    Args:
        path: of the file.
        prompts: by number of row.
        form: one of `ANSWER_FORMS`.
    """
    asked = {number: asked_forms(text) for number, text in prompts.items()}
    others = {number: min(forms) for number, forms in asked.items() if forms and form not in forms}
    if not others:
        return
    first = min(others)
    told = (
        f"{path}, row {first} (counted from 0): its prompt asks for an answer of the form {others[first]!r}; "
        f"{len(others)} of {len(prompts)} rows ask for another form than {form!r}, which is read here"
    )
    if len(others) * TOLERATED < len(prompts):
        _log.warning("%s", told)
        return
    remedy = f'set answer_form="{others[first]}"'
    if others[first] == BOX_FORM:
        remedy += ' and protocol="hermes", or another protocol that reads boxes'
    if len({*others.values()}) > 1 or len(others) < len(prompts):
        remedy += ", and take the rows that ask for something else out of the file"
    raise ValueError(f"{told}; {remedy}")


def _read(path: str, unscorable: str, form: str | None) -> Problems[MathRow]:
    verdicts = FileVerdicts(path)

    def find_faults(rows: Mapping[int, MathRow]) -> dict[int, str]:
        reasons = verdicts.reasons([row.answer for row in rows.values()])
        faults = {
            number: f'field "{row.field}": {row.answer[:60]!r} cannot be scored ({_why(reasons[row.answer])}); {BARE}'
            for number, row in rows.items()
            if row.answer in reasons
        }
        if form is not None:
            firsts: dict[int, int] = {}
            for number, row in rows.items():
                firsts.setdefault(id(row), number)
            prompts = {number: f"{rows[number].system}\n{rows[number].question}" for number in firsts.values()}
            refuse_other_forms(path, prompts, form)
        return faults

    def are_same(first: MathRow, second: MathRow) -> bool:
        return first.tolerance == second.tolerance and verdicts.are_equal(first.answer, second.answer)

    # some files repeat each problem a hundred times
    seen: dict[MathRow, MathRow] = {}

    def convert(row: dict[str, Any]) -> MathRow:
        made = math_row(row)
        return seen.setdefault(made, made)

    try:
        return find_problems(path, convert, unscorable, find_faults=find_faults, are_same=are_same)
    finally:
        verdicts.save()


def _why(reason: str) -> str:
    """Return the scorer's reason without its advice, since the message gives its own."""
    return reason.removesuffix(BARE).rstrip(";: ")


def _find(row: dict[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """Return the first field that is present, with its name; an empty cell of a table counts as absent."""
    for name in names:
        value = _field(row, name)
        if value is not None:
            return name, value
    has = ", ".join(map(str, row)) or "none"
    raise ValueError(f"has none of the fields {', '.join(names)}; its fields are: {has}; rename one")


def _field(row: dict[str, Any], name: str) -> Any:
    """Return a field, also one inside an object that is written as JSON text; None if it is absent."""
    value: Any = row
    for part in name.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _json(value)
        value = value.get(part) if isinstance(value, dict) else None
    return None if isinstance(value, float) and math.isnan(value) else value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(name: str, value: Any) -> str:
    try:
        return _checked_text(value)
    except ValueError as error:
        raise ValueError(f'field "{name}": {error}') from error


def _checked_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"is {'empty' if isinstance(value, str) else kind_of(value)}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is half a surrogate pair; remove it") from error
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


def _truth(value: Any) -> str:
    """Return the answer that a field holds: bare, in boxes, in a tag, or behind `####`."""
    if isinstance(value, str) and value.lstrip().startswith('["') and isinstance(several := _json(value), list):
        # a list as JSON text, as some files have it
        if len(several) != 1:
            raise ValueError(f"holds {len(several)} answers; give the one that is right, or one text: 2, -2")
        value = several[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float | decimal.Decimal):
        raise ValueError(f"is {kind_of(value)}; expected text or a number, the final answer alone")
    text = _checked_text(str(value)).strip()
    if not _MARKED.search(text):
        return text
    spoken = after_thoughts(text)
    if boxes := _boxes(spoken):
        return _joined(spoken, boxes)
    if "####" in spoken:
        last = spoken.rpartition("####")[2].strip()
        if parse_quantity(last) is None:
            raise ValueError(f"{last[:60]!r} behind #### is not a number; give the final answer alone")
        return last
    answer = extract_answer(text).answer or text
    if "\n" in answer and "\\begin" not in answer:
        raise ValueError(f"{answer[:60]!r} cannot be scored (it has several lines); give the final answer alone")
    return answer


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Return start, stop and inside of the outermost boxes; an empty list if one of them is cut off."""
    boxes: list[tuple[int, int, str]] = []
    position = 0
    while match := BOX.search(text, position):
        end = group_end(text, match.end() - 1)
        if end is None or len(boxes) == MAX_BOXES:
            return []
        boxes.append((match.start(), end + 1, text[match.end() : end].strip()))
        position = end + 1
    return boxes


def _joined(text: str, boxes: list[tuple[int, int, str]]) -> str:
    """Return the answer of a text with boxes: one value, or a list if the boxes stand side by side."""
    values = [inside for _, _, inside in boxes]
    if "" in values:
        raise ValueError("'' in a box cannot be scored; give the final answer alone")
    if len({*values}) == 1:
        return values[0]
    ends = [0, *(end for _, end, _ in boxes)]
    gaps = [text[end:start] for end, (start, _, _) in zip(ends, boxes, strict=False)]
    names = {match[1] for gap in gaps if (match := _NAME.search(gap))}
    if len(names) > 1 or not all(JOINED.fullmatch(gap) for gap in gaps[1:]):
        shown = ", ".join(repr(value[:30]) for value in values[:3])
        raise ValueError(
            f"has {len(boxes)} boxes with different values ({shown}), and which is the answer cannot be told, so it "
            "cannot be scored; give the final answer alone"
        )
    return ", ".join(values)


def _tolerance(row: dict[str, Any]) -> float | None:
    value = next((found for name in TOLERANCE_FIELDS if (found := _field(row, name)) is not None), None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
        raise ValueError(f'field "tolerance": is {kind_of(value)}; expected a number of at least 0, such as 0.01')
    if not 0 <= value < math.inf:
        raise ValueError(f'field "tolerance": is {value}; expected a number of at least 0, such as 0.01')
    return float(value) or None
