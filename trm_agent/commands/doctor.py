"""`trm doctor`: report the abilities of this machine, with a remedy for each one that is missing."""

from __future__ import annotations

import argparse
import json

from trm_fields import refuse

CANNOT_TRAIN = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "doctor",
        help=summary,
        description="Look at packages, accelerators, sandbox, memory, disk and ports, and name a remedy for each "
        "that is not as it should be. With --plan: the memory of a model, part by part, against what there is, and the "
        "longest trajectory that fits. Exit code: 0 the main job can run here, or the plan fits; else 1.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm doctor\n  trm doctor --json\n  trm doctor --plan\n"
        "  trm doctor --plan --model qwen3_4b --gpus 4 --gpu-memory 79 --tokens 32768",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: can_train, sections; or the plan")
    parser.add_argument("--plan", action="store_true", help="plan the memory of a training instead")
    planned = parser.add_argument_group("with --plan")
    planned.add_argument("--model", help="a choice of conf/model, a folder, or a hub id (default: one for the machine)")
    planned.add_argument("--gpus", type=int, metavar="N", help="GPUs of a node (default: those of this machine)")
    planned.add_argument("--gpu-memory", type=int, metavar="GIB", help="whole GiB of each (default: of this machine's)")
    planned.add_argument("--tokens", type=int, metavar="N", help="longest trajectory, prompt included")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report, or a plan.

    Args:
        arguments: `json`, `plan` and the plan's options of the parser.

    Returns:
        0 if the main job can run here, or the plan fits, else 1.

    Raises:
        ValueError: an option of the plan cannot be used.
    """
    from trm_agent.doctor.sections import as_text, can_train, examine

    if arguments.plan:
        return _plan(arguments)
    for name in ("model", "gpus", "gpu_memory", "tokens"):
        if getattr(arguments, name) is not None:
            refuse(f"--{name.replace('_', '-')}", getattr(arguments, name), "nothing without --plan", "add --plan")
    findings = examine()
    if arguments.json:
        sections = {title: [finding.as_json() for finding in each] for title, each in findings.items()}
        print(json.dumps({"can_train": can_train(findings), "sections": sections}, indent=2))
    else:
        print(as_text(findings))
    return 0 if can_train(findings) else CANNOT_TRAIN


def _plan(arguments: argparse.Namespace) -> int:
    from trm_agent.doctor import plan

    made = plan.make(arguments.model, arguments.gpus, arguments.gpu_memory, arguments.tokens)
    print(json.dumps(plan.as_json(made), indent=2) if arguments.json else plan.as_text(made))
    return 0 if made.fits else CANNOT_TRAIN
