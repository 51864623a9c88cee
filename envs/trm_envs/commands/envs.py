"""`trm envs`: list, check and play environments, and start a new one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_fields import read_pairs, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from trm_envs import ToolEnv
    from trm_envs.checker import Finding

CHECK_FAILED = PLAY_FAILED = 1
MAX_FUZZ = 10_000_000
END_OF_TURN = ("", ".")
MODULE_HELP = "a module that registers the environment, as the prefix of MODULE:ID does"


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Add the command's arguments; return the place for further actions."""
    parser = subparsers.add_parser(
        "envs",
        help=summary,
        description="Environments: an ID is one of trm envs list, or MODULE:ID of your own package.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm envs check trm/ChainMath-v0 --fuzz 10000\n  trm envs play trm/ChainMath-v0 --solver\n"
        "  trm envs new my_env && cd my_env && trm envs check my_env:my_env/MyEnv-v0",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_list(actions)
    _add_check(actions)
    _add_play(actions)
    _add_new(actions)
    return actions


def _add_list(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(actions, "list", list_envs, "say which environments there are", "trm envs list --json")
    parser.add_argument("--module", metavar="M", help="a module that registers more of them")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def _add_check(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(actions, "check", check_env, "test an environment against the contract", "trm envs check ID --json")
    _add_env(parser)
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 4, 50], metavar="N", help="default: 1 4 50")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="names of checks, such as junk or fuzz:tags")
    parser.add_argument("--fuzz", type=int, default=300, metavar="N", help="outputs in each protocol (default: 300)")
    parser.add_argument(
        "--fuzz-budget", type=float, default=60.0, metavar="S", help="seconds for slow steps a protocol (default: 60)"
    )
    parser.add_argument("--deadline", type=float, default=10.0, metavar="S", help="for one step (default: 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def _add_play(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(actions, "play", play, "play an episode in the terminal", "trm envs play trm/ChainMath-v0 --solver")
    _add_env(parser)
    parser.add_argument("--solver", action="store_true", help="let the scripted solver play")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--horizon", type=int, metavar="N", help="default: the environment's")
    parser.add_argument("--protocol", metavar="P", help="default: the environment's")


def _add_new(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(actions, "new", new, "write a small package with an environment of your own", "trm envs new my_env")
    parser.add_argument("name", metavar="NAME", help="of the package: small letters, digits, underscores")
    parser.add_argument("--dir", default=".", metavar="D", help="the folder to write it to (default: this one)")


def _add(actions: Any, name: str, run: Callable[..., int], text: str, example: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {example}",
    )
    parser.set_defaults(run=run)
    return parser


def _add_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="an environment's id, or MODULE:ID")
    parser.add_argument("--module", metavar="M", help=MODULE_HELP)
    parser.add_argument(
        "--option", action="append", default=[], metavar="K=V", help="an option of it, V as JSON or text; repeatable"
    )


def list_envs(arguments: argparse.Namespace) -> int:
    """Print the environments with their options and protocols.

    Args:
        arguments: `module`, `json` of the parser.

    Returns:
        0.
    """
    from trm_envs.catalog import entries

    found = entries(arguments.module)
    if arguments.json:
        print(json.dumps([entry.as_json() for entry in found], indent=2))
        return 0
    for entry in found:
        options = ", ".join(f"{name}={json.dumps(value)}" for name, value in entry.options.items())
        print(f"{entry.id}\n    {entry.summary}\n    options: {options}\n    protocols: {', '.join(entry.protocols)}")
    return 0


def check_env(arguments: argparse.Namespace) -> int:
    """Check an environment and print the findings.

    Args:
        arguments: `id`, `module`, `option`, `horizons`, `only`, `fuzz`, `fuzz_budget`, `deadline`, `json` of the
            parser.

    Returns:
        0 if something was checked and nothing failed, else 1.

    Raises:
        ValueError: a flag's value is not allowed, or there is no such environment.
    """
    _check_flag("--fuzz", arguments.fuzz, 0, MAX_FUZZ)
    _check_flag("--fuzz-budget", arguments.fuzz_budget, 0, 86_400)
    _check_flag("--deadline", arguments.deadline, 0.001, 3600)
    for horizon in arguments.horizons:
        _check_flag("--horizons", horizon, 1, 10_000)

    from trm_envs.checker import findings

    found = []
    for finding in findings(
        _env_name(arguments),
        horizons=arguments.horizons,
        options=_options(arguments.option),
        only=arguments.only,
        num_fuzz=arguments.fuzz,
        fuzz_budget_s=arguments.fuzz_budget,
        deadline_s=arguments.deadline,
        check_limit_s=600.0 + 20 * arguments.fuzz_budget + arguments.fuzz / 100,
    ):
        found.append(finding)
        if not arguments.json:
            print(f"{finding.outcome:<8}{finding.check:<18}{finding.seconds:>7.2f} s  {finding.message}", flush=True)
    if arguments.json:
        print(json.dumps([vars(finding) for finding in found], indent=2))
    if not arguments.json:
        print(_verdict(found))
    was_checked = any(finding.outcome != "skipped" for finding in found)
    return 0 if was_checked and not any(finding.failed for finding in found) else CHECK_FAILED


def _verdict(found: list[Finding]) -> str:
    num_failed = sum(finding.failed for finding in found)
    num_skipped = sum(finding.outcome == "skipped" for finding in found)
    if num_skipped == len(found):
        return f"nothing was checked: {num_skipped} skipped; leave --only out to check everything"
    failed = f"{num_failed} of {len(found)} checks failed" if num_failed else f"{len(found)} checks: none failed"
    return (f"{num_skipped} skipped; " if num_skipped else "") + failed


def play(arguments: argparse.Namespace) -> int:
    """Play one episode: a person types the turns, or the scripted solver does.

    Args:
        arguments: `id`, `module`, `option`, `solver`, `seed`, `horizon`, `protocol` of the parser.

    Returns:
        0, or 1 if a verifier or a sandbox failed, which is shown.

    Raises:
        ValueError: a flag's value is not allowed, there is no such environment, or it has no solver.
    """
    from trm_envs.checking.subject import resolve
    from trm_envs.errors import InfrastructureError

    given = {"horizon": arguments.horizon, "protocol": arguments.protocol}
    options = {
        **_options(arguments.option),
        **{name: value for name, value in given.items() if value is not None},
    }
    _check_flag("--seed", arguments.seed, 0, 2**63)
    with resolve(_env_name(arguments), options).open() as env:
        try:
            observation, _ = env.reset(seed=arguments.seed)
            _show("system", env.system_prompt)
            if env.tool_schemas:
                _show("tools", json.dumps(env.tool_schemas, indent=2, ensure_ascii=False))
            _show("user", observation)
            _play_on(env, arguments.solver)
        except InfrastructureError as error:
            print(f"error: not the turn's fault, so the episode has no reward: {error}", file=sys.stderr)
            return PLAY_FAILED
    return 0


def new(arguments: argparse.Namespace) -> int:
    """Write a package with an environment.

    Args:
        arguments: `name`, `dir` of the parser.

    Returns:
        0.

    Raises:
        ValueError: the name is not allowed.
        OSError: the folder exists already, or cannot be written.
    """
    from trm_envs.scaffold import write_package

    env_id, written = write_package(arguments.name, Path(arguments.dir))
    for path in written:
        print(path)
    print(f"next: cd {Path(arguments.dir) / arguments.name} && trm envs check {arguments.name}:{env_id}")
    print(f"then: trm train env=custom env.id={arguments.name}:{env_id}")
    return 0


def _play_on(env: ToolEnv, by_solver: bool) -> None:
    if not by_solver:
        print("(Type a turn; a line that is empty or a lone . ends it.)", flush=True)
    while True:
        action = _solver_turn(env) if by_solver else _typed_turn()
        if action is None:
            print("(The input ended before the episode.)")
            return
        if by_solver:
            _show("assistant", action)
        observation, reward, terminated, truncated, info = env.step(action)
        if observation:
            _show(info["role"] + (" (malformed call)" if info["malformed"] else ""), observation)
        if terminated or truncated:
            why = "terminated" if terminated else "truncated"
            success, numbers = info.get("success", False), info.get("numbers", {})
            print(f"reward {reward:g}, {why}, success: {success}, numbers: {numbers}")
            return


def _solver_turn(env: ToolEnv) -> str:
    try:
        return env.solution()
    except NotImplementedError as error:
        from trm_envs import ToolEnv

        is_defined = type(env).solution is not ToolEnv.solution
        remedy = "; another --seed may have a task that it solves" if is_defined else ""
        raise ValueError(f"--solver: {error}{remedy}") from error


def _typed_turn() -> str | None:
    lines: list[str] = []
    for line in sys.stdin:
        if line.rstrip("\r\n") in END_OF_TURN:
            return "\n".join(lines)
        lines.append(line.rstrip("\r\n"))
    return "\n".join(lines) if lines else None


def _show(role: str, text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    # a terminal that is not UTF-8 must not make the command fail
    print(f"[{role}]\n{text}\n".encode(encoding, "replace").decode(encoding), flush=True)


def _env_name(arguments: argparse.Namespace) -> str:
    return f"{arguments.module}:{arguments.id}" if arguments.module else arguments.id


def _options(pairs: list[str]) -> dict[str, Any]:
    return read_pairs("--option", pairs, "split=held_out")


def _check_flag(flag: str, value: float, least: float, most: float) -> None:
    # "not inside" and never "outside": NaN is refused
    if not least <= value <= most:
        refuse(flag, value, f"{least:g} to {most:g}", "see trm envs --help")
