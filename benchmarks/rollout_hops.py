"""From the probes' events to a batch's seconds, tokens and hops."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rollout_probe import (
    ANSWERED,
    ASKED,
    BATCH_IN,
    BATCH_OUT,
    CORE_IN,
    CORE_OUT,
    ENGINE_IN,
    ENGINE_OUT,
    ENV,
    EPISODE,
    SENT,
    SEQUENCES,
    SERVER_IN,
    SERVER_OUT,
    STEP,
    TOKENS,
    TURNS,
    Event,
)

AGENT_LOOP, ENVIRONMENT = "agent loop", "environment"
HOPS = (
    AGENT_LOOP,
    "choice of a server",
    "Ray call",
    "server",
    "engine's input",
    "engine",
    "engine's output",
    ENVIRONMENT,
)
# the seams in order, each with the hop that leads to it, and the one in its place where no server is on the way
SEAMS = (
    (ASKED, AGENT_LOOP, AGENT_LOOP),
    (SENT, "choice of a server", "choice of a server"),
    (SERVER_IN, "Ray call", "Ray call"),
    (ENGINE_IN, "server", AGENT_LOOP),
    (CORE_IN, "engine's input", "engine's input"),
    (CORE_OUT, "engine", "engine"),
    (ENGINE_OUT, "engine's output", "engine's output"),
    (SERVER_OUT, "server", "server"),
    (ANSWERED, "Ray call", AGENT_LOOP),
)


@dataclass(frozen=True)
class Batch:
    """A batch of episodes that began at once."""

    seconds: float
    """Seconds from its start to its last episode's end in the hands of whoever started it."""
    around: float
    """Seconds of these before the first episode and after the last."""
    episodes: int
    """Episodes that ended."""
    turns: int
    """Turns of all episodes."""
    tokens: int
    """Sampled tokens of all episodes."""
    hops: dict[str, float]
    """Mean seconds of a turn by hop; a hop that this stack does not have is absent."""
    busy: float | None
    """Share of the time in which the engine computed; None without an engine."""
    sequences: float | None
    """Mean number of sequences in a step of the engine; None without an engine."""


def batches(events: Sequence[Event], num_episodes: int) -> list[Batch]:
    """Return the batches of so many episodes in the order of their start; others are left out."""
    starts = sorted(at for name, at, _ in events if name == BATCH_OUT)
    ends = sorted(at for name, at, _ in events if name == BATCH_IN)
    found = []
    for start, end in zip(starts, ends, strict=False):
        inside = [event for event in events if start <= event[1] <= end]
        if sum(name == EPISODE for name, _, _ in inside) == num_episodes:
            found.append(_batch(inside, start, end))
    return found


def _batch(events: Sequence[Event], start: float, end: float) -> Batch:
    episodes = [(at - seconds, at) for name, at, seconds in events if name == EPISODE]
    first, last = min(begin for begin, _ in episodes), max(over for _, over in episodes)
    turns, steps = int(_sum(events, TURNS)), [value for name, _, value in events if name == STEP]
    return Batch(
        seconds=end - start,
        around=end - start - (last - first),
        episodes=len(episodes),
        turns=turns,
        tokens=int(_sum(events, TOKENS)),
        hops=hops(events, turns),
        busy=sum(steps) / (end - start) if steps else None,
        sequences=_sum(events, SEQUENCES) / len(steps) if steps else None,
    )


def hops(events: Sequence[Event], turns: int) -> dict[str, float]:
    """Return the mean seconds of a turn by hop.

    The time between two neighbouring seams belongs to the hop that leads to the second. A seam that was not passed once
    by every turn is absent, and the next seam's hop takes its time.

    Args:
        events: of one batch.
        turns: its turns.
    """
    at = {seam: [when for name, when, _ in events if name == seam] for seam, _, _ in SEAMS}
    passed = [(sum(at[seam]) / turns, *row) for row in SEAMS if len(at[seam := row[0]]) == turns and turns]
    seams = {seam for _, seam, _, _ in passed}
    found: dict[str, float] = {}
    for (before, *_), (after, seam, hop, alone) in itertools.pairwise(passed):
        # without a core the engine is all that is seen of it
        hop = "engine" if seam == ENGINE_OUT and CORE_OUT not in seams else hop
        name = hop if SERVER_IN in seams else alone
        found[name] = found.get(name, 0.0) + after - before
    played, in_env = _sum(events, EPISODE), _sum(events, ENV)
    if in_env or not passed:
        generated = turns * sum(found.values())
        found[AGENT_LOOP] = found.get(AGENT_LOOP, 0.0) + (played - in_env - generated) / turns
        found[ENVIRONMENT] = in_env / turns
    return found


def _sum(events: Sequence[Event], name: str) -> float:
    return sum(value for kind, _, value in events if kind == name)
