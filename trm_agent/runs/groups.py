"""The groups of a run's configuration as dataclasses: type, range, default and meaning of each field.

They are structured configs of OmegaConf. A composed configuration is held against them, docs/configuration.md is
printed from them, and a test holds the yaml files of conf/ to their defaults. Sections that are settings of a part of
the code (`Limits`, `NanoSpec`, `TrmConfig`, `DumpConfig`) are that part's own dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trm_agent.episode.chat import ROLES
from trm_agent.episode.chat_settings import DESCRIBE, FALLBACKS
from trm_agent.episode.limits import Limits
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.runs.sampling_settings import STOP, TRAIN_SHORT, CurriculumConfig, OverlongConfig
from trm_agent.trust_region.settings import DUMP_PATH, FIELD_PATH, DumpConfig, TrmConfig
from trm_envs.sandbox.local.demands import REQUIRABLE
from trm_fields import (
    ABOVE_0,
    COUNT,
    LEAST_0,
    SEEDS,
    ZERO_TO_ONE,
    Flag,
    Free,
    OneOf,
    Setting,
    Several,
    Text,
    between,
    same_as,
    section,
    setting,
)

SAMPLER_PATH = "trainer.v1.sampler.sampler_kwargs"
BESIDE_SERVER, WORKERS = "beside_server", "workers"
# the variable that hands `hardware.engine_threads` to the processes of a run
ENGINE_THREADS = "TRM_ENGINE_THREADS"


@dataclass(frozen=True)
class RunConfig:
    """The folder of a run, and when a run gives up."""

    root: str = setting(
        "runs",
        Text(filled=True),
        "Folder of the runs, numbered; an unfinished run with the same configuration is resumed.",
    )
    name: str = setting(
        "${trainer.experiment_name}-seed${seed}",
        Text(without="/", filled=True),
        "Name of the run's folder before its number.",
    )
    dir: str | None = setting(
        None, Text(optional=True, filled=True), "A folder of your own instead of `root/name-NNN`."
    )
    init_from: str | None = setting(
        None,
        Text(optional=True),
        "Checkpoint whose weights alone a new run begins with: `RUN@STEP`, or a Hugging Face folder "
        "([extend, export, resume](extend_export_resume.md)).",
    )
    deterministic: bool | None = setting(
        None,
        Flag(optional=True),
        "Whether [the same seed repeats a run](determinism.md): `true` demands it, `null` has it where that is "
        "possible, without a GPU in float32.",
    )
    schedule_from: int = setting(
        0, LEAST_0, "Step at which the rate schedule began anew; filled in by `trm train --extend --schedule restart`."
    )
    experiment: str | None = setting(
        None, Text(optional=True), "Preset that the run was composed of; filled in by the command."
    )
    weight_sync_timeout_s: float = setting(
        600,
        ABOVE_0,
        "Seconds after which a synchronisation of weights, the engines' rest before an update, or a process that plays "
        "episodes and cannot be reached, counts as hung and ends the run.",
    )
    start_timeout_s: float | None = setting(
        3600,
        replace(ABOVE_0, optional=True),
        "Seconds after which the start of the trainer's ranks, or that of the rollout engines, counts as hung and ends "
        "the run; `null` for never.",
    )
    phase_timeout_s: float | None = setting(
        3600,
        replace(ABOVE_0, optional=True),
        "Seconds after which a phase in which ranks of the trainer wait for each other (a forward pass over the batch, "
        "an update, saving or loading a checkpoint) [counts as hung](endings.md#what-hangs) and ends the run, with the "
        "stacks of all ranks; not read with a single rank; `null` for never.",
    )
    warn_infrastructure_share: float = setting(
        0.02, ZERO_TO_ONE, "Share of a step's episodes that could not be played, above which a line warns."
    )
    max_infrastructure_share: float = setting(
        0.2,
        ZERO_TO_ONE,
        "The share above which, over `max_infrastructure_steps` in a row, the run ends with the first error; 1: never.",
    )
    max_infrastructure_steps: int = setting(
        3, COUNT, "Steps in a row above `max_infrastructure_share` that end the run."
    )
    keep_best: str | None = setting(
        None,
        Text(optional=True),
        "Metric of validation, such as `env/val_success/h8`, with whose highest value a checkpoint is kept beside the "
        "newest (`trainer.max_actor_ckpt_to_keep`).",
    )
    keep_every: int | None = setting(
        None, replace(COUNT, optional=True), "Steps between checkpoints that are kept for good."
    )


@dataclass(frozen=True)
class ChatConfig:
    """The use of the chat template."""

    roles: list[str] = setting(
        list(ROLES),
        Several(Text()),
        "Roles in which the chat template takes answers; one left out is told in the first.",
    )
    fallback: str = setting(
        DESCRIBE,
        OneOf(FALLBACKS),
        "What becomes of tools, system prompt and tool results that the chat template does not show: `describe` puts "
        "them into texts that it shows, `refuse` ends the command.",
    )


@dataclass(frozen=True)
class TrainTasks:
    """The stream of training tasks."""

    horizons: list[int] = setting(
        [2, 4, 6],
        Several(COUNT),
        "Task lengths in training, taken in turn; with only one, a model learns to count turns instead of reading.",
    )
    split: str = setting("train", Text(), "Split of the training tasks; must differ from validation's.")
    num_tasks: int = setting(1_000_000, COUNT, "Training tasks in all; none is repeated.")
    seed: int = setting("${seed}", SEEDS, "Seed of the training tasks.")
    curriculum: CurriculumConfig = section(CurriculumConfig)


@dataclass(frozen=True)
class ValidationTasks:
    """The stream of validation tasks."""

    horizons: list[int] = setting([4, 8], Several(COUNT), "Task lengths in validation, taken in turn.")
    split: str = setting("held_out", Text(), "Split of the validation tasks, which are never trained on.")
    num_tasks: int = setting(256, COUNT, "Validation tasks in all, over the horizons.")
    greedy_tasks: int = setting(
        0,
        between(0, 2**31 - 1, kind=int),
        "The first of these that a validation also plays greedily, at most all: a policy that only samples more "
        "sharply does not improve there.",
    )
    seed: int = setting(20251223, SEEDS, "Seed of the validation tasks, the same whatever the run's seed.")


@dataclass(frozen=True)
class NanoBudgets:
    """The nano model's needs for an environment, in its own tokens."""

    prompt_tokens: int = setting(
        256, COUNT, "Tokens of the nano model's prompt; other models have `data.max_*_length`."
    )
    response_tokens: int = setting(768, COUNT, "Tokens after the prompt.")
    total_tokens: int = setting(1024, COUNT, "Tokens of its context: at least the sum of both.")
    horizon: int = same_as(NanoSpec, "horizon")
    target_success: float = same_as(NanoSpec, "target_success")
    max_steps: int = same_as(NanoSpec, "max_steps")


def _limits() -> Limits:
    return Limits(max_turns=16, max_tool_calls=32, max_turn_tokens=128, max_observation_tokens=256)


@dataclass(frozen=True)
class EnvConfig:
    """The environment of a run, its tasks, and the limits of an episode."""

    id: str | None = setting(None, Text(optional=True), "Gymnasium id; `MODULE:ID` sets `env.module` as well.")
    module: str | None = setting(
        None, Text(optional=True), "Module that registers the id, for [an environment of your own](write_an_env.md)."
    )
    kwargs: dict[str, Any] = setting(
        {}, Free(), "Keyword arguments of `gymnasium.make`: `protocol` and the options of the environment."
    )
    chat: ChatConfig = section(ChatConfig)
    train: TrainTasks = section(TrainTasks)
    val: ValidationTasks = section(ValidationTasks)
    limits: Limits = section(_limits)
    overlong: OverlongConfig = section(OverlongConfig)
    nano: NanoBudgets = section(NanoBudgets)


@dataclass(frozen=True)
class HardwareConfig:
    """The machine; the defaults are those of `hardware=gpu`."""

    kind: str = setting("gpu", OneOf(("cpu", "gpu")), "Kind of machine.")
    fork_server: bool | None = setting(
        None,
        Flag(optional=True),
        "Whether Ray's workers start as [forks of one process](decisions/fork_server.md) that has done the imports; on "
        "one machine, whose Ray the command starts. `null`: where that is so.",
    )
    agent_loops: str = setting(
        WORKERS,
        OneOf((BESIDE_SERVER, WORKERS)),
        "Where agent loops run: `beside_server`, in the process of each vLLM server, so that no turn passes between "
        "processes, or `workers`, in `actor_rollout_ref.rollout.agent.num_workers` processes of their own.",
    )
    engine_threads: int | None = setting(
        None,
        replace(COUNT, optional=True),
        "Threads of the rollout engine's operators, without a GPU; at most the cores. `null`: one for a model of less "
        "than 20 million weights or with `run.deterministic=true`, else all cores.",
    )
    least_tokens_per_s: float | None = setting(
        None,
        replace(ABOVE_0, optional=True),
        "Tokens per second at which a working engine samples one sequence at the least; deadlines are held against it. "
        "`null`: 10 on a GPU, else a fifth of what the model's matrices take on this machine, at most 1, and deadlines "
        "that are left at their defaults are raised to suit.",
    )
    gpu_memory_gib: int | None = setting(
        None,
        replace(COUNT, optional=True),
        "Whole GiB of each GPU, for which [the memory's knobs](clusters.md#memory) are computed; `null`: of this "
        "machine's smallest GPU, 80 where there is none.",
    )
    weight_transfer: str = setting(
        "nccl",
        OneOf(("nccl", "tcp")),
        "Way of weights to rollout servers with devices of their own ([asynchronous](asynchronous.md)), for presets to "
        "name: `nccl`, between GPUs, or `tcp`, through the hosts' memory.",
    )
    env_vars: dict[str, Any] = setting(
        {}, Free(), "Environment variables, set in the driver before Ray starts and inherited by every process."
    )


@dataclass(frozen=True)
class SandboxConfig:
    """Demands on the machines where `sandbox=local` runs programs."""

    require: list[str] = setting(
        [],
        Several(OneOf(REQUIRABLE), least=0),
        "Demands on each machine that runs programs; one on which a demand is not met is refused as it starts.",
    )


@dataclass(frozen=True)
class SamplerConfig:
    """The replay buffer of a run."""

    poll_interval: float = setting(0.05, ABOVE_0, "Seconds between two looks at the queue of finished episodes.")
    max_failed_batches: int = setting(3, COUNT, "Batches in a row without a single episode before the run stops.")
    short_batch: str = setting(
        STOP,
        OneOf((STOP, TRAIN_SHORT)),
        "What becomes of a batch with too few groups after `algorithm.filter_groups.max_num_gen_batches`: `stop` ends "
        "the run, as verl's DAPO does, `train` updates on those there are, at least one.",
    )
    tasks_per_update: int = setting(
        "${actor_rollout_ref.actor.ppo_mini_batch_size}",
        COUNT,
        "Tasks of a mini-batch, in which they are kept together in the order in which they were drawn.",
    )
    episodes_per_task: int = setting("${actor_rollout_ref.rollout.n}", COUNT, "Episodes of each task.")


SEED = Setting("seed", 0, SEEDS, "Seed of the run: tasks, data order, sampling.")
GROUPS: dict[str, Any] = {
    "run": RunConfig,
    "env": EnvConfig,
    "hardware": HardwareConfig,
    "sandbox": SandboxConfig,
    "nano": NanoSpec,
    FIELD_PATH: TrmConfig,
    DUMP_PATH: DumpConfig,
    SAMPLER_PATH: SamplerConfig,
}
# limits that verl has a field for, which is read instead
OF_VERL = {
    "env.limits.max_prompt_tokens": "data.max_prompt_length",
    "env.limits.max_response_tokens": "data.max_response_length",
}
