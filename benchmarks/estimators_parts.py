"""What the estimators add to a step, part by part, as calls that two versions of the code make in turn.

The batch is of the default run's size: 128 episodes of 52 sampled tokens each, in the nano model's vocabulary.

- *record*: from the engine's flat lists to the fields of verl's batch, for all episodes;
- *measure*: divergences of all sampled tokens from the logits of a forward pass, a micro-batch at a time;
- *mask and loss*: decision, loss forward and backward, a micro-batch at a time;
- *every diagnostic*: the same with all statistics, and the update's metrics, of which an older version has fewer.
"""

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.in_turn import known_fields

VOCAB, TOP_K, NUM_KEPT, NUM_TIES = 563, 20, 64, 32
THREADS, EPISODES, MICRO_BATCH, PROMPT = 2, 128, 16, 90
TURNS, TURN, OBSERVATION = 4, 13, 12
SPANS = [(start, start + TURN) for start in range(0, TURNS * (TURN + OBSERVATION), TURN + OBSERVATION)]
RESPONSE = SPANS[-1][1]
SAMPLED = np.array([any(start <= place < stop for start, stop in SPANS) for place in range(RESPONSE)])
Fields = list[dict[str, Any]]
"""Of each episode: name of a field of the batch -> rows of the response."""


def timed_calls() -> dict[str, Callable[[], float]]:
    """Return the calls for `in_turn.Version`: those of the estimators that the version has."""
    from trm_agent.trust_region.settings import ESTIMATORS

    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(EPISODES, PROMPT + RESPONSE, VOCAB).normal_(0, 3, generator=generator)
    # row j predicts token j + 1
    rollout = logits[:, PROMPT - 1 : -1].log_softmax(-1)
    drawn = torch.multinomial(cut(rollout).exp().flatten(0, 1), 1, generator=generator).view(EPISODES, RESPONSE)
    logits += torch.empty_like(logits).normal_(0, 0.02, generator=generator)
    calls: dict[str, Callable[[], object]] = {}
    for estimator in ESTIMATORS:
        if estimator != "sampled":
            record = recorder(estimator, rollout, drawn)
            calls[f"{estimator}: record"] = record
            calls[f"{estimator}: measure"] = measurer(estimator, record(), logits, drawn)
        calls |= {f"{estimator}: {part}": call for part, call in losses(estimator, generator).items()}
    return {name: functools.partial(_seconds, call) for name, call in calls.items()}


def cut(log_probs: torch.Tensor) -> torch.Tensor:
    """Return the log-probs of a rollout with top-k, -infinity beyond the kept tokens."""
    least = log_probs.topk(NUM_KEPT).values[..., -1:]
    return log_probs.masked_fill(log_probs < least, -torch.inf).log_softmax(-1)


def recorder(estimator: str, rollout: torch.Tensor, drawn: torch.Tensor) -> Callable[[], Fields]:
    """Return the way of an engine's answers into the batch, with the answers as vLLM gives them.

    Args:
        estimator: that wants them recorded.
        rollout: log-probs of the policy that samples, shape (episodes, response, vocab), nats.
        drawn: token ids, shape (episodes, response).
    """
    from trm_agent.episode import Episode, StopReason, Turn
    from trm_agent.verl_plugin.rollout.distributions import RECORDED, distribution_fields, unpack

    width = {"topk": TOP_K, "exact": VOCAB}.get(estimator, NUM_KEPT + NUM_TIES)
    processed = cut(rollout) if estimator == "replayed" else rollout
    top = processed.topk(width)
    # for each token the sampled one, then the candidates
    ids = torch.cat([drawn.unsqueeze(-1), top.indices], -1)
    log_probs = torch.cat([processed.gather(-1, drawn.unsqueeze(-1)), top.values], -1)
    answers = [
        [(ids[row, slice(*span)].flatten().tolist(), log_probs[row, slice(*span)].flatten().tolist()) for span in SPANS]
        for row in range(EPISODES)
    ]
    episode_of = functools.partial(
        Episode,
        env_id="benchmark",
        seed=0,
        options={},
        prompt_ids=[0] * PROMPT,
        response_mask=SAMPLED.tolist(),
        rollout_log_probs=[0.0] * RESPONSE,
        turns=[Turn(span, "", True) for span in SPANS],
        reward=1.0,
        success=True,
        stop_reason=StopReason.TERMINATED,
    )
    responses = drawn.tolist()
    wanted = {"topk": TOP_K, "exact": -1}.get(estimator, width)
    # an older version has no estimator that is told by its name
    named = (estimator,) if estimator == "replayed" else ()

    def record() -> Fields:
        fields = []
        for response_ids, flat_lists in zip(responses, answers, strict=True):
            extras = [{RECORDED: unpack(*flat, TURN)[0]} for flat in flat_lists]
            episode = episode_of(response_ids=response_ids, extras=extras)
            fields.append(distribution_fields(episode, wanted, *named))
        return fields

    return record


def measurer(estimator: str, fields: Fields, logits: torch.Tensor, drawn: torch.Tensor) -> Callable[[], None]:
    """Return the engine's measurement of what was recorded.

    Args:
        estimator: that recorded it.
        fields: from `recorder`.
        logits: of the policy in training, shape (episodes, prompt + response, vocab), nats.
        drawn: token ids, shape (episodes, response).
    """
    from trm_agent.verl_plugin.actor.divergences import rollout_divergences

    calls: list[Callable[..., object]] = [rollout_divergences]
    if estimator == "replayed":
        from trm_agent.verl_plugin.actor.kept import replayed_outputs

        calls.append(replayed_outputs)
    parts = [slice(start, start + MICRO_BATCH) for start in range(0, EPISODES, MICRO_BATCH)]
    batches = [(logits[rows].flatten(0, 1).unsqueeze(0), packed(fields[rows], drawn[rows])) for rows in parts]

    def measure() -> None:
        for of_batch, micro_batch in batches:
            for call in calls:
                call(of_batch, micro_batch)

    return measure


def packed(fields: Fields, drawn: torch.Tensor) -> Any:
    """Return a micro-batch as verl packs it.

    Args:
        fields: of its episodes.
        drawn: their tokens, shape (episodes, response).
    """
    from tensordict import TensorDict
    from verl.utils import tensordict_utils

    prompts, mask = torch.zeros(len(drawn), PROMPT, dtype=torch.int64), torch.from_numpy(SAMPLED).long()
    columns: dict[str, list[torch.Tensor]] = {
        "prompts": list(prompts),
        "responses": list(drawn),
        "input_ids": list(torch.cat([prompts, drawn], 1)),
        "response_mask": [mask] * len(drawn),
    }
    columns |= {name: [torch.from_numpy(each[name]) for each in fields] for name in fields[0]}
    nested = {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in columns.items()}
    data = TensorDict(nested, [len(drawn)])
    tensordict_utils.assign_non_tensor(data, temperature=1.0, use_remove_padding=True)
    return data


def losses(estimator: str, generator: torch.Generator) -> dict[str, Callable[[], None]]:
    """Return an update's losses with their backward passes, without diagnostics and with all of them."""
    from verl.workers.config import FSDPActorConfig

    from trm_agent.core.divergences import masked_log_ratio
    from trm_agent.core.losses import masked_surrogate_loss
    from trm_agent.core.token_batch import DivergenceBounds, TokenBatch
    from trm_agent.trust_region.masking import decide
    from trm_agent.trust_region.settings import TrmConfig
    from trm_agent.verl_plugin.actor.policy_loss import TrmPolicyLossConfig, compute_policy_loss_trm
    from trm_agent.verl_plugin.actor.update import MicroBatch, collect_update, set_micro_batch

    tokens = int(SAMPLED.sum())
    info = {"dp_size": 1, "batch_num_tokens": EPISODES * tokens, "global_batch_size": EPISODES}
    trm = TrmConfig(estimator=estimator)
    config = FSDPActorConfig(
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=MICRO_BATCH,
        global_batch_info=info,
        policy_loss=TrmPolicyLossConfig(trm=trm),
    )
    shape = MICRO_BATCH, RESPONSE
    rollout = -3 * torch.rand(shape, generator=generator)
    log_probs = rollout + 0.05 * torch.randn(shape, generator=generator)
    mask = torch.from_numpy(SAMPLED).expand(shape)
    advantages = torch.randn(MICRO_BATCH, 1, generator=generator) * mask
    kl = 0.01 * torch.rand(shape, generator=generator) * mask
    upper = 1.1 * kl if estimator == "topk" else kl
    bounds = None if estimator == "sampled" else DivergenceBounds(kl, upper, kl.sqrt(), upper.sqrt())
    prompts = torch.full((MICRO_BATCH,), PROMPT)
    # an older version has no such argument
    has_sets = bounds and estimator == "replayed" and "replayed" in inspect.signature(bounds.of_batch).parameters
    of_sets = {"replayed": True} if has_sets else {}

    def mask_and_loss() -> None:
        for _ in range(EPISODES // MICRO_BATCH):
            log_ratio = masked_log_ratio(log_probs.clone().requires_grad_(), rollout, mask)
            measured = bounds and bounds.of_batch(log_ratio.detach(), known=estimator == "exact", **of_sets)
            kept = decide(trm, TokenBatch(log_ratio.detach(), rollout, advantages, mask, measured))
            masked_surrogate_loss(log_ratio, advantages, kept, num_sequences=EPISODES).backward()

    def with_diagnostics() -> None:
        with collect_update() as made:
            for _ in range(EPISODES // MICRO_BATCH):
                leaf = log_probs.clone().requires_grad_()
                set_micro_batch(MicroBatch(bounds, **known_fields(MicroBatch, prompt_lengths=prompts)))
                found, _ = compute_policy_loss_trm(rollout, leaf, advantages, mask, config=config)
                found.backward()
        made.metrics()

    return {"mask and loss": mask_and_loss, "every diagnostic": with_diagnostics}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
