"""What a training run makes of its model's chat template, and what is refused before Ray."""

import copy
import functools

import pytest
from omegaconf import OmegaConf

from tests.episode.forms import FORMS
from trm_agent.runs import preflight
from trm_agent.runs.chat import chat_settings, load_tokenizer, resolve_protocol, run_chat_tokens
from trm_agent.runs.compose import CONF, choices, compose_run, plain
from trm_agent.runs.preflight_model import solver_measure
from trm_agent.runs.stored_config import config_differences


@functools.cache
def nano():
    return compose_run(["experiment=math_nano"])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of models, by form."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FORMS}
    for name, folder in folders.items():
        FORMS[name].tokenizer.save_pretrained(folder)
    return folders


def composed(path="nano", **fields):
    config = copy.deepcopy(nano())
    for field, value in {"actor_rollout_ref.model.path": str(path), **fields}.items():
        OmegaConf.update(config, field.replace("__", "."), value, force_add=True)
    return config


@pytest.mark.parametrize("name", [each for each in choices("env") if each != "custom"])
def test_the_bundled_environments_take_the_models_own_calls(name):
    assert OmegaConf.load(CONF / "env" / f"{name}.yaml").env.kwargs.protocol == "auto"


def test_auto_is_hermes_for_the_nano_model():
    config = composed()
    resolve_protocol(config)
    # of the nano model, also where its warm start plays
    assert (config.env.kwargs.protocol, config.nano.env_kwargs.protocol) == ("hermes", "hermes")


def test_what_loads_a_tokenizer_is_called_as_the_caller_says_and_for_a_model_of_ones_own_alone():
    config, calls = composed("org/model"), []

    def elsewhere(find, *given):
        calls.append((find.__module__, find.__name__, given))
        return "tags"

    resolve_protocol(config, elsewhere)
    assert config.env.kwargs.protocol == "tags"
    assert calls == [("trm_agent.runs.chat", "_own_protocol", ("org/model", {}, True))]
    resolve_protocol(composed(), elsewhere)
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.protocol])
def test_auto_becomes_a_name_that_the_runs_configuration_records(models, name):
    config = composed(models[name])
    resolve_protocol(config)
    assert plain(config)["env"]["kwargs"]["protocol"] == FORMS[name].protocol
    assert plain(config)["data"]["env"]["kwargs"]["protocol"] == FORMS[name].protocol
    tokens = run_chat_tokens(load_tokenizer(config.actor_rollout_ref.model.path), config)
    assert tokens.turn_prefix == ("<think>\n" if name in ("qwen3_5", "nemotron_3") else "")


@pytest.mark.parametrize("name", ["llama_3_1", "mistral"])
def test_a_model_whose_calls_no_protocol_reads_is_refused_with_field_and_remedy(models, name):
    with pytest.raises(ValueError, match=r"actor_rollout_ref.model.path=.*tokenizer.chat_template: writes a tool call"):
        resolve_protocol(composed(models[name]))
    config = composed(models[name], env__kwargs__protocol="tags")
    resolve_protocol(config)
    assert not chat_settings(config).with_tools
    assert run_chat_tokens(load_tokenizer(config.actor_rollout_ref.model.path), config).stop_token_ids


def test_a_template_that_cannot_be_used_as_asked_names_the_model(models):
    config = composed(models["mistral"], env__kwargs__protocol="hermes")
    with pytest.raises(ValueError, match=r"actor_rollout_ref.model.path=.*not append-only for 'user'.*protocol=tags"):
        run_chat_tokens(FORMS["mistral"].tokenizer, config)


def test_verls_template_variables_are_honoured_and_a_wrong_name_is_refused(models):
    field = "data__apply_chat_template_kwargs"
    config = composed(models["qwen3_5"], **{field: {"enable_thinking": False}})
    assert run_chat_tokens(FORMS["qwen3_5"].tokenizer, config).turn_prefix == ""
    with pytest.raises(ValueError, match=r"data.apply_chat_template_kwargs.thinking: .*did you mean 'enable_thinking'"):
        run_chat_tokens(FORMS["qwen3_5"].tokenizer, composed(**{field: {"thinking": False}}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("env__chat__roles", [], r"env.chat.roles: got \[\]; allowed"),
        ("env__chat__role", ["user"], "env.chat.role: no such field; did you mean 'roles'"),
        ("data__apply_chat_template_kwargs", {"tools": []}, "data.apply_chat_template_kwargs.tools: got"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_preflight(field, value, told):
    with pytest.raises(ValueError, match=told):
        preflight.check(composed(**{field: value}))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"actor_rollout_ref.model.path=.*: the tokenizer cannot be loaded"):
        resolve_protocol(composed(tmp_path))


def test_a_run_stored_before_there_was_a_choice_is_one_of_hermes():
    new = plain(composed())
    old = copy.deepcopy(new)
    for section in (old["env"], old["data"]["env"]):
        del section["chat"]
        del section["kwargs"]["protocol"]
    del old["nano"]["env_kwargs"]["protocol"]
    resolved = composed()
    resolve_protocol(resolved)
    assert not config_differences(old, plain(resolved))
    other = composed(env__kwargs__protocol="tags")
    assert config_differences(old, plain(other))


def test_the_solver_that_measures_budgets_closes_the_thought_that_the_prompt_opens(models):
    sizes = []
    for name in ("qwen3_5", "glm_4_5"):
        config = composed(models[name])
        resolve_protocol(config)
        tokenizer = load_tokenizer(config.actor_rollout_ref.model.path)
        measure = solver_measure(config, tokenizer, run_chat_tokens(tokenizer, config))
        sizes.append(measure({"horizon": 2, "split": "train"}))
    assert all(size.prompt > 0 and size.response > 0 for size in sizes)


def test_a_models_tokenizer_is_loaded_once_for_its_protocol_and_its_facts(models, monkeypatch):
    from transformers import AutoTokenizer

    folder, loaded = str(next(models[name] for name, form in FORMS.items() if form.protocol)), []
    real = AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *args, **kwargs: loaded.append(args) or real(*args, **kwargs)
    )
    load_tokenizer.cache_clear()
    resolve_protocol(composed(folder))
    assert load_tokenizer(folder) is load_tokenizer(folder)
    assert loaded == [(folder,)]
