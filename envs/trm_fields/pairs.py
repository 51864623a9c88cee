"""NAME=VALUE texts of a command line."""

import json
from collections.abc import Sequence
from typing import Any

from trm_fields.refusals import refuse


def read_pairs(flag: str, texts: Sequence[str], example: str) -> dict[str, Any]:
    """Return the values that a flag's NAME=VALUE texts give; a value is JSON, else text.

    Raises:
        ValueError: if a text has no name or no `=`.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            refuse(flag, text, "NAME=VALUE", f"give e.g. {flag} {example}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
