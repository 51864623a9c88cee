"""`trm bounds`: the largest distance of the surrogate from the truth, for a horizon and its divergences."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from typing import Any

from trm_fields import refuse

LABELS = {
    "classical": "Classical",
    "coupling": "Coupling",
    "pinsker_marginal_kl": "Pinsker-Marginal KL",
    "pinsker_marginal_tv": "Pinsker-Marginal TV",
    "mixed_kl": "Mixed KL",
    "mixed_tv": "Mixed TV",
    "adaptive": "Adaptive hybrid",
    "unified": "Unified B*",
}
OUR_LABELS = {"chi2_kl": "chi2-KL", "path_sum": "Path sum", "stop": "Stop"}
PINSKER = {"eps": "min(1, sqrt(delta / 2))", "tv_seq": "min(1, sqrt(kl_seq / 2))"}
NOTE = (
    "The paper's bounds and their halves hold if the divergences do in every context that can be reached, not only in "
    "sampled ones; above 1, the largest reward, a bound says nothing."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "bounds",
        help=summary,
        description="Print the upper bounds on |J(theta) - J(roll) - L'| of Trust Region Masking, rewards in [0, 1].\n"
        "Divergences are KL(roll || theta) in nats and total variation, over the full vocabulary.\n"
        "A threshold of max_estimator or avg_estimator=abs_... is no KL, and has no bound; k2 and k3 estimate one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm bounds --horizon 4096 --delta 1e-4 --eps 5e-3 --kl-seq 0.01 --tv-seq 0.05\n\n"
        + NOTE.replace("; ", ";\n"),
    )
    parser.add_argument("--horizon", type=int, required=True, metavar="T", help="tokens of the model in a sequence")
    parser.add_argument("--delta", type=float, required=True, help="largest KL of a token")
    parser.add_argument("--kl-seq", type=float, required=True, help="expected sum of the KL over a sequence")
    parser.add_argument("--eps", type=float, help="largest total variation of a token (default: sqrt(delta / 2))")
    parser.add_argument("--tv-seq", type=float, help="total variation of sequences (default: sqrt(kl-seq / 2))")
    parser.add_argument("--chi2-seq", type=float, help="expected sum of chi2 over a sequence (default: 2 kl-seq)")
    parser.add_argument(
        "--acceptance",
        type=float,
        metavar="A",
        help="share that the max criterion keeps at delta, of all sampled sequences: adds stop's bound",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compute and print the bounds.

    Args:
        arguments: `horizon`, `delta`, `kl_seq`, `eps`, `tv_seq`, `chi2_seq`, `acceptance`, `json` of the parser.

    Returns:
        0.

    Raises:
        ValueError: a flag's value is not allowed.
    """
    horizon, delta, kl_seq = arguments.horizon, arguments.delta, arguments.kl_seq
    _check("--horizon", horizon, 1, 2**53)
    _check("--delta", delta, 0, math.inf)
    _check("--kl-seq", kl_seq, 0, math.inf)
    if arguments.chi2_seq is not None:
        _check("--chi2-seq", arguments.chi2_seq, 0, math.inf)
    for name in ("eps", "tv_seq", "acceptance"):
        if (value := getattr(arguments, name)) is not None:
            _check(f"--{name.replace('_', '-')}", value, 0, 1)

    from trm_agent.core.bounds import error_bounds, pinsker, pinsker_marginal_integral
    from trm_agent.core.horizon import effective_horizon

    bounds = error_bounds(horizon, delta, kl_seq, max_tv=arguments.eps, seq_tv=arguments.tv_seq)
    values = {name: getattr(bounds, name).item() for name in LABELS}
    summed = values["pinsker_marginal_kl"]
    eps = pinsker(delta) if arguments.eps is None else arguments.eps
    values["pinsker_marginal_kl"] = pinsker_marginal_integral(horizon, pinsker(delta), delta).item()
    values["pinsker_marginal_tv"] = pinsker_marginal_integral(horizon, eps, delta).item()
    longest = effective_horizon(delta, kl_seq / horizon, max_tv=arguments.eps).item()
    given = {name: getattr(arguments, name) for name in ("horizon", "delta", "kl_seq", "eps", "tv_seq", "chi2_seq")}
    derived = {"eps": pinsker(delta).item(), "tv_seq": pinsker(kl_seq).item(), "chi2_seq": 2 * kl_seq}
    assumed = {name: value for name, value in derived.items() if given[name] is None}
    inputs = {**given, **assumed}
    half = min(summed, values["mixed_kl"]) / 2
    ours = _ours(inputs, half, arguments.acceptance, is_chi2_given="chi2_seq" not in assumed)
    if arguments.json:
        uniform = {"mean_tv": assumed["eps"] if arguments.eps is None else arguments.eps}
        record: dict[str, Any] = {**values, "effective_horizon": longest}
        record["halved"] = {name: value / 2 for name, value in values.items()}
        print(json.dumps(_finite({**record, **ours, "assumed": {**assumed, **uniform}}), indent=2, allow_nan=False))
    else:
        print(_table(inputs, values, ours, assumed, summed, longest))
    return 0


def _ours(
    inputs: Mapping[str, float], half: float, acceptance: float | None, *, is_chi2_given: bool
) -> dict[str, float]:
    """Return our bounds by name; `half` is the least half of those that need delta alone in every context."""
    from trm_agent.core.chi2_bounds import path_sum_bound, pooled_chi2_kl_bound, proportional_chi2_kl_bound
    from trm_agent.core.stop import cut_bound

    horizon, kl_seq, chi2_seq = inputs["horizon"], inputs["kl_seq"], inputs["chi2_seq"]
    ours = {
        "chi2_kl": proportional_chi2_kl_bound(horizon, chi2_seq, kl_seq).item(),
        "path_sum": path_sum_bound(horizon, kl_seq).item(),
    }
    if acceptance is not None:
        # all of the KL at the last token, so that no proportion is taken for granted
        spread = pooled_chi2_kl_bound(horizon, chi2_seq, (horizon - 1) * kl_seq).item() if is_chi2_given else math.inf
        ours["stop"] = min(half, spread) + cut_bound(1 - acceptance, kl_seq).item()
    return ours


def _finite(value: Any) -> Any:
    """Replace infinities, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return value if math.isfinite(value) else None


def _table(
    inputs: Mapping[str, float],
    values: Mapping[str, float],
    ours: Mapping[str, float],
    assumed: Mapping[str, float],
    summed: float,
    longest: float,
) -> str:
    """Format the numbers for a reader; `summed` is the sum behind PM-KL, `longest` the horizon where B* reaches 1."""
    tightest = min((name for name in LABELS if name != "unified"), key=values.__getitem__)
    rows = [f"  {label:<22} {values[name]:>12.5g} {values[name] / 2:>12.5g}" for name, label in LABELS.items()]
    rows[-1] += f"   the least of these: {LABELS[tightest]}"
    rows += [f"  {OUR_LABELS[name]:<22} {'':>12} {value:>12.5g}" for name, value in ours.items()]
    derived = [f"{name} = {PINSKER[name]}" for name in assumed if name in PINSKER]
    notes = [f"By Pinsker: {', '.join(derived)}."] if derived else []
    notes.append(f"Pinsker-Marginal is the paper's closed form, an integral; its sum, which B* takes, is {summed:.5g}.")
    notes.append("Adaptive hybrid takes Dbar_t = eps at every position.")
    notes.append(
        f"B* is at most 1 up to horizon {longest:.0f} with this delta, this eps "
        f"and {inputs['kl_seq'] / inputs['horizon']:.3g} nats a token."
    )
    notes.append(
        "chi2-KL needs kl_seq and chi2_seq as expectations over rollouts alone, with chi2 in one proportion to the KL"
        + (" (chi2_seq = 2 kl_seq, as for small differences)." if "chi2_seq" in assumed else ".")
    )
    notes.append("Path sum holds if no path gathers more KL than kl_seq: the average criterion's.")
    if "stop" in ours:
        parts = ["half of Pinsker-Marginal KL", "half of Mixed KL"]
        if "chi2_seq" not in assumed:
            parts.append("chi2-KL in any proportion")
        notes.append(
            "Stop bounds the error of the tokens before the first context above delta, without a premise: the least of "
            f"{', '.join(parts[:-1])} and {parts[-1]}, and the price of what is cut."
        )
    return "\n".join(
        [
            "Upper bounds on |J(theta) - J(roll) - L'|, rewards in [0, 1]",
            "  " + "   ".join(f"{name} = {value:.6g}" for name, value in inputs.items()),
            "",
            f"  {'':<22} {'the paper':>12} {'ours':>12}",
            *rows,
            "",
            *notes,
            NOTE,
        ]
    )


def _check(flag: str, value: float, least: float, largest: float) -> None:
    # "not inside" and never "outside": NaN is refused
    if not least <= value <= largest or not math.isfinite(value):
        allowed = f"{least:g} to {largest:g}" if math.isfinite(largest) else f"a finite number of {least:g} or more"
        refuse(flag, value, allowed, "see trm bounds --help")
