"""A finding about this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: State
    """`missing`: the main job cannot run; `warning`: something else cannot, or not well."""
    told: str
    """Fact, in one line."""
    remedy: str = ""
    """Command or setting that changes it; empty where nothing needs changing."""

    def __post_init__(self) -> None:
        assert self.state == "ok" or self.remedy, f"{self.told}: a finding that is not ok has a remedy"

    def as_json(self) -> dict[str, Any]:
        """Return the finding as `--json` prints it."""
        return asdict(self)


def ok(told: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding("ok", told)
