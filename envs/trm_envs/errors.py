"""Failures of the infrastructure, which give no verdict, and of the model's text, which is then wrong."""

import threading
import traceback

MAX_MESSAGE_CHARS = 300


class InfrastructureError(RuntimeError):
    """Something around the environment failed, such as a sandbox; the message holds fault and remedy."""


class VerifierError(InfrastructureError):
    """The scorer could not decide: neither right nor wrong."""


class ScorerFailed(Exception):
    """The environment's own code raised on the model's text, or returned something other than a verdict."""


def is_not_the_texts(error: BaseException) -> bool:
    """Return True if a text is not to blame for an exception from code that works on it, so that it must be raised on.

    For anything else the text is to blame, also for SystemExit. An interrupt from the keyboard reaches only the main
    thread; in another thread, the text's code has raised it.
    """
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    return isinstance(error, InfrastructureError)


def message_of(error: BaseException) -> str:
    """Return the message of an exception, whatever its `__str__` does."""
    try:
        return str(error)
    except BaseException as broken:
        return f"(its message cannot be shown: {type(broken).__name__})"


def describe(error: BaseException, most: int = MAX_MESSAGE_CHARS) -> str:
    """Return type and message of an exception on one line, short and fit for a file and a terminal.

    Args:
        error: the exception.
        most: characters of its message.
    """
    return on_one_line(f"{type(error).__name__}: {message_of(error)[:most]}")


def on_one_line(text: str) -> str:
    """Return a text with spaces for line ends, and escapes for control characters, marks of direction, lone surrogates.

    A message may quote what the model wrote, which must neither steer a terminal nor forge the lines of a log.
    """
    shown = text.replace("\n", " ")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def place_of(error: BaseException) -> str:
    """Return the innermost place of an exception, as ` (at FILE:LINE in FUNCTION)`; empty if it was never raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" (at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
