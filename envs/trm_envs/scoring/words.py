r"""Words beside a number: which may be dropped, which change the number, and which answer nothing.

A word is dropped only if it is known to count or measure: it stands in the table below, or it is a plural in small
letters that does no arithmetic. Everything else (`k`, `M`, `i`, `factorial`, `dozen`, `percent of`, `or`) is part of
the answer.
"""

import re
from fractions import Fraction

from trm_envs.scoring.units import read_unit

MAGNITUDES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that are part of a numeral: 5 million is 5000000."""
_COUNTED = frozenset(
    """apple ball bag box book boy girl child children coin color cow card car cat chicken cookie cupcake day deer
    bacteria chair cup dice die house path paths piece slice
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
    """a an of the per each in on total altogether area volume square cubic sq cu long wide high tall deep thick
    old left away apart remaining different distinct possible ordered unordered real complex positive prime whole odd
    even valid such x y n""".split()  # noqa: SIM905
)
_COMPOUND = frozenset("kg g mg m cm mm km s ms h hr min N J W V A C K Pa Hz mol L ml".split())  # noqa: SIM905
# A noun in the plural ends so; gross, versus and basis are none.
_NO_PLURAL = re.compile(r".*(?:ss|us|is|wards|times|ways)")
_BESIDE = frozenset("total altogether area volume long wide high tall deep thick old left away apart".split())  # noqa: SIM905
_TRAILING = frozenset("a an of the per in on x y n".split())  # noqa: SIM905
_CHANGING = frozenset(
    """dozens times minus plus less is as was has does this thus its ours yours his hers halves thirds quarters fifths
    fours fives sixes sevens eights nines tens hundreds thousands lakhs crores scores grosses couples factorials
    cubes percents ones twos threes zeros always perhaps modulus inverses
    negatives reciprocals logs logarithms bases sins sines cosines tangents exponents powers roots squareroots
    opposites complements conjugates doubles triples elevens twelves twenties thirties forties fifties sixties
    seventies eighties nineties permilles mils bils trills grands kilos megas gigas micros nanos reams minuses pluses
    besides guesses estimates approximations percentiles""".split()  # noqa: SIM905
)
_PLURAL = re.compile(r"[a-z]{3,}s")
_PART = re.compile(r".*(?:th|nd|illion|fold|teen|dozen|score|less)s")
_PRINTED = re.compile(
    r"^(?P<rest>.*?)(?:\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathbf|mbox|operatorname)\s*"
    r"\{(?P<marked>(?:[^{}\\]|\\cdot(?![A-Za-z]))*)\}"
    r"|(?<![A-Za-z\\{])(?P<bare>[A-Za-z/]{2,}(?: [A-Za-z/]+)*))\s*(?:\^\{?(?P<power>[23])\}?)?$",
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
    if match["power"]:
        words = f"{words}^{match['power']}"
    if match["bare"] is not None and all(len(part) == 1 for part in re.split("[/ ]", match["bare"])):
        return None  # letters, as in 5m/s, may be variables
    if match["bare"] is not None and not (may_be_dropped(words) or words.lower() in MAGNITUDES):
        return None
    return match["rest"].rstrip(), words


def may_be_dropped(words: str) -> bool:
    """Return True if the words only say what is counted or measured."""
    if not words or unit_of(words) is not None:
        return words != "percent"
    written = words.split()
    if len(written) > 6 or written[-1] in _TRAILING or "each" in written[:-1]:
        return False
    is_known = [_is_counted(word) for word in written]
    return any(is_known) and all(known or word in _SMALL for known, word in zip(is_known, written, strict=True))


def unit_of(words: str) -> tuple[str, Fraction] | None:
    """Return what a unit measures and in how many base units; one that is not in the table is its own measure."""
    written = words.split()
    core = " ".join(word for word in written if word not in _BESIDE)
    if (unit := read_unit(rf"\text{{{core}}}")) is not None:
        return unit
    parts = re.findall(r"[A-Za-z]+", core.replace("\\cdot", " "))
    is_compound = len(parts) > 1 and any(sign in core for sign in ("/", "^", "\\cdot"))
    if parts and ((is_compound and all(map(_is_unit, parts))) or core.lower() in _MEASURED):
        return re.sub(r"[{} ]", "", core), Fraction(1)
    return None


def _is_unit(word: str) -> bool:
    return word in _COMPOUND or word.lower() in _MEASURED or read_unit(rf"\text{{{word}}}") is not None


def magnitude(words: str) -> Fraction | None:
    """Return what a number before the words is multiplied by; None if they name no power of ten."""
    value = MAGNITUDES.get(words.lower())
    return Fraction(value) if value else None


def _is_counted(word: str) -> bool:
    low = word.lower()
    if low in _COUNTED:
        return True
    if low in _CHANGING or _PART.fullmatch(low):
        return False
    if low in _MEASURED or (len(word) > 1 and low != "percent" and _is_unit(word)):
        return True
    return word == low and _PLURAL.fullmatch(word) is not None and _NO_PLURAL.fullmatch(word) is None
