"""Two updates of a step on tokens of several versions, through the loss and its driver, against float64 loops."""

import functools
import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import append_to_dict, rename_dict

from tests.core.batches import Tensors
from trm_agent.trust_region.adaptive import TARGET_THRESHOLDS
from trm_agent.trust_region.criteria import CRITERIA, parts_of
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE
from trm_agent.verl_plugin.actor.divergences import version_lags
from trm_agent.verl_plugin.actor.update import ADAPTIVE_KEY, STEP_KEY, Update, ratios_in
from trm_agent.verl_plugin.driver.actor_update import with_trust_region
from trm_agent.verl_plugin.driver.several_updates import over_updates
from trm_agent.verl_plugin.rollout.versions import ROLLOUT_VERSIONS

from .loss_support import MicroBatch, actor_config, collect_update, loss_of, set_micro_batch, through_verl
from .stale_loop import NEWEST, Played, expect, play, targets, versions
from .test_criteria_loops import settings

STEP = NEWEST + 1
NUM_SEQUENCES, RATE = 25, 0.5
ADAPTING = [name for name, row in CRITERIA.items() if row.adapts]


@functools.cache
def step() -> tuple[np.ndarray, list[list[Played]]]:
    """The policy that a step begins with, and the sequences of its updates."""
    rng = np.random.default_rng(3)
    policies = versions(rng)
    return policies[-1], [[play(rng, policies, number) for number in range(NUM_SEQUENCES)] for _ in range(4)]


def unlike() -> tuple[list[Played], list[Played]]:
    """Two updates of which the second has fewer sequences, and none of span 2."""
    first, second, *_ = step()[1]
    return first, [each for each in second if np.ptp([each.versions[place] for place in each.places()]) != 2]


def update_of(
    trm: TrmConfig, logits: torch.Tensor, played: list[Played], number: int, thresholds: dict[str, float] | None = None
) -> tuple[float, Update]:
    """Loss and statistics of an update in step `number`, in two micro-batches; adds to the gradient of the logits."""
    whole = {
        "dp_size": 1,
        "batch_num_tokens": sum(len(each.places()) for each in played),
        "global_batch_size": len(played),
    }
    total = torch.zeros((), dtype=torch.float64)
    with collect_update() as update:
        for part in (played[:9], played[9:]):
            mask = padded([[version >= 0 for version in each.versions] for each in part])
            before, token = (padded([each.tokens[cut] for each in part]) for cut in (slice(-1), slice(1, None)))
            recorded = padded([each.log_probs for each in part])
            # the policy at the start of the step, which decides where a criterion asks for it, is the first update's
            start = torch.tensor(step()[0]).log_softmax(-1)[before, token]
            set_micro_batch(
                MicroBatch(
                    rollout_log_probs=recorded,
                    thresholds=thresholds or {},
                    lags=version_lags(nested(part), number),
                    decided=torch.tensor([each.decided for each in part]) if trm.decides_on_whole_batch else None,
                )
            )
            advantages = torch.tensor([each.advantage for each in part], dtype=torch.float64)[:, None] * mask
            ours = torch.where(mask, logits.log_softmax(-1)[before, token], -7.0)
            old = start if trm.starts_with_log_probs else recorded
            loss, said = loss_of(Tensors(ours, old, advantages, mask), actor_config(trm, **whole))
            assert said == {}
            total = total + loss
    total.backward()
    return total.item(), update


def padded(rows: list[list[Any]]) -> torch.Tensor:
    """Rows as one tensor, filled up with 0."""
    kind = torch.float64 if isinstance(rows[0][0], float) else None
    tensors = [torch.tensor(row, dtype=kind) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def nested(played: list[Played]) -> TensorDict:
    """What verl's batch has of the versions."""
    of_tokens = [torch.tensor(each.versions, dtype=torch.int32) for each in played]
    rows = {
        "responses": [torch.ones(len(values)) for values in of_tokens],
        "response_mask": [(values >= 0).long() for values in of_tokens],
        ROLLOUT_VERSIONS: of_tokens,
    }
    columns = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in rows.items()}
    return TensorDict(columns, [len(played)])


@pytest.mark.parametrize("name", [*CRITERIA, "inverse_of_stop"])
def test_two_updates_on_tokens_of_several_versions_equal_the_loop(name):
    trm = settings(name, "sampled")
    policy, batches = step()[0], unlike()
    logits = torch.tensor(policy).requires_grad_()
    found, updates, wanted = [], [], []
    for played in batches:
        expected = expect(played, policy, asdict(trm), STEP)
        logits.grad = None
        loss, update = update_of(trm, logits, played, STEP)
        assert loss == pytest.approx(expected.loss, rel=1e-9, abs=1e-12)
        torch.testing.assert_close(logits.grad, torch.tensor(expected.gradient), rtol=1e-9, atol=1e-12)
        # the case can fail: something is masked, and something is not
        assert 0.02 < expected.kept < 0.98
        with torch.no_grad():
            logits -= RATE * logits.grad
        policy = policy - RATE * expected.gradient
        updates.append(update)
        found.append(through_verl([update]))
        wanted.append(expected)
    pooled = {
        name: [sum(column) for column in zip(*(each.sums[name] for each in wanted), strict=True)]
        for name in wanted[0].sums
    }
    of_step = {name: numerator / of for name, (numerator, of) in pooled.items() if of}
    # of all sequences, as every number of all: each update counts alike
    of_step["acceptance"] = np.mean([each.metrics["acceptance"] for each in wanted])
    ratios = [ratios_in(update.metrics()) for update in updates]
    # of several batches a step, and of several mini-batches of one
    for metrics in (over_updates(found, ratios), through_verl(updates)):
        told = {key.removeprefix("trm/"): value for key, value in metrics.items()}
        by_version = {key: value for key, value in told.items() if "_lag_" in key or "_span_" in key}
        assert by_version | {"acceptance": told["acceptance"]} == pytest.approx(of_step, rel=1e-6, abs=1e-12)
        for of in ("tokens_lag", "sequences_lag", "tokens_span", "sequences_span"):
            assert sum(told[f"{of}_{number}"] for number in range(4)) == pytest.approx(1)


def test_the_updates_have_every_lag_and_the_second_lacks_a_span_and_has_left_the_newest_version():
    policy, (first, second) = step()[0], unlike()
    of = asdict(TrmConfig())
    before = expect(first, policy, of, STEP)
    after = expect(second, policy - RATE * before.gradient, of, STEP)
    assert "acceptance_span_2" not in after.metrics
    assert after.metrics["sequences_span_2"] == 0
    for metrics, spans in ((before.metrics, range(4)), (after.metrics, (0, 1, 3))):
        assert {f"acceptance_lag_{number}" for number in range(4)} <= metrics.keys()
        assert {f"acceptance_span_{number}" for number in spans} <= metrics.keys()
        assert {f"acceptance_{sign}_span_{number}" for sign in ("positive", "negative") for number in (0, 3)} <= set(
            metrics
        )
    # a lag counts from the policy that the step began with
    assert before.metrics["token_kl_mean_lag_0"] < 1e-12
    assert after.metrics["token_kl_mean_lag_0"] > 1e-6


@pytest.mark.parametrize("name", ADAPTING)
def test_adaptive_thresholds_follow_the_update_before_over_the_updates_of_steps(name):
    limits = {"adaptive_floor": 1e-9, "adaptive_cap": 9.0, "adaptive_avg_floor": 1e-9, "adaptive_avg_cap": 9.0}
    trm = TrmConfig(criterion=name, target_acceptance=0.6, **limits)
    policy, batches = step()
    logits = torch.tensor(policy).requires_grad_()

    def verls(trainer: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        """What verl's update does with the driver's instructions and the engine's metrics."""
        thresholds, number = json.loads(batch.extra_info[ADAPTIVE_KEY]), batch.extra_info[STEP_KEY]
        of_step: dict[str, Any] = {}
        append_to_dict(of_step, update_of(trm, logits, batch.played, number, thresholds)[1].metrics())
        metrics.update(reduce_metrics(rename_dict(of_step, "actor/")))
        return batch

    loss = {"loss_mode": LOSS_MODE, "trm": asdict(trm), "dump": {"every": 0}}
    actor = {"policy_loss": loss, "loss_agg_mode": "seq-mean-token-sum"}
    config = {
        "actor_rollout_ref": {"actor": actor, "rollout": {"top_k": -1}},
        "data": {"max_response_length": 64},
    }
    trainer, updating = SimpleNamespace(config=OmegaConf.create(config)), with_trust_region(verls)
    fields = {part: CRITERIA[part].thresholds[0].name for part in parts_of(name)}
    thresholds = {field: getattr(trm, field) for field in fields.values()}
    in_use = []
    for number, of_step in ((STEP, batches[:2]), (STEP + 1, batches[2:])):
        trainer.global_steps = number
        rows: list[dict[str, Any]] = []
        for played in of_step:
            rows.append({})
            updating(trainer, SimpleNamespace(extra_info={}, played=played), rows[-1])
            expected = expect(played, policy, asdict(trm) | thresholds, number)
            assert rows[-1]["trm/acceptance"] == pytest.approx(expected.metrics["acceptance"])
            assert {field: rows[-1][f"trm/{field}"] for field in thresholds} == pytest.approx(thresholds, rel=1e-9)
            in_use.append(tuple(thresholds.values()))
            thresholds = targets(fields, played, policy, asdict(trm), 0.6)
            told = {field: rows[-1][TARGET_THRESHOLDS[part]] for part, field in fields.items()}
            assert told == pytest.approx(thresholds, rel=1e-9)
        whole = over_updates(rows)
        assert whole["trm/acceptance"] == pytest.approx(np.mean([row["trm/acceptance"] for row in rows]))
        for key in (*(f"trm/{field}" for field in thresholds), *(TARGET_THRESHOLDS[part] for part in fields)):
            assert whole[key] == rows[-1][key]
    # every update had other ones
    assert len(set(in_use)) == 4
