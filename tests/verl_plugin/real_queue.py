"""verl's queue of data on a real Ray, and between its ends a trainer and a worker of ours; a program of its own.

    python -m tests.verl_plugin.real_queue FOLDER

Both asynchronous modes draw, play and sample some steps under a filter, without a model: of the worker only the agent
loop is scripted, of the trainer only the updates are left out. Each mode's account is a line of JSON.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import ray
import transfer_queue as tq
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode

from tests.verl_plugin.test_outbox import output
from trm_agent.fork_server.ray_processes import in_their_own_session
from trm_agent.runs.compose import compose_run
from trm_agent.tasks import TRAIN
from trm_agent.verl_plugin.driver.ended_tasks import take_ended
from trm_agent.verl_plugin.driver.trainer import trainer_class
from trm_agent.verl_plugin.rollout import episodes_worker
from trm_agent.verl_plugin.rollout.episodes_worker import EpisodesWorker, WorkersOfEpisodes
from trm_agent.verl_plugin.rollout.failed import FAILURES, report_failure
from trm_agent.verl_plugin.rollout.outbox import Outbox

MODES = {"colocate_async": ("math_nano_async", 1), "separate_async": ("math_nano_separate", 2)}
"""Preset and updates a step."""
STEPS, TASKS, EPISODES = 4, 4, 2
LONG, UNTIL = 1, 25
"""A task with signal that is not over before another one is, which the first step does not draw."""


def rewards_of(task: int) -> tuple[float, ...] | None:
    """Return the rewards of a task's episodes: of a third of the tasks none, of another third without signal."""
    return (None, (1.0, 0.0), (1.0, 1.0) if task % 2 else (0.0, 0.0))[task % 3]


class Loop:
    """A scripted agent loop in the place of ours."""

    def __init__(self, player: "Player", *_: Any) -> None:
        self.is_late = player.is_late

    async def run(self, _: Any, *, index: int, session_id: int, uid: str, **__: Any) -> Any:
        task = int(index)
        if task == LONG:
            await self.is_late.wait()
        await asyncio.sleep(0.02 * (task % 5))
        if task == UNTIL:
            self.is_late.set()
        rewards = rewards_of(task)
        if rewards is None:
            if task % 2:
                raise RuntimeError("the worker's own error")
            await report_failure(TRAIN, uid, "env_error", "no such machine")
            return []
        reward = rewards[session_id]
        episode = {"task": str(task), "horizon": 2, "success": reward == 1, "model_tokens": 3}
        made = output(reward_score=reward)
        made.extra_fields = {**made.extra_fields, "episode": episode}
        return made


class Player(EpisodesWorker):
    """Our worker without a model, whose agent loops are scripted."""

    def __init__(self, config: Any) -> None:
        tq.init()
        self.config, self.background_tasks = config, set[Any]()
        self.llm_client = self.tokenizer = self.processor = None
        self.distillation_enabled = False
        self._outbox = Outbox(lambda **row: tq.async_kv_batch_put(**row))
        self.is_late = asyncio.Event()
        episodes_worker.EnvAgentLoop = Loop  # type: ignore[misc, assignment]

    async def begin(self) -> None:
        """Begin a run, whose long task is far from its end."""
        self.is_late.clear()


def configured(mode: str, folder: Path) -> Any:
    preset, updates = MODES[mode]
    sizes = [
        f"run.dir={folder / mode}",
        f"data.train_batch_size={TASKS}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={TASKS // updates}",
        f"actor_rollout_ref.rollout.n={EPISODES}",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.v1.{mode}.num_warmup_batches=1",
        "algorithm.filter_groups.enable=true",
    ]
    config = compose_run([f"experiment={preset}", *sizes])
    OmegaConf.resolve(config)
    return config


def trained(mode: str, config: Any, player: Any) -> dict[str, Any]:
    """Draw and sample the steps of a run, and return what was seen of them."""
    trainer = trainer_class(mode)(config=config)
    trainer.tokenizer = trainer.processor = None
    # as verl has it without engines on the trainer's devices
    trainer.current_mode = HybridEngineMode.TRAINER
    trainer._init_dataloader()
    trainer.agent_loop_manager = object.__new__(WorkersOfEpisodes)
    trainer.agent_loop_manager.agent_loop_workers = [player]
    trainer.global_steps = 1
    ray.get(player.begin.remote())
    trainer.on_train_begin()
    steps, updates = [], MODES[mode][1]
    for trainer.global_steps in range(1, STEPS + 1):
        trainer.timing_raw = {}
        trainer.prepare_step()
        batches = [
            trainer.replay_buffer.sample(trainer.global_steps, TRAIN, TASKS // updates)[0] for _ in range(updates)
        ]
        steps.append(
            {
                "updates": [_told(batch.keys) for batch in batches],
                "metrics": trainer.replay_buffer.watch.metrics(),
                "failures": [tag["stop_reason"] for tag in take_ended(FAILURES.format(stream=TRAIN))],
            }
        )
        tq.kv_clear(keys=[key for batch in batches for key in batch.keys], partition_id=TRAIN)
    left = (tq.kv_list(TRAIN) or {}).get(TRAIN, {})
    drawn = trainer.train_dataloader.state_dict()["_num_yielded"]
    return {"mode": mode, "steps": steps, "drawn": drawn, "left": sorted(left)}


def _told(keys: list[str]) -> list[tuple[int, float]]:
    """Return task and reward of each episode of an update, as the queue holds them."""
    data = tq.kv_batch_get(keys=keys, partition_id=TRAIN, select_fields=["index", "rm_scores"])
    pairs = zip(list(data["index"]), list(data["rm_scores"]), strict=True)
    return [(int(index), float(scores.sum())) for index, scores in pairs]


def main(folder: Path) -> None:
    with in_their_own_session():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    configs = {mode: configured(mode, folder) for mode in MODES}
    first = next(iter(configs.values()))
    first.transfer_queue.enable = True
    tq.init(first.transfer_queue)
    # of one process for both: what it reads is the same
    player = ray.remote(Player).options(num_cpus=0).remote(first)
    for mode, config in configs.items():
        (folder / mode).mkdir()
        print(json.dumps(trained(mode, config, player)), flush=True)
    tq.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
