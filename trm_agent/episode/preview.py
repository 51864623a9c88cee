"""The beginning of an episode as a model reads it: the first prompt, a turn of the solver, and the answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trm_agent.episode.chat import ChatTokens


@dataclass(frozen=True)
class Preview:
    """The texts with which an episode begins, special tokens included."""

    prompt: str
    """The first context, up to where the model's turn begins."""
    num_prompt_tokens: int
    """Tokens of the first context."""
    turn: str = ""
    """The scripted solver's turn; "" without a solver."""
    answer: str = ""
    """Text between that turn and the next one of the model; "" if the episode is over."""
    num_answer_tokens: int = 0
    """Tokens of the answer."""

    def lines(self) -> list[str]:
        """Return the texts under headings, for a terminal."""
        shown = [f"--- prompt, {self.num_prompt_tokens} tokens ---", self.prompt]
        if self.turn:
            shown += ["--- turn of the scripted solver ---", self.turn]
        if self.answer:
            shown += [f"--- answer to it, {self.num_answer_tokens} tokens ---", self.answer]
        return [*shown, "---"]


def preview(
    env: Any, tokenizer: Any, chat: ChatTokens, seed: int | None = None, options: Mapping[str, Any] | None = None
) -> Preview:
    """Play the first turn of an environment with its solver, and render what a model would read.

    Args:
        env: an environment of the contract, such as a `trm_envs.ToolEnv`; it is reset, and not closed.
        tokenizer: the model's tokenizer.
        chat: the renderer of its chat template.
        seed: of the task.
        options: of the task.

    Raises:
        ValueError: the template cannot render the prompt.
    """
    bare = env.unwrapped
    observation, _ = env.reset(seed=seed, options=dict(options or {}))
    prompt_ids = chat.prompt(bare.system_prompt, observation, bare.tool_schemas)
    begun = Preview(tokenizer.decode(prompt_ids), len(prompt_ids))
    if not hasattr(bare, "solution"):
        return begun
    try:
        turn = chat.as_turn(bare.solution())
    except NotImplementedError:  # the contract's word for an environment without a solver
        return begun
    told, _, terminated, truncated, info = env.step(chat.turn_prefix + turn)
    turn += tokenizer.decode([chat.end_of_turn_id])
    if terminated or truncated:
        return Preview(begun.prompt, begun.num_prompt_tokens, turn)
    answer_ids = chat.observation(info["role"], told, model_turn_finished=True)
    return Preview(begun.prompt, begun.num_prompt_tokens, turn, tokenizer.decode(answer_ids), len(answer_ids))
