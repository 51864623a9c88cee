"""Every policy of a replayed rollout on the kept sets: in training, of the start of the step, the reference."""

import copy
from functools import partial

import pytest
import torch

pytest.importorskip("verl")

from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.metric import reduce_metrics
from verl.workers.config import FSDPActorConfig
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import response_from_nested

from trm_agent.core.precision import without_autocast
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor.policy_loss import TrmPolicyLossConfig
from trm_agent.verl_plugin.actor.update import STEP_KEY, final_metrics

from . import kept_oracle as oracle
from .test_engine import Engine, engine
from .test_packed import VOCAB, model

pytestmark = pytest.mark.usefixtures("one_rank")
PASSES = {"use_dynamic_bsz": False, "use_remove_padding": True, "micro_batch_size_per_gpu": 2, "compute_loss": False}


class Exact(Engine):
    """The engine around a model that an autocast does not round, so that it could round only what is behind."""

    @staticmethod
    def made() -> torch.nn.Module:
        module = model()
        module.forward = without_autocast(module.forward)
        return module

    def prepare_model_outputs(self, **given) -> dict:
        self.autocasts = {*getattr(self, "autocasts", ()), torch.is_autocast_enabled("cpu")}
        return super().prepare_model_outputs(**given)


def of_the_whole_vocabulary(*_, **__) -> None:
    raise AssertionError("verl took log-probs or the entropy of the whole vocabulary")


def moved(size: float, seed: int) -> torch.nn.Module:
    """The model with each weight a little off."""
    module, generator = model(), torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += size * parameter.data.std() * torch.randn(parameter.shape, generator=generator)
    return module


def load(made: Engine, module: torch.nn.Module) -> None:
    """Give an engine the weights of a model."""
    with torch.no_grad():
        for mine, given in zip(made.module.parameters(), module.parameters(), strict=True):
            mine.to_local().copy_(given)


def policy_of(module: torch.nn.Module) -> oracle.Policy:
    """The model in float64, one sequence at a time, for the oracle."""
    module.double()
    return lambda ids: module(ids.unsqueeze(0), use_cache=False).logits[0]


def passed(made: Engine, module: torch.nn.Module, data: TensorDict) -> dict[str, torch.Tensor]:
    """What verl's worker takes from a forward pass: of the start of the step, or of the reference."""
    load(made, module)
    tu.assign_non_tensor(data, calculate_entropy=True, **PASSES)
    with made.eval_mode():
        outputs = made.infer_batch(data)["model_output"]
    return {name: response_from_nested(values, data["response_mask"]) for name, values in outputs.items()}


def config(criterion: str, undecided: str) -> FSDPActorConfig:
    trm = TrmConfig(
        criterion=criterion,
        estimator="replayed",
        max_token_kl=oracle.MAX_TOKEN_KL,
        ratio_deviation=oracle.RATIO_DEVIATION,
        undecided=undecided,
        decoupled=True,
        ratio_truncation=oracle.RATIO_TRUNCATION,
        proximal_clip=oracle.PROXIMAL_CLIP,
    )
    return FSDPActorConfig(
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=TrmPolicyLossConfig(trm=trm),
        entropy_coeff=oracle.ENTROPY_COEFF,
        use_kl_loss=True,
        kl_loss_coef=oracle.KL_COEF,
        kl_loss_type="low_var_kl",
        loss_agg_mode="token-mean",
    )


@pytest.mark.parametrize(
    ("rule", "autocast", "passes", "drawn"),
    [
        (("max", "reject"), False, {"micro_batch_size_per_gpu": 6}, {}),
        (("max", "accept"), True, {"micro_batch_size_per_gpu": 2}, {"outside": True}),
        (("max", "reject"), True, {"micro_batch_size_per_gpu": 1}, {}),
        (("max", "reject"), False, {"micro_batch_size_per_gpu": 3, "use_remove_padding": False}, {"outside": True}),
        (("max", "reject"), True, {"micro_batch_size_per_gpu": 2}, {"top_p": 0.7}),
        (("ser", "reject"), False, {"micro_batch_size_per_gpu": 3}, {}),
        (("ser", "accept"), False, {"micro_batch_size_per_gpu": 3}, {"outside": True}),
    ],
    ids=["undivided", "accept", "one sequence a pass", "padded", "top-p", "ratios", "ratios, accept"],
)
def test_all_policies_of_a_step_are_those_of_a_float64_loop(rule, autocast, passes, drawn, monkeypatch) -> None:
    assert VOCAB == oracle.VOCAB
    monkeypatch.setattr(transformer_impl, "logprobs_from_logits", of_the_whole_vocabulary)
    monkeypatch.setattr(transformer_impl.verl_F, "entropy_from_logits", of_the_whole_vocabulary)
    theta, start, reference = model(), moved(0.01, seed=1), moved(0.1, seed=2)
    made = engine(Exact, use_remove_padding=passes.get("use_remove_padding", True))
    assert (made.packing is None) == ("use_remove_padding" in passes)
    # the gradient is read after the step
    object.__setattr__(made.optimizer_config, "clip_grad", 1e9)
    if autocast:
        made._autocast_dtype = torch.bfloat16
    exact = copy.deepcopy(theta)
    of_theta, of_start, of_reference = map(policy_of, (exact, copy.deepcopy(start), copy.deepcopy(reference)))
    episodes = oracle.rollouts(of_theta, torch.Generator().manual_seed(8), **drawn)
    sizes = [len(each.kept(place)) for each in episodes for place in each.tokens()]
    assert (min(sizes) < oracle.TOP) == ("top_p" in drawn)
    data = oracle.batch_of(episodes)

    before = passed(made, start, data)
    data["old_log_probs"] = before["log_probs"]
    data["ref_log_prob"] = passed(made, reference, data)["log_probs"]
    for number, each in enumerate(episodes):
        for place in each.tokens():
            log_probs = oracle.on_kept(each, place, of_start(each.ids).detach())
            values = {"log_probs": log_probs[each.drawn(place)], "entropy": oracle.entropy(log_probs)}
            for name, value in values.items():
                assert before[name][number][place].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name

    load(made, theta)
    settings = {STEP_KEY: 1, "global_batch_size": len(episodes), "compute_loss": True}
    tu.assign_non_tensor(data, calculate_entropy=True, **{**PASSES, **settings, **passes})
    with made.train_mode():
        metrics = made.train_batch(data, partial(ppo_loss, config=config(*rule)))["metrics"]
        found = [parameter.grad.full_tensor().flatten() for parameter in made.module.parameters()]
    assert made.autocasts == {autocast}
    told = final_metrics(reduce_metrics(metrics))
    expected = oracle.expect(episodes, of_theta, of_start, of_reference, *rule)
    expected.loss.backward()
    assert 0 < expected.acceptance < 1
    values = {"actor/pg_loss": expected.policy, "actor/entropy_loss": expected.entropy, "kl_loss": expected.kl}
    for name, value in values.items():
        assert told[name] == pytest.approx(value.item(), rel=1e-4), name
    assert told["trm/acceptance"] == pytest.approx(expected.acceptance)
    # the sequence of the token that is cut stays in the means, and that token out of those of divergences
    assert told["trm/nonfinite"] == 0
    assert told["trm/token_kl_mean"] == pytest.approx(expected.token_kl, rel=1e-3)
    assert told["trm/kept_set_cut"] == pytest.approx(1 / sum(len(each.tokens()) for each in episodes))
    assert told["trm/kept_set_cut_sequences"] == pytest.approx(1 / sum(bool(each.tokens()) for each in episodes))
    gradient = torch.cat([parameter.grad.flatten() for parameter in exact.parameters()])
    # the model's own float32 is 1.1e-4 away
    assert (torch.cat(found) - gradient).norm() / gradient.norm() < 3e-4
