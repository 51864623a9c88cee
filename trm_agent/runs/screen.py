"""The screen of a run: start-up, one line per step, warnings that matter. The rest goes to log.txt."""

import contextlib
import io
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from trm_agent.runs import plain_log
from trm_agent.runs.folder import LOG_FILE, METRICS_FILE, STARTUP_FILE
from trm_agent.runs.progress import end_phase, progress_line, read_phase
from trm_agent.runs.raised import RAISED, Raised, read_raised, step_warning

POLL_SECONDS = 0.2
# seconds of a generation or validation before its progress is shown, and between two showings
SILENT_S = 20.0
LIVE_EVERY_S = 1.0
LINE_EVERY_S = 25.0
LOG_EVERY_S = 120.0
TO_END_OF_LINE = "\x1b[K"
FAILURES = "env/infrastructure_failures"
EQUAL_GROUPS = "env/equal_group_frac"
WITH_SIGNAL, WITHOUT_SIGNAL = "env/groups/with_signal", "env/groups/without_signal"
PLAYED_SUCCESS = "env/played_success"
# phase of the start-up that is over -> the next one's work
NEXT_WORK = {
    "driver": "Ray starts",
    "driver of the trainer": "the data queue starts, and the model is loaded",
    "data queue": "the model is loaded and the rollout engine starts, which takes longest",
    "actor and rollout engine": "the agent loops start",
}
# a metric of every row that holds a validation
VALIDATION_FAILURES = "env/val_infrastructure_failures"


def quiet(run_dir: Path) -> IO[str]:
    """Send stdout and stderr of this process and its children to the run's log.

    Returns:
        The screen: a stream to the former stdout. What nobody reads any more is lost, and the run goes on.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    screen = unread_stream(os.dup(1))
    plain_log.start(run_dir / LOG_FILE)
    return screen


class _Unread(io.FileIO):
    """A file that takes what it is given, also where its reader is gone."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(BrokenPipeError):
            return super().write(data)
        return len(data)


def unread_stream(descriptor: int) -> IO[str]:
    """Return a stream to a descriptor to which everything can be written, whether it is read or not."""
    return io.TextIOWrapper(io.BufferedWriter(_Unread(descriptor, "w")), encoding="utf-8", line_buffering=True)


class Screen(threading.Thread):
    """A follower of a run's files that prints their news.

    Args:
        run_dir: the run folder.
        out: the stream to print to.
        total_steps: number of training steps of the whole run.
        started: time of the command, seconds since the epoch.
    """

    def __init__(self, run_dir: Path, out: IO[str], total_steps: int, started: float) -> None:
        super().__init__(daemon=True)
        self.run_dir = run_dir
        self.out = out
        self.total_steps = total_steps
        self.started = started
        self.durations: list[float] = []
        self._done = threading.Event()
        self._is_line_open = False
        self._shown = self._logged = 0.0
        self._waits_after: tuple[str, float] | None = None
        self._offsets = {STARTUP_FILE: self._size(STARTUP_FILE), METRICS_FILE: self._size(METRICS_FILE)}

    def run(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            self._look()

    def close(self) -> None:
        """Print the unread rest and stop."""
        self._done.set()
        self.join()
        end_phase(self.run_dir)
        self._look()
        if self._is_line_open:
            self._print("")

    def _look(self) -> None:
        for row in self._news(STARTUP_FILE):
            self._print(f"  {row['time'] - self.started:5.0f} s  {row['phase']} ready")
            self._waits_after = row["phase"], row["time"]
        for row in self._news(METRICS_FILE):
            self._waits_after = None
            self._show(row)

        self._name_work(time.time())
        self._show_progress(time.time())

    def _name_work(self, now: float) -> None:
        """Say once what a phase of the start-up that is long does."""
        if self._waits_after is None or now - self._waits_after[1] < SILENT_S:
            return
        if work := NEXT_WORK.get(self._waits_after[0]):
            self._print(f"  {now - self.started:5.0f} s  {work} ...")
        self._waits_after = None

    def _show_progress(self, now: float) -> None:
        """Show how far a long generation or validation is: one line rewritten on a terminal, else now and then one."""
        phase = read_phase(self.run_dir)
        if phase is None or now - phase.began < SILENT_S:
            return
        is_terminal = self.out.isatty()
        if now - self._shown >= (LIVE_EVERY_S if is_terminal else LINE_EVERY_S):
            self._shown = now
            line = progress_line(self.run_dir, phase, now)
            if is_terminal:
                width = shutil.get_terminal_size().columns
                self.out.write(f"\r{line[: width - 1]}{TO_END_OF_LINE}")
                self.out.flush()
                self._is_line_open = True
            else:
                self._print(line)
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            print(progress_line(self.run_dir, phase, now), flush=True)

    def _show(self, row: dict[str, Any]) -> None:
        if "timing_s/step" in row:
            self.durations.append(row["timing_s/step"])
            self._print(step_line(row, self.total_steps, self.durations))
            raised = read_raised(self.run_dir).get(row["step"]) if row.get(RAISED) else None
            for warning in step_warnings(row, raised):
                self._print(f"  warning: {warning}")
        if VALIDATION_FAILURES in row:
            rates = [f"horizon {horizon}: {100 * rate:.1f} %" for horizon, rate in validation_rates(row).items()]
            self._print(f"validation after step {row['step']}: {'  '.join(rates) or 'no figures'}")
            failed = failures(row, VALIDATION_FAILURES)
            if failed:
                self._print(f"  warning: {failed}; no rate counts them, see {LOG_FILE}")

    def _print(self, line: str) -> None:
        start = f"\r{TO_END_OF_LINE}" if self._is_line_open else ""
        self._is_line_open = False
        print(f"{start}{line}", file=self.out, flush=True)

    def _size(self, name: str) -> int:
        path = self.run_dir / name
        return path.stat().st_size if path.exists() else 0

    def _news(self, name: str) -> list[dict[str, Any]]:
        path = self.run_dir / name
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._offsets[name])
            text = file.read()
        complete = text.rfind(b"\n") + 1
        self._offsets[name] += complete
        return [json.loads(line) for line in text[:complete].splitlines()]


def step_line(row: dict[str, Any], total_steps: int, durations: list[float]) -> str:
    """Format a row of metrics.jsonl as one line of progress.

    Args:
        durations: wall time of the steps so far, seconds; their recent median makes the ETA.
    """
    recent = sorted(durations[-20:])
    eta = (total_steps - row["step"]) * recent[len(recent) // 2]
    parts = [f"step {row['step']:>{len(str(total_steps))}}/{total_steps}"]
    # of all that were played: a filter trains on groups in which some succeed
    success = row.get(PLAYED_SUCCESS, row.get("env/success"))
    parts.append(f"success {_percent(success)}")
    if WITH_SIGNAL in row:
        # of those that the step took or left out: asynchronously others were drawn in it
        parts.append(f"groups {row[WITH_SIGNAL]:.0f} of {row[WITH_SIGNAL] + row[WITHOUT_SIGNAL]:.0f}")
    if "trm/acceptance" in row:
        parts.append(f"acceptance {_percent(row['trm/acceptance'])}{rejections(row)}")
        # absent where no sequence is finite
        parts.append(f"KL {_nats(row.get('trm/token_kl_mean_k3'))}")
    elif "actor/ppo_kl" in row:
        parts.append(f"KL {_nats(row['actor/ppo_kl'])}")
    parts.append(f"{row.get('run/tokens_per_s') or float('nan'):.0f} tok/s")
    parts.append(f"{durations[-1]:.1f} s{waits(row)}")
    parts.append(f"ETA {duration(eta)}")
    return "  ".join(parts)


def waits(row: dict[str, Any]) -> str:
    """Format the shares of a step in which each part waited, and the seconds of its weights; empty without any."""
    names = [name for name in ("trainer", "servers", "queue") if row.get(f"run/{name}_idle") is not None]
    shares = [f"{name} {100 * row[f'run/{name}_idle']:.0f} %" for name in names]
    shown = [f"idle: {', '.join(shares)}"] if shares else []
    if (seconds := row.get("timing_s/update_weights")) is not None:
        shown.append(f"weights {seconds:.2f} s")
    return f" ({'; '.join(shown)})" if shown else ""


def rejections(row: dict[str, Any]) -> str:
    """Format the share that each criterion rejected; empty if nothing was rejected."""
    prefix = "trm/rejected_by_"
    shares = {key.removeprefix(prefix): value or 0.0 for key, value in row.items() if key.startswith(prefix)}
    shown = [f"{100 * share:.0f} % by {name}" for name, share in shares.items() if share]
    return f" (rejected {', '.join(shown)})" if shown else ""


def step_warnings(row: dict[str, Any], raised: Raised | None = None) -> list[str]:
    """Return the warnings about a step that a person should see without looking for them.

    Args:
        raised: the step's most frequent exception of an environment; None where it is not known.
    """
    warnings = []
    failed = failures(row, FAILURES)
    if failed:
        warnings.append(f"{failed}; they are out of the loss, see {LOG_FILE}")
    if broken := step_warning(row, raised):
        warnings.append(broken)
    if row.get("trm/all_rejected"):
        warnings.append("a whole update was rejected by the trust region: its policy loss has no gradient")
    if row.get(EQUAL_GROUPS) == 1:
        warnings.append("no task's episodes differ in reward: the policy loss has no gradient")
    acceptance = row.get("trm/acceptance")
    if acceptance is not None and acceptance < 0.7:
        warnings.append(f"acceptance {_percent(acceptance).strip()} is below the 70 % that the paper asks for")
    return warnings


def failures(row: dict[str, Any], metric: str) -> str:
    """Format the number of episodes that could not be played, with the reasons; empty if all could.

    Args:
        metric: `FAILURES` or `VALIDATION_FAILURES`.
    """
    count = int(row.get(metric) or 0)
    if not count:
        return ""
    names = [key[len(metric) + 1 :] for key in sorted(row) if key.startswith(f"{metric}/")]
    # a reason may be subdivided, as late turns are by length
    reasons = [f"{int(row[f'{metric}/{name}'])} {name}" for name in names if "/" not in name]
    return f"{count} episodes could not be played ({', '.join(reasons)})"


def validation_rates(row: dict[str, Any]) -> dict[int, float]:
    """Return success by horizon of a row that holds a validation, else empty."""
    prefix = "env/val_success/h"
    rates = {int(key[len(prefix) :]): value for key, value in row.items() if key.startswith(prefix)}
    return dict(sorted(rates.items()))


def duration(seconds: float) -> str:
    """Format seconds, such as 75.2 as `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _percent(value: float | None) -> str:
    return "   -  " if value is None else f"{100 * value:5.1f} %"


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
