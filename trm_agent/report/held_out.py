"""Why success on validation's tasks changed, in short: the same account, with each task paired."""

from collections.abc import Callable

from trm_agent.report.account import SUCCESSES, Change
from trm_agent.report.sources import Source
from trm_agent.report.validations import Ending, Played, is_success, paired, validations_of
from trm_agent.report.words import moved
from trm_agent.runs.failures import ending_family, ending_label

LEAST_SHARE = 5
NO_ENDINGS = "All this is about training episodes: how those of validation ended was not recorded before and after."


def held_out_sentence(source: Source) -> str:
    """Return how success of sampled validation changed, with the failures whose change chance does not explain."""
    found = [each for each in validations_of(source) if each.sampled]
    tasks = {*found[0].sampled} & {*found[-1].sampled} if len(found) > 1 else set()
    if not tasks:
        return NO_ENDINGS
    first, last = found[0], found[-1]
    success = paired(first.sampled, last.sampled, tasks, is_success)
    told = (
        f"The {len(tasks)} tasks of validation, sampled: success {success.before:.1f} % (step {first.step}) to "
        f"{success.after:.1f} % (step {last.step}), {moved(success)}, paired by task"
    )
    if not success.is_clear:
        return f"{told}; the interval holds 0, which may be chance."
    changes = _changes(first.sampled, last.sampled, tasks)
    shares = {name: -100 * each.difference / success.difference for name, each in changes.items() if each.is_clear}
    named = sorted((name for name, share in shares.items() if share >= LEAST_SHARE), key=lambda name: -shares[name])
    parts = [
        f"{shares[name]:.0f} % of the change: “{name}” {changes[name].before:.1f} to {changes[name].after:.1f} %, "
        f"{moved(changes[name])}"
        for name in named
    ]
    return f"{'; '.join([told, *parts])}."


def _changes(before: Played, after: Played, tasks: set[tuple[str, str]]) -> dict[str, Change]:
    """Return the change of each way to fail, mistakes of a family together."""
    names = {_name(slug) for side in (before, after) for task in tasks for slug, _ in side[task]} - {""}

    def has(name: str) -> Callable[[Ending], bool]:
        return lambda ending: _name(ending[0]) == name

    return {name: paired(before, after, tasks, has(name)) for name in names}


def _name(slug: str) -> str:
    """Return the family or the name of a way to fail; "" of a success."""
    return "" if slug in SUCCESSES else (ending_family(slug) or ending_label(slug)).removeprefix("wrong answer: ")
