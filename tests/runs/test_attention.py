"""An attention of flash-attn is refused where there is none, and torch's for a model that it computes wrongly."""

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs import attention as rule
from trm_agent.runs.attention import FLASH, attention, check_scores


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


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"adv_estimator": "gae"},
            r"^algorithm\.adv_estimator: got 'gae', but verl loads a critic with flash-attn 2, ",
        ),
        ({"adv_estimator": "grpo", "enable": True}, r"^critic\.enable: got true, but verl loads a critic with flash"),
    ],
    ids=["an estimator's", "one that is asked for"],
)
def test_a_critic_is_refused_where_its_attention_is_not_there(asked, message, monkeypatch):
    def of(kind: str) -> DictConfig:
        critic = {"enable": asked.get("enable")}
        return OmegaConf.merge(
            run(kind, None), {"algorithm": {"adv_estimator": asked["adv_estimator"]}, "critic": critic}
        )

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(FLASH, "flash_attention_2", "no_such_package")
    with pytest.raises(ValueError, match=message + ".*no no_such_package here; .*, or install flash-attn"):
        attention(of("gpu"))
    with pytest.raises(ValueError, match=message + ".*for GPUs only; "):
        attention(of("cpu"))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    attention(of("gpu"))
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setitem(FLASH, "flash_attention_2", "json")
    attention(of("gpu"))


def test_without_a_critic_nothing_is_asked_of_its_attention(monkeypatch):
    monkeypatch.setitem(FLASH, "flash_attention_2", "no_such_package")
    for estimator, enabled in (("grpo", None), ("gae", False)):
        wanted = {"algorithm": {"adv_estimator": estimator}, "critic": {"enable": enabled}}
        attention(OmegaConf.merge(run("gpu", None), wanted))


def test_torchs_attention_is_refused_for_capped_scores():
    with pytest.raises(ValueError, match=r"attn_implementation: got 'sdpa', which leaves out the cap of 50\.0 "):
        check_scores({"attn_logit_softcapping": 50.0}, "sdpa")
    for shape, asked in (
        ({"attn_logit_softcapping": 50.0}, None),
        ({"attn_logit_softcapping": 50.0}, "eager"),
        ({"attn_logit_softcapping": None}, "sdpa"),
        ({}, "sdpa"),
    ):
        check_scores(shape, asked)
