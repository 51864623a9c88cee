"""TRL's side of `peers`: GRPO with an environment of its own making. Run by the Python that has TRL, not by ours.

python -m benchmarks.peers_trl SPEC.json

SPEC holds model, tasks (seed and horizon of each), prompts (token ids of each), job, rows (file to write) and out
(folder of the trained model). A row of `rows` is a step; a prompt that differs ends the run.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_schema

from benchmarks import peers_job
from benchmarks.peers_env import ENV_ID

SPEC: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
PACKAGES = ("trl", "torch", "transformers", "accelerate", "datasets")


class Chain:
    """A task as TRL wants it: public methods are tools. A return type would change the prompt."""

    def __init__(self) -> None:
        tool_s = SPEC["job"]["tool_ms"] / 1000
        self._env = gymnasium.make(ENV_ID, reveal="stepwise", tool_s=tool_s)

    def reset(self, task_seed: int, horizon: int, **_: Any) -> str:
        return self._env.reset(seed=task_seed, options={"horizon": horizon, "split": "train"})[0]

    def calculator(self, expression: str):  # type: ignore[no-untyped-def]
        """
        Evaluate an expression of integers.

        Args:
            expression: such as 12*3
        """
        return self._env.step(self._env.unwrapped.call("calculator", expression=expression))[0]  # type: ignore[attr-defined]

    def _judge(self, last: dict[str, Any]) -> float:
        """Score the last message, which is the answer unless a limit cut the episode."""
        if last["role"] != "assistant" or last.get("tool_calls"):
            return 0.0
        _, reward, is_over, _, _ = self._env.step(last["content"])
        return float(reward) if is_over else 0.0


def solved(completions: list[list[dict[str, Any]]], environments: list[Chain], **_: Any) -> list[float]:
    """Return the rewards."""
    return [chain._judge(messages[-1]) for chain, messages in zip(environments, completions, strict=True)]


class Watched(GRPOTrainer):
    """TRL's trainer, which counts what `peers_job.Step` asks for and holds the prompts against ours."""

    generation, tokens, success, num_played = 0.0, 0, 0.0, 0

    def _tokenize_prompts(self, prompts: list) -> Any:
        tokenized = super()._tokenize_prompts(prompts)
        first = self.num_played * peers_job.TASKS
        for index, ids in enumerate(tokenized[0]):
            expected = SPEC["prompts"][first + index // peers_job.GROUP]
            if list(ids) != expected:
                raise SystemExit(
                    f"prompts differ: task {first + index // peers_job.GROUP}: {list(ids)}, not {expected}"
                )
        self.num_played += 1
        return tokenized

    def _generate_and_score_completions(self, inputs: list) -> Any:
        started = time.time()
        batch = super()._generate_and_score_completions(inputs)
        self.generation = time.time() - started
        self.tokens = int((batch["completion_mask"] * batch["tool_mask"]).sum())
        return batch

    def _calculate_rewards(self, *arguments: Any, **named: Any) -> Any:
        rewards = super()._calculate_rewards(*arguments, **named)
        self.success = float((rewards >= 1).float().mean())
        return rewards


class Rows(TrainerCallback):
    """Writes a row at the end of each step."""

    def __init__(self) -> None:
        self.trainer: Watched
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        end, trainer = time.time(), self.trainer
        row = {
            "end": end,
            "generation": trainer.generation,
            "update": end - self.began - trainer.generation,
            "tokens": trainer.tokens,
            "episodes": peers_job.TASKS * peers_job.GROUP,
            "success": trainer.success,
        }
        with open(SPEC["rows"], "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def settings() -> GRPOConfig:
    """Return our settings in TRL's words."""
    job = SPEC["job"]
    return GRPOConfig(
        output_dir=SPEC["out"],
        model_init_kwargs={"dtype": "float32"},
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=job["seed"],
        shuffle_dataset=False,
        max_steps=job["steps"],
        learning_rate=peers_job.LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=peers_job.WARM_UP,
        weight_decay=peers_job.WEIGHT_DECAY,
        max_grad_norm=peers_job.CLIP,
        per_device_train_batch_size=peers_job.MICRO_BATCH,
        gradient_accumulation_steps=peers_job.TASKS * peers_job.GROUP // peers_job.MICRO_BATCH,
        num_generations=peers_job.GROUP,
        temperature=peers_job.TEMPERATURE,
        max_completion_length=peers_job.RESPONSE_TOKENS,
        generation_kwargs={"max_new_tokens": peers_job.TURN_TOKENS},
        max_tool_calling_iterations=peers_job.MAX_TURNS,
        loss_type="dr_grpo",
        scale_rewards="group",
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SPEC["model"])
    tokenizer.response_schema = qwen3_schema
    probe = Chain()
    probe.reset(0, peers_job.HORIZONS[0])
    system = probe._env.unwrapped.system_prompt  # type: ignore[attr-defined]
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": ""}]
    rows = Rows()
    rows.trainer = Watched(
        model=SPEC["model"],
        processing_class=tokenizer,
        args=settings(),
        train_dataset=Dataset.from_list([{"prompt": prompt, **task} for task in SPEC["tasks"]]),
        environment_factory=Chain,
        reward_funcs=solved,
        callbacks=[rows],
    )
    rows.trainer.train()
    rows.trainer.save_model(SPEC["out"])
    # the template without the trainer's changes
    AutoTokenizer.from_pretrained(SPEC["model"]).save_pretrained(SPEC["out"])
    versions = {name: version(name) for name in PACKAGES}
    (Path(SPEC["out"]) / "versions.json").write_text(json.dumps(versions), encoding="utf-8")


if __name__ == "__main__":
    main()
