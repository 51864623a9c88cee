"""Episodes of a script: the environment's own solver, its turns made longer by a thought.

The engine answers at once, so that all that is left is ours, or verl's and vLLM's own around it.
"""

import asyncio
import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chain_math": ("trm/ChainMath-v0", {"reveal": "stepwise"}),
    "long_execution": ("trm/LongExecution-v0", {"keys_per_turn": 4}),
}


@dataclass
class Work:
    """The episodes of one length, and where their files go."""

    chat: Any
    """Renderer of the tokenizer's chat template."""
    tokenizer: Path
    """Folder of the tokenizer."""
    env: str
    """One of `ENVIRONMENTS`."""
    horizon: int
    """Of the tasks."""
    scripts: list[list[list[int]]]
    """Tokens of each episode's turns."""
    folder: Path
    """For the files."""
    episodes: list[Any] = field(default_factory=list)
    """Those that were played."""

    @property
    def tokens(self) -> float:
        """Return the mean number of tokens of an episode."""
        return sum(len(each.prompt_ids) + len(each.response_ids) for each in self.episodes) / len(self.episodes)

    @property
    def turns(self) -> float:
        """Return the mean number of turns of an episode."""
        return sum(each.num_turns for each in self.episodes) / len(self.episodes)


class Script:
    """An engine that answers at once with given turns, whose log-probs are drawn, so that files do not shrink."""

    def __init__(self, turns: list[list[int]], seed: int) -> None:
        self.turns, self.random = iter(turns), random.Random(seed)

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Any:
        from trm_agent.episode import Generation

        ids = next(self.turns)
        await asyncio.sleep(0)
        return Generation(ids, [-self.random.random() for _ in ids], True)


def script(chat: Any, tokenizer: Any, env: str, seed: int, horizon: int, filler: int) -> list[list[int]]:
    """Return the tokens of the solver's turns, each behind a thought of so many random letters."""
    from trm_agent.models.traces import Solver

    env_id, kwargs = ENVIRONMENTS[env]
    encode = functools.partial(tokenizer.encode, add_special_tokens=False)
    letters, rng = encode("a b c d e f g h"), random.Random(seed)

    def thought() -> list[int]:
        return [*encode("<think>"), *rng.choices(letters, k=filler), *encode("</think>")] if filler else []

    messages = Solver(env_id, "train", kwargs=kwargs).solve(seed, horizon).messages
    turns = [each["content"] for each in messages if each["role"] == "assistant"]
    return [[*thought(), *encode(chat.as_turn(turn)), chat.end_of_turn_id] for turn in turns]


def prepared(folder: Path, tokenizer_folder: Path, env: str, tokens: int, episodes: int, turn_tokens: float) -> Work:
    """Return the work of episodes of about so many tokens, each turn with its answer of so many."""
    from transformers import AutoTokenizer

    from trm_agent.episode import chat_tokens

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    chat = chat_tokens(tokenizer)
    # the share of a turn that is there without a thought, from a short episode
    short = Work(chat, tokenizer_folder, env, 16, [script(chat, tokenizer, env, 0, 16, 0)], folder)
    play(short)
    tags = len(tokenizer.encode("<think></think>", add_special_tokens=False))
    filler = max(0, round(turn_tokens - tags - len(short.episodes[0].response_ids) / short.turns))
    horizon = max(1, round(tokens / turn_tokens) - (env == "chain_math"))
    scripts = [script(chat, tokenizer, env, seed, horizon, filler) for seed in range(episodes)]
    return Work(chat, tokenizer_folder, env, horizon, scripts, folder)


def play(work: Work) -> None:
    """Play the episodes through the loop, all at once."""
    from trm_agent.episode import Limits, run_episode
    from trm_agent.tasks import make_env

    env_id, kwargs = ENVIRONMENTS[work.env]
    limits = Limits(max_turns=100_000, max_tool_calls=100_000, max_response_tokens=10_000_000, max_turn_tokens=4096)

    async def one(seed: int, turns: list[list[int]]) -> Any:
        return await run_episode(
            functools.partial(make_env, env_id, None, kwargs),
            Script(turns, seed),
            work.chat,
            limits,
            env_id=env_id,
            seed=seed,
            options={"horizon": work.horizon},
        )

    async def every() -> list[Any]:
        return await asyncio.gather(*(one(seed, turns) for seed, turns in enumerate(work.scripts)))

    work.episodes = asyncio.run(every())
    assert all(episode.success for episode in work.episodes), [str(each.stop_reason) for each in work.episodes]


def contexts(episode: Any) -> Iterator[list[int]]:
    """Yield the context of each turn as the loop hands it to an engine: one list that grows."""
    context, before = list(episode.prompt_ids), 0
    for turn in episode.turns:
        context += episode.response_ids[before : turn.token_span[0]]
        yield context
        context += episode.response_ids[slice(*turn.token_span)]
        before = turn.token_span[1]
