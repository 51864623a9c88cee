"""The account of a run's change in success as tables, with an early and a late example of each way to fail."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.report.account import Account, Change, Part
from trm_agent.report.parts import share_of
from trm_agent.report.words import cell, moved, span
from trm_agent.runs.failures import A_MALFORMED_CALL, EXPLAINED, LUCKY, SOLVED, ending_slug

INDENT = "\u2003"
ALL, SUCCESS = "all failures", "success"
ABOUT = (
    "In percent of all training episodes, means over the steps; in brackets 95 % intervals over steps: one that holds "
    "0 may be chance. Each failed episode is in one row, so the rows add up to the change; indented rows add up to the "
    "row above them. A right answer after a wrong call is a success: {lucky}. A number is compared with the message "
    "before as it was written, so a mistake of form (such as two boxed answers) may stand as a wrong number."
)
ABOUT_HORIZONS = "The same among the episodes of each horizon; a column's failures add up to minus its success."


def account_tables(account: Account, run: int, index: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the account as tables: of all episodes, and by horizon where there are several.

    Args:
        account: of a run.
        run: the run's number in the list of episodes.
        index: columns of that list.
    """

    def row(name: str, whole: Change, share: str) -> list[str]:
        return [name, f"{whole.before:.1f}", f"{whole.after:.1f}", moved(whole), share]

    parts = _rows(account)
    rows = [row(SUCCESS, account.success, "")]
    rows += [row(name, part.whole, share_of(part, account)) for name, part in parts]
    rows.append(row(ALL, account.failures, "100 %" if account.success.is_clear else ""))
    heads = ["% of training episodes", account.first, account.last, "change", "share of the change"]
    own = [(name, part) for name, part in parts if part.ending == A_MALFORMED_CALL or not _is_after_malformed(part)]
    examples = {name: found for name, part in own if (found := _examples(part.ending, run, index))}
    explained = {name: told for name, part in own if (told := meaning(part.ending))} | {LUCKY: meaning(LUCKY)}
    whole = {
        "columns": heads,
        "rows": rows,
        "about": ABOUT.format(lucky=span(account.lucky)),
        "explained": explained,
        "examples": examples,
    }
    return [whole, *_horizon_table(account)]


def _horizon_table(account: Account) -> list[dict[str, Any]]:
    if not account.horizons:
        return []
    own = account.horizons.values()
    by_name = [{part.ending: part.whole for _, part in _rows(each)} for each in own]
    rows = [[SUCCESS, *(cell(each.success) for each in own)]]
    rows += [[name, *(cell(of.get(part.ending)) for of in by_name)] for name, part in _rows(account)]
    return [
        {
            "columns": ["% of these episodes", *(f"horizon {each}" for each in account.horizons)],
            "rows": rows,
            "about": ABOUT_HORIZONS,
        }
    ]


def _rows(account: Account) -> list[tuple[str, Part]]:
    """Return the ways to fail with the names of their rows; below a family its members, indented."""
    found = []
    for part in account.causes:
        found += [(part.ending, part), *((f"{INDENT}{each.ending}", each) for each in part.members)]
    return found


def _is_after_malformed(part: Part) -> bool:
    return part.ways[0][0] == A_MALFORMED_CALL


def meaning(ending: str) -> str:
    """Return the meaning of a way to fail in a sentence; "" where none is known."""
    return {ending_slug(name): told for name, told in EXPLAINED.items()}.get(ending_slug(ending), "")


def _examples(ending: str, run: int, index: Mapping[str, Sequence[Any]]) -> list[int]:
    """Return an early and a late recorded episode of a cause, of the first and the last step that have one.

    Those of a group with a difference in reward come first.
    """
    marks = index.get("malformed") or [0] * len(index["run"])
    rows = zip(index["run"], index["step"], index["category"], marks, strict=True)
    # a label has lost what a metric's name cannot hold, such as capitals
    own, is_malformed = ending_slug(ending), ending == A_MALFORMED_CALL
    found = [
        (step, at)
        for at, (of, step, category, marked) in enumerate(rows)
        if of == run
        and bool(marked) == is_malformed
        and (category != SOLVED if is_malformed else ending_slug(str(category)) == own)
    ]
    if not found:
        return []
    # of a group without a difference in reward nothing was learnt
    advantages = index.get("advantage") or [None] * len(index["run"])
    found = [each for each in found if advantages[each[1]]] or found
    last = max(step for step, _ in found)
    early, late = min(found)[1], next(at for step, at in found if step == last)
    return list(dict.fromkeys((early, late)))
