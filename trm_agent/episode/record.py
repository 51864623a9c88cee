"""An episode without its tokens, as JSON: what a dump keeps beside the token arrays so that the episode can be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trm_agent.episode.types import Episode, Turn


def episode_record(episode: Episode) -> dict[str, Any]:
    """Return the record of an episode.

    Args:
        episode: a finished one.

    Returns:
        JSON-clean: `task` (see `task_name`), `env_id`, `seed`, `options`, `reward`, `success`, `expected_answer`,
        `stop_reason`, `error`, `scorer_error`, `numbers`, `timings` (seconds); `turns`, each with `start`, `stop` and
        `observation_stop` (indices into the response: the model's tokens are [start, stop), what answered them
        [stop, observation_stop), null after the last turn), `reward`, `num_tool_calls`, `malformed`, `finished`,
        `role`; `final_observation`: the answer to the last turn, of which there are no tokens.
    """
    return {
        "task": task_name(episode.env_id, episode.seed, episode.options),
        "env_id": episode.env_id,
        "seed": episode.seed,
        "options": episode.options,
        "reward": episode.reward,
        "success": bool(episode.success),
        "expected_answer": episode.expected_answer,
        "stop_reason": str(episode.stop_reason),
        "error": episode.error,
        "scorer_error": episode.scorer_error,
        "numbers": episode.numbers,
        "timings": episode.timings,
        "turns": [_turn_record(turn) for turn in episode.turns],
        "final_observation": episode.turns[-1].observation if episode.turns else None,
    }


def task_name(env_id: str, seed: int | None, options: Mapping[str, Any]) -> str:
    """Return a name that the episodes of one task share, and no others: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps([env_id, seed, options], sort_keys=True).encode()).hexdigest()[:16]


def _turn_record(turn: Turn) -> dict[str, Any]:
    start, stop = turn.token_span
    return {
        "start": start,
        "stop": stop,
        "observation_stop": turn.observation_span[1] if turn.observation_span else None,
        "reward": turn.reward,
        "num_tool_calls": turn.num_tool_calls,
        "malformed": turn.malformed,
        "finished": turn.finished,
        "role": turn.role,
    }
