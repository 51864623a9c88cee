r"""Tell apart the words beside a number: those that may be dropped, and those that change the number.

A word is dropped only if it is known to count or measure: it stands in the table below, or it is a plural in small
letters that does no arithmetic. Everything else (`k`, `M`, `i`, `factorial`, `dozen`, `percent of`, `or`) is part of
the answer.
"""

import re
from fractions import Fraction

from trm_envs.scoring.units import Measure, read_unit

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
    integers numbers points ways units o'clock""".split()  # noqa: SIM905
)
_SMALL = frozenset(
    """a an of the per each apiece in on total altogether area volume square cubic sq cu long wide high tall deep thick
    old left away apart remaining different distinct possible ordered unordered real complex positive prime whole odd
    even valid such light x y n""".split()  # noqa: SIM905
)
# Endings of words that are not nouns in the plural: gross, versus, basis.
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
# A remark on how exact a number is, or that it is the answer, changes nothing: it must be equal in any case.
_REMARK = re.compile(
    r"(?:^|(?<= ))\(?(?:approximately|approx|roughly|exactly|exact|estimated|rounded(?: (?:up|down))?|only"
    r"|answer|correct|(?:rounded )?to the nearest (?:[a-z]+ )?[a-z]+)\.?\)?$"
)
_FULL_NAMES = (
    ("(s)", "s"),
    ("per cent", "percent"),
    ("per mille", "permille"),
    ("parts per thousand", "permille"),
    ("parts per million", "ppm"),
    ("parts per billion", "ppb"),
)
_PLURAL = re.compile(r"[a-z]{3,}s")
_PART = re.compile(r".*(?:th|nd|illion|fold|teen|dozen|score|less)s")
_ALONE = _BESIDE | {"each", "apiece", "remaining"}
_POWER = r"(?:\s*\^(?:\{-?[1-9]\}|[1-9]))?"
_INSIDE = r"(?:[^{}\\]|\^\{-?[1-9]\}|\\cdot(?![A-Za-z])|\\(?:mu|Omega)(?![A-Za-z]))*"
_PIECE = (
    r"(?:\\mu\s*)?\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathbf|mbox|operatorname)\s*\{"
    + _INSIDE
    + r"\}"
    + _POWER
)
_SERIES = rf"{_PIECE}(?:\s*(?:\\cdot\s*|\\times\s*|/\s*)?{_PIECE})*"
_PRINTED = re.compile(rf"\\frac\s*\{{\s*{_SERIES}\s*\}}\s*\{{\s*{_SERIES}\s*\}}$|{_SERIES}$")
_BARE = re.compile(rf"(?<![A-Za-z\\{{])[A-Za-z/]{{2,}}(?: [A-Za-z/]+)*{_POWER}$")
# Symbols that are products of two letters where they stand bare.
_LETTERS = re.compile(r"p[A-Za-z]|ly|Gy|Bq|Sv|Da|[mn][TM]")
_COMMAND = re.compile(r"\\(?:text[a-z]*|mathrm|mathbf|mbox|operatorname)\s*\{(" + _INSIDE + r")\}")
_FRACTION = re.compile(r"\\frac\s*\{(.*)\}\s*\{(.*)\}$")
_FEET = re.compile(r"""((?:[0-9.,+\- /{}]|\\frac)*[0-9}])\s*(?:\^\{?\s*)?('\s*'|"|')\s*\}?$""")


def split_words(text: str) -> tuple[str, str] | None:
    r"""Split the words behind an expression from it: `\sqrt{2}\text{ cm}` is (`\sqrt{2}`, "cm"); None if none are.

    Printed words may be several, joined by `\cdot`, a space or a slash, each with its power. Bare words must be known,
    so that `6abc` stays a product of letters. One and two primes behind a numeral are feet and inches.
    """
    if text.endswith(("'", '"', "'}")) and (match := _FEET.fullmatch(text)) is not None:
        return match[1], "ft" if match[2] == "'" else "in"
    match = _PRINTED.search(text) if "\\text" in text or "\\m" in text or "\\op" in text else None
    is_bare = match is None
    match = match or (_BARE.search(text) if text and (text[-1].isalnum() or text[-1] == "}") else None)
    if match is None or not (rest := text[: match.start()].strip()):
        return None
    words = _plain(match[0])
    if not is_bare:
        return (re.sub(r"\s*\\cdot$", "", rest), words) if words not in ("i", "e") else None
    if words and (all(len(part) == 1 for part in re.findall("[A-Za-z]+", words)) or _LETTERS.fullmatch(words)):
        return None  # letters, as in 5m/s, may be variables
    is_known = may_be_dropped(words) or unit_of(words) is not None or words.lower() in MAGNITUDES
    return (rest, words) if is_known else None


def _plain(printed: str) -> str:
    r"""Return printed words as one text: `\text{ m}\cdot\text{s}^{-1}` is "m s^-1", "day(s)" is "days"."""
    if (fraction := _FRACTION.match(printed)) is not None:
        printed = f"{fraction[1]}/{fraction[2]}"
    text = _COMMAND.sub(r" \1", printed)
    text = re.sub(r"\\mu\s*", "\u03bc", text.replace("\\Omega", "ohm"))
    text = re.sub(r"\s*\^\{?(-?[1-9])\}?", r"^\1", text.replace("\\cdot", " ").replace("\\times", " "))
    text = re.sub(r"\s*/\s*", "/", " ".join(text.split()))
    for spelling, name in _FULL_NAMES:
        text = text.replace(spelling, name)
    text = _REMARK.sub("", text).strip()
    whole = re.fullmatch(r"\(([^()]*)\)", text)
    return (whole[1] if whole else text).strip().rstrip(".")


def may_be_dropped(words: str) -> bool:
    """Return True if the words only name the unit or the things counted."""
    if not words:
        return True
    if (unit := unit_of(words)) is not None:
        return unit[0] != "percent"
    written = words.replace("/", " per ").split()
    if len(written) > 6 or written[-1] in _TRAILING or "each" in written[:-1]:
        return False
    is_known = [_is_counted(word) for word in written]
    is_said = any(is_known) or written[-1] in _ALONE
    return is_said and all(known or word in _SMALL for known, word in zip(is_known, written, strict=True))


def unit_of(words: str) -> Measure | None:
    """Return the measure of a unit, without words beside it such as "wide"; None if the unit is not known."""
    if words in ("in total", "in area", "in volume"):
        return None  # no inches
    return read_unit(" ".join(word for word in words.split() if word not in _BESIDE))


def magnitude(words: str) -> Fraction | None:
    """Return the factor that the words stand for; None if they do not name a power of ten."""
    value = MAGNITUDES.get(words.lower())
    return Fraction(value) if value else None


def _is_counted(word: str) -> bool:
    low = word.lower()
    if low in _COUNTED:
        return True
    if low in _CHANGING or _PART.fullmatch(low):
        return False
    if len(word) > 1 and (unit := read_unit(word)) is not None:
        return unit[0] != "percent"
    return word == low and _PLURAL.fullmatch(word) is not None and _NO_PLURAL.fullmatch(word) is None
