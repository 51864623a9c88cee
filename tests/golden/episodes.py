"""Solver episodes of each environment: all that they show but times."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import trm_envs
from trm_envs.checking.subject import resolve, transcript

NUM_SEEDS = 20
HEAD = 48


def played(env_id: str) -> dict[str, str]:
    """Episode -> digest of its transcript, turns, reward, and how it begins."""
    with resolve(env_id, {}).open() as env:
        return {f"{seed:02d}": _told(transcript(env, seed)) for seed in range(NUM_SEEDS)}


def _told(shown: list[Any]) -> str:
    text = json.dumps(shown, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    first, rewards = shown[0][2], [step[2] for step in shown[1:]]
    return f"{digest} {len(rewards)} turns, reward {sum(rewards)}: {first[:HEAD]}"


def all_ids() -> list[str]:
    return list(trm_envs.registered_ids())
