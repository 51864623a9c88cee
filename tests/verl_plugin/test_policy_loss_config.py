from pathlib import Path

import pytest
import torch

pytest.importorskip("verl")

import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from verl import DataProto
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import FSDPActorConfig, PolicyLossConfig

from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor.before_ray import check_loss_aggregation
from trm_agent.verl_plugin.actor.policy_loss import TARGET, TrmPolicyLossConfig, compute_policy_loss_trm


def actor_config(policy_loss: PolicyLossConfig) -> FSDPActorConfig:
    return FSDPActorConfig(rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=policy_loss)


def test_settings_that_cannot_work_are_refused():
    values, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"policy_loss\.trm: got null, .*_target_="):
        compute_policy_loss_trm(values, values, values, mask, config=actor_config(PolicyLossConfig()))
    config = actor_config(TrmPolicyLossConfig())
    with pytest.raises(ValueError, match=r"rollout_correction\.rollout_is"):
        compute_policy_loss_trm(values, values, values, mask, config=config, rollout_is_weights=values)
    with pytest.raises(ValueError, match=r"loss_scale_factor: got null"):
        compute_policy_loss_trm(values, values, values, mask, "seq-mean-token-sum-norm", config=config)
    with pytest.raises(ValueError, match=r"loss_scale_factor: got null"):
        check_loss_aggregation("seq-mean-token-sum-norm", None)
    with pytest.raises(ValueError, match=r"max_token_kll: no such field"):
        TrmPolicyLossConfig(trm={"max_token_kll": 1.0})
    with pytest.raises(ValueError, match=r"policy_loss\.trm: got 3"):
        TrmPolicyLossConfig(trm=3)


def composed_verl_config(trm: dict):
    directory = str(Path(verl.__file__).parent / "trainer" / "config")
    with initialize_config_dir(config_dir=directory, version_base=None):
        config = compose(
            "ppo_trainer",
            overrides=[
                f"actor_rollout_ref.actor.policy_loss._target_={TARGET}",
                "actor_rollout_ref.actor.policy_loss.loss_mode=trm",
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
            ],
        )
    with open_dict(config):
        config.actor_rollout_ref.actor.policy_loss.trm = trm
    return config


def test_verls_composed_config_reaches_the_loss():
    config = composed_verl_config({"criterion": "both", "max_token_kl": 0.1, "avg_token_kl": 0.002})
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(actor, FSDPActorConfig)
    assert isinstance(actor.policy_loss, TrmPolicyLossConfig)
    assert actor.policy_loss.loss_mode == "trm"
    assert actor.policy_loss.trm == TrmConfig(criterion="both", max_token_kl=0.1, avg_token_kl=0.002)
    # One on-policy token with A = 1: the paper's loss is -1.
    one = torch.ones(1, 1)
    loss, _ = compute_policy_loss_trm(-one, -one, one, one.bool(), config=actor)
    assert loss.item() == -1.0


def test_a_typo_in_the_composed_config_is_named():
    config = composed_verl_config({"max_tokenkl": 0.1})
    with pytest.raises(Exception, match=r"max_tokenkl: no such field.*did you mean .*max_token_kl"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)


def test_the_config_is_a_structured_config_too():
    structured = OmegaConf.merge(OmegaConf.structured(TrmPolicyLossConfig), {"trm": {"max_token_kl": 0.2}})
    assert OmegaConf.to_object(structured).trm == TrmConfig(max_token_kl=0.2)


def test_verls_correction_changes_a_batch_by_the_two_refused_fields_alone():
    # with bypass_mode=false verl's trainer makes one of each batch, before the first update
    fields = OmegaConf.load(Path(verl.__file__).parent / "trainer" / "config" / "algorithm" / "rollout_correction.yaml")
    others = {"rollout_is_threshold": 0.5, "rollout_rs_threshold": "0.5_2.0", "rollout_is_batch_normalize": True}
    others |= {"bypass_mode": True, "loss_type": "reinforce"}
    assert set(fields) == {"rollout_is", "rollout_rs", *others}
    old, rollout = torch.tensor([[-1.0, -3.0, -1.0], [-1.0, -1.0, -1.0]]), torch.full((2, 3), -1.0)
    given = {"old_log_probs": old, "rollout_log_probs": rollout, "response_mask": torch.ones(2, 3)}

    def changed(**values: object) -> set[str]:
        batch = DataProto.from_dict(tensors={name: tensor.clone() for name, tensor in given.items()})
        found, _ = compute_rollout_correction_and_add_to_batch(batch, OmegaConf.merge(fields, values))
        return {name for name, tensor in found.batch.items() if name not in given or not tensor.equal(given[name])}

    assert changed(**others) == set()
    assert changed(**others, rollout_is="token") == {"rollout_is_weights"}
    # one ratio is exp(-2), below 0.5
    assert changed(**others, rollout_rs="token_k1") == {"response_mask"}
