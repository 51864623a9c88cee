"""`trm bounds`: the largest distance of the surrogate from the truth, for a horizon and its divergences."""

from __future__ import annotations

import argparse
import json
import math

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
PINSKER = {"eps": "min(1, sqrt(delta / 2))", "tv_seq": "min(1, sqrt(kl_seq / 2))"}
NOTE = (
    "A bound holds if the divergences do in every context that can be reached, not only in sampled ones; "
    "above 1, the largest reward, it says nothing."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "bounds",
        help=summary,
        description="Print the upper bounds on |J(theta) - J(roll) - L'| of Trust Region Masking, rewards in [0, 1].\n"
        "Divergences are KL(roll || theta) in nats and total variation, over the full vocabulary.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  trm bounds --horizon 4096 --delta 1e-4 --eps 5e-3 --kl-seq 0.01 --tv-seq 0.05\n\n"
        + NOTE.replace("; ", ";\n"),
    )
    parser.add_argument("--horizon", type=int, required=True, metavar="T", help="tokens of the model in a sequence")
    parser.add_argument("--delta", type=float, required=True, help="largest KL of a token")
    parser.add_argument("--kl-seq", type=float, required=True, help="expected sum of the KL over a sequence")
    parser.add_argument("--eps", type=float, help="largest total variation of a token (default: sqrt(delta / 2))")
    parser.add_argument("--tv-seq", type=float, help="total variation of sequences (default: sqrt(kl-seq / 2))")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compute and print the bounds.

    Args:
        arguments: `horizon`, `delta`, `kl_seq`, `eps`, `tv_seq`, `json` of the parser.

    Returns:
        0.

    Raises:
        ValueError: a flag's value is not allowed.
    """
    horizon, delta, kl_seq = arguments.horizon, arguments.delta, arguments.kl_seq
    _check("--horizon", horizon, 1, 2**53)
    _check("--delta", delta, 0, math.inf)
    _check("--kl-seq", kl_seq, 0, math.inf)
    for flag, value in (("--eps", arguments.eps), ("--tv-seq", arguments.tv_seq)):
        if value is not None:
            _check(flag, value, 0, 1)

    from trm_agent.core.bounds import error_bounds, pinsker, pinsker_marginal_integral
    from trm_agent.core.horizon import effective_horizon

    bounds = error_bounds(horizon, delta, kl_seq, max_tv=arguments.eps, seq_tv=arguments.tv_seq)
    values = {name: getattr(bounds, name).item() for name in LABELS}
    summed = values["pinsker_marginal_kl"]
    eps = pinsker(delta) if arguments.eps is None else arguments.eps
    values["pinsker_marginal_kl"] = pinsker_marginal_integral(horizon, pinsker(delta), delta).item()
    values["pinsker_marginal_tv"] = pinsker_marginal_integral(horizon, eps, delta).item()
    values["effective_horizon"] = effective_horizon(delta, kl_seq / horizon, max_tv=arguments.eps).item()
    given = {"horizon": horizon, "delta": delta, "kl_seq": kl_seq, "eps": arguments.eps, "tv_seq": arguments.tv_seq}
    derived = {"eps": pinsker(delta).item(), "tv_seq": pinsker(kl_seq).item()}
    assumed = {name: value for name, value in derived.items() if given[name] is None}
    if arguments.json:
        uniform = {"mean_tv": assumed["eps"] if arguments.eps is None else arguments.eps}
        # JSON lacks infinity
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        print(json.dumps({**finite, "assumed": {**assumed, **uniform}}, indent=2, allow_nan=False))
    else:
        print(_table({**given, **assumed}, values, assumed, summed))
    return 0


def _table(inputs: dict[str, float], values: dict[str, float], assumed: dict[str, float], summed: float) -> str:
    """Format the numbers for a reader; `inputs` includes the assumptions, and `summed` is the sum behind PM-KL."""
    tightest = min((name for name in LABELS if name != "unified"), key=values.__getitem__)
    rows = [f"  {label:<22} {values[name]:>12.5g}" for name, label in LABELS.items()]
    rows[-1] += f"   the least of these: {LABELS[tightest]}"
    derived = [f"{name} = {PINSKER[name]}" for name in assumed]
    notes = [f"By Pinsker: {', '.join(derived)}."] if derived else []
    notes.append(f"Pinsker-Marginal is the paper's closed form, an integral; its sum, which B* takes, is {summed:.5g}.")
    notes.append("Adaptive hybrid takes Dbar_t = eps at every position.")
    notes.append(
        f"B* is at most 1 up to horizon {values['effective_horizon']:.0f} with this delta, this eps "
        f"and {inputs['kl_seq'] / inputs['horizon']:.3g} nats a token."
    )
    return "\n".join(
        [
            "Upper bounds on |J(theta) - J(roll) - L'|, rewards in [0, 1]",
            "  " + "   ".join(f"{name} = {value:.6g}" for name, value in inputs.items()),
            "",
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
