"""The fields of the groups `run`, `env`, `hardware`: types, ranges and meanings, in one place.

A composed configuration is held against them, and docs/configuration.md prints them. Defaults stand in conf/. The
groups `nano`, `trm` and `dump` have dataclasses of their own, which check themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trm_agent.names import closest
from trm_agent.trust_region.setting import ABOVE_0, Allowed, Flag, Number, OneOf

COUNT = Number("of 1 or more and whole", lambda value: value >= 1 and isinstance(value, int), kind=int)
WHOLE = Number("that is whole", lambda value: isinstance(value, int), kind=int)
ZERO_TO_ONE = Number("from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE = Number("of 0 or more and below 1", lambda value: 0 <= value < 1)


@dataclass(frozen=True)
class Text:
    """Words of one's own."""

    optional: bool = False
    """Whether null is allowed."""

    @property
    def words(self) -> str:
        return "null or text" if self.optional else "text"

    def check(self, path: str, value: Any) -> None:
        if not (isinstance(value, str) or (value is None and self.optional)):
            raise ValueError(f"{path}: got {value!r}; allowed: {self.words}; put it in quotes")


@dataclass(frozen=True)
class Several:
    """A list with at least one item."""

    item: Allowed
    """Allowed values of each item."""

    @property
    def words(self) -> str:
        return f"a list; each item: {self.item.words}"

    def check(self, path: str, value: Any) -> None:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"{path}: got {value!r}; allowed: {self.words}; write one as [A,B]")
        for number, item in enumerate(value):
            self.item.check(f"{path}[{number}]", item)


@dataclass(frozen=True)
class Free:
    """A section whose names are not ours."""

    words: str = "names and values"
    """The values in words."""

    def check(self, path: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: got {value!r}; allowed: {self.words}; write a section as {{name: value}}")


@dataclass(frozen=True)
class Field:
    """A field of a group."""

    allowed: Allowed
    """Allowed values."""
    doc: str
    """Meaning, as docs/configuration.md prints it."""


SECONDS = ABOVE_0
FIELDS: dict[str, Field] = {
    "run.root": Field(
        Text(), "Folder of the runs, numbered; an unfinished run with the same configuration is resumed."
    ),
    "run.name": Field(Text(), "Name of the run's folder before its number."),
    "run.dir": Field(Text(optional=True), "A folder of your own instead of `root/name-NNN`."),
    "run.weight_sync_timeout_s": Field(
        SECONDS, "Seconds after which a synchronisation of weights counts as hung and ends the run."
    ),
    "run.warn_infrastructure_share": Field(
        ZERO_TO_ONE, "Share of a step's episodes that could not be played, above which a line warns."
    ),
    "run.max_infrastructure_share": Field(
        ZERO_TO_ONE, "The share above which, over some steps in a row, the run ends with the first error; 1: never."
    ),
    "run.max_infrastructure_steps": Field(COUNT, "Number of these steps."),
    "env.id": Field(Text(optional=True), "Gymnasium id."),
    "env.module": Field(Text(optional=True), "Module that registers the id, for an environment of your own."),
    "env.kwargs": Field(
        Free(), "Keyword arguments of `gymnasium.make`: `protocol` and the options of the environment; see above."
    ),
    "env.chat.roles": Field(
        Several(Text()), "Roles in which the chat template takes answers; one left out is told in the first."
    ),
    "env.train.horizons": Field(Several(COUNT), "Task lengths in training, taken in turn."),
    "env.train.split": Field(Text(), "Split of the training tasks; must differ from validation's."),
    "env.train.num_tasks": Field(COUNT, "Training tasks in all; none is repeated."),
    "env.train.seed": Field(WHOLE, "Seed of the training tasks; by default the run's."),
    "env.val.horizons": Field(Several(COUNT), "Task lengths in validation, taken in turn."),
    "env.val.split": Field(Text(), "Split of the validation tasks."),
    "env.val.num_tasks": Field(COUNT, "Validation tasks in all, over the horizons."),
    "env.val.seed": Field(WHOLE, "Seed of the validation tasks, the same whatever the run's seed."),
    "env.limits.max_turns": Field(COUNT, "Assistant turns of an episode."),
    "env.limits.max_tool_calls": Field(COUNT, "Executed tool calls of an episode."),
    "env.limits.max_turn_tokens": Field(COUNT, "Sampled tokens of a turn; a longer one is cut."),
    "env.limits.max_observation_tokens": Field(COUNT, "Tokens of an observation; a longer one is cut with a mark."),
    "env.limits.max_response_tokens": Field(COUNT, "Tokens after the prompt; by default `data.max_response_length`."),
    "env.limits.max_prompt_tokens": Field(
        replace(COUNT, optional=True), "Tokens of the prompt; by default `data.max_prompt_length`."
    ),
    "env.limits.tool_time_s": Field(SECONDS, "Seconds that the programs of a turn may run, hidden tests included."),
    "env.limits.episode_tool_time_s": Field(SECONDS, "Seconds that the programs of an episode may run."),
    "env.limits.step_timeout_s": Field(
        SECONDS, "Deadline of each call into the environment; [must hold the budgets](stop_reasons.md#clocks)."
    ),
    "env.limits.generate_timeout_s": Field(SECONDS, "Deadline of a turn of the engine."),
    "env.limits.episode_timeout_s": Field(SECONDS, "Deadline of an episode."),
    "env.nano.prompt_tokens": Field(COUNT, "Tokens of the nano model's prompt."),
    "env.nano.response_tokens": Field(COUNT, "Tokens after it."),
    "env.nano.total_tokens": Field(COUNT, "At least their sum."),
    "env.nano.horizon": Field(COUNT, "Horizon at which the nano model's warm start is measured."),
    "env.nano.target_success": Field(
        BELOW_ONE, "Success there that ends the warm start; 0: the task is beyond it, and it takes all steps."
    ),
    "env.nano.max_steps": Field(COUNT, "Steps after which a warm start without its target fails."),
    "hardware.kind": Field(OneOf(("cpu", "gpu")), "Kind of machine."),
    "hardware.fork_server": Field(
        Flag(), "Whether Ray's workers start as forks of one process that has done the imports; no GPU, one machine."
    ),
    "hardware.least_tokens_per_s": Field(
        ABOVE_0, "Tokens per second at which a working engine samples one sequence at the least; for the deadlines."
    ),
    "hardware.env_vars": Field(Free(), "Environment variables of the run."),
}
GROUPS = ("run", "env", "hardware")


def check_groups(config: Mapping[str, Any]) -> None:
    """Hold the groups of a composed configuration, interpolations resolved, against their fields.

    Raises:
        ValueError: a field that does not exist, a wrong type or a value out of range.
    """
    for group in GROUPS:
        for path, value in leaves(config.get(group) or {}, group):
            if path not in FIELDS:
                raise ValueError(f"{path}: no such field; {closest(path, FIELDS)}")
            FIELDS[path].allowed.check(path, value)


def leaves(values: Any, path: str) -> list[tuple[str, Any]]:
    """List fields and values of a section; what `Free` describes is one value."""
    is_section = isinstance(values, Mapping) and not isinstance(FIELDS.get(path, Field(Text(), "")).allowed, Free)
    if not is_section or path in FIELDS:
        return [(path, values)]
    return [leaf for name, value in values.items() for leaf in leaves(value, f"{path}.{name}")]
