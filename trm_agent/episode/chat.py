"""Messages to tokens, by the model's own chat template, without ever re-tokenising what the model sampled."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_USER, _FIRST, _SECOND, _SLOT = "TRMPROBEUSER", "TRMPROBEFIRST", "TRMPROBESECOND", "TRMPROBESLOT"
_TOOL = {
    "type": "function",
    "function": {"name": "trmprobetool", "description": "x", "parameters": {"type": "object", "properties": {}}},
}
# No ordinary text has tokens longer than this on average; beyond it a text is cut before it is tokenised at all.
MAX_CHARACTERS_PER_TOKEN = 16


class ChatTokens:
    """Token ids of prompts and observations, found as differences between renderings of the chat template.

    The text that the template puts between one assistant message and the next generation prompt is the same
    whatever came before, which is checked once, here. Only that text is tokenised for an observation, so the
    context grows by appending and sampled tokens stand in it verbatim. (A template that would drop earlier
    reasoning from a re-rendered history does not get to: the model keeps seeing what it sampled.)

    Text from the environment stays text: a string such as `<|im_end|>` inside an observation, the first user
    message or the system prompt is never encoded as that token.

    Args:
        tokenizer: a Hugging Face fast tokenizer with a chat template.
        roles: roles of messages that will answer the model.
        template_kwargs: further variables for the template, such as {"enable_thinking": False}.

    Attributes:
        end_of_turn_id: the token that closes an assistant message in the template.
        stop_token_ids: the tokens at which a generator should end a turn.

    Raises:
        ValueError: the tokenizer is not a fast one, has no usable template, or the template is not append-only.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        roles: Sequence[str] = ("tool", "user"),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"tokenizer is a {type(tokenizer).__name__}: a fast Hugging Face tokenizer is needed, whose special "
                "tokens can be told from text; load it with use_fast=True"
            )
        self._tokenizer = tokenizer
        self._template_kwargs = dict(template_kwargs or {})
        self._guarded = _guarded_tokens(tokenizer)
        # The lookahead finds overlapping occurrences too.
        self._guarded_start = re.compile(f"(?={'|'.join(map(re.escape, self._guarded.values())) or '(?!)'})")
        self.roles = tuple(roles)
        for role in self.roles:
            self._check_append_only(role)
        self._end_of_turn, self.end_of_turn_id = self._find_end_of_turn()
        eos = {tokenizer.eos_token_id} - {None}
        self.stop_token_ids: list[int] = sorted({self.end_of_turn_id} | eos)

    def prompt(self, system: str, user: str, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Tokens of the first context: system prompt and tools, the first user message, the generation prompt.

        Args:
            system: "" for no system message (the template may then put in one of its own).
            user: the environment's first observation.
            tools: OpenAI function schemas.

        Raises:
            ValueError: the template cannot render it.
        """
        system, user = _encodable(system), _encodable(user)
        parts: list[tuple[str, bool]] = []
        taken = 0
        if system:
            before, shown, _ = self._slot(lambda text: self._render([("system", text), ("user", _USER)], tools), system)
            parts += [(before, False), (shown, True)]
            taken = len(before) + len(shown)
        head = [("system", system)] if system else []
        before, shown, after = self._slot(lambda text: self._render([*head, ("user", text)], tools), user)
        return self._encode([*parts, (before[taken:], False), (shown, True), (after, False)])

    def observation(self, role: str, content: str, *, model_turn_finished: bool) -> list[int]:
        """Tokens to append after the model's: the turn's closing, the message, the next generation prompt.

        Args:
            role: role of the message that answers, "tool" or "user".
            content: its text.
            model_turn_finished: whether the model sampled the end-of-turn token (see `closes_turn`); otherwise
                that token is the first of the result.

        Raises:
            ValueError: an unknown role, or the template cannot render it.
        """
        if role not in self.roles:
            raise ValueError(f"role {role!r} was not checked against the chat template; pass roles=(..., {role!r})")
        before, shown, after = self._slot(lambda text: self._tail(role, text), _encodable(content))
        ids = self._encode([(before, False), (shown, True), (after, False)])
        assert ids[0] == self.end_of_turn_id, f"the appended text starts with the token {ids[0]}"
        return ids[1:] if model_turn_finished else ids

    def closes_turn(self, token_ids: Sequence[int]) -> bool:
        """Whether the turn ends with the template's end-of-turn token (another stop token leaves it open)."""
        return bool(token_ids) and token_ids[-1] == self.end_of_turn_id

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of one turn, without the stop token at its end; other special tokens are shown as they are."""
        ids = list(token_ids)
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def fit(self, content: str, max_tokens: int) -> str:
        """The text itself, or its start and end around a visible mark, in at most `max_tokens` tokens.

        Where the mark alone does not fit, the bare start of the text is all that is left.
        """
        content = _encodable(content)
        keep = len(content)
        if keep <= max_tokens * MAX_CHARACTERS_PER_TOKEN and self._count(content) <= max_tokens:
            return content
        keep = min(keep, max_tokens * MAX_CHARACTERS_PER_TOKEN)
        while keep > 0:
            shown = _cut(content, keep)
            if (count := self._count(shown)) <= max_tokens:
                return shown
            keep = min(keep - 1, keep * max_tokens // count)
        keep = min(len(content), max_tokens)
        while self._count(content[:keep]) > max_tokens:
            keep -= 1
        return content[:keep]

    def _count(self, text: str) -> int:
        return len(self._plain(text))

    def _render(
        self, messages: Sequence[tuple[str, str]], tools: Sequence[Mapping[str, Any]] = (), ask: bool = True
    ) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=ask,
                **self._template_kwargs,
            )
        except Exception as error:
            raise ValueError(
                f"the chat template cannot render the roles {[role for role, _ in messages]}: {error}; give the "
                "tokenizer a template that can (tokenizer.chat_template = ...), or leave roles out with roles=(...)"
            ) from error

    def _tail(self, role: str, content: str) -> str:
        """What the template puts after an assistant message that `content` answers."""
        return _after(_FIRST, self._render([("user", _USER), ("assistant", _FIRST), (role, content)]))

    def _slot(self, render: Callable[[str], str], content: str) -> tuple[str, str, str]:
        """What stands before the content in a rendering, the content as the template shows it, what stands after."""
        before, *after = render(_SLOT).split(_SLOT)
        full = render(content)
        if len(after) != 1:
            raise ValueError(
                f"the chat template shows a message's content {len(after)} times instead of once; use a template that "
                "shows each message once (tokenizer.chat_template = ...)"
            )
        stop = len(full) - len(after[0])
        if stop < len(before) or not full.startswith(before) or not full.endswith(after[0]):
            raise ValueError(
                f"the chat template renders other text around the content {content[:60]!r} than around plain words; "
                "use a template that treats content as text (tokenizer.chat_template = ...)"
            )
        return before, full[len(before) : stop], after[0]

    def _check_append_only(self, role: str) -> None:
        turn = [("user", _USER), ("assistant", _FIRST), (role, _SLOT)]
        longer = [*turn, ("assistant", _SECOND), (role, _SLOT)]
        for tools in ([], [_TOOL]):
            tail = _after(_FIRST, self._render(turn, tools))
            if _after(_SECOND, self._render(longer, tools)) != tail or self._tail(role, _SLOT) != tail:
                raise _not_append_only(role, "the text of a message depends on what came before it")
            for earlier, later in ((turn[:1], turn), (turn, longer)):
                if not self._render(later, tools).startswith(self._render(earlier, tools, ask=False)):
                    raise _not_append_only(role, "a new message changes the text of earlier ones")
            self._slot(lambda text: self._tail(role, text), _SLOT)

    def _find_end_of_turn(self) -> tuple[str, int]:
        tail = self._tail(self.roles[0], _SLOT)
        tokens = self._tokenizer.added_tokens_decoder
        starts = {token.content: index for index, token in tokens.items() if tail.startswith(token.content)}
        if not starts:
            raise ValueError(
                f"the chat template closes an assistant message with {tail[:30]!r}, which is not a special token of "
                "the tokenizer; add it as a special token, or use the template that belongs to this tokenizer"
            )
        longest = max(starts, key=len)
        return longest, starts[longest]

    def _encode(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Tokens of (text, comes from the environment) parts, as one text where that text forges no special token."""
        whole = self._ids("".join(text for text, _ in parts))
        markup = [index for text, is_content in parts if not is_content for index in self._ids(text)]
        if self._only_guarded(whole) == self._only_guarded(markup):
            return whole
        return [index for text, is_content in parts for index in (self._plain(text) if is_content else self._ids(text))]

    def _plain(self, text: str) -> list[int]:
        """Tokens of text in which special tokens are not known.

        The tokenizer's own switch is not enough: a word-level model, or one that looks whole words up before it
        merges, finds the string in its vocabulary. Cutting each after its first character hides it from both.
        """
        cuts = [0, *(match.start() + 1 for match in self._guarded_start.finditer(text)), len(text)]
        pieces = (text[start:stop] for start, stop in itertools.pairwise(cuts) if stop > start)
        ids = (index for piece in pieces for index in self._ids(piece, split_special_tokens=True))
        return [index for index in ids if index not in self._guarded]

    def _ids(self, text: str, split_special_tokens: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split_special_tokens)

    def _only_guarded(self, ids: Sequence[int]) -> list[int]:
        return [index for index in ids if index in self._guarded]


def _guarded_tokens(tokenizer: Any) -> dict[int, str]:
    """Tokens that text must not produce: the special ones and tags like `<tool_call>`, by id.

    The unknown token is none of them, since text does produce it.
    """
    return {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if (token.special or re.fullmatch(r"<.+>", token.content)) and index != tokenizer.unk_token_id
    }


def _after(probe: str, rendered: str) -> str:
    parts = rendered.split(probe)
    if len(parts) != 2:
        raise ValueError(
            f"the chat template shows an assistant message's content {len(parts) - 1} times instead of once; use a "
            "template that shows each message once (tokenizer.chat_template = ...)"
        )
    return parts[1]


def _not_append_only(role: str, what: str) -> ValueError:
    return ValueError(
        f"the chat template is not append-only for {role!r} messages: {what}, so sampled tokens could not stay as they "
        "are; use a template that only appends (tokenizer.chat_template = ...), or leave the role out with roles=(...)"
    )


def _cut(content: str, keep: int) -> str:
    """The first and last characters of the content, `keep` in all, around a mark."""
    head = (keep + 1) // 2
    tail = len(content) - (keep - head)
    return f"{content[:head]}\n[... {tail - head} characters cut ...]\n{content[tail:]}"


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
