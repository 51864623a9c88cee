"""The plan of an evaluation: checkpoints x environments x tasks x samples, and the settings that decide the results."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from trm_agent.episode import Limits
from trm_agent.episode.call_protocol import AUTO, OPTION
from trm_agent.evaluate.chats import Chat
from trm_agent.runs import scorer_version
from trm_agent.runs.deadlines import EVAL_TOKENS_PER_S, with_room
from trm_agent.tasks import VALIDATION, Task, task_at
from trm_envs.scoring import SCORER_VERSION

if TYPE_CHECKING:
    from trm_agent.evaluate.checkpoints.source import Checkpoint
    from trm_agent.evaluate.engines.opening import Sampling

FORMAT, VERSION = "trm-agent evaluation", 1
# limits that are made for the longest horizon given; longer tasks get more in proportion
SCALED = (
    "max_turns", "max_tool_calls", "max_prompt_tokens", "max_response_tokens",
    "episode_tool_time_s", "episode_timeout_s",
)  # fmt: skip
# the last part of the order in which no episode of the longest horizon begins
TAIL = 0.25


class Key(NamedTuple):
    """The coordinates of one episode of a checkpoint."""

    env: str
    task: int
    sample: int


@dataclass(frozen=True)
class Environment:
    """An environment and its tasks.

    Raises:
        ValueError: a horizon or a count is below 1.
    """

    name: str
    """Name in results."""
    id: str
    """A Gymnasium id."""
    horizons: tuple[int, ...]
    """Horizons of the tasks; task `i` takes horizon `i mod len(horizons)`."""
    num_tasks: int
    """Number of tasks over all horizons."""
    seed: int
    """Base of the tasks' seeds."""
    limits: dict[str, Any]
    """Fields of `Limits`, prompt and response tokens among them, for horizons up to `limits_horizon`."""
    limits_horizon: int
    """Horizon beyond which the limits in `SCALED` grow in proportion."""
    fixed_limits: dict[str, Any] = field(default_factory=dict)
    """Limits that hold at every horizon."""
    module: str | None = None
    """Module to import first, because it registers the id."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of `gymnasium.make`."""
    split: str = "held_out"
    context: int | None = None
    """Tokens that the models can hold, prompt and response together; None if unknown."""
    rows_hash: str | None = None
    """Hash of the file's problems that are the tasks, each once; None for generated tasks."""
    row_numbers: tuple[int, ...] = ()
    """Rows of the file: task `i` is the problem whose first row has number `row_numbers[i]`; if empty, row `i`."""
    rows_told: str = ""
    """Contents of the file in words, for people."""
    tasks_hash: str | None = None
    """Hash of the first tasks' texts."""

    def __post_init__(self) -> None:
        if not self.horizons or any(_bad_count(horizon) for horizon in self.horizons):
            raise ValueError(
                f"horizons of {self.name}: got {list(self.horizons)}; allowed: whole numbers of at least 1; "
                "give e.g. --horizons 4 8 16"
            )
        if _bad_count(self.num_tasks):
            raise ValueError(f"tasks of {self.name}: got {self.num_tasks}; allowed: at least 1; give e.g. --tasks 100")
        for horizon in self.horizons:
            self.limits_at(horizon)

    def task(self, index: int) -> Task:
        """Return task `index`, the same as in a training's validation with this section."""
        section = {"horizons": self.horizons, "split": self.split, "seed": self.seed}
        task = task_at({"id": self.id, VALIDATION: section}, VALIDATION, index)
        if self.rows_hash is None:
            return task
        row = self.row_numbers[index] if self.row_numbers else index
        return replace(task, options={**task.options, "split": "all", "row": row})

    def horizon(self, index: int) -> int:
        """Return the horizon of a task."""
        return self.horizons[index % len(self.horizons)]

    def limits_at(self, horizon: int) -> Limits:
        """Return the limits of an episode at a horizon, with long enough deadlines unless the user set them.

        Raises:
            ValueError: a limit is not allowed, or the prompt's leaves no room for a response in the context.
        """
        factor = max(1.0, horizon / self.limits_horizon)
        scaled = {name: _times(value, factor) if name in SCALED else value for name, value in self.limits.items()}
        limits = Limits.from_mapping({**scaled, **self.fixed_limits})
        limits = with_room(limits, EVAL_TOKENS_PER_S, self.fixed_limits)
        if self.context is None:
            return limits
        room = self.context - (limits.max_prompt_tokens or 0)
        if room < 1:
            raise ValueError(
                f"{self.name}: limits.max_prompt_tokens={limits.max_prompt_tokens} at horizon {horizon} fills the "
                f"model's context of {self.context} tokens; lower the horizon, or --set limits.max_prompt_tokens=N"
            )
        return replace(limits, max_response_tokens=min(limits.max_response_tokens, room))

    @property
    def max_model_len(self) -> int:
        """Return the tokens of the longest prompt and response."""
        every = [self.limits_at(horizon) for horizon in self.horizons]
        return max((limits.max_prompt_tokens or 0) + limits.max_response_tokens for limits in every)

    @property
    def longest_turn_s(self) -> float:
        """Return the seconds that the engine may take for one turn."""
        return max(self.limits_at(horizon).generate_timeout_s for horizon in self.horizons)

    def config(self) -> dict[str, Any]:
        """Return the settings as `config.yaml` holds them; `limits` by horizon."""
        names = ("name", "id", "module", "kwargs", "split", "seed", "num_tasks", "rows_hash", "tasks_hash")
        settings = {name: getattr(self, name) for name in names}
        limits = {str(horizon): asdict(self.limits_at(horizon)) for horizon in sorted(set(self.horizons))}
        return {**settings, "horizons": list(self.horizons), "limits": limits}


@dataclass(frozen=True)
class Plan:
    """The complete request of one command.

    `build_plan` makes it from the user's request; `checked` and `prepared` add the fingerprints, hashes, contexts and
    protocols that only drawn tasks and a model's files reveal.

    Raises:
        ValueError: two checkpoints have one label, two environments one name, or there are no samples.
    """

    checkpoints: tuple[Checkpoint, ...]
    fingerprints: tuple[str, ...]
    """Hashes of the checkpoints' weights; () before the plan is checked."""
    environments: tuple[Environment, ...]
    samples: int
    """Episodes per task."""
    sampling: Sampling
    suite: dict[str, Any] | None = None
    """`name`, `version` and `hash`; None if the environments were chosen by hand."""
    chats: tuple[Chat, ...] = ()
    """Chat settings of the checkpoints; () for the default of each."""
    name: str = ""
    """Name for the environments together, used for a folder."""

    def __post_init__(self) -> None:
        if _bad_count(self.samples):
            raise ValueError(f"--samples: got {self.samples}; allowed: at least 1; give e.g. --samples 5")
        labels = [checkpoint.label for checkpoint in self.checkpoints]
        if doubles := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(
                f"checkpoints: {', '.join(doubles)} is there twice; name each by LABEL=SOURCE, e.g. first={doubles[0]}"
            )
        names = [environment.name for environment in self.environments]
        if doubles := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"environments: {', '.join(doubles)} is there twice; give each once")

    def environment(self, name: str) -> Environment:
        """Return the environment with a name."""
        return next(environment for environment in self.environments if environment.name == name)

    def chat(self, label: str) -> Chat:
        """Return the chat settings of the checkpoint with a label."""
        labels = [checkpoint.label for checkpoint in self.checkpoints]
        return self.chats[labels.index(label)] if self.chats else Chat()

    def episodes(self) -> list[Key]:
        """Return the episodes of one checkpoint in the order of play.

        Environments and horizons are mixed from the start, with one sample of each task before the second of any.
        Longer episodes come a little earlier, so that the last to start are short and none runs on alone.
        """
        order: list[tuple[float, Key]] = []
        for environment in self.environments:
            longest = max(environment.horizons)
            of_horizon: dict[int, list[Key]] = {}
            for sample in range(self.samples):
                for task in range(environment.num_tasks):
                    of_horizon.setdefault(environment.horizon(task), []).append(Key(environment.name, task, sample))
            for horizon, keys in of_horizon.items():
                part = 1.0 - TAIL * horizon / longest
                order += [(part * (index + 0.5) / len(keys), key) for index, key in enumerate(keys)]
        return [key for _, key in sorted(order)]

    def first_episodes(self, number: int) -> set[Key]:
        """Return a number of episodes of one checkpoint, spread evenly over environments and horizons."""
        return set(sorted(self.episodes(), key=lambda key: (key.sample, key.task, key.env))[:number])

    def sampling_seed(self, key: Key) -> int:
        """Return the 31-bit seed of an episode's tokens, the same for all checkpoints and whatever else is played."""
        text = f"{self.sampling.seed}/{key.env}/{key.task}/{key.sample}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def config(self) -> dict[str, Any]:
        """Return the settings that decide results, as `config.yaml` holds them."""
        checkpoints = [
            {
                "label": checkpoint.label,
                "kind": checkpoint.kind,
                "source": checkpoint.source,
                "path": None if checkpoint.path is None else str(checkpoint.path),
                "url": checkpoint.url,
                "model": checkpoint.model,
                "fingerprint": fingerprint,
                "chat": self.chat(checkpoint.label).config(),
            }
            for checkpoint, fingerprint in zip(self.checkpoints, self.fingerprints, strict=True)
        ]
        return {
            "format": FORMAT,
            "version": VERSION,
            scorer_version.FIELD: SCORER_VERSION,
            "suite": self.suite,
            "samples": self.samples,
            "sampling": {name: getattr(self.sampling, name) for name in ("temperature", "top_p", "seed")},
            "checkpoints": checkpoints,
            "environments": [environment.config() for environment in self.environments],
        }


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make two evaluations one: all but amount, duration and place.

    Left out are the numbers of tasks and of samples (more of them continue an evaluation), time limits (episodes that
    they end are played again), and the places of checkpoints and rows (their hashes are included).
    """
    checkpoints = {
        entry["label"]: {
            **{name: entry.get(name) for name in ("kind", "model", "fingerprint")},
            # evaluations from before it was stored
            "chat": {**Chat().config(), **(entry.get("chat") or {})},
        }
        for entry in config["checkpoints"]
    }
    environments = {}
    for entry in config["environments"]:
        kept = {name: value for name, value in entry.items() if name not in ("name", "num_tasks")}
        kept["limits"] = {
            horizon: {name: value for name, value in limits.items() if not name.endswith("_timeout_s")}
            for horizon, limits in entry["limits"].items()
        }
        kept["kwargs"] = {
            name: value
            for name, value in entry["kwargs"].items()
            # each checkpoint has its own protocol behind `auto`
            if not (name == "rows" and entry.get("rows_hash")) and (name, value) != (OPTION, AUTO)
        }
        environments[entry["name"]] = kept
    rest = {name: config.get(name) for name in ("format", "version", scorer_version.FIELD, "suite", "sampling")}
    return {**rest, "checkpoints": checkpoints, "environments": environments}


def _times(value: Any, factor: float) -> Any:
    if value is None or factor == 1.0:
        return value
    return math.ceil(value * factor)


def _bad_count(value: Any) -> bool:
    return not isinstance(value, int) or isinstance(value, bool) or value < 1
