"""A value that no plan can be made with is refused with its field, before the plan computes."""

import copy
import functools
import re

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.compose import compose_run, compose_tree
from trm_agent.runs.planning.fit import KNOBS, fit
from trm_agent.runs.planning.read_fields import READ
from trm_agent.runs.planning.shapes import from_config

ROLLOUT, FSDP = "actor_rollout_ref.rollout", "actor_rollout_ref.actor.fsdp_config"
ODD = [None, 0, 0.5, "8e3", True, [1], {"a": 1}, float("nan"), "${data.train_files}", "${nowhere}", "???"]


@functools.cache
def preset() -> DictConfig:
    return compose_tree(["experiment=math_4x80gb"])


def refusal_of(config: DictConfig, path: str) -> str:
    """What `fit` refuses; "" where it does not."""
    try:
        fit(config, [path])
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("path", READ)
def test_no_value_of_a_field_that_is_read_breaks_the_plan(path: str) -> None:
    config, refused = copy.deepcopy(preset()), 0
    for value in ODD:
        OmegaConf.update(config, path, value, merge=False)
        said = refusal_of(config, path)
        if said:
            assert said.startswith(f"{path}: got ")
            refused += 1
        else:
            config = copy.deepcopy(preset())
    assert refused > 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.n_gpus_per_node=0", "trainer.n_gpus_per_node: got 0; allowed: a whole number of 1 or more"),
        ("data.max_prompt_length=null", "data.max_prompt_length: got null; allowed: a whole number of 1 or more"),
        (f"{ROLLOUT}.gpu_memory_utilization=half", f"{ROLLOUT}.gpu_memory_utilization: got 'half'; allowed: "),
        (f"{FSDP}.fsdp_size=all", f"{FSDP}.fsdp_size: got 'all'; allowed: a whole number"),
        (f"{FSDP}=null", f"{FSDP}: got null; allowed: a section"),
    ],
)
def test_a_command_s_value_is_refused_with_its_field(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        compose_run(["experiment=math_4x80gb", override])


def test_a_reference_counts_as_what_it_stands_for() -> None:
    config = compose_run(["experiment=math_4x80gb", "data.max_response_length=${data.max_prompt_length}"])
    tokens = 2 * config.data.max_prompt_length
    assert config.actor_rollout_ref.rollout.max_model_len == tokens
    assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu >= tokens // config_ulysses(config)


def config_ulysses(config: DictConfig) -> int:
    return int(OmegaConf.select(config, KNOBS["ulysses"]))


@pytest.mark.parametrize("name", ["num_key_value_heads", "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", ["2", 0, 1.5, [2]])
def test_a_config_json_with_a_size_that_is_no_number_has_no_shape(name: str, value: object) -> None:
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    config = dict.fromkeys(sizes, 4)
    assert from_config({**config, name: None}, "x") is not None
    assert from_config({**config, name: value}, "x") is None
