"""Options of environments that read a file of rows, and their checks."""

from typing import Any

from trm_envs.options import check_choice, check_integer

REFUSE, DROP = "refuse", "drop"
UNSCORABLE = (REFUSE, DROP)


def check_row_options(
    rows: Any, row: Any, split: str, horizon: int, unscorable: Any = REFUSE, rows_hash: Any = ""
) -> None:
    """Raise a ValueError if the options of an environment with one problem per row do not go together."""
    if not isinstance(rows, str):
        raise ValueError(f'rows = {rows!r}: expected the name of a file; e.g. rows="problems.jsonl"')
    check_choice("unscorable", unscorable, UNSCORABLE)
    if not isinstance(rows_hash, str):
        raise ValueError(f"rows_hash = {rows_hash!r}: expected text, as config.yaml holds it; leave it out")
    if rows and horizon != 1:
        raise ValueError(f"horizon = {horizon}: a row is one problem; pass horizon=1 with rows")
    if row is None:
        return
    check_integer("row", row, 0, 10**9)
    if not rows:
        raise ValueError(f'row = {row}: is of no use without rows; pass e.g. rows="problems.jsonl"')
    if split != "all":
        raise ValueError(f'split = "{split}": a chosen row may be of either split; pass split="all" with row')
