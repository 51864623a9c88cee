"""Episodes to the context's end: sampled turns, and the answers that the environment gave its solver."""

import pytest

from tests.episode.fakes import byte_tokenizer
from trm_agent.episode import Generation, chat_tokens
from trm_agent.models.traces import Solver
from trm_agent.numerics.forcing import Played, play
from trm_agent.numerics.spec import NumericsSpec

ENV = "trm/ChainMath-v0"
TURN = 5


class Counting:
    """Samples the same few tokens, with log-probs that tell the turn and the place; each second turn is cut."""

    def __init__(self, tokenizer, chat) -> None:
        self.words = tokenizer.encode("1 + 2 = 3", add_special_tokens=False)[: TURN - 1]
        self.end, self.contexts, self.limits = chat.end_of_turn_id, [], []

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        self.contexts.append(list(prompt_ids))
        self.limits.append(max_tokens)
        is_cut = len(self.contexts) % 2 == 0
        ids = (self.words if is_cut else [*self.words, self.end])[:max_tokens]
        return Generation(ids, [-float(len(self.contexts)) - 0.01 * place for place in range(len(ids))], not is_cut)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


async def played(tokenizer, tokens: int, episodes: int = 1, **spec) -> tuple[list[Played], list[Counting], list[int]]:
    chat, grown = chat_tokens(tokenizer), []
    players = [Counting(tokenizer, chat) for _ in range(episodes)]
    solver = Solver(ENV, "held_out", kwargs={"reveal": "stepwise"})
    settings = NumericsSpec(turn_tokens=TURN, **spec)
    return await play(players, solver, chat, settings, tokens, grown.append), players, grown


async def test_an_episode_is_what_the_engine_sampled_with_the_solvers_answers_between(tokenizer):
    (episode,), (player,), grown = await played(tokenizer, 3000, horizon=3)
    assert episode.num_turns == len(player.contexts) > 15
    assert len(episode.ids) == len(episode.sampled) == len(episode.log_probs) == sum(grown) <= 3000
    assert episode.sampled[-1]
    # each turn's context is the episode up to it, and its tokens and log-probs stand behind it
    for number, context in enumerate(player.contexts, start=1):
        place = len(context)
        assert episode.ids[:place] == context
        assert episode.sampled[place]
        assert episode.log_probs[place] == -float(number)
    lengths = [TURN - 1 + number % 2 for number in range(1, episode.num_turns + 1)]
    assert sum(lengths) - 1 <= episode.num_sampled <= sum(lengths)
    assert all(value == 0.0 for value, own in zip(episode.log_probs, episode.sampled, strict=True) if not own)


async def test_the_answers_are_the_environments_and_the_next_task_follows_the_last(tokenizer):
    (episode,), _, _ = await played(tokenizer, 3000, horizon=3, seed=7)
    solver = Solver(ENV, "held_out", kwargs={"reveal": "stepwise"})
    text, place = tokenizer.decode(episode.ids), 0
    for seed in (7, 8, 9):
        for message in solver.solve(seed, 3).messages:
            if message["role"] in ("user", "tool"):
                place = text.index(message["content"].strip(), place)


async def test_episodes_differ_and_the_last_turn_keeps_within_the_context(tokenizer):
    found, players, _ = await played(tokenizer, 1500, episodes=2)
    assert found[0].ids != found[1].ids
    assert all(len(each.ids) <= 1500 for each in found)
    assert all(limit <= TURN for player in players for limit in player.limits)


async def test_a_prompt_that_fills_the_context_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"--tokens: got 20; allowed: more than the \d+ of the prompt alone; raise it"):
        await played(tokenizer, 20)
