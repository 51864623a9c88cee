"""Small run and evaluation folders, written with the real schema, and a tokenizer of a few words."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from trm_agent.trust_region.dump import write_dump
from trm_agent.trust_region.settings import DumpConfig, TrmConfig

ATTACK = "</script><img src=x onerror=\"document.title='owned'\">"
WORDS = ("<|im_end|>", "<tool_call>", "alpha", " beta", " gamma", "\n", ATTACK, " delta", "1", "2")
END, CALL, ALPHA, BETA, GAMMA, LINE, EVIL, DELTA, ONE, TWO = range(len(WORDS))


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer whose token i is `WORDS[i]`; the first is special."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=WORDS[2]))
    core.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=WORDS[0], clean_up_tokenization_spaces=False)
    fast.save_pretrained(str(folder))
    return folder


def episode_row(
    step: int = 1,
    *,
    turns: int = 2,
    answer: Sequence[int] = (ALPHA, BETA, GAMMA, END),
    observation: Sequence[int] = (DELTA, LINE),
    log_ratios: Sequence[float] | None = None,
    kl: Sequence[float] | None = None,
    accepted: bool | None = True,
    success: bool = True,
    stop_reason: str = "terminated",
    horizon: int = 2,
    seed: int = 7,
    record: bool = True,
    trainer: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """A row of `turns` equal answers, each but the last with an observation after it.

    Args:
        log_ratios, kl: of the model's tokens, one each; zeros and none by default.
        trainer: False leaves out what only training knows.
    """
    ids: list[int] = []
    mask: list[bool] = []
    listed = []
    for turn in range(turns):
        start, last = len(ids), turn == turns - 1
        ids += [*answer, *([] if last else observation)]
        mask += [True] * len(answer) + [False] * (0 if last else len(observation))
        stop = start + len(answer)
        listed.append(
            {
                "start": start,
                "stop": stop,
                "observation_stop": None if last else len(ids),
                "reward": float(last and success),
                "num_tool_calls": int(not last),
                "malformed": turn == 1 and not success,
                "finished": True,
                "role": None if last else "tool",
            }
        )
    sampled = np.asarray(mask)
    ratios = np.zeros(int(sampled.sum())) if log_ratios is None else np.asarray(log_ratios)
    row: dict[str, Any] = {
        "step": step,
        "update": 0,
        "reward": float(success),
        "prompt_ids": [CALL, ONE, LINE],
        "response_ids": ids,
        "response_mask": mask,
        "rollout_log_probs": spread(np.full(int(sampled.sum()), -0.5), sampled),
    }
    if trainer:
        row |= {"accepted": accepted, "log_probs": spread(ratios - 0.5, sampled), "advantages": spread(ratios, sampled)}
    if kl is not None:
        row |= {name: spread(np.asarray(kl), sampled) for name in ("kl_lower", "kl_upper", "tv_lower", "tv_upper")}
    if record:
        known = {"env_id": "trm/ChainMath-v0", "seed": seed, "options": {"horizon": horizon, "split": "train"}}
        known |= {"reward": float(success), "success": success, "stop_reason": stop_reason, "error": None}
        known |= {"numbers": {"step_accuracy": 0.5}, "timings": {"generate": 1.0}, "turns": listed}
        row["episode"] = json.dumps({**known, "final_observation": None, **more})
    return row


def spread(values: np.ndarray, mask: np.ndarray) -> list[float]:
    """Values of the model's tokens among NaN for all others."""
    filled = np.full(len(mask), math.nan)
    filled[mask] = values
    return filled.tolist()


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str, **settings: Any) -> None:
    """One file of rollouts."""
    write_dump(DumpConfig(directory=str(folder)), rows, vars(TrmConfig(**settings)), name)


def write_run(
    folder: Path, rows: Sequence[dict[str, Any]] = (), *, finished: bool = True, config: Any = None, **settings: Any
) -> Path:
    """A run of three steps with validations at 0 and 3; `rows` become the rollouts of step 1."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"env": {"id": "trm/ChainMath-v0"}, "seed": 0, "trainer": {"total_training_steps": 3}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    (folder / "git.json").write_text(json.dumps({"commit": "0123abc", "dirty": False}))
    validation = {f"env/val_{kind}/h{h}": v for h in (4, 8) for kind, v in (("success", 0.25), ("num_episodes", 64.0))}
    metrics = [{"step": 0, "time": 1.0, **validation}]
    for step in (1, 2, 3):
        metrics.append({"step": step, "time": 1.0 + step, "trm/acceptance": 0.9, "trm/token_kl_mean": 10.0**-step})
    metrics[-1] |= validation
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if finished:
        (folder / "summary.json").write_text(json.dumps({"wall_s": 75.0, "seed": 0, "steps": 3}))
    if rows:
        write_rows(folder / "rollouts", list(rows), "step_000001.update_000.rank_000", **settings)
    return folder


def write_evaluation(folder: Path, *, finished: bool = False) -> Path:
    """Two checkpoints on six tasks of two horizons, two samples each, and one saved episode."""
    folder.mkdir(parents=True)
    config = {"format": "trm-agent evaluation", "version": 1, "samples": 2, "checkpoints": [{"label": "a"}]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {
            "checkpoint": label, "env": "chain", "env_id": "trm/ChainMath-v0", "horizon": 4 if task < 3 else 8,
            "task": task, "seed": task, "sample": sample, "success": label == "b" or task == 0, "reward": 0.0,
            "stop_reason": "terminated", "error": None, "turns": 3, "tool_calls": 2, "malformed_turns": 0,
            "model_tokens": 20, "response_tokens": 40, "generate_s": 1.0, "env_s": 0.1, "total_s": 1.1, "numbers": {},
        }
        for label in ("a", "b") for task in range(6) for sample in range(2)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "results.jsonl").write_text(text + '{"checkpoint": "a", "en')
    if finished:
        from trm_agent.evaluate.summary import summarise

        (folder / "summary.json").write_text(json.dumps(summarise(rows, 2, num_resamples=200)))
    row = episode_row(step=0, trainer=False, checkpoint="a", env="chain", task=0, sample=0)
    write_rows(folder / "episodes", [row], "00.chain.task000000.sample000")
    return folder
