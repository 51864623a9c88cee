"""Say in plain words why success changed, from the account of all training episodes; with tables and examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.report.account import FEWEST, Account, Change, Part, account_of, change_of, named, sides
from trm_agent.report.curves import number
from trm_agent.report.held_out import held_out_sentence
from trm_agent.report.skill import skill_sentences
from trm_agent.report.sources import Source
from trm_agent.report.words import cell, moved, points, span
from trm_agent.runs.failures import CLEAN, EXPLAINED, LUCKY, ending_slug

MOST_NAMED, LEAST_SHARE = 4, 5
"""Ways to fail that the text names, and the percent of the change that each must give."""
MALFORMED = "malformed call"
MEANINGS = {MALFORMED: "A turn whose call the environment could not read; the episode goes on after it."}
EACH_MALFORMED = "Every such episode had a malformed call."
ALL, SUCCESS = "all failures", "success"
ABOUT = (
    "In percent of all training episodes, means over the steps; changes in points with 95 % intervals over steps: one "
    "that holds 0 may be chance. Each episode is in one row, so the rows add up to "
    "the change; a row's episodes without and after a malformed call add up to the row. A right answer after a wrong "
    "call is a success: {lucky}."
)
ONE_SEED = (
    "A run is one sample: the intervals are over the steps or the tasks of this one; another seed may differ by more."
)
CHANCE = "The interval holds 0: no change of success is distinguishable from chance, so there is none to explain."
OLDER = (
    "A version that did not count the endings of all episodes (env/ending/... in metrics.jsonl) made this run, so its "
    "change cannot be split exactly; the table “What changed over training” splits it by and large."
)
PARTLY = (
    "Some of these steps did not record the endings of all their episodes (env/ending/... in metrics.jsonl), as a "
    "version before did not, so the change cannot be split exactly."
)
UNEVEN = (
    "The shares of endings (env/ending/... in metrics.jsonl) do not add up to 100 % in some of these steps, so the "
    "change cannot be split."
)
ABOUT_HORIZONS = "The same among the episodes of each horizon; a column's failures add up to minus its success."


def why_sections(sources: Sequence[Source], index: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return for each run with enough steps why its success changed.

    Args:
        sources: the folders.
        index: columns of the list of episodes: `run`, `step`, `category`.

    Returns:
        JSON-clean: `title`, `scope` (which success is explained), `sentences`, and `tables`, each with `columns`,
        `rows`, `about`, `explained` (meaning of a row's name) and `examples` (of a row's name, the numbers of episodes
        in the list).
    """
    found = []
    for run, source in enumerate(sources):
        steps = [row for row in source.metrics if number(row.get("env/success")) is not None]
        if source.kind != "run" or len(steps) < FEWEST:
            continue
        account = account_of(steps)
        told = [_older(steps), _why_none(steps)] if account is None else sentences(account)
        way = direction(_success(steps))
        title = "Why success changed"
        found.append(
            {
                "title": f"{title}: {source.label}" if len(sources) > 1 else title,
                "scope": _scope(source),
                "sentences": [*told, held_out_sentence(source), *skill_sentences(source, steps, way)],
                "tables": [] if account is None else _tables(account, run, index),
            }
        )
    return found


def _scope(source: Source) -> str:
    config: Any = source.config.get("actor_rollout_ref")
    for name in ("rollout", "temperature"):
        config = config.get(name) if isinstance(config, dict) else None
    at = "" if number(config) is None else f" at temperature {config}"
    trained = source.trained_horizons
    of = f", of horizons {', '.join(map(str, trained))}" if isinstance(trained, list) and trained else ""
    return (
        f"Explained is the success of the training episodes, sampled{at}{of}. The "
        f"results above are of validation's tasks; one line below is about these. {ONE_SEED}"
    )


def direction(success: Change) -> int:
    """Return 1 where success rose, -1 where it fell, 0 where chance is not excluded."""
    return (1 if success.difference > 0 else -1) if success.is_clear else 0


def _success(steps: Sequence[Mapping[str, Any]]) -> Change:
    """Return the change of the episodes' success, which is that of the account where there is one."""
    return change_of(*([100 * (number(row["env/success"]) or 0.0) for row in side] for side in sides(steps)))


def _older(steps: Sequence[Mapping[str, Any]]) -> str:
    success, (first, last) = _success(steps), map(named, sides(steps))
    verb = {1: "rose", -1: "fell", 0: "went"}[direction(success)]
    return _headline(verb, success, first, last) + ("" if direction(success) else f" {CHANCE}")


def _why_none(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return why the steps have no account."""
    counted = [any(name.startswith(CLEAN) for name in row) for side in sides(steps) for row in side]
    return OLDER if not any(counted) else UNEVEN if all(counted) else PARTLY


def _headline(verb: str, success: Change, first: str, last: str) -> str:
    between = f"from {success.before:.1f} % ({first}) to {success.after:.1f} % ({last})"
    return f"Success of the training episodes {verb} {between}, {points(success)}."


def sentences(account: Account) -> list[str]:
    """Return the account in words; of causes only those whose change chance does not explain."""
    way = direction(account.success)
    if not way:
        return [_headline("went", account.success, account.first, account.last), CHANCE]
    return [
        _headline("rose" if way > 0 else "fell", account.success, account.first, account.last),
        *_causes(account, way),
        *_malformed(account),
        *_by_horizon(account),
    ]


def _causes(account: Account, way: int) -> list[str]:
    total = account.failures.difference
    toward = [part for part in account.causes if part.whole.is_clear and way * part.whole.difference < 0]
    against = [part for part in account.causes if part.whole.is_clear and way * part.whole.difference > 0]
    named = [part for part in toward if 100 * part.whole.difference / total >= LEAST_SHARE][:MOST_NAMED]
    rarer, more = ("rarer", "more frequent") if way > 0 else ("more frequent", "rarer")
    found = [_cause(part, total, way) for part in named]
    if named:
        rest = 100 - sum(100 * part.whole.difference / total for part in named)
        found.append(f"All other ways to fail together: {rest:.0f} % of the change.")
    elif toward:
        found.append(f"Many ways to fail became {rarer}, each of which gives less than {LEAST_SHARE} % of the change.")
    else:
        found.append(f"No single way to fail became {rarer} by more than chance explains.")
    if against:
        how = f"became {more}"
        others = [f"{_quoted(part.ending)} {how}, {span(part.whole)}" for part in against[:2]]
        found.append(f"Against it: {'; '.join(others)}.")
    return found


def _cause(part: Part, total: float, way: int) -> str:
    share = f"{100 * part.whole.difference / total:.0f} % of the change"
    how = "became rarer" if way > 0 else "became more frequent"
    kind = " as first mistake" if part.members else ""
    told = f"{share}: {_quoted(part.ending)}{kind} {how}, {span(part.whole)}. {_meaning(part.ending)}".strip()
    if part.members:
        members = "; ".join(f"{_quoted(each.ending)} {moved(each.whole)}" for each in part.members)
        return f"{told} In points: {members}."
    return f"{told} {EACH_MALFORMED}" if _each_malformed(part) else told


def _each_malformed(part: Part) -> bool:
    return bool(part.malformed.before or part.malformed.after) and not (part.clean.before or part.clean.after)


def _malformed(account: Account) -> list[str]:
    found = account.malformed
    if not (found.before or found.after):
        return ["In these steps no episode failed after a malformed call."]
    told = f"Seen another way: failures after a malformed call, whatever their kind, went {span(found)}"
    return [f"{told}{'' if found.is_clear else ', which may be chance'}. They are among those above, not beside them."]


def _by_horizon(account: Account) -> list[str]:
    told = [
        f"horizon {horizon} {own.success.before:.1f} to {own.success.after:.1f} %, {points(own.success)}"
        for horizon, own in account.horizons.items()
    ]
    return [f"By length of the task: {'; '.join(told)}."] if told else []


def _tables(account: Account, run: int, index: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    total = account.failures.difference

    def row(name: str, whole: Change, clean: Change | None, malformed: Change | None) -> list[str]:
        share = f"{100 * whole.difference / total:.0f} %" if direction(account.success) and name != SUCCESS else ""
        ends = [f"{whole.before:.1f}", f"{whole.after:.1f}"]
        return [
            name,
            *ends,
            moved(whole),
            share,
            *("" if each is None else cell(each) for each in (clean, malformed)),
        ]

    rows = [row(SUCCESS, account.success, None, None)]
    rows += [row(part.ending, part.whole, part.clean, part.malformed) for part in account.parts]
    rows.append(row(ALL, account.failures, account.clean, account.malformed))
    heads = [
        "% of training episodes",
        account.first,
        account.last,
        "change",
        "share of the change",
        "without a malformed call",
        "after a malformed call",
    ]
    names = [part.ending for part in account.parts]
    examples = {name: found for name in names if (found := _examples(name, run, index))}
    explained = {name: told for name in (*names, LUCKY) if (told := _meaning(name))} | MEANINGS
    for part in filter(_each_malformed, account.parts):
        explained[part.ending] = f"{explained.get(part.ending, '')} {EACH_MALFORMED}".strip()
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
    by_name = [{part.ending: part.whole for part in each.parts} for each in own]
    rows = [[SUCCESS, *(cell(each.success) for each in own)]]
    rows += [[part.ending, *(cell(of.get(part.ending)) for of in by_name)] for part in account.parts]
    return [
        {
            "columns": ["% of these episodes", *(f"horizon {each}" for each in account.horizons)],
            "rows": rows,
            "about": ABOUT_HORIZONS,
        }
    ]


def _meaning(ending: str) -> str:
    return {ending_slug(name): told for name, told in EXPLAINED.items()}.get(ending_slug(ending), "")


def _examples(ending: str, run: int, index: Mapping[str, Sequence[Any]]) -> list[int]:
    """Return an early and a late recorded episode that ended so, of the first and the last step that have one.

    Those of a group with a difference in reward come first.
    """
    rows = zip(index["run"], index["step"], index["category"], strict=True)
    # a label has lost what a metric's name cannot hold, such as capitals
    own = ending_slug(ending)
    found = [
        (step, at) for at, (of, step, category) in enumerate(rows) if of == run and ending_slug(str(category)) == own
    ]
    if not found:
        return []
    # of a group without a difference in reward nothing was learnt
    advantages = index.get("advantage") or [None] * len(index["run"])
    found = [each for each in found if advantages[each[1]]] or found
    last = max(step for step, _ in found)
    early, late = min(found)[1], next(at for step, at in found if step == last)
    return list(dict.fromkeys((early, late)))


def _quoted(name: str) -> str:
    return f"“{name.removeprefix('wrong answer: ')}”"
