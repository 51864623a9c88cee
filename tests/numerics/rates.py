"""How often `trm numerics` errs about jumps, on made-up distributions: the numbers of docs/numerics.md.

From the repository's root: `python -m tests.numerics.rates`, which takes a minute or two.
"""

from collections.abc import Sequence

from trm_agent.numerics.depth import by_depth, over_all
from trm_agent.numerics.disturbance import WINDOW
from trm_agent.numerics.sampled import Sampled, joined
from trm_agent.numerics.verdict import JUMPS, verdict

from .made_up import behind, episode

# comparisons of so many episodes: with two the windows of 8 tokens hold too few
HEALTHY, PLANTED = {2: 1500, 8: 300}, 150
DEPTHS, TIMES = (512, 700, 1500), (1.5, 2.0, 2.5, 3.0)


def jump(episodes: Sequence[Sampled]) -> int | None:
    """Return where the verdict says that they jump."""
    judged = verdict(episodes, over_all(joined(episodes)), is_float32=False)
    return judged.starts_at if judged.kind == JUMPS else None


def healthy(number: int, episodes: int) -> int:
    """Return how many of so many comparisons without a fault jump."""
    found = (jump([episode(100 * draw + part) for part in range(episodes)]) for draw in range(number))
    return sum(each is not None for each in found)


def planted(depth: int, times: float, number: int) -> tuple[int, int]:
    """Return how many of so many faulty comparisons jump, and how many of them within a window of the fault."""
    noise = behind(depth, times)
    found = [jump([episode(10 * draw + part, noise=noise) for part in range(4)]) for draw in range(number)]
    told = [each for each in found if each is not None]
    return len(told), sum(abs(each - depth) <= WINDOW for each in told)


def main() -> None:
    """Print the rates."""
    bins = [each.start for each in by_depth(episode(0)) if each.start]
    print(f"bins begin at {bins}", flush=True)
    for episodes, number in HEALTHY.items():
        print(f"false jumps, {episodes} episodes: {healthy(number, episodes)} of {number}", flush=True)
    for depth in DEPTHS:
        for times in TIMES:
            found, near = planted(depth, times, PLANTED)
            told = f"{found} of {PLANTED} found, {near} within {WINDOW} tokens"
            print(f"{times} times the errors behind {depth}: {told}", flush=True)


if __name__ == "__main__":
    main()
