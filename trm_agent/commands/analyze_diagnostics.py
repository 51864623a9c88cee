"""What `trm analyze` prints beside thresholds: growth with depth, effective sizes, signs, the sampler's record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import read_yaml
from trm_agent.runs.stored_config import CONFIG_FILE
from trm_agent.trust_region.growth import Growth
from trm_agent.trust_region.sampler_check import SamplerCheck, rows_of

NO_RECORD = "not tested: the dump holds no most likely tokens; dump with estimator=topk, exact or replayed"


def config_of(dump: Path) -> dict[str, Any]:
    """Return the configuration of the run that wrote a dump; empty where it is not beside it.

    Args:
        dump: the folder of a run, or its `rollouts/`, or a file in it.
    """
    inner = dump.resolve() if dump.is_dir() else dump.resolve().parent
    for folder in (inner, inner.parent):
        file = folder / CONFIG_FILE
        if file.is_file():
            config = read_yaml(file.read_text(encoding="utf-8"))
            return config if isinstance(config, dict) else {}
    return {}


def longest_response(config: Mapping[str, Any]) -> int | None:
    """Return the tokens that a response of a run can have; None where that is not known."""
    data = config.get("data")
    found = data.get("max_response_length") if isinstance(data, Mapping) else None
    return found if isinstance(found, int) and found > 0 else None


def loss_aggregation(config: Mapping[str, Any]) -> str:
    """Return a run's `loss_agg_mode`; "" where that is not known."""
    section: Any = config
    for name in ("actor_rollout_ref", "actor", "loss_agg_mode"):
        section = section.get(name) if isinstance(section, Mapping) else None
    return section if isinstance(section, str) else ""


def as_json(growth: Growth | None, check: SamplerCheck | None, selected_by: str) -> dict[str, Any]:
    """Return the results as plain data: `by_depth` and `sampler`, each None where nothing is known."""
    bins = [] if growth is None else zip(growth.tokens, growth.depth, growth.kl, strict=True)
    return {
        "by_depth": None
        if growth is None
        else {
            "kind": growth.kind,
            "slope": growth.slope,
            "slope_error": growth.slope_error,
            "bins": [{"tokens": int(n), "mean_depth": float(d), "token_kl_mean": float(kl)} for n, d, kl in bins],
        },
        "sampler": None if check is None else {**asdict(check), "is_false": check.is_false, "selected_by": selected_by},
    }


def as_text(
    mask: Mapping[str, float], growth: Growth | None, check: SamplerCheck | None, selected_by: str
) -> list[str]:
    """Return the same as lines for people.

    Args:
        mask: the metrics of the dump, without `trm/`.
        growth: of its divergence with depth.
        check: of its recorded log-probs.
        selected_by: see `sampler_check.selection`.
    """
    lines = ["", f"Effective sample size, of 100 %: {_shares(mask, 'effective_', ('tokens', 'turns', 'sequences'))}"]
    for sign, word in (("positive", "A > 0"), ("negative", "A < 0")):
        if f"kept_tokens_{sign}" in mask:
            lines.append(
                f"{word}: {_shares(mask, '', (f'acceptance_{sign}', f'kept_tokens_{sign}'))}{_added(mask, sign)}"
            )
    if growth is not None:
        lines += ["", f"Mismatch by depth in the context: {growth.told()}"]
        lines += [f"  {'mean depth':>12}{'tokens':>12}{'mean KL':>12}"]
        bins = zip(growth.depth, growth.tokens, growth.kl, strict=True)
        lines += [f"  {depth:>12,.0f}{tokens:>12,.0f}{kl:>12.2e}" for depth, tokens, kl in bins]
    return [*lines, "", *_sampler(check, selected_by)]


def _sampler(check: SamplerCheck | None, selected_by: str) -> list[str]:
    title = "Are the recorded log-probs the sampler's own?"
    if check is None:
        return [f"{title} {NO_RECORD}"]
    verdict = check.told()
    if selected_by:
        verdict = f"not judged: {selected_by} leaves episodes out for how they went, so what is left was not drawn by p"
    heads = ("most likely p", "tokens", "recorded", "drawn", "z")
    return [f"{title} {verdict}", *("  " + "".join(f"{cell:>15}" for cell in row) for row in (heads, *rows_of(check)))]


def _shares(mask: Mapping[str, float], prefix: str, names: tuple[str, ...]) -> str:
    found = [(name, mask[f"{prefix}{name}"]) for name in names if f"{prefix}{name}" in mask]
    return ", ".join(
        f"{name.rpartition('_')[0].replace('_', ' ') or name} {100 * share:.1f} %" for name, share in found
    )


def _added(mask: Mapping[str, float], sign: str) -> str:
    name = f"contribution_{sign}"
    return f", -(rho - 1) A {mask[name]:+.2e} a sequence, kept {mask[f'{name}_masked']:+.2e}" if name in mask else ""
