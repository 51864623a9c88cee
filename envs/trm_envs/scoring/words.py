r"""Words beside a number: which may be dropped, which change the number, and which answer nothing.

A word is dropped only if it is known to count or measure: it stands in the table below, or it is a plural in small
letters. Everything else (`k`, `M`, `i`, `factorial`, `dozen`, `percent of`, `or`) is part of the answer.
"""

import re
from fractions import Fraction

from trm_envs.scoring.units import read_unit

MAGNITUDES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that are part of a numeral: 5 million is 5000000."""
_COUNTED = frozenset(
    """apple ball bag box book boy girl child children coin color cow card car cat chicken cookie cupcake day deer
    dog egg element face feet fish foot fruit game goose geese guest hat hen hour integer item job kid leaf
    leaves letter man men woman women marble meal minute mile month mouse mice number orange outcome page part pen
    pencil people person permutation pie pizza plant player point pupil question row rose sheep
    shelf shelves shirt shoe side sock solution step sticker student subset team term ticket tooth teeth
    toy train tree triangle turn value vertex vertices way week wolf wolves word worker year
    integers numbers points ways units""".split()  # noqa: SIM905
)
_MEASURED = frozenset(
    """mph kph kmh km/h m/s cm/s rpm bpm hz khz kw kwh watt watts joule joules newton newtons volt volts ohm ohms amp
    amps gallon gallons acre acres hectare hectares knot knots usd eur dollar dollars euro euros rupee rupees rs yuan
    yen cent cents pence penny pennies nickel dime celsius fahrenheit kelvin degree degrees radian radians rad deg cm
    mm km kg mg ml lb lbs oz ft yd""".split()  # noqa: SIM905
)
_SMALL = frozenset(
    """a an of the per each in on total altogether area volume square cubic sq cu long wide high
    old""".split()  # noqa: SIM905
)
_COMPOUND = frozenset("kg g mg m cm mm km s ms h hr min N J W V A C K Pa Hz mol L ml".split())  # noqa: SIM905
_CHANGING = frozenset(
    """dozens times minus plus less is as was has does this thus its ours yours his hers halves thirds quarters fifths
    fours fives sixes sevens eights nines tens hundreds thousands lakhs crores scores grosses couples factorials
    cubes percents ones twos threes zeros always perhaps modulus inverses
    negatives reciprocals logs bases sins""".split()  # noqa: SIM905
)
_PLURAL = re.compile(r"[a-z]{3,}s")
_PART = re.compile(r".*(?:th|nd|illion|fold|teen|dozen|score|less)s")
_PRINTED = re.compile(
    r"^(?P<rest>.*?)(?:\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathbf|mbox|operatorname)\s*"
    r"\{(?P<marked>(?:[^{}\\]|\\cdot(?![A-Za-z]))*)\}"
    r"|(?<![A-Za-z\\{])(?P<bare>[A-Za-z/]{2,}(?: [A-Za-z/]+)*))\s*(?:\^(?:\{[23]\}|[23]))?$",
    re.DOTALL,
)


def split_words(text: str) -> tuple[str, str] | None:
    r"""Split the words behind an expression from it: `\sqrt{2}\text{ cm}` is (`\sqrt{2}`, "cm"); None if none are.

    Bare words must be known, so that `6abc` stays a product of letters.
    """
    match = _PRINTED.match(text)
    if match is None or not match["rest"].strip() or match["marked"] in ("i", "e"):
        return None
    words = " ".join((match["marked"] if match["marked"] is not None else match["bare"]).split()).rstrip(".")
    if any(sign in words for sign in ("/", "^", "\\cdot")):
        words = _plain_unit(words)
    if match["bare"] is not None and not (may_be_dropped(words) or words.lower() in MAGNITUDES):
        return None
    return match["rest"].rstrip(), words


def may_be_dropped(words: str) -> bool:
    """Return True if the words only say what is counted or measured."""
    parts = words.lower().split()
    if not parts:
        return True
    if len(parts) > 6:
        return False
    if read_unit(rf"\text{{{words}}}") is not None and "percent" not in parts:
        return True
    is_known = [_is_counted(part, written) for part, written in zip(parts, words.split(), strict=True)]
    return any(is_known) and all(known or part in _SMALL for known, part in zip(is_known, parts, strict=True))


def _plain_unit(words: str) -> str:
    r"""Return "m/s" for a compound unit such as `kg\\cdot m/s^2`; any other text as it is."""
    parts = re.findall(r"[A-Za-z]+", words.replace("\\cdot", " "))
    return "m/s" if len(parts) > 1 and all(part in _COMPOUND for part in parts) else words


def magnitude(words: str) -> Fraction | None:
    """Return what a number before the words is multiplied by; None if they name no power of ten."""
    value = MAGNITUDES.get(words.lower())
    return Fraction(value) if value else None


def _is_counted(word: str, written: str) -> bool:
    if word in _CHANGING or _PART.fullmatch(word):
        return False
    if word in _COUNTED or word in _MEASURED:
        return True
    if len(word) > 1 and read_unit(rf"\text{{{word}}}") is not None and word != "percent":
        return True
    return written == word and _PLURAL.fullmatch(word) is not None
