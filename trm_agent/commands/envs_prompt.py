"""`trm envs prompt`: the beginning of an episode as a model reads it."""

from __future__ import annotations

import argparse

from trm_fields import read_pairs

SEED = 0


def add_action(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action's arguments."""
    parser = actions.add_parser(
        "prompt",
        help="print the first prompt and a tool turn as a model reads them",
        description="Print the first prompt, a turn of the scripted solver and the answer to it, with all that the "
        "model's chat template puts around them. No engine is started.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm envs prompt trm/ChainMath-v0 --model nano --horizon 2",
    )
    parser.add_argument("id", metavar="ID", help="an environment's id, or MODULE:ID")
    parser.add_argument("--module", metavar="M", help="the module that registers it, as the prefix of MODULE:ID does")
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="a folder with a tokenizer, a hub id, smollm2 or nano"
    )
    parser.add_argument("--option", action="append", default=[], metavar="K=V", help="an option of the environment")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the task (default: {SEED})")
    parser.add_argument("--horizon", type=int, metavar="N", help="default: the environment's")
    parser.add_argument("--roles", nargs="+", metavar="R", help="roles that answer the model (default: tool user)")
    parser.add_argument(
        "--template-kwargs", nargs="+", default=[], metavar="K=V", help="variables of the chat template"
    )
    parser.add_argument("--refuse", action="store_true", help="refuse a template that leaves something out")
    parser.set_defaults(run=show_prompt)


def show_prompt(arguments: argparse.Namespace) -> int:
    """Print the preview.

    Args:
        arguments: the parsed arguments.

    Returns:
        0.

    Raises:
        ValueError: the model has no tokenizer, its template cannot be used, or there is no such environment.
    """
    from trm_agent.runs.first_prompt import prompt_of_id

    chat = {"fallback": "refuse" if arguments.refuse else "describe"}
    if arguments.roles:
        chat["roles"] = arguments.roles
    kwargs = read_pairs("--option", arguments.option, "horizon=4")
    variables = read_pairs("--template-kwargs", arguments.template_kwargs, "enable_thinking=false")
    run = {
        "env": {"kwargs": {"protocol": "auto", **kwargs}, "chat": chat},
        "data": {"apply_chat_template_kwargs": variables},
    }
    options = {} if arguments.horizon is None else {"horizon": arguments.horizon}
    try:
        name = f"{arguments.module}:{arguments.id}" if arguments.module else arguments.id
        shown = prompt_of_id(arguments.model, name, arguments.seed, options, run)
    except ValueError as error:
        raise ValueError(f"ID={arguments.id!r}, --model={arguments.model}: {error}") from error
    print("\n".join(shown))
    return 0
