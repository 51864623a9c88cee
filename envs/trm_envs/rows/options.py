"""Options of environments that read a file of rows, and their checks."""

from typing import Any

from trm_envs.options import check_choice, check_integer
from trm_fields import refuse

REFUSE, DROP = "refuse", "drop"
UNSCORABLE = (REFUSE, DROP)


def check_row_options(
    rows: Any, row: Any, split: str, horizon: int, unscorable: Any = REFUSE, rows_hash: Any = ""
) -> None:
    """Raise a ValueError if the options of an environment with one problem per row do not go together."""
    if not isinstance(rows, str):
        refuse("rows", rows, "the name of a file", 'give one, such as rows="problems.jsonl"')
    check_choice("unscorable", unscorable, UNSCORABLE)
    if not isinstance(rows_hash, str):
        refuse("rows_hash", rows_hash, "text, as config.yaml holds it", "leave it out")
    if rows and horizon != 1:
        refuse("horizon", horizon, "1 with rows, each of which is one problem", "pass horizon=1")
    if row is None:
        return
    check_integer("row", row, 0, 10**9)
    if not rows:
        refuse("row", row, "null without rows", 'pass e.g. rows="problems.jsonl"')
    if split != "all":
        refuse("split", split, '"all" with row, since a chosen row may be of either split', 'pass split="all"')
