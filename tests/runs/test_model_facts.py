"""The facts about a model that a run must suit, and what is refused because of them before Ray."""

import copy
import functools
import json

import pytest
from omegaconf import OmegaConf

from tests.episode.forms import FORMS
from trm_agent import train
from trm_agent.evaluate.checkpoints import initial
from trm_agent.models import nano as nano_model
from trm_agent.runs import model_facts, preflight_model
from trm_agent.runs.chat import run_chat_tokens
from trm_agent.runs.compose import compose_run
from trm_agent.runs.endings import disk
from trm_agent.runs.folder import RunFolder
from trm_agent.runs.model_facts import ModelFacts, load_facts
from trm_agent.runs.preflight_model import check_model

TRM = "actor_rollout_ref.actor.policy_loss.trm"
DUMP = "actor_rollout_ref.actor.policy_loss.dump"
LENGTH = "actor_rollout_ref.rollout.max_model_len"
VLLM = "actor_rollout_ref.rollout.engine_kwargs.vllm"
TOKENIZER = FORMS["qwen3_5"].tokenizer


@functools.cache
def nano():
    return compose_run(["experiment=math_nano"])


def composed(**fields):
    config = copy.deepcopy(nano())
    # hermes: what auto stands for; long enough for a tokenizer that was not trained on the task
    long = {"env.kwargs.protocol": "hermes", "data.max_prompt_length": 20_000, "data.max_response_length": 20_000}
    long |= {"env.limits.max_turn_tokens": 500}
    for field, value in {**long, LENGTH: None, **fields}.items():
        OmegaConf.update(config, field, value, force_add=True)
    return config


def facts(vocab_size=1000, max_positions=40_000, shape=None):
    return ModelFacts(TOKENIZER, run_chat_tokens(TOKENIZER, composed()), vocab_size, max_positions, shape or {})


@pytest.fixture
def folder(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    settings = {"model_type": "qwen3", "vocab_size": 777, "max_position_embeddings": 555}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path


def test_the_facts_are_those_of_the_folder(folder):
    found = load_facts(composed(), str(folder))
    assert (found.vocab_size, found.max_positions) == (777, 555)
    assert len(found.tokenizer) == len(TOKENIZER)
    assert found.chat.stop_token_ids


def test_a_folder_without_a_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"^actor_rollout_ref.model.path=.*: config.json cannot be loaded: .*; give"):
        load_facts(composed(), str(folder))


@pytest.mark.parametrize(
    ("fields", "model", "told"),
    [
        (
            {f"{TRM}.estimator": "topk", f"{TRM}.top_k": 1001},
            {},
            r"top_k: got 1001; allowed: at most the 1000 tokens of the model's vocabulary",
        ),
        (
            {f"{TRM}.estimator": "topk", f"{VLLM}.max-logprobs": 19},
            {},
            r"vllm.max-logprobs: got 19, but .*estimator='topk' asks for more .*allowed: at least 20, ",
        ),
        (
            {"actor_rollout_ref.model.override_config.attn_implementation": "sdpa"},
            {"shape": {"attn_logit_softcapping": 50.0}},
            r"attn_implementation: got 'sdpa', which leaves out the cap of 50.0 ",
        ),
        ({}, {"max_positions": 39_999}, r"^data.max_response_length: got 20000, .* allowed: 39999 tokens in all"),
        # set, and refused by verl when its server starts
        ({LENGTH: 40_000}, {"max_positions": 39_999}, r"^data.max_response_length: got 20000, .*rope_scaling"),
        ({LENGTH: 50_000}, {}, r"^actor_rollout_ref.rollout.max_model_len: got 50000; allowed: at most 40000, "),
        (
            # 20,000 tokens of 26,843 log-probs of four bytes fill 2 GiB, the largest value of a file
            {f"{DUMP}.distributions": True, f"{DUMP}.every": 10, f"{TRM}.estimator": "exact"},
            {"vocab_size": 26_844},
            r"distributions: got true; allowed: responses of at most 19999 tokens.*data.max_response_length=20000",
        ),
        ({"data.max_response_length": 50}, {}, r"^env.val.horizons: got 8, .* set: data.max_response_length=\d+;"),
        ({"data.max_prompt_length": 50}, {}, r"^env.val.horizons: got 8, .* set: data.max_prompt_length=\d+;"),
        (
            # all of A9: the calls of a chain of 16 too
            {"env.train.horizons": [16], "env.limits.max_turns": 15, "data.max_response_length": 50, LENGTH: 352},
            {},
            r"^env.train.horizons: got 16, at which the scripted solver itself cannot finish: it takes 17 turns, 16 "
            r"tool calls, .*; for horizon 16 set: env.limits.max_turns=17 env.limits.max_tool_calls=16 "
            r"data.max_response_length=\d+ actor_rollout_ref.rollout.max_model_len=\d+; or lower it$",
        ),
        (
            {"env.limits.max_tool_calls": 7, "actor_rollout_ref.model.path": "org/model"},
            {},
            r"for horizon 8 set: env.limits.max_tool_calls=8; or",
        ),
        (
            {"env.limits.max_turn_tokens": 5, "data.max_prompt_length": 9, "actor_rollout_ref.model.path": "org/model"},
            {},
            r"set: env.limits.max_turn_tokens=\d+ data.max_prompt_length=\d+; or",
        ),
    ],
)
def test_each_thing_that_does_not_suit_the_model_is_refused(fields, model, told):
    with pytest.raises(ValueError, match=told):
        check_model(composed(**fields), facts(**model))


def test_what_suits_the_model_passes_and_a_set_context_is_the_engines_where_verl_does_not_look():
    check_model(composed(), facts())
    check_model(composed(**{LENGTH: 40_000}), facts())
    check_model(composed(**{LENGTH: 50_000, "actor_rollout_ref.rollout.name": "sglang"}), facts(max_positions=1))
    exact = {f"{DUMP}.distributions": True, f"{DUMP}.every": 10, f"{TRM}.estimator": "exact"}
    check_model(composed(**exact), facts(vocab_size=26_843))
    check_model(composed(**{**exact, f"{DUMP}.every": 0}), facts(vocab_size=30_000))


@pytest.mark.slow
def test_a_run_that_does_not_suit_its_model_leaves_no_folder_and_trains_nothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nano_model, "ensure_nano_model", lambda spec: folder)
    monkeypatch.setattr(train, "train", lambda *arguments: pytest.fail("trains"))
    monkeypatch.setattr(train.os, "environ", dict(train.os.environ))
    run = tmp_path / "run"
    code = train.main(["experiment=math_nano", f"run.dir={run}"])
    assert code == train.BAD_INPUT
    assert (
        "error: env.val.horizons: got 8, at which the scripted solver itself cannot finish" in capsys.readouterr().err
    )
    assert not run.exists()


def opened(path, step):
    """A run's folder as the command finds it."""
    return RunFolder(path, "resumed" if step else "new", step)


@pytest.mark.parametrize(("step", "use_kl_loss"), [(0, False), (0, True), (3, True), (3, False)])
def test_the_reference_of_a_resumed_run_is_that_of_its_first_session(step, use_kl_loss, tmp_path, monkeypatch):
    monkeypatch.setattr(train.os, "environ", dict(train.os.environ))
    monkeypatch.setattr(model_facts, "load_facts", lambda config, path: facts())
    monkeypatch.setattr(preflight_model, "check_model", lambda *_: None)
    monkeypatch.setattr(initial, "suited_checkpoint", lambda field, source, facts: source)
    monkeypatch.setattr(initial, "initial_weights", lambda source: f"weights of {source}")
    fields = {"actor_rollout_ref.model.path": "org/model", "actor_rollout_ref.actor.use_kl_loss": use_kl_loss}
    config = composed(**fields, **{"run.init_from": "runs/a@1"})
    is_loaded = use_kl_loss or not step
    assert train._suited_model(config, opened(tmp_path, step)) == ("weights of runs/a@1" if is_loaded else "org/model")


@pytest.mark.parametrize("step", [0, 3])
def test_a_run_resumes_from_its_own_checkpoint_when_the_one_that_it_began_at_is_gone(
    step, tmp_path, monkeypatch, capsys
):
    config = copy.deepcopy(nano())
    config.trainer.resume_mode, config.trainer.resume_from_path = "resume_path", str(tmp_path / "global_step_9")
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(train, "composed", lambda *_: config)
    for name in ("announce", "check_own"):
        monkeypatch.setattr(train, name, lambda *_: "")
    monkeypatch.setattr(disk, "check_room", lambda *_: "")
    monkeypatch.setattr(train, "_open_folder", lambda *_: opened(run, step))
    monkeypatch.setattr(train, "_suited_model", lambda *_: "model")
    monkeypatch.setattr(train, "train", lambda *_: 0)
    assert train.main([]) == (0 if step else train.BAD_INPUT)
    assert step or "which is not a folder here" in capsys.readouterr().err
    assert run.exists() == bool(step)
