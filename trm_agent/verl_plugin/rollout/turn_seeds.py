"""Seeds of turns: the random numbers of a turn depend on the run's seed and the turn's place, and on nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from trm_agent.tasks import STREAMS


@dataclass(frozen=True)
class TurnSeeds:
    """The seeds of one episode's turns."""

    run: int
    """Seed of the run."""
    stream: int
    """Number of the stream of tasks, see `trm_agent.tasks.STREAMS`."""
    step: int
    """Step in which the episode is played."""
    task: int
    """Number of the task in its stream."""
    replica: int
    """Number of the episode among those of its task."""

    def at(self, turn: int) -> int:
        """Return a turn's seed, 63 bits of a hash of its place."""
        place = (self.run, self.stream, self.step, self.task, self.replica, turn)
        return int.from_bytes(blake2b(repr(place).encode(), digest_size=8).digest(), "little") >> 1


def turn_seeds(run: int | None, stream: str, fields: Mapping[str, Any]) -> TurnSeeds | None:
    """Return the seeds of an episode's turns; None where the engine's own generator draws.

    Args:
        run: the run's seed; None if turns have none.
        stream: `train` or `val`.
        fields: verl's fields of the episode.
    """
    if run is None:
        return None
    step, task, replica = (int(fields[name]) for name in ("global_steps", "index", "session_id"))
    return TurnSeeds(run, STREAMS[stream], step, task, replica)
