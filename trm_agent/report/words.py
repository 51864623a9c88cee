"""Changes of shares in words: in points, with their intervals."""

from trm_agent.report.account import Change


def signed(value: float, decimals: int = 1) -> str:
    """Return a value with its sign; a zero as `+0.0`."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def moved(change: Change) -> str:
    """Return a change as `+2.0 [-1.0, +5.0]`."""
    return f"{signed(change.difference)} [{signed(change.low)}, {signed(change.high)}]"


def points(change: Change) -> str:
    """Return a change as `+2.0 points [-1.0, +5.0]`."""
    return moved(change).replace(" [", " points [")


def span(change: Change) -> str:
    """Return a change as `3.0 to 5.0 % of episodes, +2.0 [-1.0, +5.0]`."""
    return f"{change.before:.1f} to {change.after:.1f} % of episodes, {moved(change)}"


def cell(change: Change | None) -> str:
    """Return a change as a table has it; `0` without such an episode."""
    if change is None or not (change.before or change.after):
        return "0"
    return f"{change.before:.1f} to {change.after:.1f}, {moved(change)}"


def quoted(name: str) -> str:
    """Return the name of a way to fail in quotes, without the beginning that all mistakes share."""
    return f"“{name.removeprefix('wrong answer: ')}”"
