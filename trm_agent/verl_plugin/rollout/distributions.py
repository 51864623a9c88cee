"""Carry the rollout's distributions from an episode's turns to the fields of verl's training batch."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from trm_agent.episode import Episode, episode_record
from trm_agent.trust_region.recording import ALL, REPLAYED
from trm_agent.trust_region.settings import FIELD_PATH
from trm_agent.verl_plugin.rollout.failed import DrawnOutside

# sampling parameter of the rollout server: number of log-probs to record; ALL for the vocabulary
RECORD = "trm_record_log_probs"
# key of the server's record in verl's extra_fields and in `Generation.extra`
RECORDED = "trm_recorded"
# fields of the training batch: one row per response token
TOP_IDS, TOP_LOG_PROBS = "rollout_top_ids", "rollout_top_log_probs"
FULL_LOG_PROBS = "rollout_full_log_probs"
KEPT_IDS, KEPT_LOG_PROBS = "rollout_kept_ids", "rollout_kept_log_probs"
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


class EnvOutput(AgentLoopOutput):
    """An episode's output for verl, with further fields of the training batch."""

    arrays: Any = None

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        arrays = output.pop("arrays", None) or {}
        return {**output, **{name: torch.from_numpy(values) for name, values in arrays.items()}}


def distribution_fields(episode: Episode, num: int, estimator: str | None = None) -> dict[str, Any]:
    """Lay the recorded turns out over the response, with filler (probability 0) on tokens the model did not sample.

    Args:
        episode: an episode whose `extras` hold a `Recorded` for each turn.
        num: the number of recorded log-probs, see `recording.num_recorded`.
        estimator: of the `trm` loss.

    Returns:
        Fields of the batch: `FULL_LOG_PROBS` in the order of the vocabulary, or `KEPT_IDS` and `KEPT_LOG_PROBS` for
        `replayed`, or `TOP_IDS` and `TOP_LOG_PROBS`; empty for 0. Shape (response tokens, K).

    Raises:
        ValueError: the server recorded nothing, or not one row per token.
        DrawnOutside: for `replayed`, a set that was recorded whole lacks its token.
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
    if estimator == REPLAYED:
        _add_drawn(episode, ids, log_probs)
        return {KEPT_IDS: ids, KEPT_LOG_PROBS: log_probs}
    if num != ALL:
        return {TOP_IDS: ids, TOP_LOG_PROBS: log_probs}
    full = np.full_like(log_probs, -np.inf)
    rows = np.flatnonzero(np.asarray(episode.response_mask))
    full[rows[:, None], ids[rows]] = log_probs[rows]
    return {FULL_LOG_PROBS: full}


def _add_drawn(episode: Episode, ids: np.ndarray, log_probs: np.ndarray) -> None:
    """Put a drawn token that ties with the last of a full record, and has no place there, into that last place.

    Its set stays one that may be larger than its record.

    Raises:
        DrawnOutside: a record lacks its token, which does not tie.
    """
    drawn, sampled = np.asarray(episode.response_ids), np.asarray(episode.response_mask)
    is_there = ((ids == drawn[:, None]) & (log_probs > -np.inf)).any(axis=1)
    last = log_probs[:, -1]
    # the engine takes both from one tensor, so that ties are equal to the bit
    ties = (last > -np.inf) & (np.asarray(episode.rollout_log_probs, dtype=np.float32) == last)
    tied = np.flatnonzero(sampled & ~is_there & ties)
    ids[tied, -1] = drawn[tied]
    outside = np.flatnonzero(sampled & ~is_there & ~ties)
    if len(outside):
        turn = next(number for number, turn in enumerate(episode.turns, start=1) if outside[0] < turn.token_span[1])
        raise DrawnOutside(
            f"{episode.env_id} seed {episode.seed}: turn {turn} drew token {drawn[outside[0]]}, which is not among the "
            f"{ids.shape[1]} most likely that its request recorded; let the server draw by top_k and top_p of "
            f"actor_rollout_ref.rollout alone, or set {FIELD_PATH}.estimator=sampled with top_k=-1 and top_p=1"
        )


def record_field(episode: Episode) -> dict[str, Any]:
    """Return the episode's record as a field of the batch, uint8."""
    return {EPISODE_RECORD: np.frombuffer(json.dumps(episode_record(episode)).encode(), dtype=np.uint8).copy()}


def record_of(values: torch.Tensor) -> str:
    """Return the JSON that a row of `EPISODE_RECORD` holds."""
    return values.cpu().numpy().tobytes().decode()
