"""A fast tokenizer by its compiled core, past what Hugging Face's `encode` and `decode` do around it."""

from __future__ import annotations

import json
from typing import Any

_HOME = "transformers.tokenization_utils"
_METHODS = (
    *("encode", "_encode_plus", "_batch_encode_plus", "decode", "_decode", "__call__"),
    *("_convert_encoding", "set_truncation_and_padding", "convert_tokens_to_string"),
)
# each token of these is at least a byte of the text, and they leave ASCII as it is
_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")
_PRE_TOKENIZERS = ("ByteLevel", "Split", "Digits", "Punctuation")


class TokenizerCore:
    """Text to tokens and back, as `tokenizer.encode` and `tokenizer.decode` do it without special tokens added.

    Args:
        tokenizer: a Hugging Face fast tokenizer. One whose class has an `encode` of its own is asked itself.

    Attributes:
        has_a_character_a_token: whether ASCII text is known to have no more tokens than characters.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._core = tokenizer.backend_tokenizer if _is_plain(tokenizer) else None
        self.has_a_character_a_token = self._core is not None and _counts_bytes(self._core)

    def encode(self, text: str, split_special_tokens: bool = False) -> list[int]:
        """Return the tokens of a text; special tokens in it are text too if they are split."""
        core = self._core
        if core is None or core.truncation is not None or core.padding is not None:
            return list(
                self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
            )
        if core.encode_special_tokens != split_special_tokens:
            core.encode_special_tokens = split_special_tokens
        # without places in the text, which `encode` finds for each token
        ids: list[int] = core.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens, special ones as they are."""
        if self._core is None:
            return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return str(self._core.decode(ids, skip_special_tokens=False))


def _is_plain(tokenizer: Any) -> bool:
    """Whether nothing but the core decides what becomes of a text: all on the way is Hugging Face's own."""

    def is_own(name: str) -> bool:
        owner = next((each for each in type(tokenizer).__mro__ if name in vars(each)), None)
        return name in vars(tokenizer) or (owner is not None and not owner.__module__.startswith(_HOME))

    is_fast = any(each.__module__.startswith(_HOME) for each in type(tokenizer).__mro__) and tokenizer.is_fast
    return is_fast and not any(map(is_own, _METHODS)) and hasattr(tokenizer.backend_tokenizer, "encode_batch_fast")


def _counts_bytes(core: Any) -> bool:
    """Whether each token stands for at least one byte: byte-level BPE that puts nothing in front."""
    try:
        before = _steps(core.pre_tokenizer, "pretokenizers")
        normalizers = _steps(core.normalizer, "normalizers")
    except Exception:  # one written in Python has no state to read
        return False
    return (
        type(core.model).__name__ == "BPE"
        and any(step["type"] == "ByteLevel" for step in before)
        and all(step["type"] in _PRE_TOKENIZERS and not step.get("add_prefix_space") for step in before)
        and all(step["type"] in _NORMALIZERS for step in normalizers)
    )


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, each with its type; none without one."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return list(state.get(name, [state]))
