r"""Reduce the many spellings of one text to one: Unicode signs, LaTeX spaces and sizes, the end of a box."""

import re

from trm_envs.scoring.greek import GREEK

_SIGNS = {
    **dict.fromkeys("\u2212\u2013\u2014\u2011\ufe63", "-"),
    **dict.fromkeys("\u22c5\u00b7\u2219\u2022", r"\cdot "),
    **dict.fromkeys("\u20ac\u00a3\u00a5", r"\$"),
    "\u00a2": " cents",
    "\u2030": r"\text{ permille}",
    **dict.fromkeys("\u00c5\u212b", "angstrom"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    "\u00d7": r"\times ", "\u00f7": r"\div ", "\u2044": "/", "\u2215": "/", "\u221e": r"\infty ",
    "\u2264": r"\leq ", "\u2265": r"\geq ", "\u2a7d": r"\leq ", "\u2a7e": r"\geq ", "\u2260": r"\neq ",
    "\u2248": r"\approx ", "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u221a": r"\sqrt", "\u2208": r"\in ",
    "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}",
    "\u2032": "'", "\u2019": "'", "\uff0c": ", ", "\u3001": ", ", "\u3002": ".", "\u00b0": r"^{\circ}",
    "\u00bd": r"\frac{1}{2}", "\u2153": r"\frac{1}{3}", "\u2154": r"\frac{2}{3}", "\u00bc": r"\frac{1}{4}",
    "\u00be": r"\frac{3}{4}", "\u2155": r"\frac{1}{5}", "\u2156": r"\frac{2}{5}", "\u2157": r"\frac{3}{5}",
    "\u2158": r"\frac{4}{5}", "\u2159": r"\frac{1}{6}", "\u215a": r"\frac{5}{6}", "\u215b": r"\frac{1}{8}",
    "\u215c": r"\frac{3}{8}", "\u215d": r"\frac{5}{8}", "\u215e": r"\frac{7}{8}",
}  # fmt: skip
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if code != 0xFF0C}
_SPELLINGS: dict[str, str] = {
    **{chr(code): chr(plain) for code, plain in _FULL_WIDTH.items()},
    **_SIGNS,
    **{letter: rf"\{name} " for letter, name in GREEK.items()},
}
_TABLE = str.maketrans(_SPELLINGS)
_HIGH = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b", "0123456789+-")
_LOW = str.maketrans("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789")
_HIGHS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+")
_LOWS = re.compile("[\u2080-\u2089]+")
_SIZES = re.compile(
    r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|biggl?|biggr?|Biggl?|Biggr?|middle)(?![A-Za-z])(\s*\.)?"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|strut|relax)(?![A-Za-z])|\\!"
    r"|\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|rm|sf|bfseries|therefore)(?![A-Za-z])"
    r"|\\color\s*\{[A-Za-z]*\}|\\textcolor\s*\{[A-Za-z]*\}|\\(?:text|mathrm)\s*\{\s*\.?\s*\}"
)
_INFIX = re.compile(r"\{([^{}]*)\\(over|choose)(?![A-Za-z])([^{}]*)\}")
_INFIX_NAMES = {"over": "frac", "choose": "binom"}
_DOLLAR = re.compile(r"(?<!\\)\$")
# Numerals alone need no pass over every name.
_COMMAND = re.compile(r"\\(?!frac\{)")
MAX_INFIX = 24
_SPACES = re.compile(r"(?<!\\)\\[,;:> ]|\\(?:q?quad|enspace|thinspace|space|hspace\*?\{[^{}]*\})(?![A-Za-z])|~")
_NAMES = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leqq|le)(?![A-Za-z])"), r"\\leq "),
    (re.compile(r"\\(?:geqslant|geqq|ge)(?![A-Za-z])"), r"\\geq "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\ne(?![A-Za-z])|\\not\s*="), r"\\neq "),
    (re.compile(r"\\(?:lbrace|lcurly)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace|rcurly)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\\(?:[lr]?vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:cup|bigcup)(?![A-Za-z])"), r"\\cup "),
    (re.compile(r"\\(?:varnothing|O|emptyset)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\(?:ast|cdotp|bullet)(?![A-Za-z])"), r"\\cdot "),
    (re.compile(r"\\(?:prime)(?![A-Za-z])"), "'"),
    (re.compile(r"\\degree(?![A-Za-z])"), r"^{\\circ}"),
    (re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})"), r"^{\\circ}"),
    (re.compile(r"\\(?:imath)(?![A-Za-z])"), "i"),
    (re.compile(r"\\mathbb\s*([A-Z])"), r"\\mathbb{\1}"),
    (re.compile(r"\\(?:text|mathrm|mbox|textbf)\s*\{\s*\\\$\s*([0-9.,]*)\s*\}"), r"\\$\1"),
    (re.compile(r"\\Bbb\s*\{?([A-Z])\}?"), r"\\mathbb{\1}"),
    (
        re.compile(r"(?:\{\})?\^\{\\circ\}\s*(?:\\(?:text|mathrm)\s*\{\s*([CFK])\s*\}|([CFK])(?![A-Za-z]))$"),
        r"\\text{ degrees \1\2}",
    ),
    (re.compile(r"\\(?:text|mathrm)\s*\{\s*\^\{\\circ\}\s*([CFK])\s*\}$"), r"\\text{ degrees \1}"),
    (re.compile(r"\\(?:text|mathrm)\s*\{\s*(\^\{\\circ\}|\\?%)\s*\}"), r"\1"),
    (re.compile(r"(\.[0-9]*)\\(?:bar|dot)\s*(?:\{([0-9]+)\}|([0-9]))"), r"\1\\overline{\2\3}"),
)
# For a text read backwards: a match from its start takes linear time. A full stop stays after another, after a
# backslash and after an invisible delimiter. Pairs of backslashes end a line; of an odd number, only a single one goes.
_ENDINGS = re.compile(
    r"(?:[~\s]+|[,;:!>]\\|[,;]|(?:dauqq?|enilwen|ecaps)\\|\.(?!\.|\\|thgir\\|tfel\\)|(?:\\\\)+(?!\\)|\\(?!\\))*"
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def trim_end(text: str) -> str:
    r"""Return the text without the marks that end a sentence or a line: `73\ `, `(1,4).`, `5,` and `5\\` lose theirs.

    An ellipsis stays, since `0.3...` is not 0.3.
    """
    text = text.strip()
    endings = _ENDINGS.match(text[::-1])
    return text[: len(text) - endings.end()] if endings is not None else text


def clean(text: str) -> str:
    """Return the text with one spelling for signs, spaces, sizes and relations, and without delimiters."""
    if not text.isascii():
        text = _HIGHS.sub(lambda match: "^{" + match[0].translate(_HIGH) + "}", text)
        text = _LOWS.sub(lambda match: "_{" + match[0].translate(_LOW) + "}", text)
        text = text.translate(_TABLE)
    text = strip_delimiters(trim_end(text))
    if "$" in text and len(_DOLLAR.findall(text)) % 2 == 0:
        text = _DOLLAR.sub(" ", text)
    if "~" in text or _COMMAND.search(text) is not None:
        text = _SIZES.sub("", text)
        if "\\over" in text or "\\choose" in text:
            text = _prefix_fractions(text)
        text = _SPACES.sub(" ", text)
        for pattern, name in _NAMES:
            text = pattern.sub(name, text)
    return trim_end(" ".join(text.split()))


def _prefix_fractions(text: str) -> str:
    r"""Return the text with `{a \over b}` as `\frac{a}{b}`, from the innermost outwards, and `\choose` likewise."""
    for _ in range(MAX_INFIX):
        match = _INFIX.search(text)
        if match is None:
            break
        name = _INFIX_NAMES[match[2]]
        text = f"{text[: match.start()]}\\{name}{{{match[1]}}}{{{match[3]}}}{text[match.end() :]}"
    return text


def strip_delimiters(text: str) -> str:
    r"""Return the text without dollars or `\(...\)` around the whole of it."""
    text = text.strip()
    for opening, closing in _DELIMITERS:
        inside = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inside.strip() and closing not in inside:
            return trim_end(inside)
    return text
