"""Checks of whole episodes: seeds, the solver, junk, observations, the splits."""

import itertools
import json
import math
import pickle
import random
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env

from trm_envs.base import ToolEnv
from trm_envs.checking.subject import Failed, Skipped, Subject, episode, transcript, transcript_elsewhere
from trm_envs.protocols import PROTOCOLS

MANY_TURNS = 500
ROUNDING = 1e-9
REPEATS = 30
NUM_TASKS = 1500
SPLIT_LIMIT_S = 0.5
IDLE = "Let me think."
JUNK_ANSWERS = ("", "nothing", "-123456789", "\x00", "{", "1e999", "None", "[]", "()", "\\frac{1}{0}")
JUNK = (
    "",
    "hello",
    "\x00\ud800 中",
    "\\boxed{",
    "</tool_call>",
    "<tool_call>[1]</tool_call>",
    "<answer>",
    "```python\n1",
)
ONE_TASK = "one_task: training and validation share the task, and results are not held out"


def gymnasium_accepts(subject: Subject) -> None:
    """Check that Gymnasium's own checker finds no fault."""
    with warnings.catch_warnings(), subject.open() as env:
        warnings.simplefilter("error")
        # gymnasium makes the environment anew from its spec for this; a plain class has no spec
        check_env(env, skip_render_check=env.spec is None)


def same_seed_same_episode(subject: Subject) -> None:
    """Check that instances with one seed show the same, byte for byte, even if their episodes interleave."""
    with subject.open() as one, subject.open() as two, subject.open() as three:
        alone = json.dumps(transcript(one, subject.seed))
        pairs = list(zip(episode(two, subject.seed), episode(three, subject.seed), strict=False))
        for shown in (json.dumps([pair[0] for pair in pairs]), json.dumps([pair[1] for pair in pairs])):
            if shown != alone:
                raise Failed(
                    f"two instances with one seed differ {_where(alone, shown)}; draw from self.np_random only"
                )


def same_seed_elsewhere(subject: Subject) -> None:
    """Check that a fresh process, with another hash seed, shows the same."""
    with subject.open() as env:
        here = json.dumps(transcript(env, subject.seed))
    there = transcript_elsewhere(subject, subject.seed, {})
    if here != there:
        raise Failed(f"a fresh process shows another episode {_where(here, there)}; sort sets, and use no hash()")


def seeds_differ(subject: Subject) -> None:
    """Check that different seeds draw different tasks."""
    with subject.open() as env:
        ids = {env.reset(seed=subject.seed + i)[1]["task_id"] for i in range(20)}
        if env.one_task and len(ids) > 1:
            raise Failed(f"one_task is True, and 20 seeds drew {len(ids)} tasks; leave it out, to hold tasks out")
        if env.one_task:
            raise Skipped(ONE_TASK)
    if len(ids) < 2:
        raise Failed(
            "20 seeds drew one and the same task; draw the task from self.np_random in make_task(), or, if there is "
            "only one, set one_task=true"
        )


def global_random_state_untouched(subject: Subject) -> None:
    """Check that an episode neither draws from nor seeds the process-wide generators."""
    with subject.open() as env:
        before = _global_state()
        transcript(env, subject.seed)
        after = _global_state()
    if before != after:
        raise Failed("an episode draws from (or seeds) the global random state; draw from self.np_random")


def solver_wins(subject: Subject, horizon: int) -> str:
    """Check that the scripted solver earns the full reward at a horizon, and nothing before the end.

    Returns:
        The seed, if its task is another than the subject's, for which there is no solver; else "".
    """
    solved = subject.at_solved_task()
    with _at_horizon(solved, horizon) as env:
        _solve(env, solved.seed, f"at horizon {horizon}")
    passed = f"{subject.seed} to {solved.seed - 1}" if solved.seed - subject.seed > 1 else f"{subject.seed}"
    return f"with seed {solved.seed}; of seed {passed} there is no solver" if solved != subject else ""


def rewards_are_bounded(subject: Subject) -> None:
    """Check that an episode's return stays in `reward_range`, and that nobody gains by not finishing."""
    with subject.open() as env:
        least, most = env.reward_range
        if least < 0 and not env.unfinished_reward <= (least if math.isfinite(least) else 0.0):
            raise Failed(
                f"reward_range starts at {least}, and unfinished_reward is {env.unfinished_reward}: a policy would do "
                "best by never finishing; set at most the worst return of a finished episode"
            )
        turns = [action for action, *_ in itertools.islice(episode(env, subject.seed), 1, REPEATS)]
        # as the solver plays, and each of its turns again and again
        for played in (turns, *([turn] * REPEATS for turn in dict.fromkeys(turns[:3]))):
            total = math.fsum(_rewards(env, subject.seed, played))
            if not least - ROUNDING <= total <= most + ROUNDING:
                raise Failed(
                    f"the rewards of {len(played)} turns such as {played[0]!r:.80} add up to {total:g}; reward_range "
                    f"is {env.reward_range}"
                )


def _rewards(env: ToolEnv, seed: int, turns: list[str]) -> Iterator[float]:
    env.reset(seed=seed)
    for turn in turns:
        _, reward, terminated, truncated, _ = env.step(turn)
        yield float(reward)
        if terminated or truncated:
            return


def many_turns(subject: Subject) -> None:
    """Check an episode of 500 turns: turns that neither call nor answer change nothing."""
    with subject.open() as env:
        env.reset(seed=subject.seed)
        for turn in range(MANY_TURNS):
            _, reward, terminated, truncated, _ = env.step(IDLE)
            if reward > 0:
                raise Failed(f"turn {turn} of an idle policy earned {reward}; only an answer or a tool may pay")
            if terminated or truncated:
                raise Skipped(f"the episode of an idle policy ends after {turn + 1} turns")
    if subject.has_solver():
        with subject.open() as env:
            _solve(env, subject.seed, f"after {MANY_TURNS} idle turns", num_idle=MANY_TURNS)


def junk_earns_nothing(subject: Subject) -> None:
    """Check that a policy that knows nothing earns nothing, in any protocol."""
    for name in subject.protocols():
        answers = [PROTOCOLS[name].format_answer(text) for text in JUNK_ANSWERS]
        with subject.open(protocol=name) as env:
            for text in (*JUNK, *answers):
                env.reset(seed=subject.seed)
                for _ in range(10):
                    _, reward, terminated, truncated, info = env.step(text)
                    if error := info.get("scorer_error"):
                        raise Failed(f"the turn {text!r} ({name}): {error}; it counts as wrong, but say so: return 0.0")
                    if reward > 0 or info.get("success"):
                        raise Failed(f"the turn {text!r} ({name}) earned {reward}; score() must give it 0.0")
                    if terminated or truncated:
                        break


def shown_is_json(subject: Subject) -> None:
    """Check that an episode's output is JSON, lies in the spaces, and has the fields that trainers read."""
    with subject.open() as env:
        shown = transcript(env, subject.seed)
        (prompt, schemas, observation, info), *steps = shown
        for what, value in (("tool_schemas", schemas), ("the info of reset", info), ("system_prompt", prompt)):
            _check_json(what, value)
        _check_types("the info of reset", info, {"task_id": str, "horizon": int})
        for text in (observation, *(step[1] for step in steps)):
            if not env.observation_space.contains(text):
                raise Failed(f"the observation {text!r:.80} is not in observation_space")
        for action, _, reward, terminated, truncated, info in steps:
            _check_json("the info of step", info)
            _check_types("the info of step", info, {"num_tool_calls": int, "malformed": bool, "role": str})
            if info["role"] not in ("tool", "user"):
                raise Failed(f'info["role"] is {info["role"]!r}; it must be "tool" or "user"')
            if not env.action_space.contains(action):
                raise Failed(f"the solver's turn {action!r:.80} is not in action_space")
            least, most = env.reward_range
            if type(reward) is not float or not math.isfinite(reward) or not least <= reward <= most:
                raise Failed(f"the reward is {reward!r}; it must be a finite float from {least:g} to {most:g}")
            if terminated and not truncated:
                _check_types("the last info", info, {"success": bool, "numbers": dict})


def splits_are_apart(subject: Subject) -> None:
    """Check that held-out and training tasks exist and are disjoint, by id and by an episode's observations."""
    ids, contents = {}, {}
    with subject.open() as env:
        if env.one_task:
            raise Skipped(ONE_TASK)
    for split in ("train", "held_out"):
        with _at_horizon(subject, 1, split=split) as env:
            seeds = iter(range(NUM_TASKS))
            ids[split] = {env.reset(seed=seed)[1]["task_id"] for seed in _for_a_while(seeds)}
            shown = (json.dumps(_without_ids(transcript(env, seed))) for seed in _for_a_while(iter(range(200))))
            contents[split] = set(shown)
    if shared := ids["train"] & ids["held_out"]:
        raise Failed(f"{len(shared)} tasks are both in train and held_out; leave options.split to the base class")
    if subject.has_solver() and (leaked := contents["train"] & contents["held_out"]):
        raise Failed(
            f"{len(leaked)} held-out episodes, as the solver plays them, equal training ones; task_key must be what "
            "makes the task, alone: nothing that its episode does not show"
        )


def _solve(env: ToolEnv, seed: int, when: str, num_idle: int = 0) -> None:
    shown = episode(env, seed)
    next(shown)
    for _ in range(num_idle):
        env.step(IDLE)
    total, number, info = 0.0, 0, dict[str, Any]()
    for number, (action, observation, reward, _, _, info) in enumerate(shown):
        total += reward
        if info["malformed"]:
            raise Failed(f"{when} turn {number} of the solver is malformed: {action!r:.200} -> {observation!r:.200}")
    is_full = env.reward_range[1] != 1.0 or math.isclose(total, 1.0)
    if not is_full or info.get("success") is not True or "scorer_error" in info:
        why = info.get("scorer_error") or info.get("stop_reason") or "score() must give its answer 1.0"
        raise Failed(f"{when} the solver earned {total} in {number + 1} turns; {why}")


def _global_state() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state()))


class _at_horizon:
    """Open the subject at a horizon; skip the check if the environment refuses that horizon."""

    def __init__(self, subject: Subject, horizon: int, **options: Any) -> None:
        try:
            self._open = subject.open(horizon=horizon, **options)
            self._env = self._open.__enter__()
        except ValueError as error:
            raise Skipped(f"horizon {horizon} is refused: {error}") from error

    def __enter__(self) -> ToolEnv:
        return self._env

    def __exit__(self, *exc: Any) -> None:
        self._open.__exit__(*exc)


def _for_a_while(seeds: Iterator[int]) -> Iterator[int]:
    """Yield at least ten seeds, and more until the time is up."""
    end = time.monotonic() + SPLIT_LIMIT_S
    return itertools.takewhile(lambda seed: seed < 10 or time.monotonic() < end, seeds)


def _without_ids(shown: list[Any]) -> list[Any]:
    first, *steps = shown
    return [first[2], *steps]


def _where(one: str, two: str) -> str:
    place = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    start = max(place - 20, 0)
    return f"at character {place}: {one[start : place + 40]!r} and {two[start : place + 40]!r}"


def _check_json(what: str, value: Any) -> None:
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError) as error:
        raise Failed(f"{what} is not JSON ({error}); return str, int, float, bool, None, lists and dicts") from error
    if not same:
        raise Failed(f"{what} changes on the way through JSON: {value!r:.120}; use lists for tuples, and text keys")


def _check_types(what: str, info: dict[str, Any], kinds: dict[str, type]) -> None:
    for key, kind in kinds.items():
        if type(info.get(key)) is not kind:
            raise Failed(f'{what}: "{key}" is {info.get(key)!r:.80}; it must be of type {kind.__name__}')
