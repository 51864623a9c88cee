r"""Units that may be dropped from an answer, with what they measure.

Only names in this table are units. "million", "dozen" or "pi" change the number and are none, and a bare single letter
may be a variable: `m` counts only as `\text{m}` or `\mathrm{m}`.
"""

import re
from fractions import Fraction

_NAMES: dict[str, dict[str, Fraction | int | str]] = {
    # dimension: {names, separated by spaces: how many of the base unit}
    "length": {
        "mm millimeter millimeters millimetres": "1/1000",
        "cm centimeter centimeters centimetres": "1/100",
        "m meter meters metre metres": 1,
        "km kilometer kilometers kilometres": 1000,
        "in inch inches": "254/10000",
        "ft foot feet": "3048/10000",
        "yd yard yards": "9144/10000",
        "mi mile miles": "1609344/1000",
    },
    "length^3": {"ml milliliter milliliters": "1/1000000", "l liter liters litre litres": "1/1000"},
    "length/time": {"mph": "1609344/3600000", "kph kmh": "1000/3600"},
    "time": {
        "s sec second seconds": 1,
        "min minute minutes": 60,
        "h hr hour hours": 3600,
        "day days": 86400,
        "week weeks": 604800,
        "fortnight fortnights": 1209600,
    },
    "calendar": {"month months": 1, "year years": 12, "decade decades": 120, "century centuries": 1200},
    "mass": {"mg milligrams": "1/1000", "g gram grams": 1, "kg kilogram kilograms": 1000},
    "weight": {"oz ounce ounces": 1, "lb lbs pound pounds": 16},
    "money": {"cent cents": "1/100", "dollar dollars": 1},
    "degree": {"degree degrees deg": 1},
    "degree of celsius": {"celsius": 1},
    "degree of fahrenheit": {"fahrenheit": 1},
    "degree of kelvin": {"kelvin": 1},
    "angle in radians": {"radian radians rad": 1},
    "percent": {"percent": "1/100"},
    "count": {"unit units": 1},
}
_UNITS = {
    name: (dimension, Fraction(scale))
    for dimension, table in _NAMES.items()
    for names, scale in table.items()
    for name in names.split()
}
# Words of English or letters of algebra: units only inside \text{...} or \mathrm{...}.
_ONLY_MARKED = {"m", "s", "h", "g", "l", "in", "min", "mi"}
_SCALES = {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_PER = re.compile(r"\s*/\s*|\s+per\s+")
_RAISED = re.compile(r"(?P<name>[A-Za-z. ]+?)\s*(?:\^\{?(?P<power>[23])\}?)?")
_SYMBOL = re.compile(r"\\?%|(?:\^\{?\\circ\}?|°)")
_WORDS = re.compile(
    r"(?:\\(?:text|textrm|mathrm|mbox)\{(?P<marked>[^{}\\]*)\}|(?P<bare>[A-Za-z][A-Za-z ]*))"
    r"(?:\^\{?(?P<power>[23])\}?)?"
)


def read_unit(text: str) -> tuple[str, Fraction] | None:
    r"""Return what a unit such as `\text{ cm}^2`, `%` or `square feet` measures, and in how many base units.

    Returns:
        ("length^2", Fraction(1, 10000)), for example; None if it is not a known unit.
    """
    if _SYMBOL.fullmatch(text):
        return _UNITS["percent" if "%" in text else "degree"]
    match = _WORDS.fullmatch(text)
    if match is None:
        return None
    written = match["marked"] if match["marked"] is not None else match["bare"]
    if match["bare"] and written.strip().lower() in _ONLY_MARKED:
        return None
    sides = _PER.split(written)
    if len(sides) == 2:
        above, below = _one_unit(sides[0], "1"), _one_unit(sides[1], match["power"] or "1")
        return (f"{above[0]}/{below[0]}", above[1] / below[1]) if above and below else None
    return _one_unit(written, match["power"] or "1") if len(sides) == 1 else None


def _one_unit(text: str, power: str) -> tuple[str, Fraction] | None:
    """Return what one name measures, raised to the power within the text or behind it."""
    match = _RAISED.fullmatch(text.strip())
    if match is None or (match["power"] and power != "1"):
        return None
    exponent = int(match["power"] or power)
    written = match["name"].replace(".", " ").split()
    if len(written) == 2 and written[0].lower() in ("degree", "degrees"):
        written = [_SCALES.get(written[1], written[1])]
        if written[0].lower() not in _SCALES.values():
            return None
    if any(map(_is_other, written)):
        return None
    words = [word.lower() for word in written]
    if len(words) == 2 and words[0] in _POWERS and exponent == 1:
        exponent = _POWERS[words.pop(0)]
    if len(words) != 1 or words[0] not in _UNITS:
        return None
    dimension, scale = _UNITS[words[0]]
    if exponent == 1:
        return dimension, scale
    return (f"{dimension}^{exponent}", scale**exponent) if dimension in ("length", "time", "count") else None


def same_measure(one: str, other: str) -> bool:
    """Return True if two units measure the same; a bare degree may be one of temperature."""
    return one == other or (one.startswith("degree") and other.startswith("degree") and "degree" in (one, other))


def _is_other(word: str) -> bool:
    """Return True for a short name whose large letter makes it another: M and MM are a million, Mg is a tonne."""
    return (len(word) <= 2 and word[0] == "M") or (len(word) == 1 and word not in ("L", word.lower()))


def split_unit(text: str) -> tuple[str, str]:
    """Split a trailing unit from a number: ("5", "cm"). What looks like a unit need not be one."""
    for pattern in (r"(?:\\?%|\^\{?\\circ\}?|°)$", rf"{_WORDS.pattern}$"):
        match = re.search(pattern, text)
        if match is not None:
            return text[: match.start()].rstrip(), match[0]
    return text, ""
