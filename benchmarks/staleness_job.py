"""One run of `staleness`: its settings, and what is stored of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

LEARNING, SPANS, CAUSE, WALL, KILLS = "learning", "spans", "cause", "wall", "kills"
STEPS = {LEARNING: 20, SPANS: 20, CAUSE: 20, WALL: 12, KILLS: 8}
SYNC, COLOCATE, SEPARATE = "sync", "colocate_async", "separate_async"
EXPERIMENTS = {SYNC: "math_nano", COLOCATE: "math_nano_async", SEPARATE: "math_nano_separate"}
MASKED, UNMASKED = "trm", "no mask"
DROP = "colocate_async, drop"
SAMPLING, UPDATE, SYNCHRONISATION, SAVING = PHASES = ("sampling", "update", "synchronisation", "saving")
LOSS = "actor_rollout_ref.actor.policy_loss"
SAMPLER = "trainer.v1.sampler"
# the same loss without a mask: no token of a finite ratio is so far away
NO_MASK = f"{LOSS}.trm.max_token_kl=1e9"
OPTIM = "actor_rollout_ref.actor.optim"
# that of the synchronous preset, and parts of it: the asynchronous ones have half
FULL_RATE, HALF_RATE, QUARTER_RATE = (f"{OPTIM}.lr={rate}" for rate in ("5e-4", "2.5e-4", "1.25e-4"))
NO_MOMENTUM = f"{OPTIM}.betas=[0,0.999]"
WHOLE_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size=16"
ONE_UPDATE = (WHOLE_BATCH, f"trainer.v1.{SEPARATE}.parameter_sync_step=1")
LONG = 9
"""Calls of a long task: each waits, and a short one of `wall` has one. With the turns, it takes eight times as long."""


@dataclass(frozen=True)
class Side:
    """What a part compares: a mode, with settings of its own."""

    mode: str
    overrides: tuple[str, ...] = ()
    loss: str | None = None
    """Preset of the policy loss; None: that of the experiment."""


def _masked(mode: str, *overrides: str, loss: str = "trm") -> Side:
    return Side(mode, overrides, loss)


SIDES: dict[str, dict[str, Side]] = {
    LEARNING: {
        f"{mode}, {mask}": _masked(mode, *overrides)
        for mode in (COLOCATE, SEPARATE)
        for mask, overrides in ((MASKED, ()), (UNMASKED, (NO_MASK,)))
    },
    # episodes that take longer than a step, so that each update cuts those in play
    SPANS: {mode: _masked(mode) for mode in (COLOCATE, SEPARATE)},
    # each differs from the first in what its name says
    CAUSE: {
        MASKED: _masked(SEPARATE),
        UNMASKED: _masked(SEPARATE, NO_MASK),
        SYNC: _masked(SYNC),
        "sync, one update": _masked(SYNC, WHOLE_BATCH),
        **{
            f"{name}{end}": _masked(SEPARATE, *changed, *mask)
            for name, changed in (
                ("half rate", (HALF_RATE,)),
                ("quarter rate", (QUARTER_RATE,)),
                ("one update", ONE_UPDATE),
                ("no momentum", (NO_MOMENTUM,)),
            )
            for end, mask in (("", ()), (f", {UNMASKED}", (NO_MASK,)))
        },
        "threshold 0.2": _masked(SEPARATE, f"{LOSS}.trm.max_token_kl=0.2"),
        # about what the mask keeps in steps 4 to 10
        "coin at 0.25": _masked(SEPARATE, f"{LOSS}.trm.random_acceptance=0.25", loss="trm_random"),
        **{
            name: _masked(SEPARATE, loss=f"trm_{name}")
            for name in (
                "permuted",
                "inverse",
                "directional",
                "inward",
                "negative_only",
                "stop",
                "stop_directional",
                "token",
            )
        },
        "half rate, directional": _masked(SEPARATE, HALF_RATE, loss="trm_directional"),
        **{
            f"{COLOCATE}, {name}": _masked(COLOCATE, *changed, loss=loss)
            for name, changed, loss in (("directional", (), "trm_directional"), ("half rate", (HALF_RATE,), "trm"))
        },
    },
    WALL: {
        SYNC: Side(SYNC),
        COLOCATE: Side(COLOCATE),
        # one update a step, as the others make it
        SEPARATE: Side(SEPARATE, (f"trainer.v1.{SEPARATE}.parameter_sync_step=1",)),
        # the least threshold that one batch ahead allows
        DROP: Side(COLOCATE, (f"{SAMPLER}.max_off_policy_strategy=drop", f"{SAMPLER}.max_off_policy_threshold=2")),
    },
    KILLS: {f"{mode}, {phase}": Side(mode) for mode in (COLOCATE, SEPARATE) for phase in PHASES},
}


@dataclass(frozen=True)
class Workload:
    """The batch of a part."""

    tasks: int
    """Tasks a step."""
    group: int
    """Episodes of a task."""
    horizons: tuple[int, ...]
    overrides: tuple[str, ...]
    has_slow_tool: bool = False
    """Whether each call waits, and every step is dumped whole."""


_LEARNING = Workload(
    tasks=16,
    group=8,
    horizons=(2, 4, 6),
    # two updates a step in any mode
    overrides=(
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "env.val.num_tasks=128",
        "env.val.greedy_tasks=0",
        "trainer.save_freq=-1",
        f"{LOSS}.dump.every=0",
    ),
)
WORKLOADS = {
    LEARNING: _LEARNING,
    CAUSE: replace(_LEARNING, overrides=(*_LEARNING.overrides, FULL_RATE)),
    SPANS: replace(
        _LEARNING,
        overrides=(*_LEARNING.overrides, "env.val.num_tasks=2", "trainer.val_before_train=false"),
        has_slow_tool=True,
    ),
    WALL: Workload(
        tasks=8,
        group=4,
        horizons=(1, 1, 1, LONG),
        overrides=(
            "actor_rollout_ref.actor.ppo_mini_batch_size=8",
            # too small to make the turns longer or shorter
            "actor_rollout_ref.actor.optim.lr=1e-12",
            "env.val.num_tasks=2",
            "env.val.greedy_tasks=0",
            "trainer.val_before_train=false",
            "trainer.save_freq=-1",
        ),
        has_slow_tool=True,
    ),
    KILLS: Workload(
        tasks=2,
        group=8,
        horizons=(2, LONG),
        # two updates a step, so that a dump tells that the first is done and the second is not
        overrides=(
            "actor_rollout_ref.actor.ppo_mini_batch_size=1",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
            "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
            "env.val.num_tasks=2",
            "env.val.greedy_tasks=0",
            "trainer.val_before_train=false",
            "trainer.save_freq=1",
        ),
        has_slow_tool=True,
    ),
}


@dataclass(frozen=True)
class Job:
    """A run to be made."""

    part: str
    side: str
    seed: int
    """Seed of tasks and sampling; runs of one seed follow each other."""
    steps: int
    tool_ms: int
    """Milliseconds of a call where the part has a slow tool."""
    commit: str

    @property
    def name(self) -> str:
        """Return the stem of the stored result."""
        side = self.side.replace(", ", "-").replace(" ", "-")
        tool = f"-tool{self.tool_ms}" if WORKLOADS[self.part].has_slow_tool else ""
        return f"{self.part}{tool}-steps{self.steps}-seed{self.seed}-{self.commit}-{side}"

    @property
    def phase(self) -> str:
        """Return the phase in which a run of `kills` is killed."""
        assert self.part == KILLS, "no other run is killed"
        return self.side.rpartition(", ")[2]


@dataclass(frozen=True)
class Episode:
    """An episode that was trained on."""

    step: int
    update: int
    task: int
    """Number of its task, in the order in which tasks are drawn."""
    horizon: int
    turns: int
    tokens: int
    """Response tokens, observations included."""
    seconds: float
    """In its environment and waiting for the engine, pauses for updates left out."""


@dataclass(frozen=True)
class Kill:
    """How a run was killed and went on."""

    step: int
    """Step in which it was killed."""
    resumed_after: int
    too_late: int
    """Times that it was stopped to be killed, and was let go since the phase was over."""


@dataclass(frozen=True)
class Result:
    """A run that has been made."""

    job: Job
    rows: tuple[Mapping[str, Any], ...]
    """Rows of metrics.jsonl."""
    episodes: tuple[Episode, ...] = ()
    """All that were trained on, where every step was dumped."""
    others: float = 0.0
    """Processors that other work took meanwhile, on average."""
    kill: Kill | None = None

    def write(self, path: Path) -> None:
        """Store the result, complete or not at all."""
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        unfinished.replace(path)


def read_result(path: Path) -> Result:
    """Read a stored result."""
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kill = stored["kill"]
    return Result(
        job=Job(**stored["job"]),
        rows=tuple(stored["rows"]),
        episodes=tuple(Episode(**episode) for episode in stored["episodes"]),
        others=stored["others"],
        kill=kill and Kill(**kill),
    )


def overrides(job: Job, run_dir: Path) -> list[str]:
    """Return the settings of a run, as the command takes them."""
    side, work = SIDES[job.part][job.side], WORKLOADS[job.part]
    slow = (
        "env.module=benchmarks.peers_env",
        "env.id=benchmark/TimedChainMath-v0",
        f"+env.kwargs.tool_s={job.tool_ms / 1000}",
        # the same model for all
        "nano.env_id=trm/ChainMath-v0",
        "nano.env_kwargs={}",
        f"{LOSS}.dump.every=1",
        f"{LOSS}.dump.max_sequences=null",
    )
    return [
        f"experiment={EXPERIMENTS[side.mode]}",
        f"run.dir={run_dir}",
        f"seed={job.seed}",
        f"data.train_batch_size={work.tasks}",
        f"actor_rollout_ref.rollout.n={work.group}",
        f"env.train.horizons=[{','.join(map(str, work.horizons))}]",
        f"trainer.total_training_steps={job.steps}",
        # a run without any validation is not timed any faster
        f"trainer.test_freq={job.steps}",
        *([f"policy_loss={side.loss}"] if side.loss else []),
        *work.overrides,
        *(slow if work.has_slow_tool else ()),
        *side.overrides,
    ]
