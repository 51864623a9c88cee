"""The plots of an evaluation: success by horizon with intervals, and the stop reasons of the episodes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Summary = Mapping[str, Any]
Result = Mapping[str, Any]


def draw_plots(summary: Summary, folder: Path) -> list[Path]:
    """Draw the plots of each environment: `success-ENV.png`, `stop_reasons-ENV.png`.

    Args:
        summary: from `summary.summarise`.
        folder: made if it does not exist.

    Returns:
        The files that were written; none of an environment without an episode.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in summary["environments"]:
        results = [result for result in summary["results"] if result["env"] == name and result["episodes"]]
        if not results:
            continue
        for kind, draw in (("success", draw_success), ("stop_reasons", draw_stop_reasons)):
            figure, axes = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
            draw(axes, results, summary["samples"])
            axes.set_title(_shown(name))
            files.append(folder / f"{kind}-{_file_name(name, summary['environments'])}.png")
            figure.savefig(files[-1], dpi=110)
            pyplot.close(figure)
    return files


def draw_success(axes: Any, results: Sequence[Result], samples: int) -> None:
    """Draw success by horizon with 95 % intervals, one line per checkpoint; without horizons one point each."""
    by_horizon = any(result["by_horizon"] for result in results)
    for number, result in enumerate(results):
        points = [(part["horizon"], part["success"]) for part in result["by_horizon"]]
        if not by_horizon:
            points = [(number, result["success"])]
        points = [point for point in points if point[1]["value"] is not None]
        if not points:
            continue
        # side by side, so that intervals do not hide each other
        shift = number - (len(results) - 1) / 2
        x = [horizon * 2 ** (0.05 * shift) if by_horizon else horizon for horizon, _ in points]
        y = [estimate["value"] for _, estimate in points]
        below = [estimate["value"] - estimate["low"] for _, estimate in points]
        above = [estimate["high"] - estimate["value"] for _, estimate in points]
        line = axes.errorbar(x, y, [below, above], marker="o", capsize=3, label=_shown(result["checkpoint"]))
        length = result["horizon_length"]
        if length["status"] == "inside":
            axes.axvline(length["steps"], color=line[0].get_color(), linestyle=":", linewidth=1)
    axes.set(ylabel=f"success (avg@{samples})", ylim=(-0.02, 1.02))
    axes.axhline(0.5, color="0.8", linewidth=1, zorder=0)
    if by_horizon:
        horizons = sorted({part["horizon"] for result in results for part in result["by_horizon"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(horizons, [str(horizon) for horizon in horizons])
        axes.minorticks_off()
        axes.set_xlabel("horizon, steps (dotted: horizon length, 50 % success)")
    else:
        axes.set_xticks([])
    axes.legend(fontsize=8)


def draw_stop_reasons(axes: Any, results: Sequence[Result], samples: int) -> None:
    """Draw the share of the episodes by stop reason, one bar per checkpoint, without infrastructure failures."""
    reasons = sorted({reason for result in results for reason in result["stop_reasons"]})
    labels = [_shown(result["checkpoint"]) for result in results]
    left = [0.0] * len(results)
    for reason in reasons:
        shares = [result["stop_reasons"].get(reason, 0) / result["episodes"] for result in results]
        axes.barh(range(len(results)), shares, left=left, label=reason)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(results)), labels)
    axes.invert_yaxis()
    axes.set(xlabel=f"share of the episodes ({samples} a task)", xlim=(0, 1))
    axes.legend(fontsize=8)


def _shown(label: str) -> str:
    """Escape a label for matplotlib, so that it is neither read as a formula nor hidden for its first letter."""
    shown = label.replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def _file_name(name: str, names: Sequence[str]) -> str:
    """Return a distinct file name for each name."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "_", other).strip("._") or "environment" for other in names]
    index = list(names).index(name)
    return plain[index] if plain.count(plain[index]) == 1 else f"{plain[index]}-{index}"
