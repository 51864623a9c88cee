"""One update of our engine as verl calls it: FSDP2 on one gloo rank, with passes left out and with all of them."""

import json
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

import pyarrow.parquet
from tensordict import TensorDict
from transformers import AutoConfig, PhimoeConfig, PhimoeForCausalLM
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig
from verl.workers.utils.losses import ppo_loss

from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor import packed_engine
from trm_agent.verl_plugin.actor.engine import TrmFSDPEngine
from trm_agent.verl_plugin.actor.update import DUMP_KEY, LONGEST_KEY, RATIOS, STEP_KEY
from trm_agent.verl_plugin.rollout.distributions import FULL_LOG_PROBS

from .loss_support import actor_config
from .test_packed import SIZES, VOCAB, model

PROMPT, RESPONSE = 3, 5
# of six sequences, two a micro-batch: the second and the last micro-batch need their backward pass
ADVANTAGES = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

pytestmark = pytest.mark.usefixtures("one_rank")


class Engine(TrmFSDPEngine):
    """The engine around a model that is not read from a file; it notes which passes have gradients."""

    made = staticmethod(model)

    def _build_module(self) -> torch.nn.Module:
        self.with_gradient: list[bool] = []
        module = self.made()
        module.register_forward_hook(lambda *_: self.with_gradient.append(torch.is_grad_enabled()))
        return module

    def initialize(self) -> None:
        super().initialize()
        self.with_gradient.clear()


def windowed() -> torch.nn.Module:
    """A window in the mask alone, longer than the probe's sequences."""
    torch.manual_seed(0)
    return PhimoeForCausalLM(PhimoeConfig(sliding_window=1000, num_local_experts=2, **SIZES)).float()


class Windowed(Engine):
    made = staticmethod(windowed)


class EveryPass(Engine):
    def is_without_gradient(self, *_) -> bool:
        return False


def engine(
    kind: type[TrmFSDPEngine] = Engine, use_remove_padding: bool = True, of_model: dict | None = None, **changes
) -> Any:
    model_config = SimpleNamespace(
        use_remove_padding=use_remove_padding,
        lora_rank=0,
        enable_activation_offload=False,
        trust_remote_code=False,
        get_processor=lambda: None,
        **of_model or {},
    )
    precision = dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")
    options = {"strategy": "fsdp2", "use_torch_compile": False, "mixed_precision": precision, **changes}
    rates = FSDPOptimizerConfig(lr=1e-3, total_training_steps=10)
    made = kind(model_config, FSDPEngineConfig(**options), rates, None)
    made.initialize()
    return made


def batch(directory) -> TensorDict:
    generator = torch.Generator().manual_seed(3)
    rows = len(ADVANTAGES)
    ids = torch.randint(VOCAB, (rows, PROMPT + RESPONSE), generator=generator)
    # one prompt, in two micro-batches
    ids[3, :PROMPT] = ids[0, :PROMPT]
    mask = torch.tensor([1, 1, 0, 1, 1]).expand(rows, -1)
    advantages = torch.tensor(ADVANTAGES).unsqueeze(1) * mask
    log_probs = -3 * torch.rand(rows, RESPONSE, generator=generator)
    columns = {
        "prompts": ids[:, :PROMPT],
        "responses": ids[:, PROMPT:],
        "input_ids": ids,
        "position_ids": torch.arange(PROMPT + RESPONSE).expand(rows, -1),
        "response_mask": mask,
        "loss_mask": mask,
        "old_log_probs": log_probs,
        "rollout_log_probs": log_probs,
        "advantages": advantages,
    }
    columns[FULL_LOG_PROBS] = torch.randn(rows, RESPONSE, VOCAB, generator=generator).log_softmax(-1)
    nested = {
        name: torch.nested.as_nested_tensor(list(values), layout=torch.jagged) for name, values in columns.items()
    }
    data = TensorDict(nested, batch_size=[rows])
    dump = json.dumps({"every": 1, "directory": str(directory)})
    settings = {STEP_KEY: 1, DUMP_KEY: dump, LONGEST_KEY: 40, "temperature": 1.0, "global_batch_size": rows}
    passes = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2, "use_remove_padding": True}
    tu.assign_non_tensor(data, **settings, **passes)
    return data


def update(made: Engine, directory) -> tuple[list[torch.Tensor], dict, list[dict]]:
    """The gradients of one update, its metrics, and the dumped rows."""
    loss = partial(ppo_loss, config=actor_config(TrmConfig(max_token_kl=1e6, estimator="exact")))
    with made.train_mode():
        metrics = made.train_batch(batch(directory), loss)["metrics"]
        metrics = {name: getattr(value, "values", value) for name, value in metrics.items()}
        gradients = [parameter.grad.full_tensor() for parameter in made.module.parameters()]
    # of the ranks that share sequences one dumps them
    return gradients, metrics, pyarrow.parquet.read_table(directory).to_pylist() if directory.exists() else []


def same_gradients(found: tuple, expected: tuple) -> None:
    for one, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_an_update_without_needless_passes_is_the_one_with_all_of_them(tmp_path):
    short, whole = engine(), engine(EveryPass)
    assert short.packing is not None
    found, expected = update(short, tmp_path / "short"), update(whole, tmp_path / "whole")
    assert (short.with_gradient, whole.with_gradient) == ([False, True, True], [True, True, True])
    assert expected[1]["grad_norm"] > 0.01
    assert len(expected[2]) == len(ADVANTAGES)
    # depths 3 to 7, four sampled tokens each; and what the rollout found most likely is in the dump
    (ratios,) = expected[1][RATIOS]
    by_depth = ratios.numbers()
    assert by_depth["num_tokens_depth_0"] == 24
    assert by_depth["mean_depth_0"] == (3 + 4 + 6 + 7) / 4
    assert all(len(row["rollout_top_ids"]) == RESPONSE for row in expected[2])
    assert short._update.longest == 40
    groups = torch.cat([part.sequences.groups for part in short._update.parts]).tolist()
    assert (groups[0] == groups[3], len(set(groups))) == (True, len(ADVANTAGES) - 1)
    same_gradients(found, expected)
    # as text, in which a number that is not one equals itself
    assert str(found[1:]) == str(expected[1:])


def test_another_driver_gets_numbers_and_no_sums():
    data = batch(None)
    del data[STEP_KEY], data[DUMP_KEY]
    made = engine()
    with made.train_mode():
        metrics = made.train_batch(data, partial(ppo_loss, config=actor_config(TrmConfig(max_token_kl=1e6))))["metrics"]
    assert RATIOS not in metrics
    assert metrics["TRM/NUM_TOKENS_DEPTH_0"] == [24.0]


def test_an_engine_whose_model_cannot_be_packed_trains_padded(tmp_path, capsys):
    tried, untried = engine(Windowed), engine(Windowed, use_remove_padding=False)
    assert tried.packing is None
    assert capsys.readouterr().out.count("PhimoeForCausalLM cannot be packed; micro-batches are padded") == 1
    found, expected = update(tried, tmp_path / "tried"), update(untried, tmp_path / "untried")
    same_gradients(found, expected)
    assert found[1]["grad_norm"] > 0


def test_a_row_that_is_filled_up_to_a_length_is_the_one_that_is_not(tmp_path):
    # 16 tokens a micro-batch, filled up to 24
    filled = engine(pad_to_length=True, pad_to_length_bucket=24)
    assert filled.packing is not None
    found, expected = update(filled, tmp_path / "filled"), update(engine(), tmp_path / "plain")
    assert filled.shard.size == 24
    assert expected[1]["grad_norm"] > 0.01
    for one, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_without_flash_attn_a_model_is_read_with_torchs_attention_and_packed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packed_engine, "is_flash_attn_2_available", lambda: False)
    folder = tmp_path / "model"
    model().save_pretrained(folder)
    of_model = {
        "hf_config": AutoConfig.from_pretrained(folder, attn_implementation="flash_attention_2"),
        "local_path": folder,
        "model_type": "language_model",
        "override_config": {},
        "enable_gradient_checkpointing": False,
        **dict.fromkeys(("use_liger", "fused_kernel_options", "use_fused_kernels")),
    }
    made = engine(TrmFSDPEngine, of_model=of_model)
    assert "flash-attn 2 is not installed; attention is torch's own" in capsys.readouterr().out
    assert made.packing is not None
    found, expected = update(made, tmp_path / "read"), update(engine(), tmp_path / "made")
    assert expected[1]["grad_norm"] > 0.01
    same_gradients(found, expected)
