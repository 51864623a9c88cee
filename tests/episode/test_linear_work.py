"""The loop's work is linear in the turns: counted, not timed."""

import asyncio
import functools
import sys

import pytest

from tests.episode.fakes import TOKENIZER, FakeEnv, ScriptedGenerator, byte_tokenizer, play, scripted
from trm_agent.episode import Generation, Limits, StopReason, chat_tokens, run_episode
from trm_agent.episode.tokenizer_core import TokenizerCore
from trm_agent.models.traces import Solver
from trm_agent.tasks import make_env

ENVIRONMENTS = {"trm/ChainMath-v0": {"reveal": "stepwise"}, "trm/LongExecution-v0": {}}
LIMITS = Limits(max_turns=1000, max_tool_calls=1000, max_response_tokens=10**6)


class Work:
    """Counts what an episode makes the loop do, and plays the solver's turns."""

    def __init__(self, env_id: str, horizon: int, chat) -> None:
        messages = Solver(env_id, "train", kwargs=ENVIRONMENTS[env_id]).solve(0, horizon).messages
        texts = [each["content"] for each in messages if each["role"] == "assistant"]
        encoded = [byte_tokenizer().encode(text, add_special_tokens=False) for text in texts]
        self.turns = [[*ids, chat.end_of_turn_id] for ids in encoded]
        self.prompts: list[list[int]] = []
        self.characters = self.decoded = self.calls = 0

    async def generate(self, prompt_ids, max_tokens):
        self.prompts.append(prompt_ids)
        ids = self.turns[len(self.prompts) - 1]
        return Generation(ids, [-0.5] * len(ids), True)

    def count(self, frame, event, argument) -> None:
        self.calls += event in ("call", "c_call")


def played(monkeypatch, env_id: str, horizon: int) -> Work:
    # without memory of texts that came before, as if all turns differed
    chat = chat_tokens(byte_tokenizer())
    chat.template.is_fixed = False
    work = Work(env_id, horizon, chat)
    encode, decode = TokenizerCore.encode, TokenizerCore.decode

    def counted_encode(core, text, split_special_tokens=False):
        work.characters += len(text)
        return encode(core, text, split_special_tokens)

    def counted_decode(core, ids):
        work.decoded += len(ids)
        return decode(core, ids)

    async def run():
        make = functools.partial(make_env, env_id, None, ENVIRONMENTS[env_id])
        sys.setprofile(work.count)
        try:
            options = {"horizon": horizon}
            return await run_episode(make, work, chat, LIMITS, env_id=env_id, seed=0, options=options)
        finally:
            sys.setprofile(None)

    with monkeypatch.context() as patches:
        patches.setattr(TokenizerCore, "encode", counted_encode)
        patches.setattr(TokenizerCore, "decode", counted_decode)
        episode = asyncio.run(run())
    assert episode.success
    assert episode.num_turns == len(work.turns)
    return work


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_twice_the_turns_are_twice_the_work(monkeypatch, env_id):
    few, many = played(monkeypatch, env_id, 40), played(monkeypatch, env_id, 80)
    factor = len(many.turns) / len(few.turns)
    # longer sums and the prompt make a little more, or less; a history that is read each turn makes four times as much
    for name in ("characters", "decoded", "calls"):
        assert getattr(many, name) < 1.25 * factor * getattr(few, name), name
    # a turn decodes its own tokens without the one that ends it, and nothing else
    assert many.decoded == sum(len(turn) - 1 for turn in many.turns)
    for work in (few, many):
        assert len({id(prompt) for prompt in work.prompts}) == 1, "a list was made anew for a turn"


async def test_a_generator_that_changes_its_prompt_ends_the_episode_with_what_it_did():
    class FakeThatAppends(ScriptedGenerator):
        async def generate(self, prompt_ids, max_tokens):
            generation = await super().generate(prompt_ids, max_tokens)
            if len(self.calls) == 2:
                prompt_ids += generation.token_ids
            return generation

    generator = FakeThatAppends(TOKENIZER, ["call<|im_end|>"])
    episode = await play(FakeEnv([("tool", "five")] * 3), generator)
    assert (episode.stop_reason, episode.reward) == (StopReason.GENERATOR_ERROR, None)
    assert "turn 2: the generator changed its prompt_ids" in episode.error
    assert episode.num_turns == 1


async def test_an_answer_that_no_turn_follows_is_no_part_of_the_response():
    episode = await play(FakeEnv([("tool", "five")] * 3), scripted("call<|im_end|>"), Limits(max_response_tokens=20))
    # two tokens, fourteen of the answer, two tokens; the next answer would leave no room
    assert (episode.stop_reason, len(episode.response_ids)) == (StopReason.MAX_TOKENS, 18)
