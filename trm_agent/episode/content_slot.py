"""A message's content in a rendering: the text before it, the content as it is shown, the text after it."""

from __future__ import annotations

from collections.abc import Callable

SLOT = "TRMPROBESLOT"


def slot(render: Callable[[str], str], content: str) -> tuple[str, str, str]:
    """Split a rendering into the text before the content, the content as the template shows it, the text after.

    Raises:
        ValueError: the template shows a message's content not once.
    """
    before, after = around(render)
    return before, filled(render, before, after, content), after


def around(render: Callable[[str], str]) -> tuple[str, str]:
    """Return the text before and after a message's content.

    Raises:
        ValueError: the template shows a message's content not once.
    """
    before, *after = render(SLOT).split(SLOT)
    if len(after) != 1:
        raise ValueError(
            f"tokenizer.chat_template: shows a message's content {len(after)} times instead of once; use a "
            "template that shows each message once (tokenizer.chat_template = ...)"
        )
    return before, after[0]


def filled(render: Callable[[str], str], before: str, after: str, content: str) -> str:
    """Return the content as the template shows it between these texts.

    Content that the template takes for a command, or refuses, is put there as it is: what stands in a message
    must change nothing around it.
    """
    try:
        full = render(content)
    except ValueError:
        return content
    stop = len(full) - len(after)
    if stop < len(before) or not full.startswith(before) or not full.endswith(after):
        return content
    return full[len(before) : stop]
