"""Our server around a scripted engine: versions, updates in the middle of a turn, and turns that are cut."""

import asyncio
import importlib.metadata
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from trm_agent.verl_plugin.cpu.patches import vllm_cpu_version
from trm_agent.verl_plugin.rollout.contexts import CONTEXT, UNKNOWN_CONTEXT
from trm_agent.verl_plugin.rollout.distributions import RECORD, RECORDED
from trm_agent.verl_plugin.rollout.versions import PARTIAL, VERSION

# the module imports vLLM
pytestmark = pytest.mark.slow
ASKED = {"max_tokens": 8, "logprobs": True}


def output(token_ids, log_probs, finish=None):
    completion = SimpleNamespace(token_ids=token_ids, logprobs=log_probs, finish_reason=finish)
    return SimpleNamespace(outputs=[completion], finished=finish is not None)


def of(*tokens):
    """The log-probs of sampled tokens as vLLM has them."""
    return [{token: SimpleNamespace(logprob=-float(token))} for token in tokens]


@pytest.fixture
def made(monkeypatch):
    """A server with version 4 of the weights, whose engine yields `outputs`, and calls functions among them."""
    monkeypatch.setattr(importlib.metadata, "version", vllm_cpu_version(importlib.metadata.version))
    from trm_agent.verl_plugin.rollout import recording_server
    from trm_agent.verl_plugin.rollout.recording_server import RecordingServer

    server = object.__new__(RecordingServer)
    values = {"full_determinism": False, "enable_rollout_routing_replay": False, "mtp": None, "max_model_len": 64}
    server.config = SimpleNamespace(get=lambda _, default=None: default, **values)
    server.model_config = SimpleNamespace(processor=None, lora_rank=0, lora={})
    server._disaggregation_role, server.replica_rank, server.global_steps = "null", 0, 4
    server._submission_paused, server._rejecting, server._admitting = False, False, 0
    server._resume_event = asyncio.Event()
    server.outputs, server.prompts, server.params = [], [], []

    async def generate(*, prompt, sampling_params, **_):
        server.prompts.append(prompt["prompt_token_ids"])
        server.params.append(sampling_params)
        server.max_tokens = sampling_params.max_tokens
        for each in server.outputs:
            if callable(each):
                each()
            else:
                yield each

    async def start(self, _):
        self.engine = SimpleNamespace(generate=generate, model_config=SimpleNamespace(get_vocab_size=lambda: 9))

    monkeypatch.setattr(recording_server.vLLMHttpServer, "run_server", start)
    asyncio.run(server.run_server(None))
    return server


def ask(server, **params):
    return asyncio.run(server.generate([1, 2], ASKED | params, "request"))


def send(server, new, start, **params):
    return asyncio.run(server.generate(new, ASKED | {CONTEXT: ("episode", start)} | params, "request"))


def test_the_engine_gets_the_kept_context_of_which_verl_sees_the_last_token(made, monkeypatch):
    from verl.workers.rollout.vllm_rollout import vllm_async_server

    looked_at = []
    normalize = vllm_async_server.normalize_token_ids
    monkeypatch.setattr(
        vllm_async_server, "normalize_token_ids", lambda ids: looked_at.append(list(ids)) or normalize(ids)
    )
    made.outputs = [output([7], of(7)), output([8], of(8), "stop")]
    found = send(made, [1, 2, 3], 0)
    assert (found.token_ids, found.log_probs, made.prompts) == ([7, 8], [-7.0, -8.0], [[1, 2, 3]])
    made.outputs = [output([9], of(9), "stop")]
    assert send(made, [7, 8, 4], 3).token_ids == [9]
    assert made.prompts[-1] == [1, 2, 3, 7, 8, 4]
    assert looked_at == [[3], [4]]
    # 64 tokens of context, six of which are there
    assert send(made, [], 6, max_tokens=60).token_ids == [9]
    assert made.max_tokens == 58
    # a model with a processor takes tokens of images out of a prompt: verl sees all
    made.model_config.processor = object()
    monkeypatch.setattr(vllm_async_server, "qwen2_5_vl_dedup_image_tokens", lambda ids, _: ids)
    send(made, [5], 6)
    assert looked_at[-1] == made.prompts[-1] == [1, 2, 3, 7, 8, 4, 5]


def test_a_context_that_is_not_kept_is_asked_for_and_a_full_one_refused(made):
    found = send(made, [4], 3)
    assert (found.token_ids, found.stop_reason, made.prompts) == ([], UNKNOWN_CONTEXT, [])
    with pytest.raises(ValueError, match=r"a prompt of 64 tokens leaves no room .*max_model_len"):
        send(made, [1] * 64, 0)


def test_a_turn_that_may_be_cut_has_the_version_that_sampled_it(made):
    made.outputs = [output([7], of(7)), output([8], of(8), "stop")]
    found = ask(made, **{PARTIAL: True})
    assert (found.token_ids, found.log_probs, found.extra_fields[VERSION]) == ([7, 8], [-7.0, -8.0], 4)
    made.outputs = [output([7], of(7), "stop")]
    assert VERSION not in ask(made).extra_fields


def test_weights_that_change_under_a_turn_are_an_error(made):
    made.outputs = [output([7], of(7)), lambda: setattr(made, "global_steps", 5), output([8], of(8), "stop")]
    with pytest.raises(RuntimeError, match="from version 4 to 5 while a turn was sampled"):
        ask(made, **{PARTIAL: True})


@pytest.mark.parametrize(
    ("outputs", "tokens"),
    [
        # vLLM repeats all log-probs where a delta has no token
        ([output([7], of(7)), output([], of(7), "abort")], [7]),
        ([output([7], of(7)), output([8, 9], of(8, 9), "abort")], [7, 8, 9]),
        ([output([], None, "abort")], []),
        ([SimpleNamespace(outputs=[], finished=True)], []),
    ],
    ids=["after the first token", "later", "before the first", "without outputs"],
)
def test_a_cut_turn_hands_on_what_was_sampled(made, outputs, tokens):
    made.outputs = outputs
    found = ask(made, **{PARTIAL: True})
    assert (found.token_ids, found.stop_reason) == (tokens, "aborted")
    assert (found.log_probs or []) == [-float(token) for token in tokens]
    assert found.extra_fields.get(VERSION) == (4 if tokens else None)


def test_a_turn_that_is_cut_before_its_first_token_has_no_distributions(made):
    from vllm.logprobs import FlatLogprobs

    made.outputs = [output([], FlatLogprobs(), "abort")]
    found = ask(made, **{PARTIAL: True, RECORD: 3})
    assert (found.token_ids, found.log_probs, found.extra_fields[RECORDED]) == ([], [], None)


@pytest.mark.parametrize(("asked", "got"), [(3, 3), (40, 9), (-1, -1)])
def test_no_more_log_probs_are_asked_for_than_the_vocabulary_has(made, asked, got):
    made.outputs = [output([], [], "stop")]
    ask(made, **{RECORD: asked})
    assert made.params[0].logprobs == got


async def test_while_an_update_is_under_way_a_turn_is_handed_back_and_its_caller_waits_at_the_door(made):
    made._submission_paused, made._resume_event = True, asyncio.Event()
    found = await made.generate([1, 2], ASKED | {PARTIAL: True}, "request")
    assert (found.token_ids, found.stop_reason, made.prompts) == ([], "aborted", [])
    waiting = asyncio.create_task(made.opened())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await made.open_submission_gate()
    await asyncio.wait_for(waiting, 5)
    made.outputs = [output([7], of(7), "stop")]
    assert (await made.generate([1, 2], ASKED | {PARTIAL: True}, "request")).token_ids == [7]
