"""A scripted solver for games that can be searched: breadth first, each line replayed from the task's seed.

It knows the game's dice, since the seed fixes them: it shows how the game is won, not how it is played well.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

MAX_STEPS = 20_000


def winning_line(
    game: Any, seed: int, moves: Sequence[Any], wins: Callable[[float, bool], bool], key: Callable[[Any], Any]
) -> list[Any] | None:
    """Return the shortest moves that win a task; None if a search of `MAX_STEPS` steps finds none.

    Args:
        game: a game of the search's own.
        seed: the task's seed.
        moves: all moves.
        wins: function of (return, truncated) of a game that is over.
        key: function of an observation; two with one key are not followed twice.
    """
    first, _ = game.reset(seed=seed)
    seen, lines, num_steps = {key(first)}, deque[list[Any]]([[]]), 0
    while lines and num_steps < MAX_STEPS:
        line = lines.popleft()
        for move in moves:
            game.reset(seed=seed)
            total, outcome = 0.0, None
            for each in (*line, move):
                outcome = game.step(each)
                total += float(outcome[1])
                num_steps += 1
            assert outcome is not None
            observation, _, terminated, truncated, _ = outcome
            if terminated or truncated:
                if wins(total, not terminated):
                    return [*line, move]
            elif (found := key(observation)) not in seen:
                seen.add(found)
                lines.append([*line, move])
    return None
