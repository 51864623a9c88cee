"""Find overrides on a command line that Hydra cannot read, and quote them so that it can."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_KEY = re.compile(r"[+~]{0,2}[A-Za-z0-9_.@/$-]+")
_SETTING = re.compile(r"([+~]{0,2}[A-Za-z0-9_.@/$-]+)=")


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse overrides that Hydra cannot read, or reads as several values.

    Raises:
        ValueError: with the override quoted for the shell.
    """
    parser = OverridesParser.create()
    for number, text in enumerate(overrides):
        if not text.partition("=")[0].strip("+~ "):
            raise ValueError(f"{text!r}: names no field; expected FIELD=VALUE, such as seed=1; see --help")
        _check_spaces(text, overrides[number + 1 :])
        try:
            if not parser.parse_override(text).is_sweep_override():
                continue
            key, _, value = text.partition("=")
            why = "Hydra reads it as several values"
            if "(" not in value:
                why += f"; write a list as {shlex.quote(f'{key}=[{value}]')}"
        except HydraException as error:
            why = f"Hydra cannot read it ({_first_line(error)})" if "=" in text else "it sets nothing"
        before = overrides[number - 1] if number else ""
        raise ValueError(f"{text}: {why}; {_remedy(parser, text, before)}")


def _check_spaces(text: str, following: Sequence[str]) -> None:
    """Refuse a setting with spaces around its equals sign."""
    if not following or "=" in text.rstrip("="):
        return
    if text.endswith("="):
        words = following[:1]
    elif following[0] == "=":
        words = following[:2]
    elif following[0].startswith("="):
        words = following[:1]
    else:
        return
    if _KEY.fullmatch(text.rstrip("=")):
        raise ValueError(f"{' '.join((text, *words))}: write it without spaces: {''.join((text, *words))}")


def quoted(override: str) -> str | None:
    """Quote an override's value, or each item of a list, for the shell; None if that fails."""
    return _quoted(OverridesParser.create(), override)


def _remedy(parser: OverridesParser, text: str, before: str) -> str:
    # the choice of an experiment, which may not be the user's word, has no spaces
    if (
        "=" not in text
        and "=" in before
        and not before.startswith("experiment=")
        and (whole := _quoted(parser, f"{before} {text}"))
    ):
        return f"expected FIELD=VALUE; if it belongs to the argument before it, quote both: {whole}"
    if shown := _quoted(parser, text):
        return f"a value with such characters needs quotes, for the shell and for Hydra: {shown}"
    return "expected FIELD=VALUE, such as seed=1; see --help"


def _quoted(parser: OverridesParser, override: str) -> str | None:
    key, equals, value = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        return None
    candidates: list[tuple[str, object]] = []
    if value.startswith("[") and value.endswith("]"):
        items = [item.strip().strip("\"'") for item in value[1:-1].split(",")]
        candidates.append((f"{key}=[{','.join(_in_marks(item) for item in items)}]", items))
    for mark in ('"', "'"):
        candidates += [(f"{key}={_in_marks(inside, mark)}", value) for inside in (value, value.replace("\\", "\\\\"))]
    for candidate, meant in candidates:
        try:
            if parser.parse_override(candidate).value() == meant:
                return shlex.quote(candidate)
        except HydraException:
            continue
    return None


def _in_marks(text: str, mark: str = '"') -> str:
    return f"{mark}{text.replace(mark, chr(92) + mark)}{mark}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")]
    return lines[0] if lines else type(error).__name__
