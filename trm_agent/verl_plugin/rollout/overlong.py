"""Training episodes that run out of tokens, or nearly: masked, or paid less, by choice."""

from __future__ import annotations

from typing import Any

from trm_agent.episode import Episode
from trm_agent.episode.outcomes import StopReason
from trm_agent.runs.sampling_settings import MASK, PENALTY, OverlongConfig

OVERLONG_PARTITION = "overlong_train"
"""Partition of verl's queue with a tag for each masked episode."""


def is_masked(episode: Episode, settings: OverlongConfig) -> bool:
    """Return True if an episode that was played stays out of the loss and of the group's baseline."""
    return settings.treatment == MASK and episode.stop_reason is StopReason.MAX_TOKENS


def masked_tag(uid: str, told: dict[str, Any]) -> dict[str, Any]:
    """Return what the trainer learns of a masked episode.

    Args:
        uid: verl's name of the task.
        told: `agent_loop.summary` of the episode.
    """
    return {"uid": uid, **{name: told[name] for name in ("horizon", "success", "model_tokens", "response_tokens")}}


def length_penalty(episode: Episode, max_tokens: int, settings: OverlongConfig) -> float:
    """Return what an episode loses for its length: DAPO's soft penalty, of 0 or more.

    With L = `max_tokens` and the buffer B: 0 up to L - B, then linear, and `penalty_factor` at L. The length of an
    episode that ran out of tokens is L: the answer for which there was no room, and which it lacks, is what took it
    there. Else a call with a long answer would be the cheap way out.

    Args:
        episode: its response counts, observations included.
        max_tokens: most that a response may have.
        settings: with `buffer_tokens` at most `max_tokens`.
    """
    if settings.treatment != PENALTY or settings.buffer_tokens is None:
        return 0.0
    length = max_tokens if episode.stop_reason is StopReason.MAX_TOKENS else len(episode.response_ids)
    excess = length - (max_tokens - settings.buffer_tokens)
    return max(0.0, excess / settings.buffer_tokens) * settings.penalty_factor
