"""The text of a game's observations: the user's function, text that the game renders, or text that it observes."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from gymnasium import spaces

from trm_envs.errors import describe, is_not_the_texts
from trm_envs.judged import text
from trm_envs.own_modules import load
from trm_envs.spaces import UnicodeText
from trm_fields import refuse

ANSI = "ansi"
_SPAN = re.compile(r"\x1b\[([0-9;]*)m(.*?)\x1b\[0?m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def renders_text(game: Any) -> bool:
    """Return True if a game can render text."""
    return ANSI in (game.metadata.get("render_modes") or ())


def shower(game: Any, function: str | Callable[..., Any]) -> Callable[[Any], str]:
    """Return the function that turns an observation of the game into text.

    Raises:
        ValueError: if there is none.
    """
    if function:
        show = load_function("to_text", function)
        more = (game,) if _num_arguments(show) > 1 else ()

        def to_text(observation: Any) -> str:
            return _shown(show, observation, *more)

        return to_text
    if isinstance(game.observation_space, spaces.Text | UnicodeText):
        return text
    if game.render_mode == ANSI:
        return lambda observation: plain(text(game.render()))
    modes = ", ".join(game.metadata.get("render_modes") or ()) or "nothing"
    refuse(
        "to_text",
        function,
        f"a function, since this game observes {game.observation_space} and renders {modes}, neither of which is text",
        "give one, such as to_text=my_module:show, or to_text=builtins:str",
    )


def _shown(show: Callable[..., Any], observation: Any, *more: Any) -> str:
    """Return the text of the user's function.

    Raises:
        ValueError: if it raises, or returns something else.
        InfrastructureError: if it does.
    """
    try:
        return text(show(observation, *more))
    except Exception as error:
        if is_not_the_texts(error):
            raise
        name = getattr(show, "__name__", type(show).__name__)
        raise ValueError(
            f"to_text: {name} raised {describe(error)} on the observation {observation!r:.80}; mend the function"
        ) from error


def load_function(field: str, function: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is given itself or by its address.

    Raises:
        ValueError: if there is none.
    """
    if callable(function):
        return function
    module, colon, name = function.partition(":")
    try:
        found = load(function) if module and colon and name else None
    except (ImportError, AttributeError) as error:
        refuse(field, function, "module:function", "fix the name, or set PYTHONPATH", because=f"({error})")
    if not callable(found):
        refuse(field, function, "module:function", "give one, such as my_module:show")
    return found  # type: ignore[no-any-return]


def plain(rendered: str) -> str:
    """Return a rendered text without escapes: `[x]` for a coloured background, a line below for a coloured letter."""
    told: list[str] = []

    def mark(span: re.Match[str]) -> str:
        codes = [int(code) for code in span[1].split(";") if code]
        if any(40 <= code <= 47 or 100 <= code <= 107 for code in codes):
            return f"[{span[2]}]"
        colour = next((code % 10 for code in codes if 30 <= code <= 37 or 90 <= code <= 97), None)
        if colour is not None:
            told.append(f"{_COLOURS[colour]}: {span[2]}")
        return span[2]

    shown = _ESCAPE.sub("", _SPAN.sub(mark, rendered)).strip("\n").rstrip()
    return "\n".join([shown, *told])


def _num_arguments(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # builtin
        return 1
    return sum(each.default is each.empty and each.kind is not each.VAR_KEYWORD for each in parameters)
