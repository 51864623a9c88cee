"""The command line of a training, for `trm train` and `python -m trm_agent.train`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from trm_agent.runs.compose import GPU, GROUPS, choices, compose_run
from trm_agent.runs.planning.auto import AUTO, check_slices, expanded
from trm_agent.runs.planning.told import told_plan
from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

USAGE = """%(prog)s [--help] [--cfg] [--check] [--task math|code] [group=choice ...] [field=value ...]
       %(prog)s --extend RUN [--schedule stretch|restart] [--check] [field=value ...]"""


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
    names = {group: [*([AUTO] if group == "experiment" else []), *choices(group)] for group in GROUPS}
    groups = "\n".join(f"  {group:<12} {', '.join(listed)}" for group, listed in names.items())
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
  trm train --extend runs/math_nano-seed0-001 trainer.total_training_steps=80

The same command resumes an interrupted run. Fields are those of verl's ppo_trainer and of conf/;
--cfg prints the composed configuration. `python -m trm_agent.train` takes the same arguments."""
    parser.add_argument(
        "--task", choices=("math", "code"), default="math", help="whose experiment is the default (%(default)s)"
    )
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and exit")
    parser.add_argument(
        "--check", action="store_true", help="check everything, show the first prompt, limits, steps and disk, and exit"
    )
    parser.add_argument(
        "--extend", metavar="RUN", help="go on with a run in its folder, with other steps, frequencies or loggers"
    )
    parser.add_argument(
        "--schedule",
        choices=("stretch", "restart"),
        help="with --extend: one rate schedule over all steps, or a new one from here (default: stretch)",
    )


def composed(arguments: argparse.Namespace, overrides: list[str]) -> DictConfig:
    """Compose the configuration, for the experiment of this machine if none is named.

    Raises:
        ValueError: an override cannot be used, or an option needs `--extend`.
    """
    if arguments.schedule is not None:
        refuse("--schedule", arguments.schedule, "a choice of --extend RUN", "leave it out, or name the run")
    overrides[:], choice = expanded(arguments.task, overrides)
    if choice is not None:
        print(choice.line, flush=True)
    config = compose_run(overrides)
    if config.hardware.kind == GPU:
        check_slices(overrides)
        print(told_plan(config), flush=True)
    return config


def show(config: DictConfig) -> int:
    """Print a configuration; returns 0."""
    from omegaconf import OmegaConf

    print(OmegaConf.to_yaml(config))
    return 0
