"""The command line of a training, for `trm train` and `python -m trm_agent.train`."""

from __future__ import annotations

import argparse
from typing import Any

from trm_agent.runs.compose import GROUPS, choices

USAGE = "%(prog)s [--help] [--cfg] [--task math|code] [group=choice ...] [field=value ...]"


class CommandParser(argparse.ArgumentParser):
    """A parser that may leave all words that are not its options to Hydra, in any order with them."""

    takes_overrides = False
    """Whether such words become `overrides`; else they are refused."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if not self.takes_overrides:
            return found, rest
        for word in rest:
            if word.startswith("-"):
                self.error(f"{word}: unknown option; a field is set as FIELD=VALUE, such as seed=1")
        found.overrides = rest
        return found, []


def describe(parser: CommandParser) -> None:
    """Add the options of a training and the help on its overrides."""
    groups = "\n".join(f"  {group:<12} {', '.join(choices(group))}" for group in GROUPS)
    parser.takes_overrides = True
    parser.description = "Train a tool-using agent with verl and Trust Region Masking."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = USAGE
    parser.epilog = f"""groups and their choices:
{groups}

example:
  trm train seed=1
  trm train policy_loss=ppo_clip trainer.total_training_steps=20
  trm train actor_rollout_ref.actor.policy_loss.trm.max_token_kl=0.01

The same command resumes an interrupted run. Fields are those of verl's ppo_trainer and of conf/;
--cfg prints the composed configuration. `python -m trm_agent.train` takes the same arguments."""
    parser.add_argument(
        "--task", choices=("math", "code"), default="math", help="whose experiment is the default (%(default)s)"
    )
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and exit")
