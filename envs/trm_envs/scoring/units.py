r"""Units that may be dropped from an answer, with their dimensions.

Only the names in these tables, and products, quotients and powers of them, are units. "million", "dozen" and "pi" are
not: they change the number.
"""

import re
from collections import Counter
from fractions import Fraction

_BASES: dict[str, dict[str, str]] = {
    # dimension: {names, separated by spaces: size in base units}
    "length": {
        "m meter meters metre metres": "1",
        "mm millimeter millimeters millimetres": "1/1000",
        "cm centimeter centimeters centimetres": "1/100",
        "dm": "1/10",
        "km kilometer kilometers kilometres": "1000",
        "in inch inches": "254/10000",
        "ft foot feet": "3048/10000",
        "yd yard yards": "9144/10000",
        "mi mile miles": "1609344/1000",
    },
    "time": {
        "s sec secs second seconds": "1",
        "min mins minute minutes": "60",
        "h hr hrs hour hours": "3600",
        "day days": "86400",
        "week weeks": "604800",
        "fortnight fortnights": "1209600",
    },
    "calendar": {"month months": "1", "year years yr yrs": "12", "decade decades": "120", "century centuries": "1200"},
    "mass": {
        "mg milligrams": "1/1000",
        "g gram grams": "1",
        "kg kilogram kilograms": "1000",
        "t tonne tonnes": "1000000",
    },
    "weight": {"oz ounce ounces": "1", "lb lbs pound pounds": "16"},
    "money": {"cent cents": "1/100", "dollar dollars": "1"},
    "degree": {"degree degrees deg": "1"},
    "degree of celsius": {"celsius C": "1"},
    "degree of fahrenheit": {"fahrenheit F": "1"},
    "degree of kelvin": {"kelvin kelvins K": "1"},
    "angle in radians": {"radian radians rad": "1"},
    "percent": {"percent": "1/100", "permille": "1/1000", "ppm": "1/1000000", "ppb": "1/1000000000"},
    "count": {"unit units u": "1"},
    "person": {"man men person persons people": "1"},
    "current": {"A amp amps ampere amperes": "1"},
    "charge": {"coulomb coulombs": "1"},
    "amount": {"mol mole moles": "1"},
}
_DERIVED = {
    # names: in how many of which units; later lines may use earlier ones
    "l L liter liters litre litres": "1 dm^3",
    "ml milliliter milliliters cc": "1 cm^3",
    "mph": "1 mile/hour",
    "kph kmh": "1 km/hour",
    "knot knots": "1852 m/hour",
    "Hz hz hertz": "1 s^-1",
    "N newton newtons": "1 kg m/s^2",
    "J joule joules": "1 N m",
    "W watt watts": "1 J/s",
    "kwh": "3600000 J",
    "V volt volts": "1 W/A",
    "ohm ohms": "1 V/A",
    "Pa pascal pascals": "1 N/m^2",
    "atm": "101325 Pa",
    "bar bars": "100000 Pa",
    "hectare hectares ha": "10000 m^2",
    "molar": "1 mol/L",
    "mM": "1/1000 molar",
    "\u03bcM": "1/1000000 molar",
    "nM": "1/1000000000 molar",
    "Wb weber webers": "1 V s",
    "H henry henries": "1 Wb/A",
    "S siemens": "1 A/V",
    "T tesla teslas": "1 Wb/m^2",
    "mT": "1/1000 T",
    "\u03bcT": "1/1000000 T",
    "nT": "1/1000000000 T",
}
# Each is its own measure.
_OTHERS = """rpm bpm gallon gallons acre acres usd eur euro euros rupee rupees rs yuan yen pence penny pennies nickel
    dime eV cal psi cd lm lx lux dB hp AU BTU Torr mmHg kB KB MB GB TB rev revolution revolutions Bq Gy
    Sv kat Da ly angstrom angstroms kbps Mbps Gbps""".split()  # noqa: SIM905
_PREFIXES = {
    "p": "1/1000000000000",
    "n": "1/1000000000",
    "\u03bc": "1/1000000",
    "m": "1/1000",
    "k": "1000",
    "M": "1000000",
    "G": "1000000000",
}
_PREFIXED = "m s g l L Hz N J W V A Pa eV mol cal K rad".split()  # noqa: SIM905
_SPOKEN = {"nano": "n", "micro": "\u03bc", "milli": "m", "kilo": "k", "mega": "M", "giga": "G"}
_SPOKEN_UNITS = """meter metre second gram liter litre hertz newton joule watt volt amp pascal mole ohm
    meters metres seconds grams liters litres newtons joules watts volts amps pascals moles ohms""".split()  # noqa: SIM905
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_RAISED = {"squared": 2, "cubed": 3}
_NEVER_RAISED = ("percent", "money", "degree", "calendar")
_TOKEN = re.compile(r"([A-Za-z\u03bc]+)(?:\^\{?(-?[1-9])\}?)?|(/)")
_IDLE = re.compile(r"[\s.()\u00b7]*")
_HYPHEN = re.compile(r"(?<=[A-Za-z0-9])[-*](?=[A-Za-z])")
# A million has no power and is divided by nothing raised: M^{-1} and M s^{-1} are molar, as is M/s.
_MOLAR = re.compile(r"(?<![A-Za-z\u03bc])M(?=\^|(?: ?/ ?| per )(?:s|min|h)\b| (?:s|min|h)\^\{?-)")
_SCALE = re.compile(r"\bdegrees? (?=(?:C|F|K|[Cc]elsius|[Ff]ahrenheit|[Kk]elvin)$)")

Measure = tuple[str, Fraction]
"""The dimension of a unit, such as "length^2", and its size in base units."""


def read_unit(text: str) -> Measure | None:
    """Return the measure of a unit such as `cm^2`, `kg m/s^2` or `square feet`; None if it is not a known unit."""
    text = _MOLAR.sub("molar", _HYPHEN.sub(" ", _SCALE.sub("", text.strip())))
    if text in _UNITS:
        return _UNITS[text]
    if _IDLE.fullmatch(_TOKEN.sub("", text)) is None:
        return None
    exponents: Counter[str] = Counter()
    scale, side, raised, names = Fraction(1), 1, 1, 0
    tokens = _TOKEN.findall(text)
    for place, (name, power, slash) in enumerate(tokens):
        if slash or name == "per":
            side = -1
            if place + 1 == len(tokens) or raised != 1:
                return None
            continue
        if name.lower() in _POWERS and not power:
            raised = _POWERS[name.lower()]
            continue
        if name in _RAISED and not power and place and tokens[place - 1][0] != "per":
            continue
        unit = _named(name)
        if unit is None or (power and raised != 1):
            return None
        after = tokens[place + 1][0] if place + 1 < len(tokens) else ""
        exponent = side * raised * int(power or 1) * _RAISED.get(after, 1)
        if abs(exponent) != 1 and unit[0].startswith(_NEVER_RAISED):
            return None
        for base, times in _parse(unit[0]):
            exponents[base] += times * exponent
        scale, raised, names = scale * unit[1] ** exponent, 1, names + 1
    is_whole = names and raised == 1 and exponents["percent"] in (0, 1)
    return (_spell(exponents), scale) if is_whole else None


def same_measure(one: str, other: str) -> bool:
    """Return True if two units have one dimension; a bare degree may be one of temperature."""
    return one == other or (one.startswith("degree") and other.startswith("degree") and "degree" in (one, other))


def _named(name: str) -> Measure | None:
    """Return the unit of one name. Case matters in short names: M is a million, and mW is not MW."""
    if name in _UNITS:
        return _UNITS[name]
    is_short = len(name) == 1 or (len(name) == 2 and name[0] == "M")
    return None if is_short else _UNITS.get(name.lower())


def _parse(measure: str) -> list[tuple[str, int]]:
    parts = (part.partition("^") for part in measure.split("*"))
    return [(base, int(power or 1)) for base, _, power in parts]


def _spell(exponents: Counter[str]) -> str:
    """Return a dimension as text; a unit whose dimensions cancel is a count."""
    parts = [base if power == 1 else f"{base}^{power}" for base, power in sorted(exponents.items()) if power]
    return "*".join(parts) or "count"


def _table() -> dict[str, Measure]:
    made = {
        name: (measure, Fraction(scale))
        for measure, names in _BASES.items()
        for spellings, scale in names.items()
        for name in spellings.split()
    }
    return made | {name: (name, Fraction(1)) for name in _OTHERS}


def _derive() -> None:
    for spellings, text in _DERIVED.items():
        factor, _, units = text.partition(" ")
        unit = read_unit(units)
        assert unit is not None
        _UNITS.update(dict.fromkeys(spellings.split(), (unit[0], unit[1] * Fraction(factor))))
    spoken = {name: _PREFIXES[sign] for name, sign in _SPOKEN.items()}
    for names, prefixes in ((_PREFIXED, _PREFIXES), (_SPOKEN_UNITS, spoken)):
        for name in names:
            measure, scale = _UNITS[name]
            for prefix, factor in prefixes.items():
                _UNITS.setdefault(prefix + name, (measure, scale * Fraction(factor)))


_UNITS = _table()
_derive()
