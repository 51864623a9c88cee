"""Times of the day and dates, which compare as words: 4:30 p.m., June 20."""

import re
from fractions import Fraction

from trm_envs.scoring.exact import Quantity
from trm_envs.scoring.forms import Leaf, Words

_PRINTED_PART = re.compile(r"\\(?:text|mathrm)\s*\{([^{}\\]*)\}")
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_MOMENT = re.compile(
    rf"[0-9]{{1,2}}(?::[0-9]{{2}})? ?[ap]\.?m\.?|[0-9]{{1,2}}:0[0-9]|(?:{_MONTHS}) [0-9]{{1,2}}(?:,? ?[0-9]{{4}})?",
    re.IGNORECASE,
)
_HOUR = re.compile(r"([1-9]|1[0-2]) ?([ap])\.?m\.?", re.IGNORECASE)


def read_moment(text: str) -> Words | None:
    """Read a time of the day or a date; None if the text is neither. A printed full hour has its number too."""
    plain = " ".join(_PRINTED_PART.sub(r"\1", text).split())
    if _MOMENT.fullmatch(plain) is None:
        return None
    hour = _HOUR.fullmatch(plain) if plain != text else None
    leaf = Leaf(Fraction(hour[1]), Quantity(Fraction(hour[1]), f"{hour[2].lower()}.m.")) if hour is not None else None
    return Words(re.sub("[ .,]", "", plain).lower(), leaf)
