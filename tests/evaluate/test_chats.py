"""Chat settings of an evaluation's checkpoints: from their runs or the user, by their own templates, recorded."""

import functools
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.episode.forms import FORMS
from tests.evaluate.evaluation_fakes import environment, fake_checkpoint, plan
from trm_agent.episode import ChatSettings, Generation
from trm_agent.evaluate import checks, request
from trm_agent.evaluate.chats import Chat, chat_of, template_kwargs_of, with_protocols
from trm_agent.evaluate.checks import check_budgets, checked, measure
from trm_agent.evaluate.engines.endpoint import EndpointEngine
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.plan import identity
from trm_agent.evaluate.prepare import prepared
from trm_agent.evaluate.request import Request, build_plan
from trm_agent.evaluate.runner import play_missing
from trm_agent.evaluate.store import open_store
from trm_agent.runs.compose import compose_run, plain
from trm_agent.runs.stored_config import config_differences

CLOSED = {"enable_thinking": False}
QWEN, NEMOTRON, GLM, LLAMA = (FORMS[name].tokenizer for name in ("qwen3_5", "nemotron_3", "glm_4_5", "llama_3_1"))


@functools.cache
def run_config():
    config = plain(compose_run(["experiment=math_nano"]))
    config["data"]["apply_chat_template_kwargs"] = CLOSED
    # as the run recorded what it found
    config["env"]["kwargs"]["protocol"] = "function_tags"
    return config


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Checkpoints `qwen`, `glm` and so on, whose tokenizers are those of their forms, and a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(run_config()))
    tokenizers = {"qwen": QWEN, "glm": GLM, "llama": LLAMA, f"start:{folder}": QWEN}
    monkeypatch.setattr(
        request,
        "parse_checkpoint",
        lambda text, nano=None, tokenizer=None: replace(
            fake_checkpoint(text.partition(":")[0]), source=text, tokenizer=Path(text)
        ),
    )
    # each composes the whole configuration
    roomy = {"max_prompt_tokens": 4096, "max_response_tokens": 8192, "max_turn_tokens": 512}
    monkeypatch.setattr(request, "with_large_budgets", lambda env: replace(env, limits={**env.limits, **roomy}))
    monkeypatch.setattr(checks, "fingerprint", lambda checkpoint: "hash")
    monkeypatch.setattr(checks, "served_context", lambda url, model: None)
    monkeypatch.setattr(checks, "load_tokenizer", lambda folder: tokenizers[str(folder)])
    return folder


def ready(asked):
    return prepared(checked(build_plan(asked)))


@pytest.mark.slow
def test_each_checkpoint_gets_the_protocol_of_its_own_template(fakes):
    found = ready(Request(("qwen", "glm"), envs=("chain_math",)))
    assert [found.chat(label).protocol for label in ("qwen", "glm")] == ["function_tags", "arg_tags"]
    recorded = found.config()
    assert [each["chat"]["protocol"] for each in recorded["checkpoints"]] == ["function_tags", "arg_tags"]
    assert recorded["environments"][0]["kwargs"]["protocol"] == "auto"
    assert found.chat("glm").kwargs({"protocol": "auto"}) == {"protocol": "arg_tags"}


def test_a_checkpoint_of_a_run_is_talked_to_as_in_the_run_and_others_as_the_user_says(fakes):
    found = ready(Request((f"start:{fakes}", "qwen"), envs=("chain_math",)))
    assert found.chat("start").settings.template_kwargs == CLOSED
    assert found.chat("qwen").settings.template_kwargs == {}
    found = ready(Request(("qwen",), envs=("chain_math",), template_kwargs=CLOSED, roles=("user",)))
    assert found.chat("qwen").config() == {
        "protocol": "function_tags",
        "roles": ["user"],
        "template_kwargs": CLOSED,
        "fallback": "describe",
    }


def test_a_checkpoint_whose_calls_no_protocol_reads_is_refused_unless_one_is_set(fakes):
    with pytest.raises(ValueError, match=r"llama: tokenizer.chat_template: writes a tool call as .*--set protocol="):
        ready(Request(("llama",), envs=("chain_math",)))
    found = ready(Request(("llama",), envs=("chain_math",), settings=("protocol=tags",)))
    assert not found.chat("llama").settings.with_tools


def test_a_variable_that_no_template_has_is_refused(fakes):
    with pytest.raises(ValueError, match=r"--template-kwargs: .*enable_thinkin: got false, but"):
        ready(Request(("qwen",), envs=("chain_math",), template_kwargs={"enable_thinkin": False}))


def test_roles_and_variables_and_the_protocol_belong_to_an_evaluations_identity():
    def settings(**changes):
        chats = tuple(replace(Chat(), **changes) for _ in range(2))
        return identity(plan(chats=chats).config())

    assert settings() == identity(plan().config())
    for changes in (
        {"protocol": "arg_tags"},
        {"settings": ChatSettings(roles=("user",))},
        {"settings": ChatSettings(template_kwargs=CLOSED)},
    ):
        assert config_differences(settings(), settings(**changes))


def test_an_evaluation_from_before_it_was_recorded_goes_on_with_the_defaults():
    old = plan().config()
    for entry, lacks in zip(old["checkpoints"], ("all", "one"), strict=False):
        if lacks == "all":
            del entry["chat"]
        else:
            del entry["chat"]["fallback"]
    auto = plan(environments=(environment(kwargs={"reveal": "upfront", "protocol": "auto"}),))
    assert not config_differences(identity(old), identity(auto.config()))


def test_what_the_user_writes_is_read_as_json_or_text():
    assert template_kwargs_of([]) is None
    assert template_kwargs_of(["enable_thinking=false", "effort=low"]) == {"enable_thinking": False, "effort": "low"}
    with pytest.raises(ValueError, match=r"--template-kwargs: got 'x'; allowed: NAME=VALUE"):
        template_kwargs_of(["x"])
    with pytest.raises(ValueError, match=r"--roles, --template-kwargs: env.chat.roles: got"):
        chat_of(None, ["assistant"], None)


def test_an_open_thought_costs_tokens_in_what_is_measured():
    env = environment(horizons=(2,), kwargs={"protocol": "auto"})
    (opened, closed) = (
        measure(env, 2, QWEN, Chat(ChatSettings(template_kwargs=kwargs), "function_tags")) for kwargs in ({}, CLOSED)
    )
    assert (opened.turns, closed.turns) == (3, 3)
    assert opened.response != closed.response
    with pytest.raises(ValueError, match="max_turns"):
        check_budgets(replace(env, fixed_limits={"max_turns": 2}), [QWEN], [Chat(protocol="function_tags")])


def test_an_engine_over_http_uses_the_settings():
    engine = EndpointEngine("http://x", "m", QWEN, Sampling(), chat=ChatSettings(template_kwargs=CLOSED))
    assert engine.chat.turn_prefix == ""
    assert EndpointEngine("http://x", "m", QWEN, Sampling()).chat.turn_prefix == "<think>\n"


class Answering:
    """Closes its thought and answers at once."""

    tokenizer, at_once = NEMOTRON, None

    def generator(self, seed):
        return self

    async def generate(self, prompt_ids, max_tokens):
        end = NEMOTRON.convert_tokens_to_ids("<|im_end|>")
        ids = [*NEMOTRON.encode("well\n</think>\n\n\\boxed{5}", add_special_tokens=False), end]
        return Generation(ids, [-1.0] * len(ids), True)


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "ending"), [({}, "terminated"), (CLOSED, "terminated")])
async def test_what_is_played_has_the_resolved_protocol(tmp_path, variables, ending):
    env = environment(num_tasks=3, kwargs={"reveal": "upfront", "protocol": "auto"})
    chats = with_protocols([Chat(ChatSettings(template_kwargs=variables))], ["one"], [NEMOTRON], [env.kwargs])
    store = open_store(plan(("one",), environments=(env,), chats=chats, samples=1), tmp_path / "out", tmp_path, "x")

    @asynccontextmanager
    async def open_engine(checkpoint):
        yield Answering()

    await play_missing(store, open_engine, concurrency=2, say=lambda line: None)
    assert [row["stop_reason"] for row in store.asked()] == [ending] * 3
    store.close()
