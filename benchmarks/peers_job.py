"""One run of `peers`: settings that both sides share, and what a run leaves. Imported in TRL's environment too."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS, TRL = "ours", "trl"
SIDES = (OURS, TRL)
HORIZONS = (2, 4, 6)
TASKS, GROUP, MICRO_BATCH = 16, 8, 16
LEARNING_RATE, WARM_UP, WEIGHT_DECAY, CLIP, TEMPERATURE = 5e-4, 5, 0.01, 1.0, 1.0
MAX_TURNS, TURN_TOKENS, RESPONSE_TOKENS = 12, 32, 288
MODULE = "benchmarks.peers_env"


@dataclass(frozen=True)
class Job:
    """A run to be made."""

    side: str
    """`ours` or `trl`."""
    seed: int
    """Seed of tasks and sampling; a task's own seed follows from it."""
    steps: int
    tool_ms: int
    pair: int
    """Number of the pair, from 0: its two runs follow each other."""
    commit: str
    """Our code, of TRL's run too, since the environment is ours."""
    turn_s: float = 0.0
    """Seconds for which the runs of a pair have the machine by turns; 0: one after the other."""

    @property
    def name(self) -> str:
        """Return the stem of the stored result."""
        turns = f"-turns{self.turn_s:g}" if self.turn_s else ""
        return f"tool{self.tool_ms}-steps{self.steps}-seed{self.seed}-pair{self.pair}{turns}-{self.commit}-{self.side}"


@dataclass(frozen=True)
class Step:
    """A training step as either side tells it."""

    end: float
    """Seconds since the epoch when the update was done and the next step could begin."""
    generation: float
    """Seconds in which episodes were played."""
    update: float
    """Seconds of the update of the weights."""
    tokens: int
    """Tokens that the model sampled."""
    episodes: int
    success: float
    """Share of the sampled episodes that succeeded."""
    aside: float = 0.0
    """Seconds before `end` that belong to no step, such as those of a checkpoint."""


@dataclass(frozen=True)
class Result:
    """A run that has been made."""

    job: Job
    started: float
    """Seconds since the epoch when the command was given."""
    steps: tuple[Step, ...]
    peak_pss_gib: float
    processes: int
    """Most processes at once."""
    others: float = 0.0
    """Processors that other work took meanwhile, on average."""
    versions: dict[str, str] = field(default_factory=dict)
    model: str = ""
    """Trained model, as `trm eval` takes it."""

    def write(self, path: Path) -> None:
        """Store the result, complete or not at all."""
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)


def read_result(path: Path) -> Result:
    """Read a stored result."""
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    steps = tuple(Step(**step) for step in row.pop("steps"))
    return Result(job=Job(**row.pop("job")), steps=steps, **row)
