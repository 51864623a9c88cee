"""An attention of flash-attn is refused where there is none; any other is left to transformers."""

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs import attention as rule
from trm_agent.runs.attention import FLASH, attention


def run(kind: str, asked: str | None) -> DictConfig:
    model = {"override_config": {} if asked is None else {"attn_implementation": asked}}
    return OmegaConf.create({"hardware": {"kind": kind}, "actor_rollout_ref": {"model": model}})


@pytest.mark.parametrize("asked", FLASH)
def test_flash_attention_is_refused_where_it_is_not_there(asked, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=rf"got '{asked}'; allowed: sdpa without a GPU; leave it out"):
        attention(run("cpu", asked))
    monkeypatch.setitem(FLASH, asked, "no_such_package.cute")
    with pytest.raises(
        ValueError, match=rf"got '{asked}', but there is no no_such_package.cute here; .*; leave it out"
    ):
        attention(run("gpu", asked))
    monkeypatch.setitem(rule.FLASH, asked, "json.decoder")
    attention(run("gpu", asked))


@pytest.mark.parametrize("asked", [None, "sdpa", "eager", "somebody/kernel"])
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_others_are_not_its_business(kind, asked):
    attention(run(kind, asked))
