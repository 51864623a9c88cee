"""The check that no model output breaks an environment or hangs it."""

import dataclasses
import math
import time
from typing import Any

from trm_envs.base import ToolEnv
from trm_envs.checking.subject import Failed, Skipped, Subject
from trm_envs.errors import InfrastructureError
from trm_envs.fuzz import TurnFuzzer
from trm_envs.tools import Tool
from trm_envs.turn import ParsedTurn

TURNS_AN_EPISODE = 25
SLOW_S = 0.002
SEED_EPISODES = 3
ROUNDING = 1e-9
MAX_SEED_TURNS = 30


@dataclasses.dataclass
class FuzzCounts:
    """The outcome of one run."""

    outputs: int = 0
    calls: int = 0
    malformed: int = 0
    answers: int = 0
    parsed_only: int = 0
    paid: float = 0.0
    slowest_s: float = 0.0
    wall_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.outputs} outputs in {self.wall_s:.1f} s: {self.calls} ran a tool, {self.malformed} malformed, "
            f"{self.answers} ended an episode, {self.parsed_only} parsed only; the slowest step took "
            f"{self.slowest_s * 1000:.0f} ms"
        )


def fuzz_protocol(subject: Subject, protocol: str) -> str:
    """Step the environment through mutated and random outputs; return the figures."""
    if subject.num_fuzz < 1:
        raise Skipped("no outputs were asked for")
    if protocol not in subject.protocols():
        raise Skipped(f"the environment's tools cannot be called in the protocol {protocol}")
    fuzzer = TurnFuzzer(_solver_turns(subject), _names(subject), subject.seed)
    counts = FuzzCounts()
    started = time.perf_counter()
    left_s = subject.fuzz_budget_s
    with subject.open(protocol=protocol) as env:
        left_turns = 0
        for number in range(subject.num_fuzz):
            if left_turns == 0:
                env.reset(seed=subject.seed + number)
                left_turns, counts.paid = TURNS_AN_EPISODE, 0.0
            text = next(fuzzer)
            where = f"output {number} of seed {subject.seed} ({protocol}), {text!r:.300}"
            counts.outputs += 1
            step_started = time.perf_counter()
            # Slow steps have a budget: a mutated call costs a sandbox's run, a mutated answer a verifier's.
            if left_s <= 0 and _is_costly(env.protocol.parse(text, env._tools)):
                counts.parsed_only += 1
                ended = False
            else:
                ended = _step(env, text, counts, where)
            took_s = time.perf_counter() - step_started
            counts.slowest_s = max(counts.slowest_s, took_s)
            if took_s > subject.deadline_s:
                raise Failed(f"{where}: took {took_s:.2f} s, more than {subject.deadline_s:g}; bound what step() does")
            left_s -= took_s if took_s > SLOW_S else 0.0
            left_turns = 0 if ended else left_turns - 1
    counts.wall_s = time.perf_counter() - started
    return str(counts)


def _step(env: ToolEnv, text: str, counts: FuzzCounts, where: str) -> bool:
    """Step once; return whether the episode is over."""
    try:
        observation, reward, terminated, truncated, info = env.step(text)
    except InfrastructureError as error:
        raise Failed(
            f"{where}: step() raised {type(error).__name__}: {error!s:.200}; that takes the episode out of every rate, "
            "so a text must not bring it about: if the truth can be judged against itself, the answer is wrong"
        ) from error
    except Exception as error:
        raise Failed(
            f"{where}: step() raised {type(error).__name__}: {error!s:.200}; tell the model instead"
        ) from error
    if not env.observation_space.contains(observation):
        raise Failed(f"{where}: the observation {observation!r:.80} is not in observation_space")
    least, most = env.reward_range
    counts.paid += reward
    if not math.isfinite(reward) or not least <= reward <= most:
        raise Failed(f"{where}: the reward is {reward}; it must be from {least:g} to {most:g}")
    if not least - ROUNDING <= counts.paid <= most + ROUNDING:
        raise Failed(f"{where}: the episode's rewards add up to {counts.paid}; reward_range is {env.reward_range}")
    if scorer_error := info.get("scorer_error"):
        raise Failed(f"{where}: {scorer_error}; it counts as wrong, but say so: return 0.0, or tell the model")
    counts.calls += info["num_tool_calls"] > 0
    counts.malformed += info["malformed"]
    counts.answers += terminated
    return terminated or truncated


def _is_costly(turn: ParsedTurn) -> bool:
    return bool(turn.calls) or turn.answer is not None


def _solver_turns(subject: Subject) -> list[str]:
    """Return the solver's turns in every protocol: models also write in the wrong one."""
    turns = []
    for protocol in subject.protocols():
        with subject.open(protocol=protocol) as env:
            for seed in range(SEED_EPISODES):
                env.reset(seed=seed)
                turns += _one_episode(env)
            turns += [env.answer(text) for text in ("0", "x", "[1, 2]")]
            turns += [call for tool in env._tools for call in _example_calls(env, tool)]
    return turns


def _example_calls(env: ToolEnv, tool: Tool) -> list[str]:
    properties = tool.parameters["properties"]
    try:
        return [env.call(tool.name, **{name: _example(properties[name]) for name in tool.parameters["required"]})]
    except ValueError:
        # not every tool can be called in every protocol
        return []


def _example(schema: dict[str, Any]) -> Any:
    if "anyOf" in schema:
        return _example(schema["anyOf"][0])
    values = {"string": "1 + 1", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}, "null": None}
    return schema["enum"][0] if "enum" in schema else values[schema["type"]]


def _one_episode(env: ToolEnv) -> list[str]:
    turns: list[str] = []
    while len(turns) < MAX_SEED_TURNS:
        try:
            turns.append(env.solution())
        except NotImplementedError:
            break
        _, _, terminated, truncated, _ = env.step(turns[-1])
        if terminated or truncated:
            break
    return turns


def _names(subject: Subject) -> list[str]:
    with subject.open() as env:
        return [name for tool in env._tools for name in (tool.name, *tool.parameters["properties"])]
