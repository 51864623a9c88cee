"""A chat template as text: what it puts before a prompt, and between an assistant's message and the next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.episode.content_slot import SLOT, around, filled, slot
from trm_agent.episode.recent import Recent, packed, unpacked

Message = dict[str, Any]
Part = tuple[str, bool]
"""Text, and whether it comes from the environment."""

USER, FIRST, SECOND = "TRMPROBEUSER", "TRMPROBEFIRST", "TRMPROBESECOND"
PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "trmprobetool", "description": "x", "parameters": {"type": "object", "properties": {}}},
}
# Some templates take nine letters or digits and nothing else.
CALL_ID = "000000000"
# what a template writes anew each time: the date, or something drawn
_CHANGING = re.compile(r"strftime_now|\b(?:random|lipsum)\b")
_OPEN_THOUGHT = re.compile(r"<think>(?:(?!</think>).)*\Z", re.DOTALL)


class ChatTemplate:
    """What a tokenizer's chat template writes.

    Args:
        tokenizer: a Hugging Face tokenizer.
        roles: roles of messages that will answer the model.
        template_kwargs: further variables for the template.
        with_tools: whether the template will be given tools.

    Attributes:
        turn_prefix: the thought that the generation prompt opens, such as `<think>` and a line end; "" if none is open.
        is_fixed: whether it always renders the same messages alike, so without the date.

    Raises:
        ValueError: the template cannot render a conversation, or is not append-only.
    """

    def __init__(
        self, tokenizer: Any, roles: Sequence[str], template_kwargs: Mapping[str, Any], with_tools: bool = True
    ) -> None:
        self._tokenizer, self._template_kwargs = tokenizer, dict(template_kwargs)
        self._before: dict[str, list[Message]] = {}
        self.is_fixed = _CHANGING.search(_source(tokenizer)) is None
        self._kept_head = Recent(lambda system, tools: self._head(system, unpacked(tools)), 64)
        self._kept_frame = Recent(self._frame)
        tools_sets = ([], [PROBE_TOOL]) if with_tools else ([],)
        for role in roles:
            self._before[role] = self._what_may_precede(role)
            for tools in tools_sets:
                self._check_append_only(role, tools)
        _, asked = around(lambda text: self.render([said("user", text)]))
        self.turn_prefix = opened_thought(asked)
        for role in roles:
            opened = opened_thought(self.answer(role, SLOT)[-1][0])
            if opened != self.turn_prefix:
                raise not_append_only(
                    role, f"the model's turn begins with {opened!r} after one and with {self.turn_prefix!r} at first"
                )

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), ask: bool = True) -> str:
        """Render a conversation, with a generation prompt if `ask`.

        Raises:
            ValueError: the template cannot render it.
        """
        return render(self._tokenizer, self._template_kwargs, messages, tools, ask)

    def prompt(self, system: str, user: str, tools: Sequence[Mapping[str, Any]]) -> list[Part]:
        """Render the first context: system prompt and tools, the first user message, the generation prompt."""
        kept = packed(tools) if self.is_fixed else None
        parts, before, after = self._head(system, tools) if kept is None else self._kept_head(system, kept)
        taken = sum(len(text) for text, _ in parts)
        shown = filled(lambda text: self.render([*_system(system), said("user", text)], tools), before, after, user)
        return [*parts, (before[taken:], False), (shown, True), (after, False)]

    def answer(self, role: str, content: str) -> list[Part]:
        """Render the text after an assistant message: its closing, the answer `content`, the generation prompt."""
        before, after, closing = (self._kept_frame if self.is_fixed else self._frame)(role)
        shown = filled(lambda text: self._answered(role, text), before, after, content)
        return [(closing, False), (shown, True), (after, False)]

    def _head(self, system: str, tools: Sequence[Mapping[str, Any]]) -> tuple[list[Part], str, str]:
        """Return the parts up to the system prompt, and the text before and after the first user message."""
        parts: list[Part] = []
        if system:
            before, shown, _ = slot(lambda text: self.render([said("system", text), said("user", USER)], tools), system)
            parts = [(before, False), (shown, True)]
        return parts, *around(lambda text: self.render([*_system(system), said("user", text)], tools))

    def _frame(self, role: str) -> tuple[str, str, str]:
        """Return the text before and after an answer, and the part of it that follows the assistant's message."""
        before, after = around(lambda text: self._answered(role, text))
        return before, after, self._after_turn(role, before)

    def _answered(self, role: str, content: str) -> str:
        return self.render([*self._before[role], said(role, content)])

    def _after_turn(self, role: str, text: str) -> str:
        """Return the part of a rendering's start that follows the assistant's message."""
        earlier = self._before[role]
        if "tool_calls" not in earlier[-1]:
            return _after(FIRST, text)
        closing = _after(FIRST, self.render([said("user", USER), said("assistant", FIRST)], ask=False))
        head = self.render(earlier, ask=False)
        if not head.endswith(closing) or not text.startswith(head):
            raise not_append_only(role, f"a message that calls tools ends otherwise than with {closing!r}")
        return closing + text[len(head) :]

    def _what_may_precede(self, role: str) -> list[Message]:
        """Return a conversation that this role may follow: strict templates take a tool's after a call alone."""
        plain = [said("user", USER), said("assistant", FIRST)]
        answer = said(role, SLOT)
        try:
            self.render([*plain, answer, said("assistant", SECOND), answer])
        except ValueError:
            calling = [said("user", USER), calling_message([("trmprobetool", {})])]
            try:
                self.render([*calling, answer, calling[-1], answer], [PROBE_TOOL])
            except ValueError:
                calling = plain
            else:
                if "trmprobetool" in self.render([*calling, answer])[len(self.render(calling, ask=False)) :]:
                    raise not_append_only(role, "it holds the name of the tool that was called") from None
            return calling
        return plain

    def _check_append_only(self, role: str, tools: Sequence[Mapping[str, Any]]) -> None:
        earlier, answer = self._before[role], said(role, SLOT)
        turn = [*earlier, answer]
        again = earlier[-1] if "tool_calls" in earlier[-1] else said("assistant", SECOND)
        longer = [*turn, again, answer]
        if "tool_calls" in earlier[-1]:
            tails = [
                self.render(each, tools).removeprefix(self.render(each[:-1], tools, ask=False))
                for each in (turn, longer)
            ]
            plain = self.render(turn).removeprefix(self.render(earlier, ask=False))
        else:
            tails = [_after(FIRST, self.render(turn, tools)), _after(SECOND, self.render(longer, tools))]
            plain = _after(FIRST, self.render(turn))
        if tails != [plain, plain]:
            raise not_append_only(role, "the text of a message depends on what came before it")
        for shorter, whole in ((turn[:1], turn), (turn, longer)):
            if not self.render(whole, tools).startswith(self.render(shorter, tools, ask=False)):
                raise not_append_only(role, "a new message changes the text of earlier ones")
        self.answer(role, SLOT)


def render(
    tokenizer: Any,
    template_kwargs: Mapping[str, Any],
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    ask: bool = True,
) -> str:
    """Render a conversation by a tokenizer's template, with a generation prompt if `ask`.

    Raises:
        ValueError: the template cannot render it.
    """
    try:
        return tokenizer.apply_chat_template(
            list(messages),
            tools=[dict(tool) for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=ask,
            **template_kwargs,
        )
    except Exception as error:
        if getattr(tokenizer, "chat_template", "") is None:
            raise ValueError(
                "tokenizer.chat_template: the tokenizer has none, as that of a base model; put the template of its "
                "family into the model's folder (chat_template.jinja), or take the model's instruct version"
            ) from error
        raise ValueError(
            f"tokenizer.chat_template: cannot render the roles {[each['role'] for each in messages]}: {error}; "
            "give the tokenizer a template that can (tokenizer.chat_template = ...), or leave a role out "
            "(env.chat.roles=[user], in code roles=(...))"
        ) from error


def parsed_template(tokenizer: Any) -> Any:
    """Return the syntax tree of a tokenizer's template.

    Raises:
        ValueError: it has none that can be read.
    """
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Environment

    # as transformers reads it: blocks that mark what is generated are not in it here
    text = re.sub(r"{%-?\s*(?:end)?generation\s*-?%}", "", template_source(tokenizer))
    try:
        return Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]).parse(text)
    except (ValueError, TemplateError) as error:
        raise _unreadable(error) from error


def template_source(tokenizer: Any) -> str:
    """Return the text of a tokenizer's template.

    Raises:
        ValueError: it has none.
    """
    try:
        return tokenizer.get_chat_template(tools=[PROBE_TOOL])
    except ValueError as error:
        raise _unreadable(error) from error


def said(role: str, content: str) -> Message:
    """Return a message; a tool's answers some call."""
    return {"role": role, "content": content, **({"tool_call_id": CALL_ID} if role == "tool" else {})}


def calling_message(calls: Sequence[tuple[str, Any]]) -> Message:
    """Return an assistant message that calls tools, each given by its name and arguments."""
    written = [
        {"id": CALL_ID, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": written}


def opened_thought(text: str) -> str:
    """Return the end of a text from a `<think>` on that is not closed; "" if there is none."""
    match = _OPEN_THOUGHT.search(text)
    return match[0] if match else ""


def not_append_only(role: str, what: str) -> ValueError:
    """Return the error for a role whose messages cannot be appended."""
    return ValueError(
        f"tokenizer.chat_template: not append-only for {role!r} messages: {what}, so sampled tokens could not stay as "
        "they are; use a template that only appends (tokenizer.chat_template = ...), a protocol that describes the "
        "tools itself (env.kwargs.protocol=tags or fenced), or leave the role out (env.chat.roles, in code roles=(...))"
    )


def _unreadable(error: Exception) -> ValueError:
    return ValueError(
        f"tokenizer.chat_template: cannot be read ({error}); give the tokenizer a template "
        "(tokenizer.chat_template = ...)"
    )


def _system(system: str) -> list[Message]:
    return [said("system", system)] if system else []


def _source(tokenizer: Any) -> str:
    """Return everything that a tokenizer may render, templates of several names too."""
    return str(getattr(tokenizer, "chat_template", ""))


def _after(probe: str, rendered: str) -> str:
    parts = rendered.split(probe)
    if len(parts) != 2:
        raise ValueError(
            f"tokenizer.chat_template: shows an assistant message's content {len(parts) - 1} times instead of once; "
            "use a template that shows each message once (tokenizer.chat_template = ...)"
        )
    return parts[1]
