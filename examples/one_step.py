"""A training step of Trust Region Masking in one file: no verl, no Ray, no vLLM.

`python -m trm_agent.train` does the same with verl's trainer, FSDP and vLLM. Here it is the loop alone: play groups of
episodes, give each its advantage over the group, leave out the sequences that left the trust region, step.

    python examples/one_step.py                  # three steps
    python examples/one_step.py --steps 30 --updates 2 --threshold 0.01
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from trm_agent.core import (
    Interval,
    kept_tokens,
    masked_log_ratio,
    masked_surrogate_tokens,
    max_statistic,
    sequence_mask,
    token_kl_k2,
)
from trm_agent.episode import ChatTokens, Episode, Limits, run_episode
from trm_agent.models.hf_generator import HuggingFaceGenerator
from trm_agent.models.nano import NanoSpec, ensure_nano_model
from trm_agent.tasks import make_env

ENV_ID = "trm/ChainMath-v0"


@dataclass(frozen=True)
class Batch:
    """Episodes as tensors, padded on the right, shape (batch, length) but for `advantages`."""

    input_ids: Tensor
    response_mask: Tensor
    """True on tokens that the model sampled."""
    rollout_log_probs: Tensor
    """Of the policy that sampled, nats; 0 where it did not."""
    advantages: Tensor
    """One number for each episode, shape (batch, 1)."""


def limits_of(horizon: int) -> Limits:
    """Return limits that every solution fits into; one episode that rambles makes the whole batch as long."""
    return Limits(max_turns=horizon + 2, max_turn_tokens=16, max_response_tokens=32 * (horizon + 1))


def play(
    generator: HuggingFaceGenerator, chat: ChatTokens, seeds: Sequence[int], num: int, horizon: int
) -> list[Episode]:
    """Play each task `num` times; the episodes of a task stand together."""
    limits = limits_of(horizon)

    def episode(seed: int):
        options = {"horizon": horizon, "split": "train"}
        return run_episode(
            lambda: make_env(ENV_ID, None, {}), generator, chat, limits, env_id=ENV_ID, seed=seed, options=options
        )

    async def play_all() -> list[Episode]:
        return await asyncio.gather(*(episode(seed) for seed in seeds for _ in range(num)))

    episodes = asyncio.run(play_all())
    for episode in episodes:
        if episode.is_infrastructure_failure:  # nobody's fault but the machine's: no reward is right for it
            raise RuntimeError(f"{episode.stop_reason}: {episode.error}")
    return episodes


def group_advantages(rewards: Tensor) -> Tensor:
    """GRPO's advantage of rewards of shape (groups, episodes): what exceeds the group's mean, in deviations."""
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-6)


def as_batch(episodes: Sequence[Episode], num: int) -> Batch:
    """Pad the episodes, and compare each with the other `num` - 1 of its task."""
    rows = [episode.prompt_ids + episode.response_ids for episode in episodes]
    ids, mask, log_probs = torch.zeros(3, len(rows), max(map(len, rows)))
    for row, episode in enumerate(episodes):
        response = slice(len(episode.prompt_ids), len(rows[row]))
        ids[row, : len(rows[row])] = torch.tensor(rows[row], dtype=torch.float)
        mask[row, response] = torch.tensor(episode.response_mask, dtype=torch.float)
        log_probs[row, response] = torch.tensor(episode.rollout_log_probs)
    rewards = torch.tensor([episode.reward for episode in episodes])
    return Batch(ids.long(), mask.bool(), log_probs, group_advantages(rewards.view(-1, num)).view(-1, 1))


def log_probs_of(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Log-probabilities of the tokens under the policy in training, nats, shape (batch, length), 0 for the first."""
    logits = model(input_ids=batch.input_ids[:, :-1]).logits.float()
    log_probs = logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(log_probs, (1, 0))


def masked_loss(log_probs: Tensor, batch: Batch, max_token_kl: float) -> tuple[Tensor, Tensor]:
    """Return the surrogate over the sequences within the threshold, and their mask.

    The mask is born from the current policy, without a gradient; rejected sequences stay in the denominator.
    """
    log_ratio = masked_log_ratio(log_probs, batch.rollout_log_probs, batch.response_mask)
    largest_kl = max_statistic(Interval.known(token_kl_k2(log_ratio.detach())))
    kept = sequence_mask({"max": largest_kl}, {"max": max_token_kl}, batch.response_mask.any(-1)).accepted
    advantages = batch.advantages.expand_as(log_ratio)
    losses = masked_surrogate_tokens(log_ratio, advantages, kept_tokens(batch.response_mask, kept))
    return losses.sum() / batch.response_mask.sum(), kept


def main() -> None:
    """Train the nano model for a few steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--updates", type=int, default=1, help="optimizer steps on each batch; the later are off-policy"
    )
    parser.add_argument("--threshold", type=float, default=0.05, help="largest token KL of a kept sequence, nats")
    parser.add_argument("--horizon", type=int, default=2, help="steps of a task")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num_tasks, num = 16, 8
    folder = ensure_nano_model(NanoSpec())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    chat = ChatTokens(tokenizer)
    generator = HuggingFaceGenerator(model, chat.stop_token_ids, seed=options.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    for step in range(1, options.steps + 1):
        started = time.monotonic()
        first = options.seed * 10**6 + step * num_tasks
        episodes = play(generator, chat, range(first, first + num_tasks), num, options.horizon)
        batch = as_batch(episodes, num)
        for _ in range(options.updates):
            loss, kept = masked_loss(log_probs_of(model, batch), batch, options.threshold)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        success = sum(episode.success for episode in episodes) / len(episodes)
        print(
            f"step {step}/{options.steps}  success {success:6.1%}  acceptance {kept.float().mean():6.1%}  "
            f"loss {loss.item():+.4f}  gradient norm {norm.item():.3f}  {time.monotonic() - started:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
