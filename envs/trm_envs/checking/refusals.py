"""Checks of refusals: malformed calls, bad options, steps outside an episode."""

import contextlib
from typing import Any

from gymnasium.error import ResetNeeded

from trm_envs.base import ToolEnv
from trm_envs.checking.episodes import MANY_TURNS
from trm_envs.checking.subject import Failed, Subject, episode

MALFORMED = {
    "hermes": (
        "<tool_call>\n{not json}\n</tool_call>",
        '<tool_call>{"name": "',
        "</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>',
        '<tool_call>{"name": 3}</tool_call>',
        "<tool_call>" + "[" * 3000 + "</tool_call>",
    ),
    "fenced": ("```python\nprint(1)",),
    "tags": (),
    "function_tags": (
        "<tool_call>\n<function=look_up>\n<parameter=key>\n1",
        "<tool_call>{}</tool_call>",
        "</tool_call>",
        "<tool_call>\n<function=no_such_tool>\n</function>\n</tool_call>",
    ),
    "arg_tags": (
        "<tool_call>look_up\n<arg_key>key</arg_key>\n<arg_value>1",
        "<tool_call>{}</tool_call>",
        "</tool_call>",
        "<tool_call>no_such_tool\n</tool_call>",
    ),
}
STEP = ("action", "observation", "reward", "terminated", "truncated", "info")
BAD_OPTIONS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"horizn": 3}, "horizon"),
    ({"split": "heldout"}, "held_out"),
    ({"horizon": 0}, "horizon"),
    ({"horizon": "4"}, "horizon"),
    ({"horizon": True}, "horizon"),
    ({"protocol": "herms"}, "hermes"),
    ({"max_observation_chars": 1}, "max_observation_chars"),
)


def malformed_calls_are_observations(subject: Subject) -> None:
    """Check that a malformed call is reported to the model and leaves the episode as it was."""
    has_solver = subject.has_solver()
    for name in subject.protocols():
        with subject.open(protocol=name) as env:
            for text in _malformed(name, env):
                env.reset(seed=subject.seed)
                observation, reward, terminated, truncated, info = env.step(text)
                what = f"the malformed turn {text!r:.80} ({name})"
                if terminated or truncated or reward:
                    raise Failed(f"{what} ended the episode or earned {reward}; go on with an observation")
                if not observation or info.get("malformed") is not True or info.get("num_tool_calls") != 0:
                    raise Failed(f'{what} got {observation!r:.80} and {info}; say what is wrong, "malformed": True')
                if has_solver:
                    _check_solvable(env, what)


def bad_options_are_refused(subject: Subject) -> None:
    """Check that an unknown or disallowed option raises a ValueError that names it, at make and at reset."""
    with subject.open() as env:
        for options, hint in BAD_OPTIONS:
            for place, call in (("make", lambda bad: subject.open(**bad).__enter__()), ("reset", _resetting(env))):
                _check_refused(f"{place} with {options}", hint, call, options)
        default = env.reset(seed=subject.seed)[1]["horizon"]
        before = env.options
        for other in ({"horizon": default - 1 if default > 1 else default + 1}, {"max_observation_chars": 12_345}):
            # an environment may have one horizon alone
            with contextlib.suppress(ValueError):
                env.reset(seed=subject.seed, options=other)
            env.reset(seed=subject.seed)
            if env.options != before:
                raise Failed("options of reset() last longer than one episode; leave self._defaults alone")


def steps_outside_an_episode_are_refused(subject: Subject) -> None:
    """Check that step raises ResetNeeded outside an episode, and TypeError for an action other than text."""
    with subject.open() as env:
        _check_reset_needed(env, "before reset()")
        env.reset(seed=subject.seed)
        try:
            env.step(3)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            raise Failed("step(3) was taken; raise a TypeError for anything but text")
        for _ in range(MANY_TURNS):
            _, _, terminated, truncated, _ = env.step(env.answer("nothing"))
            if terminated or truncated:
                _check_reset_needed(env, "after the end of the episode")
                _check_reset_needed_after_the_solver(subject, env)
                return
    raise Failed(f"{MANY_TURNS} answers did not end the episode; let follow_answer() return None at last")


def _malformed(protocol: str, env: ToolEnv) -> tuple[str, ...]:
    names = [tool.name for tool in env._tools]
    if protocol == "tags":
        return tuple(f"<{name}>" for name in names)
    no_such = [f'<tool_call>{{"name": "{name}", "arguments": {{"no_such": 1}}}}</tool_call>' for name in names]
    return MALFORMED[protocol] + (tuple(no_such) if protocol == "hermes" else ())


def _check_solvable(env: ToolEnv, what: str) -> None:
    for _ in range(MANY_TURNS):
        _, reward, terminated, truncated, info = env.step(env.solution())
        if terminated or truncated:
            if not info.get("success"):
                raise Failed(f"after {what} the solver earned {reward}; such a turn must change nothing")
            return
    raise Failed(f"after {what} the solver did not finish in {MANY_TURNS} turns")


def _resetting(env: ToolEnv) -> Any:
    return lambda bad: env.reset(options=bad)


def _check_refused(what: str, hint: str, call: Any, options: dict[str, Any]) -> None:
    try:
        call(options)
    except ValueError as error:
        if hint not in str(error):
            raise Failed(f'{what} is refused without a word of "{hint}": {error}') from error
        return
    raise Failed(f"{what} is accepted; call super().__post_init__() in the options class")


def _check_reset_needed_after_the_solver(subject: Subject, env: ToolEnv) -> None:
    """Check that an episode which a tool ended is over as well: its last turn earns nothing twice."""
    *_, last = episode(env, subject.seed)
    if len(last) == len(STEP) and (last[STEP.index("terminated")] or last[STEP.index("truncated")]):
        _check_reset_needed(env, "after the solver's last turn", last[STEP.index("action")])


def _check_reset_needed(env: ToolEnv, when: str, action: str = "hello") -> None:
    try:
        env.step(action)
    except ResetNeeded:
        return
    raise Failed(f"step() is taken {when}; leave step() to the base class, or raise gymnasium.error.ResetNeeded")
