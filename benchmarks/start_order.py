"""Simulate whether a batch with more episodes than the engine's places ends sooner if its longest start first.

python -m benchmarks.start_order RESULTS.jsonl [--horizons 4 8 16] [--group 8]

Episodes take the turns and tokens of an evaluation (`results.jsonl` of `trm eval`) at these horizons. An iteration of
the engine gives each episode in play a token, or reads the context of its next turn, and takes the milliseconds that
the nano model took by batch size on one thread: 4.6 with 16 sequences, 19.6 with 128, a line between and beyond.
Starting by true length, which nobody knows, is what any guess of the length could gain at most.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

BATCHES = ((16, 128), (16, 64), (16, 32), (64, 128))
"""Tasks and places."""
REPEATS = 10
Episode = tuple[int, list[int]]
"""Horizon, and iterations of each turn."""
ORDERS: dict[str, Callable[[Episode], float] | None] = {
    "as drawn": None,
    "longest horizon": lambda episode: -episode[0],
    "true length": lambda episode: -sum(episode[1]),
}


def iteration_ms(batch: int) -> float:
    """Return how long the engine takes for one token of each of so many sequences."""
    return 4.6 + (batch - 16) * (19.6 - 4.6) / (128 - 16)


def seconds(episodes: list[Episode], places: int) -> float:
    """Return how long the engine takes for the episodes, started in this order."""
    waiting, left, total = [sum(turns) for _, turns in reversed(episodes)], [], 0.0
    while waiting or left:
        left += [waiting.pop() for _ in range(min(places - len(left), len(waiting)))]
        total += iteration_ms(len(left))
        left = [each - 1 for each in left if each > 1]
    return total / 1e3


def read(path: Path) -> dict[int, list[list[int]]]:
    """Return the iterations of each turn of an evaluation's episodes, by horizon."""
    found: dict[int, list[list[int]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["horizon"] and row["turns"]:
            each, rest = divmod(row["model_tokens"], row["turns"])
            turns = [each + (number < rest) + 1 for number in range(row["turns"])]
            found.setdefault(row["horizon"], []).append(turns)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--horizons", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--group", type=int, default=8)
    arguments = parser.parse_args()
    lengths = read(arguments.results)
    print(f"seconds of a batch, horizons {arguments.horizons}, groups of {arguments.group}, mean of {REPEATS}")
    print(f"{'tasks, places':<16}" + "".join(f"{name:>18}" for name in ORDERS))
    for tasks, places in BATCHES:
        sums = dict.fromkeys(ORDERS, 0.0)
        for seed in range(REPEATS):
            draw = random.Random(seed)
            horizons = [arguments.horizons[number % len(arguments.horizons)] for number in range(tasks)]
            batch = [(each, draw.choice(lengths[each])) for each in horizons for _ in range(arguments.group)]
            for name, key in ORDERS.items():
                sums[name] += seconds(sorted(batch, key=key) if key else batch, places) / REPEATS
        base = sums["as drawn"]
        row = "".join(f"{each:>9.2f}{each / base - 1:>+9.1%}" for each in sums.values())
        print(f"{f'{tasks} x {arguments.group}, {places}':<16}{row}")


if __name__ == "__main__":
    main()
