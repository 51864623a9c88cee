"""Log-probs of another distribution than the one that is sampled from are refused, whoever would read them."""

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.runs.test_preflight import TRM, composed
from trm_agent.runs.engine_options import vllm_options
from trm_agent.runs.preflight_training import sampling
from trm_agent.trust_region.engine_option import KWARGS
from trm_agent.trust_region.settings import ESTIMATORS
from trm_agent.trust_region.surroundings import processed_log_probs, trust_region

ROLLOUT = "actor_rollout_ref.rollout"
FIELD = f"{ROLLOUT}.logprobs_mode"
PROCESSED = "processed_logprobs"
KEPT = f"{ROLLOUT}.top_k=64"


def rollout(verls: Any = PROCESSED, name: str = "vllm", **options: Any) -> DictConfig:
    """verl's field, and options of vLLM's own."""
    section = {"name": name, "logprobs_mode": verls, "engine_kwargs": {"vllm": options}}
    return OmegaConf.create({"actor_rollout_ref": {"rollout": section}})


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("field", [FIELD, f"{KWARGS}.logprobs_mode"])
def test_no_estimator_takes_log_probs_of_another_distribution(estimator: str, field: str) -> None:
    config = composed(f"{TRM}.estimator={estimator}", *([KEPT] if estimator == "replayed" else []))
    trust_region(config)
    OmegaConf.update(config, field, "raw_logprobs", force_add=True)
    words = f"^{field}: got 'raw_logprobs', with which .* of another policy; allowed: {PROCESSED}; leave it out"
    with pytest.raises(ValueError, match=words):
        trust_region(config)


def test_neither_does_another_loss_unless_nothing_is_recorded() -> None:
    config = composed(f"{FIELD}=raw_logprobs", "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla")
    with pytest.raises(ValueError, match=f"^{FIELD}: got 'raw_logprobs'"):
        sampling(config)
    config.actor_rollout_ref.rollout.calculate_log_probs = False
    sampling(config)


@pytest.mark.parametrize("mode", [*vllm_options()["options"]["logprobs_mode"], None])
def test_one_mode_alone_is_taken_and_vllms_own_default_is_not_it(mode: str | None) -> None:
    if mode == PROCESSED:
        processed_log_probs(rollout(mode))
        return
    with pytest.raises(ValueError, match=rf"^{FIELD}: got {'null' if mode is None else repr(mode)}, "):
        processed_log_probs(rollout(mode))


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"logprobs_mode": PROCESSED}, None),
        # verl leaves out what is null
        ({"logprobs_mode": None}, "logprobs_mode"),
        ({"logprobs-mode": PROCESSED}, None),
        ({"logprobs_mode": "raw_logits"}, f"{KWARGS}.logprobs_mode"),
        ({"logprobs-mode": "raw_logits"}, f"{KWARGS}.logprobs-mode"),
        # on the command line it stands behind the other
        ({"logprobs_mode": PROCESSED, "logprobs-mode": "raw_logits"}, f"{KWARGS}.logprobs-mode"),
        ({"logprobs_mode": "raw_logits", "logprobs-mode": PROCESSED}, None),
    ],
)
def test_an_option_of_vllms_own_decides_in_either_spelling(options: dict[str, Any], refused: str | None) -> None:
    config = rollout("raw_logprobs", **options)
    if refused is None:
        processed_log_probs(config)
        return
    with pytest.raises(ValueError, match=f"{refused}: got "):
        processed_log_probs(config)


def test_another_engine_has_no_such_option() -> None:
    processed_log_probs(rollout("raw_logprobs", name="sglang"))
