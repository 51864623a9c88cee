"""The structured configs of our groups: what they refuse, and that conf/ and docs/configuration.md agree with them."""

import copy
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.structure_script import load
from trm_agent.episode.limits import Limits
from trm_agent.runs import schema
from trm_agent.runs.compose import compose_run
from trm_agent.runs.groups import GROUPS, OF_VERL, SAMPLER_PATH
from trm_agent.runs.schema import all_settings, check_groups, check_name, check_removal
from trm_agent.runs.stored_config import flatten
from trm_agent.train import main
from trm_agent.trust_region.settings import DUMP_PATH, FIELD_PATH
from trm_fields import Text, setting, settings_of

ROOT = Path(__file__).parents[2]
CONF = ROOT / "trm_agent/conf"
PAGE = ROOT / "docs/configuration.md"
printer = load(ROOT / "scripts" / "configuration_page.py")
# the first file of each group, which shows every field with its default
BASES = {
    "run": "train",
    "sandbox": "train",
    "env": "env/custom",
    "hardware": "hardware/gpu",
    FIELD_PATH: "policy_loss/trm",
    DUMP_PATH: "policy_loss/trm",
    SAMPLER_PATH: "train",
}


@functools.cache
def shown(file: str, path: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.select(OmegaConf.load(CONF / f"{file}.yaml"), path), resolve=False)


def changed(field: str, value: Any) -> DictConfig:
    """The first files of the groups with one field changed; composing them would take most of the suite's time."""
    config = OmegaConf.create(
        {
            "seed": 0,
            "trainer": {"experiment_name": "test"},
            "actor_rollout_ref": {"actor": {"ppo_mini_batch_size": 16}, "rollout": {"n": 8}},
            "nano": OmegaConf.load(CONF / "model/nano.yaml").nano,
        }
    )
    for path, file in BASES.items():
        OmegaConf.update(config, path, copy.deepcopy(shown(file, path)), force_add=True)
    OmegaConf.update(config, field, value, merge=False, force_add=True)
    return config


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("seed", "x", "got 'x'; allowed: a whole number from 0 to 2147483647; give one, such as 0"),
        ("seed", 1.5, "a whole number"),
        ("run.max_infrastructure_share", "much", "got 'much'; allowed: a finite number from 0 to 1"),
        ("run.warn_infrastructure_share", 1.5, "from 0 to 1"),
        ("run.max_infrastructure_steps", 0, "a whole number of 1 or more; give one, such as 3"),
        ("run.weight_sync_timeout_s", 0, "got 0; allowed: a finite number above 0; give one, such as 600"),
        ("run.weight_sync_timeout_s", float("inf"), "got inf"),
        # np.random.seed of vLLM takes no other
        ("seed", -1, "from 0 to 2147483647"),
        ("run.name", None, "got null; allowed: text without `/`, not empty; give one"),
        ("run.name", "", "got ''; allowed: text without `/`, not empty; give one"),
        ("run.dir", " ", "got ' '; allowed: null or text, not empty; give one"),
        # a folder whose number nobody would find again
        ("run.name", "a/b", "text without `/`, not empty; leave out `/`"),
        ("run", None, "got null; allowed: a section"),
        ("run.dir", 7, "null or text, not empty; put it in quotes"),
        ("run.rooot", "runs", "no such field; did you mean 'root'? Known: 'deterministic', 'dir', "),
        ("run", 3, "got 3; allowed: a section"),
        ("hardware.fork_server", "yes", "true or false"),
        ("hardware.kind", "tpu", "allowed: `cpu`, `gpu`"),
        ("hardware.least_tokens_per_s", True, "a finite number above 0"),
        ("hardware.least_tokens_per_s", float("nan"), "got nan"),
        ("hardware.env_vars", [], "names and values"),
        ("env.train.horizons", [2, 0], "env.train.horizons[1]: got 0; allowed: a whole number of 1 or more"),
        ("env.train.horizons", 2, "a list; each item: a whole number of 1 or more; write one as [A,B]"),
        ("env.val.horizons", [], "got []"),
        ("env.val.num_tasks", "256", "write it without quotes"),
        ("env.train.seed", None, "a whole number"),
        ("env.val.seed", -1, "a whole number from 0 to"),
        ("env.limits.max_turns", 2.5, "got 2.5"),
        ("env.limits.step_timeout_s", -1, "a finite number above 0; give one, such as 120"),
        ("env.limits", None, "allowed: a section"),
        ("env.limits.max_prompt_tokens", 9, "set data.max_prompt_length"),
        ("env.max_turns", 3, "no such field; did you mean 'env.limits.max_turns'"),
        ("env.kwargs", 3, "names and values"),
        ("env.chat.roles", ["tool", 1], "env.chat.roles[1]: got 1; allowed: text"),
        ("env.nano.target_success", 1, "of 0 or more and below 1"),
        ("nano.learning_rate", 0, "a finite number above 0"),
        ("nano.hidden_sise", 8, "did you mean 'hidden_size'"),
        (f"{FIELD_PATH}.max_token_kl", "0.05", "write it without quotes"),
        (f"{FIELD_PATH}.max_token_kll", 1, "did you mean 'max_token_kl'"),
        (f"{FIELD_PATH}.adaptive_floor", 0.9, "got 0.9, above adaptive_cap=0.5"),
        (f"{DUMP_PATH}.every", -1, "a whole number of 0 or more"),
        (f"{DUMP_PATH}.directory", 3, "null or text"),
        (f"{SAMPLER_PATH}.max_failed_batches", 0, "a whole number of 1 or more; give one, such as 3"),
        ("run.name", "${nowhere.x}", "got '${nowhere.x}'; allowed: a value of the field's type"),
    ],
)
def test_a_bad_value_is_refused_with_its_field_the_value_and_what_is_allowed(field: str, value: Any, words: str):
    with pytest.raises(ValueError, match=r"^[\w.]+(\[\d\])?: ") as refused:
        check_groups(changed(field, value))
    assert str(refused.value).startswith(field)
    assert words in str(refused.value)


def test_an_error_stands_at_the_field_that_was_set_and_not_where_its_value_is_used():
    with pytest.raises(ValueError, match=r"^env\.nano\.horizon: got 0"):
        check_groups(changed("env.nano.horizon", 0))


def test_composition_refuses_before_anything_else(capsys: pytest.CaptureFixture[str]):
    assert main(["env.limits.max_turns=x", "--cfg"]) == 2
    assert capsys.readouterr().err == (
        "error: env.limits.max_turns: got 'x'; allowed: a whole number of 1 or more; give one, such as 16\n"
    )


def test_a_name_that_no_yaml_has_gets_the_closest_one_instead_of_a_plus():
    with pytest.raises(ValueError, match=r"^run\.rooot: no such field; did you mean 'root'\?"):
        compose_run(["run.rooot=runs"])
    for known in ("nano.learning_rate", "env.kwargs.any.thing", "hardware.env_vars.X", "data.no_such_field"):
        check_name(known)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "~run.name",
            "run.name: got '~run.name'; allowed: a value, since every run reads it; set it, or leave ~run.name",
        ),
        ("~env.train", "env.train: got '~env.train'"),
        ("~hardware", "hardware: got '~hardware'"),
        ("~seed", "seed: got '~seed'"),
        ("hardware.env_vars=[a]", "hardware.env_vars: got ['a']; allowed: names and values"),
        ("run=null", "run: got null; allowed: a section"),
        (
            "env.limits.max_prompt_tokens=5",
            "got '5'; allowed: nothing, verl has a field for it; set data.max_prompt_length",
        ),
    ],
)
def test_an_override_that_takes_a_field_away_or_changes_its_kind_is_refused_in_our_words(override: str, words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        compose_run([override])


def test_options_of_an_environment_and_fields_of_verl_may_be_removed():
    for override in ("~env.kwargs.reveal", "~nano", "~trainer.logger", "run.name=x"):
        check_removal(override)


def test_an_environments_own_options_are_free():
    check_groups(changed("env.kwargs", {"depth": {"any": [1, None]}}))


def test_a_loss_without_our_settings_has_none_to_check():
    config = changed("actor_rollout_ref.actor.policy_loss", {"loss_mode": "gspo"})
    check_groups(config)


def test_an_annotation_holds_where_a_declaration_allows_more(monkeypatch: pytest.MonkeyPatch):
    @dataclass(frozen=True)
    class Odd:
        number: int = setting(1, Text(), "A number that may be text.")

    monkeypatch.setitem(schema.GROUPS, "odd", Odd)
    check_groups(changed("odd", {"number": "3"}))
    with pytest.raises(
        ValueError, match=r"number: got 'x'; allowed: a value of the field's type; change it \(.*Integer"
    ):
        check_groups(changed("odd", {"number": "x"}))


@pytest.mark.parametrize("path", GROUPS)
def test_a_group_is_a_structured_config_of_its_defaults(path: str):
    made = flatten(OmegaConf.to_container(OmegaConf.structured(GROUPS[path]), resolve=False), path)
    assert made == {item.name: as_yaml(item.default) for item in settings_of(GROUPS[path], path)}


def test_every_group_has_a_first_file():
    # the nano model's fields are defaults of `NanoSpec` but for those that its file reads from the environment
    assert BASES.keys() | {"nano"} == GROUPS.keys()


@pytest.mark.parametrize("path", BASES)
def test_the_first_file_of_a_group_shows_every_field_with_its_default(path: str):
    found = flatten(shown(BASES[path], path), path)
    if path == "hardware":
        # the base is the GPU's, which sets variables in place of none
        names = ("CUDA_DEVICE_ORDER", "RAY_prestart_worker_first_driver", "RAY_enable_worker_prestart")
        assert [found.pop(f"hardware.env_vars.{name}") for name in names] == ["PCI_BUS_ID", "0", "0"]
        found["hardware.env_vars"] = {}
    declared = {item.name: as_yaml(item.default) for item in settings_of(GROUPS[path], path)}
    # settings of a criterion stand in its preset, where tests/trust_region/test_settings.py finds them
    own = set() if path != FIELD_PATH else declared.keys() - found.keys()
    assert found == {name: value for name, value in declared.items() if name not in {*OF_VERL, *own}}


def test_the_nano_models_file_shows_defaults_or_reads_them_from_the_environment():
    own = {name: value for name, value in shown("model/nano", "nano").items() if "${env." not in str(value)}
    assert own == {name: getattr(GROUPS["nano"](), name) for name in own} != {}


def test_every_field_of_conf_is_declared():
    found = set()
    for file in sorted(CONF.rglob("*.yaml")):
        tree = OmegaConf.load(file)
        for path in GROUPS:
            section = OmegaConf.select(tree, path)
            found |= (
                fields_below(OmegaConf.to_container(section, resolve=False), path) if section is not None else set()
            )
    assert sorted(found - all_settings().keys()) == []
    assert len(found) > 60


def fields_below(value: Any, path: str) -> set[str]:
    """The fields of a section, of which what is free counts as one."""
    if not isinstance(value, dict) or path in all_settings():
        return {path}
    return {field for name, item in value.items() for field in fields_below(item, f"{path}.{name}")}


def test_limits_have_one_declaration_for_the_configuration_and_for_episodes():
    with pytest.raises(ValueError, match="max_turns") as of_run:
        check_groups(changed("env.limits.max_turns", 0))
    with pytest.raises(ValueError, match="max_turns") as of_episode:
        Limits(max_turns=0)
    allowed = "got 0; allowed: a whole number of 1 or more; "
    assert f"env.limits.max_turns: {allowed}" in str(of_run.value)
    assert f"limits.max_turns: {allowed}" in str(of_episode.value)


def test_every_field_has_a_meaning():
    assert [name for name, item in all_settings().items() if not item.doc.endswith(".")] == []


def test_every_field_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    assert [
        name
        for name in all_settings()
        if f"| `{name}` |" not in page and f"| `{name.rpartition('.')[2]}` |" not in page
    ] == []


def test_the_page_is_made_of_the_fields():
    page = PAGE.read_text(encoding="utf-8")
    assert printer.documented(page) == page, f"stale; run {printer.BEGIN.split('`')[1]}"


def as_yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
