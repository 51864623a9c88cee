"""The facts about a model that a configuration must suit, loaded once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trm_agent.episode import ChatTokens
from trm_agent.runs.chat import load_tokenizer, run_chat_tokens
from trm_agent.runs.endings.explain import known_cause
from trm_agent.runs.preflight import MODEL_PATH


@dataclass(frozen=True)
class ModelFacts:
    """A model as the checks before Ray see it."""

    tokenizer: Any
    """The Hugging Face tokenizer."""
    chat: ChatTokens
    """The renderer of its chat template with the run's settings."""
    vocab_size: int
    """Tokens of its vocabulary."""
    max_positions: int | None
    """The longest context that it was made for, in tokens; None if its configuration does not state it."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Its configuration, as config.json holds it."""


def read_shape(folder: Path) -> dict[str, Any]:
    """Read the configuration of the model in a folder.

    Raises:
        ValueError: it cannot be read.
    """
    from transformers import AutoConfig

    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config().to_dict()
    except Exception as error:
        raise ValueError(f"{folder}: config.json cannot be loaded: {error}; give another checkpoint") from error
    return found


def load_facts(config: DictConfig, path: str) -> ModelFacts:
    """Load the facts of the model in a folder, or of a hub id.

    Raises:
        ValueError: the tokenizer or the configuration cannot be loaded, or the chat template cannot be used with these
        settings.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(path)
    chat = run_chat_tokens(tokenizer, config)
    try:
        model = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except Exception as error:
        raise ValueError(
            f"{MODEL_PATH}={path}: config.json cannot be loaded: {known_cause(str(error), path)}; give a folder or "
            "a hub id that has one"
        ) from error
    longest = getattr(model, "max_position_embeddings", None)
    return ModelFacts(tokenizer, chat, model.vocab_size, longest, model.to_dict())
