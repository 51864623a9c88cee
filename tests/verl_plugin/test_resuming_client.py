"""A turn that updates cut is one turn: its tokens, log-probs, distributions, and the version of each token."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("verl")

from verl.workers.rollout.replica import TokenOutput

from tests.verl_plugin.test_distributions import VOCAB, episode, recorded
from trm_agent.episode import Pauses
from trm_agent.runs.compose import compose_run
from trm_agent.verl_plugin.rollout.distributions import (
    ALL,
    FULL_LOG_PROBS,
    RECORDED,
    TOP_IDS,
    TOP_LOG_PROBS,
    Recorded,
    distribution_fields,
)
from trm_agent.verl_plugin.rollout.playing_server import local_client
from trm_agent.verl_plugin.rollout.resuming_client import ResumingClient
from trm_agent.verl_plugin.rollout.versions import PARTIAL, ROLLOUT_VERSIONS, VERSION, VERSIONS, version_field

NANO = compose_run(["experiment=math_nano"])


def part(tokens, version, stop="aborted", **extra):
    """An answer of the server; one that was cut before its first token has no version of ours."""
    fields = {"global_steps": version, **({VERSION: version} if tokens else {}), **extra}
    log_probs = [-float(token) for token in tokens]
    return TokenOutput(token_ids=tokens, log_probs=log_probs or None, stop_reason=stop, extra_fields=fields)


class Server:
    """A server that answers with given parts, and notes what it was asked."""

    def __init__(self, *parts):
        self.parts, self.asked, self.now = list(parts), [], 0.0

    async def generate(self, prompt_ids, sampling_params, **_):
        self.asked.append((prompt_ids, sampling_params))
        return self.parts.pop(0)

    async def opened(self):
        # an update takes five seconds
        self.now += 5.0


def ask(server, max_tokens=9, pauses=None):
    client = local_client(ResumingClient(NANO), "here", server.generate, server.opened)
    params = {"max_tokens": max_tokens, "logprobs": True}
    given = {} if pauses is None else {"pauses": pauses}
    output = asyncio.run(client.generate("request", prompt_ids=[1, 2], sampling_params=params, **given))
    assert params == {"max_tokens": max_tokens, "logprobs": True}
    return output


def test_a_cut_turn_goes_on_and_each_token_has_its_version():
    server = Server(part([7, 8], 3), part([], 3), part([9], 4), part([5, 6], 6, "completed"))
    output = ask(server)
    asked = [(prompt, params["max_tokens"], params["logprobs"], params[PARTIAL]) for prompt, params in server.asked]
    assert asked == [
        ([1, 2], 9, True, True),
        ([1, 2, 7, 8], 7, True, True),
        ([1, 2, 7, 8], 7, True, True),
        ([1, 2, 7, 8, 9], 6, True, True),
    ]
    assert (output.token_ids, output.log_probs) == ([7, 8, 9, 5, 6], [-7.0, -8.0, -9.0, -5.0, -6.0])
    versions = output.extra_fields[VERSIONS]
    assert (versions.dtype, versions.tolist()) == (np.int32, [3, 3, 4, 6, 6])
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (3, 6)
    assert output.stop_reason == "completed"


def test_a_turn_that_is_full_when_it_is_cut_is_over():
    server = Server(part([7, 8], 0), part([9], 1))
    output = ask(server, max_tokens=3)
    assert (output.token_ids, output.stop_reason, server.parts) == ([7, 8, 9], "completed", [])


def test_the_time_of_an_update_is_a_pause():
    server = Server(part([7], 0), part([], 0), part([8], 1, "completed"))
    pauses = Pauses(lambda: server.now)
    ask(server, pauses=pauses)
    assert pauses.timings() == {"paused": 10.0}


@pytest.mark.parametrize("num", [3, ALL])
def test_the_distributions_of_the_parts_lie_on_their_tokens(num):
    width = VOCAB if num == ALL else num
    whole, last = recorded(2, width, 0), recorded(1, width, 1)
    cut = [Recorded(whole.ids[[row]], whole.log_probs[[row]]) for row in (0, 1)]
    server = Server(part([3], 0, **{RECORDED: cut[0]}), part([4], 1, "completed", **{RECORDED: cut[1]}))
    turns = [{RECORDED: ask(server).extra_fields[RECORDED]}, {RECORDED: last}]
    found = distribution_fields(episode(turns), num)
    expected = distribution_fields(episode([{RECORDED: whole}, {RECORDED: last}]), num)
    assert set(found) == ({FULL_LOG_PROBS} if num == ALL else {TOP_IDS, TOP_LOG_PROBS})
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


def test_a_part_without_its_distributions_is_an_error_that_says_so():
    server = Server(part([3], 0, **{RECORDED: recorded(1, 3, 0)}), part([4], 1, "completed"))
    told = episode([{**ask(server).extra_fields}, {RECORDED: recorded(1, 3, 1)}])
    with pytest.raises(ValueError, match="recorded no distributions for 2 tokens"):
        distribution_fields(told, 3)


def versions_of(*turns):
    return version_field(episode([{VERSIONS: np.array(turn, dtype=np.int32)} for turn in turns]))


def test_the_versions_lie_on_the_sampled_tokens():
    # two tokens, two of an observation, one token: see `episode`
    found = versions_of([3, 4], [6])[ROLLOUT_VERSIONS]
    assert (found.dtype, found.tolist()) == (np.int32, [3, 4, -1, -1, 6])
    assert version_field(episode([{}, {}])) == {}


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (([3], [6]), "recorded 1 versions for 2 tokens"),
        (([3, 4], []), "recorded 0 versions for 1 tokens"),
        (([4, 3], [6]), "go back"),
        (([3, 4], [3]), "go back, after version 4"),
    ],
)
def test_versions_that_cannot_be_are_an_error(turns, words):
    with pytest.raises(ValueError, match=words):
        versions_of(*turns)
