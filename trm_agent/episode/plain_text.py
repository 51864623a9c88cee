"""Text to tokens in which nothing but the chat template's own markup becomes a special token."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from trm_agent.episode.recent import Recent
from trm_agent.episode.tokenizer_core import TokenizerCore

# No ordinary text has tokens longer than this on average; beyond it a text is cut before it is tokenised at all.
MAX_CHARACTERS_PER_TOKEN = 16


class GuardedTokens:
    """A fast tokenizer's way from text to tokens, with its special tokens guarded."""

    def __init__(self, tokenizer: Any) -> None:
        self.core = TokenizerCore(tokenizer)
        self._markup = Recent(lambda text: tuple(self.core.encode(text)), 64)
        self._count = Recent(lambda text: len(self.plain(text)))
        self.by_id = _guarded_tokens(tokenizer)
        # The lookahead finds overlapping occurrences too.
        self._start = re.compile(f"(?={'|'.join(map(re.escape, self.by_id.values())) or '(?!)'})")

    def encode(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Tokens of (text, comes from the environment) parts, as one text where that text forges no special token."""
        whole = self.core.encode("".join(text for text, _ in parts))
        markup = [index for text, is_content in parts if not is_content for index in self._markup(text)]
        if self._only_guarded(whole) == self._only_guarded(markup):
            return whole
        ids = (self.plain(text) if is_content else self._markup(text) for text, is_content in parts)
        return list(itertools.chain.from_iterable(ids))

    def plain(self, text: str) -> list[int]:
        """Tokens of text in which special tokens are not known.

        The tokenizer's own switch is not enough: a word-level model, or one that looks whole words up before it
        merges, finds the string in its vocabulary. Cutting each after its first character hides it from both.
        """
        cuts = [0, *(match.start() + 1 for match in self._start.finditer(text)), len(text)]
        pieces = (text[start:stop] for start, stop in itertools.pairwise(cuts) if stop > start)
        ids = (index for piece in pieces for index in self.core.encode(piece, split_special_tokens=True))
        return [index for index in ids if index not in self.by_id]

    def fit(self, content: str, max_tokens: int) -> str:
        """Return the text itself, or its start and end around a visible mark, in at most `max_tokens` tokens.

        Where the mark alone does not fit, the bare start of the text is all that is left.
        """
        keep = len(content)
        if keep <= max_tokens and content.isascii() and self.core.has_a_character_a_token:
            return content
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

    def _only_guarded(self, ids: Sequence[int]) -> list[int]:
        return [index for index in ids if index in self.by_id]


def encodable(text: str) -> str:
    """Return the text with lone surrogates replaced, which neither tokenizers nor files take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _guarded_tokens(tokenizer: Any) -> dict[int, str]:
    """Tokens that text must not produce: the special ones and tags like `<tool_call>`, by id.

    The unknown token is none of them, since text does produce it.
    """
    return {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if (token.special or re.fullmatch(r"<.+>", token.content)) and index != tokenizer.unk_token_id
    }


def _cut(content: str, keep: int) -> str:
    """Return the first and last characters of the content, `keep` in all, around a mark."""
    head = (keep + 1) // 2
    tail = len(content) - (keep - head)
    return f"{content[:head]}\n[... {tail - head} characters cut ...]\n{content[tail:]}"
