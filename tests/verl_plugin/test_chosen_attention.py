"""Without flash-attn a model is read with an attention that it has, and that computes what the model means."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from trm_agent.verl_plugin.actor import packed_engine
from trm_agent.verl_plugin.actor.packed_engine import PackedMixin, choose_attention

from .test_packed import SIZES

SIZE = {name: size for name, size in SIZES.items() if name != "attn_implementation"} | {"head_dim": 4}
EAGER, TORCHS = "that of transformers (eager)", "torch's own (sdpa)"


def capped(cap: float | None = 1.0) -> Gemma2Config:
    # weights and scale that drive scores far beyond the cap
    return Gemma2Config(**SIZE, attn_logit_softcapping=cap, query_pre_attn_scalar=1, initializer_range=0.6)


def with_sinks() -> GptOssConfig:
    return GptOssConfig(**SIZE, num_local_experts=2, num_experts_per_tok=1)


class Reader:
    """What reads the model in verl's engine."""

    use_ulysses_sp = False

    def __init__(self, model_config: Any) -> None:
        self.model_config = model_config

    def _build_module(self) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(
            self.model_config.local_path, config=self.model_config.hf_config
        ).float()


class Engine(PackedMixin, Reader):
    """The part of ours that chooses before the model is read."""


@pytest.fixture(autouse=True)
def without_flash_attn(monkeypatch):
    monkeypatch.setattr(packed_engine, "is_flash_attn_2_available", lambda: False)


def read(config: PreTrainedConfig, folder: Any, asked: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    # as verl reads it
    attention = asked.get("attn_implementation", "flash_attention_2")
    hf_config = AutoConfig.from_pretrained(folder, attn_implementation=attention)
    return Engine(SimpleNamespace(override_config=asked, hf_config=hf_config, local_path=folder))._build_module()


@pytest.mark.parametrize("asked", [{}, {"attn_implementation": None}], ids=["left out", "null"])
@pytest.mark.parametrize(
    ("make", "expected", "told"),
    [
        (lambda: Qwen3Config(**SIZE), "sdpa", TORCHS),
        (lambda: capped(None), "sdpa", TORCHS),
        (capped, "eager", EAGER),
        (with_sinks, "eager", EAGER),
    ],
    ids=["any", "no cap", "a cap", "sinks"],
)
def test_a_model_is_read_with_an_attention_that_it_has(make, expected, told, asked, tmp_path, capsys):
    module = read(make(), tmp_path, asked)
    assert module.config._attn_implementation == expected
    assert f"engine: flash-attn 2 is not installed; attention is {told}\n" in capsys.readouterr().out


def test_torchs_attention_would_leave_the_cap_out(tmp_path):
    module, ids = read(capped(), tmp_path, {}), torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        capped_logits = module(ids).logits
        module.set_attn_implementation("sdpa")
        # once torch's has the cap, `check_scores` can go
        assert (module(ids).logits - capped_logits).abs().max() > 0.1


def test_torchs_attention_is_refused_for_a_model_with_a_cap(tmp_path):
    asked = {"attn_implementation": "sdpa"}
    with pytest.raises(ValueError, match=r"attn_implementation: got 'sdpa', which leaves out the cap of 1\.0 .*leave"):
        read(capped(), tmp_path, asked)
    assert read(capped(None), tmp_path, asked).config._attn_implementation == "sdpa"
    assert read(capped(), tmp_path, {"attn_implementation": "eager"}).config._attn_implementation == "eager"


@pytest.mark.parametrize(("asked", "installed"), [(None, True), ("flash_attention_2", False)])
def test_flash_attn_stays_where_it_is_installed_or_asked_for(asked, installed, monkeypatch):
    monkeypatch.setattr(packed_engine, "is_flash_attn_2_available", lambda: installed)
    hf_config = capped()
    hf_config._attn_implementation = "flash_attention_2"
    override = {"attn_implementation": asked} if asked else {}
    assert not choose_attention(SimpleNamespace(override_config=override, hf_config=hf_config))
    assert hf_config._attn_implementation == "flash_attention_2"
