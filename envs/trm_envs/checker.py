"""The contract test of an environment, for this package's own and for a user's.

from trm_envs.checker import assert_passes

def test_contract():
    assert_passes("my_package:me/MyEnv-v0")
"""

import dataclasses
import functools
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trm_envs.checking import episodes, fuzzing, refusals, resources
from trm_envs.checking.subject import Failed, Skipped, Subject, resolve
from trm_envs.protocols import PROTOCOLS
from trm_fields import OneOf

HORIZONS = (1, 4, 50)
NUM_FUZZ = 300
DEADLINE_S = 10.0
FUZZ_BUDGET_S = 60.0
CHECK_LIMIT_S = 600.0
CHECKS: dict[str, Callable[[Subject], Any]] = {
    "gymnasium": episodes.gymnasium_accepts,
    "same_seed": episodes.same_seed_same_episode,
    "fresh_process": episodes.same_seed_elsewhere,
    "seeds_differ": episodes.seeds_differ,
    "global_random": episodes.global_random_state_untouched,
    "many_turns": episodes.many_turns,
    "junk": episodes.junk_earns_nothing,
    "rewards": episodes.rewards_are_bounded,
    "json": episodes.shown_is_json,
    "splits": episodes.splits_are_apart,
    "malformed": refusals.malformed_calls_are_observations,
    "options": refusals.bad_options_are_refused,
    "outside_episode": refusals.steps_outside_an_episode_are_refused,
    "close": resources.close_releases_everything,
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    """The check's name."""
    outcome: str
    """ "ok", "failed" or "skipped"."""
    message: str = ""
    """Fault and remedy, the reason for skipping, or figures."""
    seconds: float = 0.0
    """Duration."""

    @property
    def failed(self) -> bool:
        """Return whether the environment breaks the contract here."""
        return self.outcome == "failed"


def check(
    env: str | Callable[..., Any],
    *,
    horizons: Sequence[int] = HORIZONS,
    options: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
    num_fuzz: int = NUM_FUZZ,
    fuzz_budget_s: float = FUZZ_BUDGET_S,
    deadline_s: float = DEADLINE_S,
    check_limit_s: float = CHECK_LIMIT_S,
    seed: int = 7,
) -> list[Finding]:
    """Check an environment against the contract of `ToolEnv`.

    Args:
        env: a registered id; "module:id", if importing the module registers it; or a class or function that
            makes the environment.
        horizons: the horizons at which the scripted solver must earn the full reward.
        options: options of every instance.
        only: the names of the checks to run, from `check_names`; None for all.
        num_fuzz: number of model outputs in each protocol.
        fuzz_budget_s: seconds that slow steps may take in each protocol; later calls and answers are only parsed.
        deadline_s: the largest number of seconds that one step may take.
        check_limit_s: seconds after which a check counts as hanging and is given up, with all later ones.
        seed: seed of the tasks and the outputs.

    Returns:
        A finding for each check, in the order of `check_names`.

    Raises:
        ValueError: if there is no such environment or check, or it is not a `ToolEnv`.
    """
    settings = {"num_fuzz": num_fuzz, "fuzz_budget_s": fuzz_budget_s, "deadline_s": deadline_s, "seed": seed}
    found = findings(env, horizons=horizons, options=options, only=only, check_limit_s=check_limit_s, **settings)
    return list(found)


def findings(
    env: str | Callable[..., Any],
    *,
    horizons: Sequence[int] = HORIZONS,
    options: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
    check_limit_s: float = CHECK_LIMIT_S,
    **settings: Any,
) -> Iterator[Finding]:
    """Yield the findings of `check`, which has the same arguments, as they are made."""
    names = check_names(horizons)
    if unknown := sorted(set(only or ()) - set(names)):
        OneOf(names).check("only", unknown[0])
    subject = resolve(env, options or {}, **settings)
    yield from _run_all(subject, [name for name in names if only is None or name in only], check_limit_s)


def check_names(horizons: Sequence[int] = HORIZONS) -> list[str]:
    """Return the names of the checks at these horizons."""
    return [*CHECKS, *(f"solver:{horizon}" for horizon in horizons), *(f"fuzz:{name}" for name in PROTOCOLS)]


def assert_passes(env: str | Callable[..., Any], **settings: Any) -> None:
    """Raise an AssertionError that lists the faults that `check` finds; takes the same arguments."""
    failures = [f"{finding.check}: {finding.message}" for finding in check(env, **settings) if finding.failed]
    assert not failures, "\n".join([f"{env} breaks the contract of an environment:", *failures])


def _run_all(subject: Subject, names: Sequence[str], limit_s: float) -> Iterator[Finding]:
    hangs = False
    for name in names:
        if hangs:
            yield Finding(name, "skipped", "an earlier check hangs")
            continue
        finding = _run(name, subject, limit_s)
        hangs = finding is None
        yield finding or Finding(
            name, "failed", f"did not return within {limit_s:g} s; bound what it waits for", limit_s
        )


def _run(name: str, subject: Subject, limit_s: float) -> Finding | None:
    """Run one check in a thread of its own, as trainers step environments; return None if it hangs."""
    found: list[Finding] = []
    started = time.perf_counter()

    def target() -> None:
        outcome, message = _outcome(_check_called(name), subject)
        found.append(Finding(name, outcome, message, round(time.perf_counter() - started, 3)))

    thread = threading.Thread(target=target, name=f"check-{name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else None


def _check_called(name: str) -> Callable[[Subject], Any]:
    kind, _, argument = name.partition(":")
    if kind == "solver":
        return functools.partial(episodes.solver_wins, horizon=int(argument))
    if kind == "fuzz":
        return functools.partial(fuzzing.fuzz_protocol, protocol=argument)
    return CHECKS[name]


def _outcome(run: Callable[[Subject], Any], subject: Subject) -> tuple[str, str]:
    try:
        return "ok", run(subject) or ""
    except Skipped as note:
        return "skipped", str(note)
    except Failed as failure:
        return "failed", str(failure)
    except BaseException as error:
        # SystemExit too: whatever an environment raises is a finding about it.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        return "failed", f"{type(error).__name__}: {error!s:.300} (at {place})"
