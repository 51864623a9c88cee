"""A scripted solver for games that can be searched: breadth first, each line replayed from the task's seed.

It knows the game's dice, since the seed fixes them: it shows how the game is won, not how it is played well.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 20_000
Wins = Callable[[float, bool, Any], bool]
"""Function of (return, truncated, game) of a game that is over."""


class TooLarge(Exception):
    """A search that was given up before it had seen the whole game."""


@dataclass(frozen=True)
class Played:
    """The outcome of a line."""

    observation: Any
    """Last observation."""
    total: float
    """Return of the game."""
    terminated: bool
    """True if the game ended itself."""
    truncated: bool
    """True if it was cut instead."""

    @property
    def is_over(self) -> bool:
        """Return True if the game is over."""
        return self.terminated or self.truncated


def winning_line(game: Any, seed: int, moves: Sequence[Any], wins: Wins, key: Callable[[Any], Any]) -> list[Any] | None:
    """Return the shortest moves that win a task; None if there are none.

    Args:
        game: a game of the search's own.
        seed: the task's seed.
        moves: all moves.
        wins: whether a game that is over is won.
        key: function of an observation; two with one key are not followed twice.

    Raises:
        TooLarge: `MAX_STEPS` steps of the game have found none.
    """
    first, _ = game.reset(seed=seed)
    seen, lines, num_steps = {key(first)}, deque[list[Any]]([[]]), 0
    while lines and num_steps < MAX_STEPS:
        line = lines.popleft()
        for move in moves:
            played = replayed(game, seed, [*line, move])
            num_steps += len(line) + 1
            if played is not None and played.is_over:
                if wins(played.total, played.truncated, game):
                    return [*line, move]
            elif played is not None and (found := key(played.observation)) not in seen:
                seen.add(found)
                lines.append([*line, move])
    if lines:
        raise TooLarge
    return None


def replayed(game: Any, seed: int, line: Sequence[Any]) -> Played | None:
    """Play a line from a task's seed; return None if the game raises, or ends before the line does."""
    played = Played(None, 0.0, False, False)
    try:
        game.reset(seed=seed)
        for move in line:
            if played.is_over:
                return None
            observation, reward, terminated, truncated, _ = game.step(move)
            is_cut = bool(truncated) and not terminated
            played = Played(observation, played.total + float(reward), bool(terminated), is_cut)
    except Exception:  # as in an episode, such a move loses
        return None
    return played
