"""Tables of `peers`: time and memory of pairs with their ratios, success by step and seed with intervals."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers_job import OURS, SIDES, TRL, Result, Step
from trm_agent.evaluate.statistics.paired import student_quantile

WARM = 2
"""First steps that are left out of the seconds a step."""
LAST = "last 3"
Pair = tuple[int, int, int, int, float, str]


@dataclass(frozen=True)
class Figures:
    """Time and memory of a run. Seconds are medians over the steps from the third on."""

    step: float
    fastest: float
    slowest: float
    generation: float
    update: float
    tokens_per_s: float
    """Sampled tokens by the seconds of those steps."""
    tokens_per_episode: float
    first: float
    """Seconds from the command to the end of the first step."""
    pss_gib: float
    processes: float
    others: float
    """Processors that other work took meanwhile: figures count where it is near 0."""


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95 % interval, which needs two of them."""

    value: float
    half: float | None


def step_seconds(result: Result) -> list[float]:
    """Return the seconds of each step but the first: from the end of the one before, less what was set aside."""
    ends = [step.end for step in result.steps]
    return [
        later - before - step.aside for before, later, step in zip(ends[:-1], ends[1:], result.steps[1:], strict=True)
    ]


def figures(result: Result) -> Figures:
    """Return the figures of a run.

    Raises:
        ValueError: the run has fewer than three steps.
    """
    if len(result.steps) <= WARM:
        raise ValueError(f"{result.job.name}: got {len(result.steps)} steps; allowed: at least {WARM + 1}")
    timed = list(zip(step_seconds(result), result.steps[1:], strict=True))[WARM - 1 :]
    # by turns what is set aside was not measured on the clock of the run
    seconds, steps = zip(*((took, step) for took, step in timed if not (result.job.turn_s and step.aside)), strict=True)
    first = result.steps[0]
    return Figures(
        step=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        generation=statistics.median(step.generation for step in steps),
        update=statistics.median(step.update for step in steps),
        tokens_per_s=sum(step.tokens for step in steps) / sum(seconds),
        tokens_per_episode=sum(step.tokens for step in steps) / sum(step.episodes for step in steps),
        first=first.end - first.aside - result.started,
        pss_gib=result.peak_pss_gib,
        processes=result.processes,
        others=result.others,
    )


def pair_of(result: Result) -> Pair:
    """Return the identity of the pair that a run belongs to."""
    job = result.job
    return job.tool_ms, job.steps, job.seed, job.pair, job.turn_s, job.commit


def pairs_of(results: Iterable[Result]) -> dict[Pair, dict[str, Result]]:
    """Return the complete pairs, in order."""
    found: dict[Pair, dict[str, Result]] = {}
    for result in results:
        found.setdefault(pair_of(result), {})[result.job.side] = result
    return {pair: found[pair] for pair in sorted(found) if len(found[pair]) == len(SIDES)}


HEAD = (
    f"{'run':<32}{'s/step (min-max)':>19}{'generation':>12}{'update':>8}{'tokens/s':>10}{'tok/ep':>8}"
    f"{'first step':>12}{'PSS GiB':>9}{'procs':>7}{'others':>8}"
)


def time_table(results: Sequence[Result]) -> str:
    """Format time and memory of each pair, and ours by TRL's; runs without their neighbour stand at the end."""
    lines, pairs = [HEAD, "-" * len(HEAD)], pairs_of(results)
    for (tool_ms, steps, seed, _, turn_s, commit), sides in pairs.items():
        both = {side: figures(sides[side]) for side in SIDES}
        name = f"tool {tool_ms} ms, seed {seed}, {steps} steps" + (f", turns of {turn_s:g} s" if turn_s else "")
        lines += [f"{name} ({commit})", *(_row(f"  {side}", both[side]) for side in SIDES), _ratios(both), ""]
    alone = [result for result in results if pair_of(result) not in pairs]
    return "\n".join([*lines, *(_row(result.job.name[:31], figures(result)) for result in alone)]).rstrip()


def _row(name: str, each: Figures) -> str:
    span = f"{each.step:.2f} ({each.fastest:.1f}-{each.slowest:.1f})"
    return (
        f"{name:<32}{span:>19}{_known(each.generation):>12}{_known(each.update):>8}{each.tokens_per_s:>10.0f}"
        f"{each.tokens_per_episode:>8.1f}{each.first:>12.1f}{each.pss_gib:>9.2f}{each.processes:>7.0f}{each.others:>8.2f}"
    )


def _ratios(both: Mapping[str, Figures]) -> str:
    ours, trl = both[OURS], both[TRL]

    def by(name: str) -> str:
        return _known(getattr(ours, name) / getattr(trl, name))

    return (
        f"{'  ours by TRL':<32}{by('step'):>19}{by('generation'):>12}{by('update'):>8}{by('tokens_per_s'):>10}"
        f"{by('tokens_per_episode'):>8}{by('first'):>12}{by('pss_gib'):>9}{by('processes'):>7}"
    )


def _known(value: float) -> str:
    """Format a number; by turns the phases of a step are not known."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def windows(num_steps: int) -> dict[str, slice]:
    """Return the named steps over which success is averaged, as far as a run of that length has them."""
    named = {"1-3": slice(0, 3), "8-14": slice(7, 14), LAST: slice(num_steps - 3, num_steps)}
    return {name: part for name, part in named.items() if part.start >= 0 and part.stop <= num_steps}


def success(steps: Sequence[Step]) -> float:
    """Return the share of the steps' episodes that succeeded."""
    return sum(step.success * step.episodes for step in steps) / sum(step.episodes for step in steps)


def mean(values: Sequence[float]) -> Mean:
    """Return the mean with Student's 95 % interval; the values are independent, as those of different seeds are."""
    if len(values) < 2:
        return Mean(statistics.fmean(values), None)
    half = student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Mean(statistics.fmean(values), half)


def by_seed(results: Iterable[Result]) -> dict[int, dict[str, float]]:
    """Return each seed's success in the windows, in percent, and the gain of 8-14 over 1-3, runs of a seed averaged."""
    rows: dict[int, list[dict[str, float]]] = {}
    for result in results:
        parts = windows(len(result.steps))
        row = {name: 100 * success(result.steps[part]) for name, part in parts.items()}
        if "8-14" in row:
            row["gain"] = row["8-14"] - row["1-3"]
        rows.setdefault(result.job.seed, []).append(row)
    return {
        seed: {name: statistics.fmean(row[name] for row in same) for name in same[0]}
        for seed, same in sorted(rows.items())
    }


def learning_table(results: Sequence[Result]) -> str:
    """Format success of the sampled batch by seed, its mean over the seeds, and the mean difference at equal seeds."""
    lines = []
    # episodes of one length of run are compared, since the schedule of the rate depends on it; tools' speed is not
    for steps in sorted({len(result.steps) for result in results}):
        same = [result for result in results if len(result.steps) == steps]
        sides = {side: by_seed(result for result in same if result.job.side == side) for side in SIDES}
        names = list(next(iter(next(rows for rows in sides.values() if rows).values())))
        lines.append(f"success of the sampled batch in %, {steps} steps".ljust(44) + "".join(f"{n:>16}" for n in names))
        for side, rows in sides.items():
            for seed, row in rows.items():
                lines.append(f"  {side}, seed {seed}".ljust(44) + "".join(f"{row[name]:>16.1f}" for name in names))
            if rows:
                means = [mean([row[name] for row in rows.values()]) for name in names]
                lines.append(
                    f"  {side}, mean of {len(rows)}".ljust(44) + "".join(f"{shown(each):>16}" for each in means)
                )
        common = sorted(sides[OURS].keys() & sides[TRL].keys())
        if common:
            gaps = [mean([sides[OURS][seed][name] - sides[TRL][seed][name] for seed in common]) for name in names]
            lines.append(f"  ours - TRL, {len(common)} seeds".ljust(44) + "".join(f"{shown(gap):>16}" for gap in gaps))
        lines.append("")
    return "\n".join(lines).rstrip()


def shown(each: Mean, form: str = ".1f") -> str:
    """Format a mean with half the width of its interval."""
    return f"{each.value:{form}}" + ("" if each.half is None else f" ± {each.half:{form}}")
