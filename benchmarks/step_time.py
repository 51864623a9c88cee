"""Step time by phase against plain verl on the same single-turn workload; the aim is at most 5 % on top.

python -m benchmarks.step_time [--steps 12]

Both sides: the same prompts, one turn of at most 32 tokens, the same reward and replay buffer (verl's own polls every
2 s, which would hide everything else), bypass mode, and a learning rate too small to make the turns longer or shorter.
Ours: environment episodes and the `trm` loss. Baseline: verl's single-turn agent loop, reward worker and vanilla loss.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import train, training_rows

NUM_WARM_UP = 2
PHASES = ("gen", "old_log_prob", "adv", "update_actor", "update_weights", "step")
SIZES = ("prompt_length", "response_length")
WORKLOAD = (
    "env.module=benchmarks.single_turn_env",
    "env.id=benchmark/SingleTurn-v0",
    # the same model on both sides
    "nano.env_id=trm/ChainMath-v0",
    "env.train.horizons=[1]",
    "env.limits.max_turn_tokens=32",
    "data.max_response_length=32",
    "actor_rollout_ref.actor.optim.lr=1e-12",
)


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median seconds of each phase and mean tokens of a step, the first steps left out."""
    timed = rows[NUM_WARM_UP:]
    seconds = {phase: statistics.median(row[f"timing_s/{phase}"] for row in timed) for phase in PHASES}
    return seconds | {size: statistics.mean(row[f"{size}/mean"] for row in timed) for size in SIZES}


def ours(steps: int, *machine: str) -> dict[str, float]:
    """Our loop and loss."""
    length = (f"trainer.total_training_steps={steps}", f"trainer.test_freq={steps}", "trainer.save_freq=-1")
    run_dir, _ = train(*WORKLOAD, *length, "env.val.horizons=[1]", "env.val.num_tasks=2", *machine)
    return medians(training_rows(run_dir))


def plain_verl(steps: int, *machine: str) -> dict[str, float]:
    """verl alone."""
    run_dir = Path(tempfile.mkdtemp(prefix="trm-benchmark-")) / "run"
    command = [sys.executable, "-m", "benchmarks.plain_verl", str(run_dir), str(steps), *WORKLOAD, *machine]
    with (run_dir.parent / "log.txt").open("w") as log:
        subprocess.run(command, check=True, timeout=900, stdout=log, stderr=subprocess.STDOUT)
    rows = [json.loads(line)["data"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return medians(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="training steps of each run (default 12)")
    steps = parser.parse_args().steps
    baseline, measured = plain_verl(steps), ours(steps)
    print(f"{'median seconds':<18}{'ours':>8}{'verl':>8}{'ratio':>8}")
    for phase in (*PHASES, *SIZES):
        ratio = measured[phase] / baseline[phase] if baseline[phase] else float("nan")
        print(f"{phase:<18}{measured[phase]:>8.3f}{baseline[phase]:>8.3f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
