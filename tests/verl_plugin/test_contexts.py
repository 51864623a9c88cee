"""A turn brings its server what is new alone, whatever the server has forgotten and whichever turn is tried again."""

import asyncio
import copy
import pickle
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from verl.workers.rollout.replica import TokenOutput

from trm_agent.episode import Pauses
from trm_agent.runs.compose import compose_run
from trm_agent.verl_plugin.rollout.agent_loop import ServerGenerator
from trm_agent.verl_plugin.rollout.contexts import CONTEXT, IDLE_S, UNKNOWN_CONTEXT, KeptContexts, SentContext
from trm_agent.verl_plugin.rollout.play_settings import play_settings
from trm_agent.verl_plugin.rollout.playing_server import local_client
from trm_agent.verl_plugin.rollout.resuming_client import ResumingClient
from trm_agent.verl_plugin.rollout.versions import VERSION

NANO = compose_run(["experiment=math_nano"])


class Server:
    """Answers each turn with one token, from contexts that it keeps."""

    def __init__(self, most=4):
        self.contexts, self.seen, self.num_tokens, self.num_bytes = KeptContexts(most), [], 0, 0
        self.cut = []

    async def generate(self, prompt_ids, sampling_params, **_):
        self.num_tokens += len(prompt_ids)
        self.num_bytes += len(pickle.dumps((prompt_ids, sampling_params)))
        kept = self.contexts.grown(*sampling_params[CONTEXT], prompt_ids)
        if kept is None:
            return TokenOutput(token_ids=[], stop_reason=UNKNOWN_CONTEXT, extra_fields={"global_steps": 0})
        self.seen.append(list(kept))
        token = 100 + len(self.seen)
        stop = "aborted" if len(self.seen) in self.cut else "completed"
        fields = {"global_steps": 0, VERSION: 0}
        return TokenOutput(token_ids=[token], log_probs=[-0.5], stop_reason=stop, extra_fields=fields)

    async def opened(self):
        pass


def generator_of(server, client=None):
    manager = client or SimpleNamespace(generate=server.generate)
    return ServerGenerator(manager, {}, [1], keeps_contexts=True)


def turns(generator, number, context, answer=(7, 8)):
    """Play turns on one list that grows, each with an answer behind it; return the contexts as they were."""
    told = []
    for _ in range(number):
        told.append(list(context))
        context += asyncio.run(generator.generate(context, 9)).token_ids
        context += answer
    return told


def test_the_server_has_the_whole_context_and_is_sent_each_token_once():
    server, context = Server(), [1, 2, 3]
    assert turns(generator_of(server), 5, context) == server.seen
    # all but the last turn and its answer
    assert server.num_tokens == len(context) - 3


@pytest.mark.parametrize("keeps", [True, False])
def test_twice_the_turns_are_twice_the_bytes(keeps):
    # planted: without contexts that are kept it is four times as much, less what every message has
    sent = []
    for number in (100, 200):
        server = Server()
        generator = generator_of(server)
        if not keeps:
            generator.sent = SimpleNamespace(
                send=lambda context: (list(context), {CONTEXT: ("a", 0)}), forget=lambda: None
            )
        turns(generator, number, [1] * 10, answer=range(20))
        sent.append(server.num_bytes)
    assert (sent[1] / sent[0] < 2.05) == keeps
    assert (sent[1] / sent[0] > 3) != keeps


def test_a_context_that_the_server_has_forgotten_is_sent_again():
    server, contexts = Server(most=1), ([1], [2, 2])
    generators = [generator_of(server) for _ in contexts]
    told = []
    # two episodes in turn, of which the server keeps one
    for _ in range(3):
        for generator, context in zip(generators, contexts, strict=True):
            told += turns(generator, 1, context)
    assert told == server.seen


def test_a_turn_that_is_tried_again_stands_where_it_stood():
    server = Server()
    generator = generator_of(server)
    context = [1, 2, 3]
    turns(generator, 2, context)
    # the first try came to the server, and was late
    asyncio.run(generator.generate(context, 9))
    asyncio.run(generator.generate(context, 9))
    # another one was lost on the way
    context += [5]
    generator.sent.send(context)
    asyncio.run(generator.generate(context, 9))
    assert server.seen[-3:] == [context[:-1], context[:-1], context]


def test_a_turn_that_an_update_cut_goes_on_behind_what_is_kept():
    server = Server()
    server.cut = [2, 3]
    client = local_client(ResumingClient(NANO), "here", server.generate, server.opened)
    generator = generator_of(server, client)
    assert isinstance(generator.further["pauses"], Pauses)
    context = [1, 2, 3]
    turns(generator, 3, context)
    # the second turn has three parts
    assert server.seen == [
        [1, 2, 3],
        [1, 2, 3, 101, 7, 8],
        [1, 2, 3, 101, 7, 8, 102],
        [1, 2, 3, 101, 7, 8, 102, 103],
        [1, 2, 3, 101, 7, 8, 102, 103, 104, 7, 8],
    ]


def test_a_server_that_keeps_nothing_gets_the_whole_context():
    asked = []

    async def generate(request_id, prompt_ids, sampling_params):
        asked.append((list(prompt_ids), CONTEXT in sampling_params))
        return SimpleNamespace(token_ids=[1], log_probs=[-0.5], extra_fields={})

    generator = ServerGenerator(SimpleNamespace(generate=generate), {}, [1])
    context = [1, 2, 3]
    told = turns(generator, 2, context)
    assert asked == [(each, False) for each in told]


def test_what_is_used_least_recently_goes_first_and_what_is_idle_goes_too():
    time = [0.0]
    kept = KeptContexts(2, now=lambda: time[0])
    kept.grown("a", 0, [1])
    kept.grown("b", 0, [2])
    kept.grown("a", 1, [3])
    kept.grown("c", 0, [4])
    assert kept.grown("b", 1, [5]) is None
    # which takes no other's place
    assert kept.grown("a", 2, []) == [1, 3]
    time[0] = IDLE_S
    assert kept.grown("c", 1, []) == [4]
    time[0] = 2 * IDLE_S + 1
    assert kept.grown("d", 0, [6]) == [6]
    assert len(kept) == 1


def test_tokens_that_are_not_there_are_not_made_up():
    kept = KeptContexts(2)
    kept.grown("a", 0, [1, 2])
    assert kept.grown("a", 3, [4]) is None
    assert kept.grown("b", 1, [4]) is None
    assert kept.grown("a", 0, [1, 2, 3]) == [1, 2, 3]


def test_a_context_begun_anew_leaves_the_old_list_as_it_was():
    kept = KeptContexts(2)
    old = kept.grown("a", 0, [1, 2])
    kept.grown("a", 0, [3])
    assert old == [1, 2]


def test_sent_says_what_was_sent_before():
    sent, context = SentContext("a"), [1, 2]
    assert sent.send(context) == ([1, 2], {CONTEXT: ("a", 0)})
    context += [3]
    assert sent.send(context) == ([3], {CONTEXT: ("a", 2)})
    sent.forget()
    assert sent.send(context) == ([1, 2, 3], {CONTEXT: ("a", 0)})


ROLLOUT, LIBRARY = "actor_rollout_ref.rollout", "actor_rollout_ref.model.external_lib"


@pytest.mark.parametrize(
    ("field", "value", "keeps"),
    [
        ("hardware.agent_loops", "beside_server", True),
        ("hardware.agent_loops", "workers", True),
        (f"{ROLLOUT}.name", "sglang", False),
        (f"{ROLLOUT}.disaggregation.enabled", True, False),
        (f"{ROLLOUT}.router_config_path", "router.yaml", False),
        (LIBRARY, None, False),
        (LIBRARY, ["mine", "trm_agent.verl_plugin.extension"], True),
    ],
)
def test_only_our_own_servers_are_sent_what_is_new_alone(field, value, keeps):
    config = copy.deepcopy(NANO)
    OmegaConf.update(config, field, value)
    assert play_settings(config).keeps_contexts == keeps
