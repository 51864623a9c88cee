"""Step time of the default run with each estimator, against the sampled one; the aim is 1.10 for top-K.

python -m benchmarks.estimators [--steps 10 | --before FOLDER]

The same workload for all: `experiment=math_nano` with a learning rate too small to make the episodes longer or shorter.
Between two such runs the ratios vary by some tenths, which hides a slower version. So with FOLDER, which holds another
version of the code, no run is made: 21 calls of each part of a step that depends on the estimator
(`estimators_parts.py`) are made with both in turn, and the rows whose median ratio is above 1.05 are named.
"""

import argparse
from pathlib import Path

from benchmarks.common import train, training_rows
from benchmarks.in_turn import compare
from benchmarks.step_time import PHASES, medians

ESTIMATORS = ("sampled", "topk", "exact")
LOSS = "actor_rollout_ref.actor.policy_loss.trm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--steps", type=int, default=10, help="training steps of each run (default 10)")
    either.add_argument("--before", type=Path, metavar="FOLDER", help="another version of the code")
    options = parser.parse_args()
    if options.before:
        compare(options.before, "benchmarks.estimators_parts")
        return
    steps, measured = options.steps, {}
    for estimator in ESTIMATORS:
        length = (f"trainer.total_training_steps={steps}", f"trainer.test_freq={steps}", "trainer.save_freq=-1")
        run_dir, _ = train(
            *length, "env.val.num_tasks=8", "actor_rollout_ref.actor.optim.lr=1e-12", f"{LOSS}.estimator={estimator}"
        )
        measured[estimator] = medians(training_rows(run_dir))
    print(f"{'median seconds':<18}" + "".join(f"{name:>10}{'ratio':>8}" for name in ESTIMATORS))
    for phase in (*PHASES, "response_length"):
        base = measured["sampled"][phase]
        cells = "".join(f"{measured[name][phase]:>10.3f}{measured[name][phase] / base:>8.2f}" for name in ESTIMATORS)
        print(f"{phase:<18}{cells}")


if __name__ == "__main__":
    main()
