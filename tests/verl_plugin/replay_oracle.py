"""The update of a dumped batch in plain PyTorch, float64, one sequence at a time, written from the paper's loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from .replay_plan import Row


@dataclass(frozen=True)
class Expected:
    """What one undivided batch gives."""

    metrics: dict[str, float]
    """Name as the run writes it -> value."""
    gradient: torch.Tensor
    """Of all parameters in their order, flat, float64."""


def update_of(rows: Sequence[Row], model: Path, max_token_kl: float, denominator: float) -> Expected:
    """The masked surrogate -1/N sum_i M_i sum_t A_it rho_it, its gradient, and what the mask says.

    Args:
        rows: of the dump.
        model: folder of the policy.
        max_token_kl: a sequence stays if KL(roll || theta) is at most this at every token, nats.
        denominator: N.
    """
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")
    found = [_of_sequence(policy, row, max_token_kl) for row in rows]
    loss = -sum(item["surrogate"] for item in found) / denominator
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])
    tokens = sum(len(item["kl"]) for item in found)
    ratios = torch.cat([item["log_ratio"].detach().exp() for item in found])
    metrics = {
        "actor/pg_loss": loss.item(),
        "actor/grad_norm": gradient.norm().item(),
        "trm/num_sequences": len(rows),
        "trm/acceptance": np.mean([item["accepted"] for item in found]),
        "trm/kept_tokens": sum(len(item["kl"]) for item in found if item["accepted"]) / tokens,
        "trm/token_kl_mean": sum(item["kl"].sum().item() for item in found) / tokens,
        "trm/token_kl_max": max(item["kl"].max().item() for item in found),
        "trm/token_tv_mean": sum(item["tv"].sum().item() for item in found) / tokens,
        "trm/kl_seq": np.mean([item["kl"].sum().item() for item in found]),
        "trm/ppl_gap": np.mean([abs(item["log_ratio"].mean().item()) for item in found]),
        "trm/ratio_min": ratios.min().item(),
        "trm/ratio_max": ratios.max().item(),
        "trm/surrogate_gain": np.mean([item["gain"] for item in found]),
        "trm/horizon": max(len(item["kl"]) for item in found),
    }
    return Expected({name: float(value) for name, value in metrics.items()}, gradient)


def _of_sequence(policy: torch.nn.Module, row: Row, max_token_kl: float) -> dict[str, Any]:
    prompt, response = row["prompt_ids"], row["response_ids"]
    sampled = torch.tensor(row["response_mask"])
    logits = policy(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1][sampled]
    log_probs = logits.log_softmax(-1)
    taken = log_probs.gather(-1, torch.tensor(response)[sampled].unsqueeze(-1)).squeeze(-1)
    log_ratio = taken - torch.tensor(row["rollout_log_probs"], dtype=torch.float64)[sampled]
    rollout = np.frombuffer(row["rollout_full_log_probs"], np.float32).reshape(len(taken), -1)
    rollout = torch.from_numpy(rollout.astype(np.float64))
    theta = log_probs.detach()
    kl = (rollout.exp() * (rollout - theta)).sum(-1)
    advantages = torch.tensor(row["advantages"], dtype=torch.float64)[sampled]
    accepted = bool((kl <= max_token_kl).all())
    return {
        "kl": kl,
        "tv": (rollout.exp() - theta.exp()).abs().sum(-1) / 2,
        "log_ratio": log_ratio,
        "accepted": accepted,
        "surrogate": (advantages * log_ratio.exp()).sum() * accepted,
        "gain": (advantages * log_ratio.detach().expm1()).sum().item(),
    }
