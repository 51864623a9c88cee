"""Mask and loss on a long batch against verl's vanilla loss and verl's own rejection path; forward and backward.

python -m benchmarks.loss [--sequences 32] [--tokens 32768] [--threads 2] [--before FOLDER]

Aims: mask and loss at most 0.4 times the vanilla loss and 0.25 times the rejection path; with every diagnostic at most
1.0 times the vanilla loss. Both criteria (max k2, average k3) on all sides that have them. FOLDER holds another version
of the code: the same calls with both in turn, the median ratio of those that followed each other, and which are above
1.05. What verl alone computes has a ratio of 1, but for the noise of the measurement; an older version has fewer
diagnostics.
"""

import argparse
import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.in_turn import HERE, REPEATS, Version, in_turn, known_fields, ratio, verdict

os.environ.setdefault("VERL_PLATFORM", "cpu")

THRESHOLDS = (0.05, 0.001)
# sequences of one prompt
GROUP = 4


def random_batch(sequences: int, tokens: int) -> tuple[torch.Tensor, ...]:
    """Log-probs of both policies, advantages and a mask with ragged ends and tool tokens between the turns."""
    generator = torch.Generator().manual_seed(0)
    rollout = -torch.rand(sequences, tokens, generator=generator) * 3
    log_probs = rollout + 0.01 * torch.randn(sequences, tokens, generator=generator)
    advantages = torch.randn(sequences, 1, generator=generator).expand(sequences, tokens).contiguous()
    ends = torch.randint(tokens // 2, tokens + 1, (sequences, 1), generator=generator)
    position = torch.arange(tokens)
    mask = (position < ends) & (position % 128 < 96)
    return log_probs, rollout, advantages, mask


def seconds(
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]],
    log_probs: torch.Tensor,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Median time of one forward and backward of each, taken in turn so that a slow moment of the machine meets all.

    Args:
        calls: functions of the log-probs that return a loss.
        log_probs: their argument.
        wait: returns once the device has done all that it was given.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS + 2):
        for name, call in calls.items():
            times[name].append(seconds_of_one(call, log_probs, wait))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def seconds_of_one(
    call: Callable[[torch.Tensor], torch.Tensor], log_probs: torch.Tensor, wait: Callable[[], None] = lambda: None
) -> float:
    """Time one forward and backward. Arguments as in `seconds`."""
    leaf = log_probs.clone().requires_grad_()
    wait()
    started = time.perf_counter()
    call(leaf).backward()
    wait()
    return time.perf_counter() - started


def timed_calls(sequences: str, tokens: str, threads: str) -> dict[str, Callable[[], float]]:
    """Return the calls for `in_turn.Version`."""
    torch.set_num_threads(int(threads))
    log_probs, *others = random_batch(int(sequences), int(tokens))
    calls = calls_of(*others)
    return {name: functools.partial(seconds_of_one, call, log_probs) for name, call in calls.items()}


def calls_of(
    rollout: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the losses that are compared, as functions of the policy's log-probs."""
    from verl.trainer.ppo.core_algos import compute_policy_loss_bypass_mode, compute_policy_loss_vanilla
    from verl.workers.config import FSDPActorConfig, PolicyLossConfig

    from trm_agent.core.divergences import masked_log_ratio
    from trm_agent.core.losses import masked_surrogate_loss
    from trm_agent.core.token_batch import TokenBatch
    from trm_agent.trust_region.masking import decide
    from trm_agent.trust_region.settings import TrmConfig
    from trm_agent.verl_plugin.actor.policy_loss import TrmPolicyLossConfig, compute_policy_loss_trm
    from trm_agent.verl_plugin.actor.update import MicroBatch, collect_update, set_micro_batch

    batch_info = {"dp_size": 1, "batch_num_tokens": int(mask.sum()), "global_batch_size": len(rollout)}
    common = {"rollout_n": 1, "ppo_micro_batch_size_per_gpu": 1, "global_batch_info": batch_info}
    trm = TrmConfig(criterion="both", max_token_kl=THRESHOLDS[0], avg_token_kl=THRESHOLDS[1])
    correction = {"rollout_rs": "seq_max_k2,seq_mean_k3", "rollout_rs_threshold": f"{THRESHOLDS[0]},{THRESHOLDS[1]}"}
    rejecting = PolicyLossConfig(loss_mode="bypass_mode", rollout_correction=correction)
    vanilla_config = FSDPActorConfig(**common)
    rejecting_config = FSDPActorConfig(policy_loss=rejecting, **common)
    trm_config = FSDPActorConfig(policy_loss=TrmPolicyLossConfig(trm=trm), **common)
    arguments = {"advantages": advantages, "response_mask": mask}
    # known to our engine alone, which measures by depth; an older version does not
    prompts = torch.arange(len(rollout), device=rollout.device) * 37
    groups = torch.arange(len(rollout), device=rollout.device) // GROUP
    number_mask = {"advantages": advantages, "response_mask": mask.float()}

    def vanilla(leaf: torch.Tensor) -> torch.Tensor:
        return compute_policy_loss_vanilla(old_log_prob=rollout, log_prob=leaf, config=vanilla_config, **arguments)[0]

    def rejection(leaf: torch.Tensor) -> torch.Tensor:
        return compute_policy_loss_bypass_mode(
            old_log_prob=rollout, log_prob=leaf, config=rejecting_config, **number_mask
        )[0]

    def mask_and_loss(leaf: torch.Tensor) -> torch.Tensor:
        log_ratio = masked_log_ratio(leaf, rollout, mask)
        kept = decide(trm, TokenBatch(log_ratio.detach(), rollout, advantages, mask))
        return masked_surrogate_loss(log_ratio, advantages, kept, num_sequences=len(rollout))

    def with_diagnostics(leaf: torch.Tensor) -> torch.Tensor:
        with collect_update() as update:
            set_micro_batch(MicroBatch(**known_fields(MicroBatch, prompt_lengths=prompts, groups=groups)))
            loss, _ = compute_policy_loss_trm(old_log_prob=rollout, log_prob=leaf, config=trm_config, **arguments)
        update.metrics()
        return loss

    return {
        "verl vanilla": vanilla,
        "verl seq_max_k2,seq_mean_k3": rejection,
        "ours: mask and loss": mask_and_loss,
        "ours: every diagnostic": with_diagnostics,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another version of the code")
    options = parser.parse_args()
    sizes = options.sequences, options.tokens, options.threads
    trees = {"now": HERE} | ({"before": options.before} if options.before else {})
    with contextlib.ExitStack() as stack:
        versions = {name: stack.enter_context(Version(tree, "benchmarks.loss", *sizes)) for name, tree in trees.items()}
        found = in_turn(versions, versions["now"].names, REPEATS)
    medians = {name: statistics.median(values) for name, values in found["now"].items()}
    base, rejected = medians["verl vanilla"], medians["verl seq_max_k2,seq_mean_k3"]
    ratios = {name: ratio(found["now"][name], values) for name, values in found.get("before", {}).items()}
    print(f"{options.sequences} sequences of {options.tokens} tokens, {options.threads} threads, median of {REPEATS}")
    print(f"{'':<28}{'ms':>8}{'of vanilla':>12}{'of rejection':>14}" + (f"{'of before':>12}" if options.before else ""))
    for name, value in medians.items():
        line = f"{name:<28}{1e3 * value:>8.1f}{value / base:>12.2f}{value / rejected:>14.2f}"
        print(line + (f"{ratios[name]:>12.3f}" if ratios else ""))
    if ratios:
        print(verdict(ratios))


if __name__ == "__main__":
    main()
