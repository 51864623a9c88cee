"""The table of a run's recorded log-probs against the frequencies of its sampler."""

from collections.abc import Sequence
from typing import Any

from trm_agent.report.sources import Source
from trm_agent.trust_region.sampler_check import ALARM, Draws, SamplerCheck, rows_of, selection

TITLE = "Are the recorded log-probs the sampler's own?"
COLUMNS = ["recorded probability of the most likely token", "drawn tokens", "recorded", "drawn", "z"]
ABOUT = (
    "How often the most likely token was drawn in the recorded episodes, against its recorded probability. Ratios, "
    "divergences and masks take the record for granted and cannot see this. z: difference of the counts in standard "
    f"deviations. Of true records at most {ALARM:g} are called false, whatever their number of tokens."
)
SELECTED = "{} leaves episodes out for how they went, so what is left was not drawn by these probabilities. "


def sampler_tables(sources: Sequence[Source], draws: Sequence[Draws]) -> list[dict[str, Any]]:
    """Return a table for each run that recorded its most likely tokens.

    Args:
        sources: the folders.
        draws: of each, those of the episodes in the page.

    Returns:
        JSON-clean, as `endings.failure_tables`.
    """
    found = []
    for source, of_source in zip(sources, draws, strict=True):
        try:
            check = of_source.check()
        except ValueError as error:
            source.notes.append(f"the sampler's record cannot be tested: {error}")
            continue
        if check is not None and source.kind == "run":
            found.append(_table(check, source, named=len(sources) > 1))
    return found


def _table(check: SamplerCheck, source: Source, *, named: bool) -> dict[str, Any]:
    selected_by = selection(source.config)
    verdict = "Not judged" if selected_by else "No" if check.is_false else "Nothing speaks against it"
    found = check.told()
    told = SELECTED.format(selected_by) if selected_by else f"{found[0].upper()}{found[1:]}. "
    title = f"{TITLE} {verdict}"
    return {
        "kind": "run",
        "title": f"{title}: {source.label}" if named else title,
        "columns": COLUMNS,
        "rows": [list(row) for row in rows_of(check)],
        "about": told + ABOUT,
    }
