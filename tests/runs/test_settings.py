"""The fate of verl's fields: each is honoured, refused or written by us, and verl's source says which there are."""

import ast
import functools
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.structure_script import load
from trm_agent.runs.chat import chat_settings
from trm_agent.runs.compose import compose_run
from trm_agent.runs.deadlines import limits_of
from trm_agent.runs.endings.disk import keeping_of
from trm_agent.runs.field_names import may_be_added, open_sections
from trm_agent.runs.origin import check_modes
from trm_agent.runs.preflight_training import batches, sampling
from trm_agent.runs.preflight_verl import RANGES, refusals, types
from trm_agent.runs.verl_fates import BY_VERL, OURS, WRITTEN, fate_of, verl_fields
from trm_agent.runs.verl_refusals import REFUSED
from trm_agent.trust_region.surroundings import trainer_and_engine, trust_region

ROOT = Path(__file__).parents[2]
script = load(ROOT / "scripts" / "settings.py")
STALE = "run `python scripts/settings.py`, give new fields a fate in trm_agent/runs/verl_fates.py or verl_refusals.py"
READ = sorted({field for fields in verl_fields()["read"].values() for field in fields})


@functools.cache
def nano() -> DictConfig:
    return compose_run(["experiment=math_nano"])


def tree(field: str, value: Any, loss: str = "trm") -> DictConfig:
    """A configuration of one field, and the loss."""
    config = OmegaConf.create({"actor_rollout_ref": {"actor": {"policy_loss": {"loss_mode": loss}}}})
    OmegaConf.update(config, field, value, force_add=True)
    return config


def other(value: Any) -> Any:
    """A value of the same type, but another one."""
    return not value if isinstance(value, bool) else (value or 0) + 7 if isinstance(value, int | float) else "other"


def test_each_field_that_verl_reads_there_has_a_fate():
    assert len(READ) > 200
    assert [field for field in READ if fate_of(field) is None] == [], STALE


def test_the_list_is_of_the_installed_verl():
    assert verl_fields()["verl"] == importlib.metadata.version("verl"), STALE


@pytest.mark.slow
def test_the_list_is_what_verls_source_says():
    found, listed = script.found(), verl_fields()
    for name, fields in found["read"].items():
        assert sorted(set(fields) ^ set(listed["read"][name])) == [], STALE
    assert script.as_text(found) == script.FILE.read_text(encoding="utf-8"), STALE


def test_a_new_field_of_verls_source_is_found(tmp_path: Path):
    (tmp_path / "verl").mkdir()
    (tmp_path / "verl" / "helper.py").write_text("def build(node):\n    return node.sampler.get('new_a', 1)\n")
    (tmp_path / "verl" / "trainer.py").write_text(
        "from verl.helper import build\n"
        "class Trainer:\n"
        "    def __init__(self, config):\n"
        "        self.config = config\n"
        "        self.data = self.config.data\n"
        "    def fit(self, config):\n"
        "        config = self.config.trainer\n"
        "        build(config)\n"
        "        x = getattr(self.data, 'new_b', None) or OmegaConf.select(config, 'new.c')\n"
        "        config.steps = 3\n"
        "        start(**config.kwargs)\n"
        "        return x, self.data['new_d'], config.name.split('/'), other.config.not_ours\n"
    )
    fields = script.fields_of(script.Source(tmp_path), "verl.trainer:Trainer", {"config": "", "self.config": ""})
    leaves = {
        "trainer.sampler.new_a",
        "data.new_b",
        "trainer.new.c",
        "data.new_d",
        "trainer.name",
        "trainer.kwargs",
    }
    assert fields.read == {*leaves, "data", "trainer"}
    assert fields.asked == {"trainer.sampler.new_a", "data.new_b", "trainer.new.c"}
    assert (fields.written, fields.spread) == ({"trainer.steps"}, {"trainer.kwargs"})


def test_each_field_that_we_write_is_listed():
    found = {name for name in script.written() if not name.startswith("global_batch_info")}
    assert sorted(found - WRITTEN.keys()) == []
    # pinned under names that are no constants
    assert sorted(WRITTEN.keys() - found) == ["env.kwargs.*"]


def test_no_fate_is_given_twice_or_to_a_field_that_verl_does_not_have():
    by_verl = {f"{section}.{name}" for section, names in BY_VERL.items() for name in names}
    assert sorted(by_verl & OURS.keys()) == []
    refused = {name for item in REFUSED for name in item.fields}
    assert sorted(name for name in by_verl | OURS.keys() if any(item.covers(name) for item in REFUSED)) == []
    known = verl_fields()["fields"].keys() | verl_fields()["unlisted"].keys()
    assert sorted(name for name in by_verl | OURS.keys() | RANGES.keys() if name not in known) == []
    sections = {name[:-1] for name in refused if name.endswith(".*")}
    assert sorted(name for name in sections if not any(each.startswith(name) for each in known)) == []
    assert sorted(name for name in refused if not name.endswith(".*") and name not in known) == []


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: refusal.fields[0])
def test_what_cannot_be_honoured_is_refused_with_the_reason(refusal: Any):
    known = verl_fields()["fields"]
    for name in refusal.fields:
        field = name if not name.endswith("*") else next(each for each in known if each.startswith(name[:-1]))
        default = known.get(field, (None, None))[1]
        for value in refusal.allowed or (default,):
            refusals(tree(field, value))
        changed = {"rate": 2} if isinstance(default, dict) else other((refusal.allowed or (default,))[0])
        with pytest.raises(ValueError, match="; allowed: ") as refused:
            refusals(tree(field, changed))
        assert str(refused.value).startswith(f"{field}{'.rate' if isinstance(changed, dict) else ''}: got ")
        assert refusal.reason in str(refused.value)
        assert refusal.remedy in str(refused.value)
        if refusal.loss:
            refusals(tree(field, changed, loss="vanilla"))


def test_the_value_of_an_interpolated_default_may_be_written_out():
    field = "actor_rollout_ref.rollout.prompt_length"
    length = nano().data.max_prompt_length
    refusals(changed(field, length))
    with pytest.raises(ValueError, match=rf"got {length + 1}, .*; allowed: {length}; set that"):
        refusals(changed(field, length + 1))
    config = changed("trainer.max_actor_ckpt_to_keep", 5)
    config.trainer.max_critic_ckpt_to_keep = 5
    refusals(config)


def changed(field: str, value: Any) -> DictConfig:
    config = nano().copy()
    OmegaConf.update(config, field, value, force_add=True)
    return config


def refused_by(rule: Any, field: str, value: Any) -> bool:
    with pytest.raises(ValueError, match=rf"{field.rpartition('.')[2]}: got"):
        rule(changed(field, value))
    return True


def dataset_length(stream: str, max_samples: int) -> int:
    from trm_agent.verl_plugin.driver.dataset import EnvDataset

    return len(EnvDataset(stream, OmegaConf.create({"env": nano().env}), max_samples=max_samples))


def filter_of(config: DictConfig) -> Any:
    from trm_agent.verl_plugin.driver.sampling_mixin import filter_of

    return filter_of(config)


def filtering(field: str, value: Any) -> DictConfig:
    config = changed(field, value)
    config.algorithm.filter_groups.enable = True
    return config


_ROLLOUT, _CORRECTION = "actor_rollout_ref.rollout", "algorithm.rollout_correction"
EFFECTS: dict[str, Any] = {
    "data.apply_chat_template_kwargs": lambda field: (
        chat_settings(changed(field, {"enable_thinking": False})).template_kwargs == {"enable_thinking": False}
    ),
    "data.max_prompt_length": lambda field: limits_of(changed(field, 77)).max_prompt_tokens == 77,
    "data.train_max_samples": lambda field: dataset_length("train", 5) == 5,
    "data.val_max_samples": lambda field: dataset_length("val", 5) == 5,
    "algorithm.adv_estimator": lambda field: refused_by(types, field, "grp"),
    "algorithm.filter_groups.enable": lambda field: filter_of(changed(field, True)) is not None,
    "algorithm.filter_groups.max_num_gen_batches": lambda field: filter_of(filtering(field, 7)).max_batches == 7,
    "algorithm.filter_groups.metric": lambda field: filter_of(filtering(field, "acc")).metric == "acc",
    f"{_CORRECTION}.bypass_mode": lambda field: refused_by(trust_region, field, False),
    f"{_CORRECTION}.rollout_is": lambda field: refused_by(trainer_and_engine, field, "token"),
    "actor_rollout_ref.model.path": lambda field: nano().actor_rollout_ref.model.path == "nano",
    f"{_ROLLOUT}.calculate_log_probs": lambda field: refused_by(trust_region, field, False),
    f"{_ROLLOUT}.logprobs_mode": lambda field: refused_by(sampling, field, "raw_logprobs"),
    f"{_ROLLOUT}.n": lambda field: refused_by(batches, field, 1),
    f"{_ROLLOUT}.top_k": lambda field: refused_by(sampling, field, 5),
    f"{_ROLLOUT}.top_p": lambda field: refused_by(sampling, field, 0.5),
    "trainer.max_actor_ckpt_to_keep": lambda field: keeping_of(changed(field, 5)).newest == 5,
    "trainer.resume_mode": lambda field: refused_by(check_modes, field, "always"),
    "trainer.resume_from_path": lambda field: refused_by(check_modes, field, "/no/global_step_3"),
    "trainer.v1.sampler.sampler_kwargs": lambda field: nano().trainer.v1.sampler.sampler_kwargs.episodes_per_task == 8,
}


@pytest.mark.parametrize("field", OURS)
def test_what_our_code_honours_has_an_effect(field: str):
    assert EFFECTS[field](field)


def test_what_verl_honours_is_read_by_its_own_methods():
    # a method that we override hands on to verl's
    files = [ROOT / "trm_agent/verl_plugin/driver" / name for name in ("trainer.py", "saving.py")]
    bodies = [ast.parse(file.read_text(encoding="utf-8")).body for file in files]
    mixins = [item for body in bodies for item in body if isinstance(item, ast.ClassDef) and "Mixin" in item.name]
    source = script.Source(script.verl_folder())
    (trainer,) = (
        item
        for item in source.module("verl.trainer.ppo.v1.trainer_base").body
        if isinstance(item, ast.ClassDef) and item.name == "PPOTrainer"
    )
    methods = {item.name for item in trainer.body if isinstance(item, ast.FunctionDef)}
    ours = [item for mixin in mixins for item in mixin.body if isinstance(item, ast.FunctionDef)]
    ours = [item for item in ours if item.name in methods]
    assert {item.name for item in ours} >= {"_load_checkpoint", "_compute_advantage", "_validate", "_save_checkpoint"}
    assert [item.name for item in ours if f"super().{item.name}(" not in ast.unparse(item)] == []


@pytest.mark.parametrize(
    ("field", "may"),
    [
        ("actor_rollout_ref.model.override_config.attn_implementation", True),
        ("actor_rollout_ref.rollout.engine_kwargs.vllm.swap_space", True),
        ("env.kwargs.memory_mb", True),
        ("hardware.env_vars.NCCL_DEBUG", True),
        ("nano.learning_rate", True),
        ("ray_kwargs.ray_init.address", True),
        ("ray_kwargs.ray_init.runtime_env.env_vars.X", True),
        # read with `get`, or a field of a dataclass: no yaml shows them
        ("trainer.remove_previous_ckpt_in_save", True),
        ("actor_rollout_ref.rollout.repetition_penalty", True),
        ("trainer.wandb_proxy", True),
        ("foo", False),
        ("trainer.foo", False),
        ("nano.foo", False),
        ("env.limits.foo", False),
        ("actor_rollout_ref.rollout.tempreture", False),
        # a section whose name begins like an open one
        ("env.kwargs_of.x", False),
    ],
)
def test_a_plus_adds_names_only_where_they_are_free_or_known(field: str, may: bool):
    assert may_be_added(field) is may


def test_open_sections_are_found_in_verls_source():
    assert {"actor_rollout_ref.model.override_config", "ray_kwargs.ray_init", "env.kwargs"} <= {*open_sections()}
    assert json.loads(script.FILE.read_text(encoding="utf-8"))["open"] == verl_fields()["open"]
