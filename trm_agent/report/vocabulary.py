"""The tokens that a run's episodes use, and their texts."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trm_agent.report.codec import pack, smallest

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")


class Vocabulary:
    """Numbers for tokens in the order of their first use, so that frequent ones get small numbers."""

    def __init__(self) -> None:
        self._index = np.full(1024, -1, dtype=np.int64)
        self._ids: list[int] = []

    def indices(self, ids: np.ndarray) -> np.ndarray:
        """Assign numbers to tokens; new ones get the next numbers.

        Args:
            ids: shape (tokens,), at least 0.

        Returns:
            int64, same shape.

        Raises:
            ValueError: an id is negative.
        """
        if len(ids) and ids.min() < 0:
            raise ValueError(f"token id {ids.min()}; allowed: 0 or more")
        largest = int(ids.max(initial=0))
        if largest >= len(self._index):
            grown = np.full(2 * largest + 1, -1, dtype=np.int64)
            grown[: len(self._index)] = self._index
            self._index = grown
        unknown, first = np.unique(ids[self._index[ids] < 0], return_index=True)
        for token in unknown[np.argsort(first)]:
            self._index[token] = len(self._ids)
            self._ids.append(int(token))
        return self._index[ids]

    def __len__(self) -> int:
        return len(self._ids)

    def packed(self, tokenizer: Any | None) -> str:
        """Return the page's table of tokens: ids and, with a tokenizer, their texts."""
        texts, special = token_texts(tokenizer, self._ids)
        ids = np.asarray(self._ids, dtype=np.int64)
        return pack({"texts": texts, "special": special}, {"ids": smallest(ids)})


def token_texts(tokenizer: Any | None, ids: Sequence[int]) -> tuple[list[str] | None, list[int]]:
    """Return the text of each id by itself, and the positions of special tokens; None without a tokenizer."""
    if tokenizer is None:
        return None, []
    size = len(tokenizer)
    known = [index for index, token in enumerate(ids) if token < size]
    decoded = tokenizer.batch_decode(
        [[ids[index]] for index in known], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    texts = [f"\u27e8{token}\u27e9" for token in ids]
    for index, text in zip(known, decoded, strict=True):
        texts[index] = text
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    specials = {*tokenizer.all_special_ids, *added}
    tags = re.compile(r"</?[a-z_]+>")
    return texts, [i for i, token in enumerate(ids) if token in specials or tags.fullmatch(texts[i])]


def find_tokenizer(candidates: Iterable[Path]) -> Path | None:
    """Return the first folder that holds a tokenizer."""
    for path in candidates:
        if path.is_dir() and any((path / name).exists() for name in _FILES):
            return path
    return None


def load_tokenizer(path: Path) -> Any:
    """Load a tokenizer from a local folder.

    Raises:
        ValueError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library passes on any error of its parsers
        raise ValueError(f"{path}: no tokenizer can be loaded from it ({str(error)[:200]})") from error
