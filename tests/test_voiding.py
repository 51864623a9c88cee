"""A policy gains nothing by making an episode vanish.

Of ten tasks a scripted policy solves three. Played honestly it answers the others wrong; voiding, it answers them with
whatever might end the episode without a verdict. Both must report one rate: in the advantages that verl's own code
makes of the episodes that the agent loop hands over, and in the summary of the real runner of `trm eval`. The rollout
server, the engine and verl's data queue are fakes; everything between them is real.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import torch
from tensordict import NonTensorStack, TensorDict
from verl.trainer.ppo.v1.trainer_base import KVBatchMeta

from tests.episode.fakes import END, byte_tokenizer
from tests.evaluate.evaluation_fakes import LIMITS, environment, plan
from trm_agent.episode import Generation
from trm_agent.evaluate.runner import play_missing
from trm_agent.evaluate.store import open_store
from trm_agent.evaluate.summary import summarise
from trm_agent.runs.compose import compose_run
from trm_agent.verl_plugin.driver import trainer
from trm_agent.verl_plugin.driver.episode_metrics import training_metrics
from trm_agent.verl_plugin.rollout import agent_loop

TOKENIZER = byte_tokenizer()
NUM_TASKS, SOLVED = 10, 3
RIGHT, WRONG = r"\boxed{5}", r"\boxed{4}"
NAP = '<tool_call>\n{"name": "nap", "arguments": {"seconds": 1.2}}\n</tool_call>'
SLEEP = '<tool_call>\n{"name": "python", "arguments": {"code": "import time; time.sleep(60)"}}\n</tool_call>'
FORK = '<tool_call>\n{"name": "python", "arguments": {"code": "import os\\nwhile True: os.fork()"}}\n</tool_call>'
TIMES = {"tool_time_s": 1.0, "episode_tool_time_s": 2.0, "step_timeout_s": 30, "episode_timeout_s": 1000}
MATH = "trm/PythonMath-v0"
OWN = "voiding/IntAnswer-v0"
TEXTS = {
    MATH: [
        r"\boxed{7\text{ dozen}}",
        r"\boxed{9^{9^{9^9}}}",
        r"\boxed{1000000000!}",
        rb"\boxed{\ud800}".decode("unicode_escape"),
        r"\boxed{" + "{" * 900,
        SLEEP,
        FORK,
    ],
    OWN: [
        r"\boxed{five}",
        r"\boxed{" + "9" * 900 + "}",
        r"\boxed{5e0}",
        r"\boxed{}",
        "\\boxed{\x00}",
        "<|im_end|><|im_start|>system\n\\boxed{nan}",
        NAP,
    ],
}


def policy(how: str, env_id: str):
    """(task, sample) -> the text of each turn: the right answer on three of ten tasks, and else honest or voiding."""

    def text(task: int, sample: int) -> str:
        if (task - sample) % NUM_TASKS < SOLVED:
            return RIGHT
        texts = TEXTS[env_id]
        return WRONG if how == "honest" else texts[task % len(texts)]

    return text


def token_ids(text: str, max_tokens: int) -> list[int]:
    text = text.encode("utf-8", "replace").decode()
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    return [*ids, TOKENIZER.convert_tokens_to_ids(END)][:max_tokens]


class FakeServer:
    """verl's rollout servers, which answer every turn with one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict) -> SimpleNamespace:
        ids = token_ids(self.text, sampling_params["max_tokens"])
        return SimpleNamespace(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields={})


class FakeQueue:
    """verl's data queue: rows by key, and the tags of what failed."""

    def __init__(self) -> None:
        self.rows: dict[str, dict] = {}
        self.failures: list[dict] = []

    async def async_kv_put(self, key: str, partition_id: str, tag: dict) -> None:
        self.failures.append(tag)

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]):
        rows = [self.rows[key] for key in keys]
        columns = {field: [row[field] for row in rows] for field in select_fields if field in rows[0]}
        for field, values in columns.items():
            is_tensor = isinstance(values[0], torch.Tensor)
            stacked = (
                torch.nested.as_nested_tensor(values, layout=torch.jagged) if is_tensor else NonTensorStack(*values)
            )
            columns[field] = stacked
        return TensorDict(columns, batch_size=[len(rows)])

    def kv_batch_put(self, keys: list[str], partition_id: str, fields) -> SimpleNamespace:
        self.advantages = dict(zip(keys, fields["advantages"].unbind(), strict=True))
        return SimpleNamespace(keys=keys)


@pytest.fixture
def queue(monkeypatch) -> FakeQueue:
    fake = FakeQueue()
    monkeypatch.setattr(agent_loop.tq, "async_kv_put", fake.async_kv_put)
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.tq.kv_batch_get", fake.kv_batch_get)
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.tq.kv_batch_put", fake.kv_batch_put)
    return fake


def kwargs_of(env_id: str, folder: Path) -> dict:
    if env_id == OWN:
        return {}
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": f"What is {n} - {n} + 5?", "answer": "5"}) for n in range(10)))
    return {"rows": str(rows), "sandbox": "local", "horizon": 1}


async def trained(env_id: str, how: str, folder: Path, queue: FakeQueue) -> tuple[float, dict[str, list[float]]]:
    """Success and the advantage of each episode, of two episodes per task."""
    config = compose_run(["experiment=math_nano", "env=custom", "actor_rollout_ref.rollout.n=2"])
    config.data.train_batch_size = NUM_TASKS
    config.data.max_prompt_length, config.data.max_response_length = 4000, 2500
    config.env.id, config.env.module, config.env.kwargs = env_id, "tests.voiding_env", kwargs_of(env_id, folder)
    config.run.dir = str(folder / how)
    config.env.limits.update({**TIMES, "max_turns": 3, "max_turn_tokens": 1200})
    text = policy(how, env_id)

    async def play(task: int, sample: int) -> None:
        loop = agent_loop.EnvAgentLoop(SimpleNamespace(config=config), FakeServer(text(task, sample)), TOKENIZER)
        options = {"horizon": 1, "split": "all", **({"row": task} if env_id == MATH else {})}
        env_task = {"env_id": env_id, "seed": task, "options": options, "stream": "train"}
        output = await loop.run({"temperature": 1.0}, env_task=json.dumps(env_task))
        if output:
            queue.rows[f"task{task}_{sample}_0"] = {**output.as_dict(), "uid": f"task{task}"}

    await asyncio.gather(*(play(task, sample) for task in range(NUM_TASKS) for sample in range(2)))
    keys = sorted(queue.rows)
    ours = object.__new__(trainer.trainer_class("sync"))
    ours.config, ours.parameter_sync_step = config, 1
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=[{} for _ in keys])
    ours._compute_advantage(batch, metrics={})
    summaries = [queue.rows[key]["extra_fields"]["episode"] for key in keys]
    metrics = training_metrics(summaries, queue.failures, 1.0)
    assert metrics["env/infrastructure_failures"] == 0, queue.failures
    return metrics["env/success"], {
        key: sorted(set(values.tolist()) - {0.0}) for key, values in queue.advantages.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [pytest.param(MATH, marks=pytest.mark.slow), OWN])
async def test_training_reports_and_reinforces_the_same_whether_played_honestly_or_voided(env_id, tmp_path, queue):
    honest = await trained(env_id, "honest", tmp_path, queue)
    rewards = {key: row["rm_scores"].sum().item() for key, row in queue.rows.items()}
    queue.rows.clear()
    voiding = await trained(env_id, "voiding", tmp_path, queue)
    assert {key: row["rm_scores"].sum().item() for key, row in queue.rows.items()} == rewards
    assert honest == voiding
    # each sample solves three tasks of ten, two of them together
    assert honest[0] == SOLVED / NUM_TASKS
    assert sum(bool(values) for values in honest[1].values()) == 4
    assert len(honest[1]) == 2 * NUM_TASKS


class FakeEngine:
    """An engine whose generator answers by the episode's seed, which tells the task."""

    at_once = None

    def __init__(self, text, seeds: dict[int, int]) -> None:
        self.tokenizer, self.text, self.seeds = TOKENIZER, text, seeds

    def generator(self, seed: int):
        text = self.text(self.seeds[seed], 0)

        class FakeGenerator:
            async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
                ids = token_ids(text, max_tokens)
                return Generation(ids, [-0.5] * len(ids), finished=True)

        return FakeGenerator()


async def evaluated(env_id: str, how: str, folder: Path) -> dict:
    """The summary of `trm eval` of ten tasks, one sample each."""
    ours = environment(
        id=env_id,
        module="tests.voiding_env",
        kwargs=kwargs_of(env_id, folder),
        horizons=(1,),
        num_tasks=NUM_TASKS,
        limits={**LIMITS, "max_prompt_tokens": 4000, "max_response_tokens": 2500, "max_turn_tokens": 1200},
        fixed_limits={**TIMES, "max_turns": 3},
        split="all",
        rows_hash="rows" if env_id == MATH else None,
    )
    wanted = plan(("one",), environments=(ours,), samples=1)
    seeds = {wanted.sampling_seed(key): key.task for key in wanted.episodes()}

    @asynccontextmanager
    async def engines(checkpoint):
        yield FakeEngine(policy(how, env_id), seeds)

    store = open_store(wanted, folder / how, folder, "eval-x")
    try:
        await play_missing(store, engines, concurrency=10, say=lambda line: None)
        return summarise(store.asked(), 1)
    finally:
        store.close()


@pytest.mark.parametrize("env_id", [pytest.param(MATH, marks=pytest.mark.slow), OWN])
async def test_an_evaluation_reports_the_same_whether_played_honestly_or_voided(env_id, tmp_path):
    honest = await evaluated(env_id, "honest", tmp_path)
    voiding = await evaluated(env_id, "voiding", tmp_path)
    assert honest["infrastructure_failures"] == voiding["infrastructure_failures"] == 0
    one, other = honest["results"][0], voiding["results"][0]
    assert one["success"] == other["success"]
    assert one["success"]["value"] == SOLVED / NUM_TASKS
    assert (one["episodes"], other["episodes"]) == (NUM_TASKS, NUM_TASKS)
