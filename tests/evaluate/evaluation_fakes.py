"""Fakes for the tests of evaluations: plans without weights, and an engine whose model is a coin with a seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.episode.fakes import byte_tokenizer
from trm_agent.episode import Generation
from trm_agent.evaluate.checkpoints.source import Checkpoint
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.plan import Environment, Plan

LIMITS = {
    "max_turns": 4,
    "max_tool_calls": 4,
    "max_turn_tokens": 64,
    "max_observation_tokens": 64,
    "max_prompt_tokens": 2000,
    "max_response_tokens": 2000,
    "step_timeout_s": 100,
    "generate_timeout_s": 100,
    "episode_timeout_s": 1000,
}


def fake_checkpoint(label: str) -> Checkpoint:
    url = f"http://{label}"
    return Checkpoint(label, "endpoint", url, url=url, model=label, tokenizer=Path(label))


def environment(**changes: Any) -> Environment:
    """ChainMath told at once, so that a single number is an answer."""
    settings: dict[str, Any] = {
        "name": "chain",
        "id": "trm/ChainMath-v0",
        "horizons": (1, 2, 3),
        "num_tasks": 6,
        "seed": 5,
        "limits": dict(LIMITS),
        "limits_horizon": 3,
        "kwargs": {"reveal": "upfront"},
    }
    return Environment(**{**settings, **changes})


def plan(labels: tuple[str, ...] = ("one", "two"), **changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "checkpoints": tuple(fake_checkpoint(label) for label in labels),
        "fingerprints": tuple(f"hash of {label}" for label in labels),
        "environments": (environment(),),
        "samples": 2,
        "sampling": Sampling(),
    }
    return Plan(**{**settings, **changes})


class FakeEngine:
    """Answers each turn with one of few numbers, by the seed of the episode alone.

    Args:
        fails: episode seed -> whether its generator raises.
        delay_s: of each turn.
        at_once: episodes that it keeps.
    """

    def __init__(
        self, fails: Callable[[int], bool] = lambda seed: False, delay_s: float = 0.0, at_once: int | None = None
    ) -> None:
        self.tokenizer, self.at_once = byte_tokenizer(), at_once
        self.fails, self.delay_s = fails, delay_s
        self.seeds: list[int] = []
        self.num_at_once = self.most_at_once = 0

    def generator(self, seed: int) -> FakeGenerator:
        self.seeds.append(seed)
        return FakeGenerator(self, seed)


class FakeGenerator:
    """One episode of the fake engine."""

    def __init__(self, engine: FakeEngine, seed: int) -> None:
        self.engine, self.seed = engine, seed
        self.random = random.Random(seed)

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        engine = self.engine
        engine.num_at_once += 1
        engine.most_at_once = max(engine.most_at_once, engine.num_at_once)
        await asyncio.sleep(engine.delay_s)
        engine.num_at_once -= 1
        if engine.fails(self.seed):
            raise RuntimeError("the fake engine fails")
        text = f"\\boxed{{{self.random.randrange(100)}}}<|im_end|>"
        ids = engine.tokenizer.encode(text, add_special_tokens=False)
        return Generation(ids, [-0.5] * len(ids), finished=True)


class FakeEngines:
    """Opens fake engines and remembers which, and that no two were open at once."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.opened: list[str] = []
        self.engines: list[FakeEngine] = []
        self.num_open = 0

    @asynccontextmanager
    async def __call__(self, checkpoint: Checkpoint) -> AsyncIterator[FakeEngine]:
        assert self.num_open == 0, "two engines at once"
        self.num_open += 1
        self.opened.append(checkpoint.label)
        self.engines.append(FakeEngine(**self.settings))
        try:
            yield self.engines[-1]
        finally:
            self.num_open -= 1
