"""From the command to the end of the first training step, and where the time goes, against Ray's own worker start.

python -m benchmarks.startup
"""

from benchmarks.common import phases, train, training_rows
from trm_agent.models.nano import NanoSpec, ensure_nano_model

ONE_STEP = ("trainer.total_training_steps=1", "trainer.test_freq=1", "trainer.save_freq=-1", "env.val.num_tasks=2")


def measure(*overrides: str) -> dict[str, float]:
    """Seconds from the command to each phase and to the end of the first step."""
    run_dir, started = train(*ONE_STEP, *overrides)
    times = {row["phase"]: row["time"] - started for row in phases(run_dir)}
    first = training_rows(run_dir)[0]
    # the row is written after the validation that follows the step
    times["first training step"] = first["time"] - first.get("timing_s/testing", 0.0) - started
    return times


def main() -> None:
    ensure_nano_model(NanoSpec())
    ours = measure()
    baseline = measure("hardware.fork_server=false")
    print(f"{'seconds after the command':<28}{'fork server':>12}{'Ray alone':>12}{'ratio':>8}")
    for phase, seconds in ours.items():
        print(f"{phase:<28}{seconds:>12.1f}{baseline[phase]:>12.1f}{seconds / baseline[phase]:>8.2f}")


if __name__ == "__main__":
    main()
