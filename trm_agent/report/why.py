"""Say in plain words why success changed: the answer in a sentence, then what it rests on."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.report.account import FEWEST, LEAST, Account, Change, Part, account_of, change_of, named, sides
from trm_agent.report.curves import number
from trm_agent.report.held_out import NO_ENDINGS, greedy_sentence, held_out_sentence
from trm_agent.report.parts import rest_of, risen_between, share_of
from trm_agent.report.plays import plays_of
from trm_agent.report.skill import between_sentence, sharpness_sentence, skill_clause, span_sentence
from trm_agent.report.sources import Source
from trm_agent.report.why_tables import account_tables, meaning
from trm_agent.report.words import moved, points, quoted, span
from trm_agent.runs.failures import A_MALFORMED_CALL, CLEAN

MOST_NAMED, IN_ANSWER, LEAST_SHARE = 4, 2, 5
"""Ways to fail that the text and its first sentence name, and the percent of the change that each must give."""
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
SHORT = (
    "Why success changed takes at least {fewest} training steps, since the first {side} are compared with the last "
    "{side}; this run has {num} so far."
)
UNEVEN = (
    "The shares of endings (env/ending/... in metrics.jsonl) do not add up to 100 % in some of these steps, so the "
    "change cannot be split."
)


def why_sections(sources: Sequence[Source], index: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return for each run why its success changed, with too few steps what its validations tell.

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
        if source.kind != "run" or not steps:
            continue
        account, title = account_of(steps), "Why success changed"
        is_short = len(steps) < FEWEST
        found.append(
            {
                "title": f"{title}: {source.label}" if len(sources) > 1 else title,
                "scope": "" if is_short else _scope(source),
                "sentences": _short(source, len(steps)) if is_short else _sentences(source, steps, account),
                "tables": [] if account is None else account_tables(account, run, index),
            }
        )
    return found


def _sentences(source: Source, steps: Sequence[Mapping[str, Any]], account: Account | None) -> list[str]:
    """Return the answer in one sentence, then what it rests on."""
    success = _success(steps) if account is None else account.success
    way, (first, last), plays = direction(success), sides(steps), plays_of(source)
    causes = [] if account is None or not way else _toward(account, way)
    greedy, partly = [], ""
    if not isinstance(plays, str):
        partly = span_sentence(plays, first, last)
        greedy = [greedy_sentence(source, plays), between_sentence(plays), partly]
    told = [
        _answer(success, causes, skill_clause(plays, way, is_partial=bool(partly))),
        _numbers(success, named(first), named(last), account),
    ]
    if not way:
        told.insert(1, CHANCE)
    if account is None:
        told.insert(1, _why_none(steps))
    elif way:
        told += _causes(account, causes, way)
        if between := risen_between(steps):
            told.append(f"In between: {'; '.join(between[:2])}.")
    told += [held_out_sentence(source), " ".join(filter(None, greedy)), sharpness_sentence(plays, steps, way)]
    return [*filter(None, told)]


def _short(source: Source, num: int) -> list[str]:
    """Return why a run of few steps has no account, and how its validations changed."""
    plays, sampled = plays_of(source), held_out_sentence(source)
    greedy = "" if isinstance(plays, str) else greedy_sentence(source, plays)
    told = [SHORT.format(fewest=FEWEST, side=LEAST, num=num), sampled.replace(NO_ENDINGS, ""), greedy]
    return [*filter(None, told)]


def _scope(source: Source) -> str:
    config: Any = source.config.get("actor_rollout_ref")
    for name in ("rollout", "temperature"):
        config = config.get(name) if isinstance(config, dict) else None
    at = "" if number(config) is None else f" at temperature {config}"
    trained = source.trained_horizons
    of = f", of horizons {', '.join(map(str, trained))}" if isinstance(trained, list) and trained else ""
    return (
        f"Explained is the success of the training episodes, sampled{at}{of}; the results above are of validation. "
        f"{ONE_SEED}"
    )


def direction(success: Change) -> int:
    """Return 1 where success rose, -1 where it fell, 0 where chance is not excluded."""
    return (1 if success.difference > 0 else -1) if success.is_clear else 0


def _success(steps: Sequence[Mapping[str, Any]]) -> Change:
    """Return the change of the episodes' success, which is that of the account where there is one."""
    return change_of(*([100 * (number(row["env/success"]) or 0.0) for row in side] for side in sides(steps)))


def _why_none(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return why the steps have no account."""
    counted = [any(name.startswith(CLEAN) for name in row) for side in sides(steps) for row in side]
    return OLDER if not any(counted) else UNEVEN if all(counted) else PARTLY


def _answer(success: Change, causes: Sequence[Part], skill: str) -> str:
    """Return how success changed, why, and whether greedy play says that it is skill."""
    verb = {1: "rose by", -1: "fell by", 0: "changed by"}[direction(success)]
    by = points(success)
    if direction(success):
        ends = sorted((success.low, success.high)) if success.difference > 0 else (-success.high, -success.low)
        by = f"{abs(success.difference):.1f} points [{', '.join(f'{end:.1f}' for end in ends)}]"
    how = "became rarer" if success.difference > 0 else "became more frequent"
    why = " and ".join(f"{quoted(part.ending)} {how} ({moved(part.whole)})" for part in causes[:IN_ANSWER])
    return f"Success of the training episodes {verb} {by}{f' because {why}' if why else ''}{skill}."


def _numbers(success: Change, first: str, last: str, account: Account | None) -> str:
    told = f"It went from {success.before:.1f} % ({first}) to {success.after:.1f} % ({last})"
    own = [
        f"horizon {horizon} {each.success.before:.1f} to {each.success.after:.1f} %, {points(each.success)}"
        for horizon, each in (account.horizons.items() if account else ())
    ]
    return f"{told}; by length of the task: {'; '.join(own)}." if own else f"{told}."


def _toward(account: Account, way: int) -> list[Part]:
    """Return the causes that chance does not explain and that give enough of the change."""
    total = account.failures.difference
    toward = (part for part in account.causes if part.whole.is_clear and way * part.whole.difference < 0)
    return [part for part in toward if 100 * part.whole.difference / total >= LEAST_SHARE][:MOST_NAMED]


def _causes(account: Account, causes: Sequence[Part], way: int) -> list[str]:
    """Return the first cause in a line, all others in another."""
    rarer, more = ("rarer", "more frequent") if way > 0 else ("more frequent", "rarer")
    against = [part for part in account.causes if part.whole.is_clear and way * part.whole.difference > 0]
    found = [_cause(part, account, rarer) for part in causes]
    rest = rest_of(causes, account) if causes else None
    if rest is not None:
        found.append(f"All other ways to fail together: {span(rest)}{'' if rest.is_clear else ', may be chance'}.")
    elif small := sum(part.whole.is_clear and way * part.whole.difference < 0 for part in account.causes if not causes):
        ways = "1 way to fail," if small == 1 else f"{small} ways to fail, each"
        found.append(
            f"{ways} with less than {LEAST_SHARE} % of the change, became {rarer} by more than chance explains."
        )
    elif not causes:
        found.append(f"No single way to fail became {rarer} by more than chance explains.")
    others = [f"{quoted(part.ending)} became {more}, {span(part.whole)}" for part in against[:2]]
    none = f"None became {more} in training by more than chance explains."
    found.append(f"Against it: {'; '.join(others)}." if others else none)
    return [found[0], *([" ".join(found[1:])] if found[1:] else [])]


def _cause(part: Part, account: Account, how: str) -> str:
    share = share_of(part, account)
    kind = " as first mistake" if part.members and part.ending != A_MALFORMED_CALL else ""
    of = f", {share} of the change" if share else ""
    if of and part.whole.difference / account.failures.difference > 1:
        of += " (more than all of it, as others went the other way)"
    told = f"{quoted(part.ending)}{kind} became {how}, {span(part.whole)}{of}. {meaning(part.ending)}".strip()
    members = "; ".join(f"{quoted(each.ending)} {moved(each.whole)}" for each in part.members)
    return f"{told} In points: {members}." if members else told
