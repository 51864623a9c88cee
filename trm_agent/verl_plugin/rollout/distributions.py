"""Carry the rollout's distributions from an episode's turns to the fields of verl's training batch."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from trm_agent.episode import Episode, episode_record

# sampling parameter of the rollout server: number of log-probs to record; ALL (vLLM's own code) for the vocabulary
RECORD = "trm_record_log_probs"
ALL = -1
# key of the server's record in verl's extra_fields and in `Generation.extra`
RECORDED = "trm_recorded"
# fields of the training batch: one row per response token
TOP_IDS, TOP_LOG_PROBS = "rollout_top_ids", "rollout_top_log_probs"
FULL_LOG_PROBS = "rollout_full_log_probs"
# field of the training batch: the bytes of `episode.episode_record`'s result, as JSON
EPISODE_RECORD = "episode_record"


@dataclass(frozen=True)
class Recorded:
    """The rollout policy's most likely tokens at each position of one turn, most likely first."""

    ids: np.ndarray
    """Token ids, int64, shape (tokens, K)."""
    log_probs: np.ndarray
    """Their log-probs, nats, float32, shape (tokens, K); K is the vocabulary's size for the whole distribution."""


def unpack(token_ids: list[int], log_probs: list[float], num_tokens: int) -> tuple[Recorded, np.ndarray]:
    """Split vLLM's flat lists into the distributions and the log-probs of the sampled tokens.

    Args:
        token_ids: for each token the sampled one, then the candidates from the most likely on.
        log_probs: theirs, nats.
        num_tokens: sampled tokens.

    Returns:
        The distributions, and the sampled tokens' log-probs of shape (num_tokens,), nats.
    """
    ids = np.array(token_ids, dtype=np.int64).reshape(num_tokens, -1)
    values = np.array(log_probs, dtype=np.float32).reshape(num_tokens, -1)
    return Recorded(ids[:, 1:], values[:, 1:]), values[:, 0]


def num_recorded(estimator: str | None, top_k: int) -> int:
    """Return the number of log-probs that an estimator needs from the server.

    Args:
        estimator: the estimator of the `trm` loss; None for another loss.
        top_k: of the `trm` loss.

    Returns:
        0 for none beyond the sampled token's, `ALL` for the whole vocabulary.
    """
    return {"topk": top_k, "exact": ALL}.get(estimator or "", 0)


class EnvOutput(AgentLoopOutput):
    """An episode's output for verl, with further fields of the training batch."""

    arrays: Any = None

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        arrays = output.pop("arrays", None) or {}
        return {**output, **{name: torch.from_numpy(values) for name, values in arrays.items()}}


def distribution_fields(episode: Episode, num: int) -> dict[str, Any]:
    """Lay the recorded turns out over the response, with filler (probability 0) on tokens the model did not sample.

    Args:
        episode: an episode whose `extras` hold a `Recorded` for each turn.
        num: the number of recorded log-probs, see `num_recorded`.

    Returns:
        Fields of the batch: `FULL_LOG_PROBS` in the order of the vocabulary, or `TOP_IDS` and `TOP_LOG_PROBS`; empty
        for 0. Shape (response tokens, K).

    Raises:
        ValueError: the server recorded nothing, or not one row per token.
    """
    if num == 0:
        return {}
    turns: list[tuple[tuple[int, int], Recorded]] = []
    for turn, extra in zip(episode.turns, episode.extras, strict=True):
        start, stop = turn.token_span
        recorded = extra.get(RECORDED)
        if recorded is None or len(recorded.ids) != stop - start:
            found = "no" if recorded is None else len(recorded.ids)
            raise ValueError(f"the rollout server recorded {found} distributions for {stop - start} tokens")
        turns.append((turn.token_span, recorded))
    width = turns[0][1].ids.shape[1]
    log_probs = np.full((len(episode.response_ids), width), -np.inf, dtype=np.float32)
    ids = np.zeros(log_probs.shape, dtype=np.int64)
    for (start, stop), recorded in turns:
        ids[start:stop], log_probs[start:stop] = recorded.ids, recorded.log_probs
    if num != ALL:
        return {TOP_IDS: ids, TOP_LOG_PROBS: log_probs}
    full = np.full_like(log_probs, -np.inf)
    rows = np.flatnonzero(np.asarray(episode.response_mask))
    full[rows[:, None], ids[rows]] = log_probs[rows]
    return {FULL_LOG_PROBS: full}


def record_field(episode: Episode) -> dict[str, Any]:
    """Return the episode's record as a field of the batch, uint8."""
    return {EPISODE_RECORD: np.frombuffer(json.dumps(episode_record(episode)).encode(), dtype=np.uint8).copy()}


def record_of(values: torch.Tensor) -> str:
    """Return the JSON that a row of `EPISODE_RECORD` holds."""
    return values.cpu().numpy().tobytes().decode()
