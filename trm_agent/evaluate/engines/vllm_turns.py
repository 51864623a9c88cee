"""What is asked of an engine in this process: the turns of an episode, and the log-probs of tokens that are there."""

from __future__ import annotations

from typing import Any

from trm_agent.episode import Generation
from trm_agent.evaluate.engines.sampling import SeededTurns


class VllmGenerator:
    """One episode's turns from vLLM.

    Args:
        engine: a `VllmEngine`.
        seed: the episode's.
    """

    def __init__(self, engine: Any, seed: int) -> None:
        self.engine, self.turns = engine, SeededTurns(engine, seed)

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        """Sample one turn; see `trm_agent.episode.Generator`."""
        engine = self.engine
        completion = await self.turns.complete(prompt_ids, max_tokens)
        ids = list(completion.token_ids)
        rows = zip(completion.logprobs, ids, strict=True)
        return Generation(
            token_ids=ids,
            log_probs=[float(row[token].logprob) for row, token in rows],
            finished=bool(ids) and ids[-1] in engine.chat.stop_token_ids,
        )


async def read(engine: Any, ids: list[int]) -> list[float]:
    """Return the log-probs of given tokens but for the first one, nats, from the engine's pass over them.

    They are those at temperature 1, whatever the engine's sampling: vLLM processes no logits of a prompt. It makes the
    logits of all tokens that it reads in one step, so that `max_num_batched_tokens` bounds their memory.

    Args:
        engine: a `VllmEngine` with room for one token more, which vLLM samples behind them.
        ids: two tokens or more.

    Raises:
        RuntimeError: the engine stopped.
        ValueError: vLLM refuses the tokens.
    """
    # without a seed: between pieces of a prompt vLLM rewinds a seeded generator, which is impossible on a CPU
    output = await engine.ask(ids, {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0})
    # nothing precedes the first one
    rows = zip(output.prompt_logprobs[1:], ids[1:], strict=True)
    return [float(row[token].logprob) for row, token in rows]
