"""Messages to tokens, by the model's own chat template, without ever re-tokenising what the model sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.episode.content_slot import SLOT
from trm_agent.episode.fallback import Fallback
from trm_agent.episode.plain_text import GuardedTokens, encodable
from trm_agent.episode.recent import Recent, packed, unpacked
from trm_agent.episode.template import ChatTemplate

ROLES = ("tool", "user")


class ChatTokens:
    """Token ids of prompts and observations, found as differences between renderings of the chat template.

    The text that the template puts between one assistant message and the next generation prompt is the same
    whatever came before, which is checked once, here. Only that text is tokenised for an observation, so the
    context grows by appending and sampled tokens stand in it verbatim. (A template that would drop earlier
    reasoning from a re-rendered history does not get to: the model keeps seeing what it sampled.)

    Text from the environment stays text: a string such as `<|im_end|>` inside an observation, the first user
    message or the system prompt is never encoded as that token, and no content makes `observation` fail.

    A turn ends with the token that the template puts behind an assistant message. Where it puts none, the tag of the
    next role ends the turn (GLM: `<|user|>`, `<|observation|>`); both are stop tokens then. A sampled tag stays. The
    answer does not repeat it where it comes in that role; in the other role it brings its own tag behind it.

    Args:
        tokenizer: a Hugging Face fast tokenizer with a chat template.
        roles: roles of messages that will answer the model; a role of `ROLES` that is left out is told in the first
            of these.
        template_kwargs: further variables for the template, such as {"enable_thinking": False}.
        with_tools: whether the template will be given tools.
        fallback: what goes around the template, since it does not show it.

    Attributes:
        turn_prefix: the thought that the generation prompt opens, such as `<think>` and a line end; "" if none is open.
        end_of_turn_id: the token that closes an assistant message before an answer in the first role.
        stop_token_ids: the tokens at which a generator should end a turn.

    Raises:
        ValueError: the tokenizer is not a fast one, has no usable template, or the template is not append-only.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        roles: Sequence[str] = ROLES,
        template_kwargs: Mapping[str, Any] | None = None,
        with_tools: bool = True,
        fallback: Fallback | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"tokenizer is a {type(tokenizer).__name__}: a fast Hugging Face tokenizer is needed, whose special "
                "tokens can be told from text; load it with use_fast=True"
            )
        self._tokenizer = tokenizer
        self._guarded = GuardedTokens(tokenizer)
        self._fallback = fallback or Fallback()
        self.roles = tuple(roles)
        self._told_as = {**dict.fromkeys(ROLES, self.roles[0]), **{role: role for role in self.roles}}
        self.template = ChatTemplate(
            tokenizer, self.roles, template_kwargs or {}, with_tools and not self._fallback.call
        )
        self.turn_prefix = self.template.turn_prefix
        # the episodes of a group begin alike, and have many answers in common
        self._prompts, self._answers = Recent(self._prompt), Recent(self._answer)
        self._closing = {role: self._find_closing(role) for role in self.roles}
        self.end_of_turn_id = self._closing[self.roles[0]]
        eos = {tokenizer.eos_token_id} - {None}
        self.stop_token_ids: list[int] = sorted({*self._closing.values()} | eos)

    def prompt(self, system: str, user: str, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Tokens of the first context: system prompt and tools, the first user message, the generation prompt.

        Args:
            system: "" for no system message (the template may then put in one of its own).
            user: the environment's first observation.
            tools: OpenAI function schemas.

        Raises:
            ValueError: the template cannot render it.
        """
        system, user, tools = self._fallback.prompt(system, user, tools)
        system, user = encodable(system), encodable(user)
        kept = packed(tools) if self.template.is_fixed else None
        if kept is None:
            return self._guarded.encode(self.template.prompt(system, user, tools))
        return list(self._prompts(system, user, kept))

    def observation(self, role: str, content: str, *, model_turn_finished: bool) -> list[int]:
        """Tokens to append after the model's: the turn's closing, the message, the next generation prompt.

        Args:
            role: role of the message that answers, "tool" or "user".
            content: its text.
            model_turn_finished: whether the model sampled the token that closes a turn before this role (see
                `closes_turn`); otherwise that token is the first of the result.

        Raises:
            ValueError: an unknown role.
        """
        told_as, content = self._role(role), encodable(content)
        ids = (self._answers if self.template.is_fixed else self._answer)(told_as, content)
        return list(ids[1:] if model_turn_finished else ids)

    def closes_turn(self, token_ids: Sequence[int], role: str | None = None) -> bool:
        """Whether the turn ends with the token that closes it before an answer in this role; None: in the first role.

        Another stop token leaves it open.
        """
        closing = self.end_of_turn_id if role is None else self._closing[self._role(role)]
        return bool(token_ids) and token_ids[-1] == closing

    def as_turn(self, text: str) -> str:
        """Return the text as the model has to write it: it first closes a thought that the prompt opens."""
        return f"\n</think>\n\n{text}" if self.turn_prefix else text

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of one turn, without the stop token at its end; other special tokens are shown as they are."""
        ids = list(token_ids)
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        return self._guarded.core.decode(ids)

    def fit(self, content: str, max_tokens: int) -> str:
        """Return the text itself, or its start and end around a visible mark, in at most `max_tokens` tokens.

        Where the mark alone does not fit, the bare start of the text is all that is left.
        """
        return self._guarded.fit(encodable(content), max_tokens)

    def _prompt(self, system: str, user: str, tools: bytes) -> tuple[int, ...]:
        return tuple(self._guarded.encode(self.template.prompt(system, user, unpacked(tools))))

    def _answer(self, role: str, content: str) -> tuple[int, ...]:
        return tuple(self._guarded.encode(self.template.answer(role, content)))

    def _role(self, role: str) -> str:
        if role not in self._told_as:
            raise ValueError(f"role {role!r} was not checked against the chat template; pass roles=(..., {role!r})")
        return self._told_as[role]

    def _find_closing(self, role: str) -> int:
        """Return the token with which a turn ends before an answer in this role."""
        parts = self.template.answer(role, SLOT)
        tokens = self._tokenizer.added_tokens_decoder
        tail = parts[0][0]
        starts = {token.content: index for index, token in tokens.items() if tail.startswith(token.content)}
        longest = max(starts, key=len, default=None)
        if longest is None or self._guarded.encode(parts)[0] != starts[longest]:
            raise ValueError(
                f"tokenizer.chat_template: closes an assistant message before a {role!r} message with {tail[:30]!r}, "
                "which is not a special token of the tokenizer, so no turn would end; allowed: an end-of-turn token "
                "such as <|im_end|>, or the special tag of the next role; add it as a special token, or use the "
                "template that belongs to this tokenizer"
            )
        return starts[longest]
