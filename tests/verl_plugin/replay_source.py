"""Episodes for a dump: the solver's, under the nano model as the policy and the same model, shaken, as the rollout."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.warm_start import make_batch

from .replay_plan import HORIZONS

# of each weight, by which the rollout's differs: a mask keeps some sequences and rejects others
SHAKEN = 0.08


@torch.no_grad()
def episodes(model: Path) -> list[dict[str, Any]]:
    """Rows with what a batch needs: tokens, the rollout's distributions, advantages."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rollout = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    generator = torch.Generator().manual_seed(0)
    for parameter in rollout.parameters():
        parameter.mul_(1 + SHAKEN * torch.randn(parameter.shape, generator=generator))
    solver = NanoSpec().solver("train")
    return [
        _row(rollout, tokenizer, solver.solve(seed, horizon), float(torch.randn((), generator=generator)))
        for seed, horizon in enumerate(HORIZONS)
    ]


def _row(rollout: torch.nn.Module, tokenizer: Any, trace: Any, advantage: float) -> dict[str, Any]:
    batch = make_batch(tokenizer, [trace])
    ids, sampled = batch.input_ids[0], batch.loss_mask[0]
    first, last = int(sampled.nonzero()[0]), int(sampled.nonzero()[-1])
    mask = sampled[first : last + 1]
    full = rollout(ids[None, : last + 1]).logits[0, first - 1 : last].log_softmax(-1)
    taken = full.gather(-1, ids[first : last + 1, None])[:, 0]
    return {
        "prompt_ids": ids[:first].tolist(),
        "response_ids": ids[first : last + 1].tolist(),
        "response_mask": mask.tolist(),
        "rollout_log_probs": taken.where(mask, torch.nan).tolist(),
        "advantages": torch.full(mask.shape, advantage).where(mask, torch.nan).tolist(),
        "vocab_size": full.shape[-1],
        "rollout_full_log_probs": full[mask].numpy().tobytes(),
    }
