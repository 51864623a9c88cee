"""Kills all processes of a run at once, in a phase of a step that the run's own files tell.

The processes are stopped first, so that the files can be looked at again while nothing moves: if the phase is over,
they go on until the next step. What is killed was in the phase.
"""

import json
import re
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.peers_sides import environment
from benchmarks.peers_turns import send
from benchmarks.peers_watch import adopt_orphans, descendants, end_all
from benchmarks.staleness_job import SAMPLING, SAVING, SYNCHRONISATION, UPDATE, Kill
from trm_agent.runs.folder import METRICS_FILE, RESUMES_FILE, checkpoint_folder
from trm_agent.runs.leftovers import SHARED_MEMORY, WEIGHTS_PATTERN
from trm_agent.runs.progress import read_phase

FIRST, LAST = 3, 6
"""Steps in which a run is killed: a checkpoint before them, and time behind them for what was in play."""
POLL_S = 0.002
SETTLED_S = 0.3
"""Seconds after which sampling is under way, not just asked for."""
_BUFFER = re.compile(WEIGHTS_PATTERN.replace("*", "[0-9a-f]+"))


class Phases:
    """The phases of a run's steps, told from the files of its folder by who looks at them again and again.

    A step begins when the row of the one before it is written. Then the run says that it waits for episodes; dumps the
    sequences of each update once it is made; makes the folder of the checkpoint, and names the checkpoint when all is
    there; holds the weights in shared memory while the servers read them.

    Args:
        run_dir: the folder of a run of two updates a step, which dumps and saves each.
        each_update_waits: whether the second update has a batch of its own, for which the run waits in between.
    """

    def __init__(self, run_dir: Path, each_update_waits: bool) -> None:
        self.run_dir = run_dir
        self._each_update_waits = each_update_waits
        # step in which the run was seen to wait between its updates
        self._waited_between = 0

    def look(self, now: float) -> tuple[int, str]:
        """Return the step at which the run is, and its phase; "" between those that are told apart.

        `UPDATE` is that of the second update, when the first is done.

        Args:
            now: seconds since the epoch.
        """
        step = _logged(self.run_dir) + 1
        dumps = self.run_dir / "rollouts"
        first, second = (any(dumps.glob(f"step_{step:06d}.update_{k:03d}.*")) for k in (0, 1))
        waits = read_phase(self.run_dir)
        if waits is not None:
            is_ours = waits.name.startswith(f"step {step}:")
            if is_ours and first:
                self._waited_between = step
            return step, SAMPLING if is_ours and now - waits.began > SETTLED_S else ""
        if _saved(self.run_dir) >= step:
            return step, SYNCHRONISATION if any(SHARED_MEMORY.glob(WEIGHTS_PATTERN)) else ""
        if checkpoint_folder(self.run_dir, step).exists():
            return step, SAVING
        is_made = self._waited_between == step or not self._each_update_waits
        return step, UPDATE if first and not second and is_made else ""


def kill_in_phase(phase: str, command: Sequence[str], phases: Phases, log: Path, timeout_s: float) -> tuple[int, int]:
    """Start a run and kill it.

    Args:
        phase: one of `staleness_job.PHASES`.
        command: starts the run.
        phases: of the run.
        log: for what it prints.
        timeout_s: seconds that this may take.

    Returns:
        The step in which it was killed, and how often it was stopped too late before.

    Raises:
        RuntimeError: the run ended by itself.
        TimeoutError: the phase was not seen in time.
    """
    adopt_orphans()
    strangers = set(descendants())
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment(), stdout=file, stderr=subprocess.STDOUT)
    try:
        return _kill(phase, process, phases, strangers, time.monotonic() + timeout_s)
    finally:
        end_all(strangers)
        process.wait()


def _kill(
    phase: str, process: subprocess.Popen, phases: Phases, strangers: Collection[int], until: float
) -> tuple[int, int]:
    family: set[int] = set()
    known_in = too_late = 0
    while process.poll() is None:
        if time.monotonic() > until:
            raise TimeoutError(f"{phases.run_dir}: {phase} was not seen in the steps {FIRST} to {LAST}")
        step, found = phases.look(time.time())
        if step > LAST:
            break
        if found == SAMPLING and step > known_in:
            # while there is time, so that a short phase need not wait for it
            family, known_in = set(descendants()).difference(strangers), step
        if found != phase or step < FIRST:
            time.sleep(POLL_S)
            continue
        family = _stopped(family, strangers)
        is_there = phase != SYNCHRONISATION or bool(weight_buffers(family))
        if is_there and phases.look(time.time()) == (step, phase):
            send(family, signal.SIGKILL)
            return step, too_late
        too_late += 1
        send(family, signal.SIGCONT)
    raise RuntimeError(
        f"{phases.run_dir}: not killed in {phase}: it ended, or is beyond step {LAST}; stopped {too_late} times"
    )


def _logged(run_dir: Path) -> int:
    """Return the last step whose row is written whole."""
    file = run_dir / METRICS_FILE
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _saved(run_dir: Path) -> int:
    """Return the step of the newest whole checkpoint."""
    file = run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"
    # written in place, so that it may be empty
    return int(file.read_text() or 0) if file.exists() else 0


def _stopped(family: set[int], strangers: Collection[int]) -> set[int]:
    """Stop all processes of a run; returns them.

    Args:
        family: those that are known, which are stopped at once.
        strangers: processes below this one that are not the run's.
    """
    send(family, signal.SIGSTOP)
    while True:
        found = set(descendants()).difference(strangers)
        send(found, signal.SIGSTOP)
        if found <= family:
            return found
        family = found


def weight_buffers(family: Collection[int], processes: Path = Path("/proc"), memory: Path = SHARED_MEMORY) -> set[str]:
    """Return the buffers of a synchronisation that is under way, by the memory of a run's processes."""
    found: set[str] = set()
    for pid in family:
        try:
            found.update(_BUFFER.findall((processes / str(pid) / "maps").read_text(errors="replace")))
        except OSError:
            continue
    return {name for name in found if (memory / name).exists()}


def resumed_after(run_dir: Path, step: int, too_late: int) -> Kill:
    """Return how a run was killed, and after which step it went on.

    Raises:
        ValueError: it did not go on once.
    """
    rows = [json.loads(line) for line in (run_dir / RESUMES_FILE).read_text(encoding="utf-8").splitlines()]
    if len(rows) != 1:
        raise ValueError(f"{run_dir / RESUMES_FILE}: got {len(rows)} resumptions; expected one")
    return Kill(step, int(rows[0]["after_step"]), too_late)
