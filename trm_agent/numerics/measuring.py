"""The measurement: episodes of the engine in each number format, the trainer's log-probs of them, pair by pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trm_agent.episode import chat_tokens
from trm_agent.evaluate.checkpoints.model_files import max_positions
from trm_agent.evaluate.engines.opening import load_tokenizer
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.models.traces import Solver
from trm_agent.numerics.depth import Bin, by_depth, over_all
from trm_agent.numerics.forcing import Played, play
from trm_agent.numerics.rollout import engine_settings, open_rollout
from trm_agent.numerics.sampled import Sampled, joined
from trm_agent.numerics.source import Source, reader
from trm_agent.numerics.spec import FLOAT32, MOST_TOKENS, NumericsSpec, flag_of
from trm_agent.numerics.training import trainer_log_probs
from trm_agent.numerics.verdict import Verdict, verdict
from trm_fields import refuse

SPLIT = "held_out"
# opens a bar: description and number of tokens -> what is called with each number of further tokens
OpenBar = Callable[[str, int], Any]


@dataclass(frozen=True)
class Pair:
    """One engine against one trainer."""

    engine: str
    """Number format of the engine."""
    trainer: str
    """Number format of the trainer's layers."""
    bins: list[Bin]
    """By depth."""
    whole: Bin
    """All tokens."""
    verdict: Verdict
    """What they say."""


@dataclass(frozen=True)
class Measured:
    """All pairs, and what was played for them."""

    label: str
    """The model's name."""
    env_id: str
    """The environment's id."""
    tokens: int
    """Tokens at which episodes ended."""
    episodes: dict[str, list[Played]]
    """Of the engine in each number format."""
    pairs: list[Pair]
    """Engine by engine."""


def length_of(source: Source, spec: NumericsSpec) -> int:
    """Return the tokens at which episodes end.

    Raises:
        ValueError: the model is made for shorter contexts.
    """
    context = max_positions(source.folder)
    if spec.tokens is None:
        return source.longest or min(context or MOST_TOKENS, MOST_TOKENS)
    if context is not None and spec.tokens > context:
        allowed = f"at most {context}, the context that the model was made for"
        refuse(flag_of("tokens"), spec.tokens, allowed, "lower it")
    return spec.tokens


def measure(
    source: Source,
    spec: NumericsSpec,
    formats: tuple[Sequence[str], Sequence[str]],
    folder: Path,
    say: Callable[[str], Any],
    open_bar: OpenBar,
) -> Measured:
    """Play, recompute, compare.

    Args:
        source: what is measured.
        spec: how episodes are played.
        formats: number formats of the engine and of the trainer.
        folder: an existing one, for logs and files on the way.
        say: takes a line for people.
        open_bar: see `OpenBar`.

    Raises:
        ValueError: model, environment and settings do not fit.
        RuntimeError: engine or trainer failed.
    """
    tokenizer = load_tokenizer(source.folder)
    chat, kwargs = reader(source, tokenizer)
    environment, tokens = source.environment, length_of(source, spec)
    solver = Solver(environment.id, SPLIT, environment.module, kwargs)
    temperature = float(source.config.actor_rollout_ref.rollout.temperature)

    async def played(name: str) -> list[Played]:
        settings = engine_settings(source, name, tokens, spec.episodes)
        sampling = Sampling(temperature=temperature, seed=spec.seed)
        say(f"engine {name}: starting")
        async with open_rollout(source, tokenizer, chat, sampling, settings, folder / "engine.log") as engine:
            if engine.at_once is not None and engine.at_once < spec.episodes:
                say(
                    f"engine {name}: memory has room for {engine.at_once} of {spec.episodes} episodes at once; "
                    "contexts that lose theirs are read anew"
                )
            with open_bar(f"engine {name}", spec.episodes * tokens) as bar:
                generators = [engine.generator(number) for number in range(spec.episodes)]
                return await play(generators, solver, chat_tokens(tokenizer, chat), spec, tokens, bar.update)

    episodes = {name: asyncio.run(played(name)) for name in formats[0]}
    together = [each for name in formats[0] for each in episodes[name]]
    recomputed = trainer_log_probs(source, formats[1], together, folder, temperature, say)
    pairs, first = [], 0
    for engine, of_engine in episodes.items():
        found = {name: values[first : first + len(of_engine)] for name, values in recomputed.items()}
        pairs += [compared(engine, name, of_engine, found[name]) for name in formats[1]]
        first += len(of_engine)
    return Measured(source.label, environment.id, tokens, episodes, pairs)


def compared(engine: str, trainer: str, episodes: Sequence[Played], recomputed: Sequence[np.ndarray]) -> Pair:
    """Compare the engine's log-probs with the trainer's.

    Args:
        engine, trainer: number formats.
        episodes: of the engine.
        recomputed: the trainer's log-probs of each episode's sampled tokens, nats.
    """
    parts = []
    for episode, log_probs in zip(episodes, recomputed, strict=True):
        depths = np.flatnonzero(episode.sampled)
        recorded = np.array(episode.log_probs)[depths]
        parts.append(Sampled(depths, recorded, np.asarray(log_probs) - recorded))
    together = joined(parts)
    bins, whole = by_depth(together), over_all(together)
    judged = verdict(parts, whole, is_float32=engine == trainer == FLOAT32)
    return Pair(engine, trainer, bins, whole, judged)
