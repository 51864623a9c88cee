"""The measurement: episodes of the engine in each number format, others' log-probs of them, pair by pair."""

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
from trm_agent.numerics.reading import check_readable, read_all, reading_settings
from trm_agent.numerics.rollout import engine_settings, open_rollout
from trm_agent.numerics.sampled import Sampled, joined
from trm_agent.numerics.source import Source, reader
from trm_agent.numerics.spec import FLOAT32, MOST_TOKENS, SECOND_ENGINE, TRAINER, Formats, NumericsSpec, flag_of
from trm_agent.numerics.training import trainer_log_probs
from trm_agent.numerics.verdict import Verdict, verdict
from trm_fields import refuse

SPLIT = "held_out"
# opens a bar: description and number of tokens -> what is called with each number of further tokens
OpenBar = Callable[[str, int], Any]


@dataclass(frozen=True)
class Pair:
    """One engine against one trainer, or against a second engine."""

    engine: str
    """Number format of the engine."""
    other: str
    """Number format of the trainer's layers, or of the second engine."""
    side: str
    """Which of the two it is: `trainer` or `second_engine`."""
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


def length_of(source: Source, spec: NumericsSpec, *, is_read: bool = False) -> int:
    """Return the tokens at which episodes end.

    Args:
        source: what is measured.
        spec: how episodes are played.
        is_read: whether a second engine reads them, which takes the room of one token more.

    Raises:
        ValueError: the model is made for shorter contexts.
    """
    context = max_positions(source.folder)
    if spec.tokens is None:
        tokens = source.longest or min(context or MOST_TOKENS, MOST_TOKENS)
    else:
        tokens = spec.tokens
        if context is not None and tokens > context:
            allowed = f"at most {context}, the context that the model was made for"
            refuse(flag_of("tokens"), tokens, allowed, "lower it")
    return tokens - 1 if is_read and tokens == context else tokens


def measure(
    source: Source,
    spec: NumericsSpec,
    formats: Formats,
    folder: Path,
    say: Callable[[str], Any],
    open_bar: OpenBar,
) -> Measured:
    """Play, recompute, compare.

    Args:
        source: what is measured.
        spec: how episodes are played.
        formats: number formats of all sides.
        folder: an existing one, for logs and files on the way.
        say: takes a line for people.
        open_bar: see `OpenBar`.

    Raises:
        ValueError: model, environment and settings do not fit.
        RuntimeError: engine or trainer failed.
    """
    check_readable(source, formats.second_engines)
    tokenizer = load_tokenizer(source.folder)
    chat, kwargs = reader(source, tokenizer)
    environment, tokens = source.environment, length_of(source, spec, is_read=bool(formats.second_engines))
    solver = Solver(environment.id, SPLIT, environment.module, kwargs)
    temperature = float(source.config.actor_rollout_ref.rollout.temperature)
    sampling = Sampling(temperature=temperature, seed=spec.seed)
    log_file = folder / "engine.log"

    async def played(name: str) -> list[Played]:
        settings = engine_settings(source, name, tokens, spec.episodes)
        say(f"engine {name}: starting")
        async with open_rollout(source, tokenizer, chat, sampling, settings, log_file) as engine:
            if engine.at_once is not None and engine.at_once < spec.episodes:
                say(
                    f"engine {name}: memory has room for {engine.at_once} of {spec.episodes} episodes at once; "
                    "contexts that lose theirs are read anew"
                )
            with open_bar(f"engine {name}", spec.episodes * tokens) as bar:
                generators = [engine.generator(number) for number in range(spec.episodes)]
                return await play(generators, solver, chat_tokens(tokenizer, chat), spec, tokens, bar.update)

    async def read(name: str) -> list[np.ndarray]:
        settings = reading_settings(source, name, tokens)
        say(f"second engine {name}: starting")
        async with open_rollout(source, tokenizer, chat, sampling, settings, log_file) as engine:
            with open_bar(f"second engine {name}", sum(len(each.ids) for each in together)) as bar:
                return await read_all(engine, together, bar.update)

    episodes = {name: asyncio.run(played(name)) for name in formats.engines}
    together = [each for of_engine in episodes.values() for each in of_engine]
    read_by = {name: asyncio.run(read(name)) for name in formats.second_engines}
    recomputed: dict[str, list[np.ndarray]] = {}
    if formats.trainers:
        recomputed = trainer_log_probs(source, formats.trainers, together, folder, temperature, say)
    pairs, first = [], 0
    for engine, of_engine in episodes.items():
        for side, found in ((TRAINER, recomputed), (SECOND_ENGINE, read_by)):
            own = {name: values[first : first + len(of_engine)] for name, values in found.items()}
            pairs += [compared(engine, name, of_engine, values, side) for name, values in own.items()]
        first += len(of_engine)
    return Measured(source.label, environment.id, tokens, episodes, pairs)


def compared(
    engine: str, other: str, episodes: Sequence[Played], recomputed: Sequence[np.ndarray], side: str = TRAINER
) -> Pair:
    """Compare the engine's log-probs with the trainer's, or with a second engine's.

    Args:
        engine, other: number formats.
        episodes: of the engine.
        recomputed: the other's log-probs of each episode's sampled tokens, nats.
        side: `trainer` or `second_engine`.
    """
    parts = []
    for episode, log_probs in zip(episodes, recomputed, strict=True):
        depths = np.flatnonzero(episode.sampled)
        recorded = np.array(episode.log_probs)[depths]
        parts.append(Sampled(depths, recorded, np.asarray(log_probs) - recorded))
    together = joined(parts)
    bins, whole = by_depth(together), over_all(together)
    judged = verdict(parts, whole, is_float32=engine == other == FLOAT32)
    return Pair(engine, other, side, bins, whole, judged)
