"""Criteria that decide on a whole update: the same however it is split, and what the driver tells them."""

import json
import logging
from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")

from omegaconf import OmegaConf
from verl.utils import tensordict_utils as tu
from verl.workers.utils.losses import ppo_loss

from trm_agent.trust_region.paired_run import QUARTERS, of_update
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor import whole_batch
from trm_agent.verl_plugin.actor.update import PAIRED_KEY, SEED_KEY, STEP_KEY, final_metrics
from trm_agent.verl_plugin.actor.whole_batch import Row, decided_rows, seed_of_update
from trm_agent.verl_plugin.driver.actor_update import for_decisions, with_trust_region
from trm_agent.verl_plugin.driver.start_of_step import warn_if_nothing_is_shuffled, with_cost

from .loss_support import actor_config
from .test_engine import RESPONSE, batch, engine

PERMUTED = TrmConfig(criterion="permuted", mask_policy="start_of_step")
YOKED = TrmConfig(criterion="yoked", yoked_run="a run")
RANDOM = TrmConfig(criterion="random", random_acceptance=0.5)
FAR_OFF = [True, False, True, False, False, True]


def rows(count: int, seed: int = 0) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    lengths, signs, accepted = (
        torch.randint(low, high, (count,), generator=generator).tolist() for low, high in ((0, 30), (-1, 2), (0, 2))
    )
    return [Row(f"{place:x}", *row) for place, row in enumerate(zip(lengths, signs, map(bool, accepted), strict=True))]


@pytest.mark.parametrize(("trm", "paired"), [(PERMUTED, ()), (YOKED, (0.9, 0.6, 0.5, 0.2)), (RANDOM, ())])
def test_a_sequence_has_one_fate_in_whatever_order_ranks_gather_it(trm, paired):
    given = rows(60)
    stays = dict(zip(given, decided_rows(trm, given, paired, 7), strict=True))
    assert 10 < sum(stays.values()) < 50
    assert not any(kept for row, kept in stays.items() if row.length == 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)).tolist()
    again = [given[place] for place in order]
    assert dict(zip(again, decided_rows(trm, again, paired, 7), strict=True)) == stays
    assert decided_rows(trm, given, paired, 8) != decided_rows(trm, given, paired, 7)


def test_equal_sequences_count_one_by_one():
    row = Row("a", 5, 1, True)
    others = [Row(str(place), 5, 1, False) for place in range(4)]
    assert sum(decided_rows(PERMUTED, [row] * 4 + others, (), 0)) == 4


def settings_and_data(trm: TrmConfig, directory, micro: int):
    """Six sequences, of which the start of the step is far from the rollout in three."""
    data = batch(directory)
    rollout = data["rollout_log_probs"].unbind()
    start = [values + (1.0 if far else 0.01) for values, far in zip(rollout, FAR_OFF, strict=True)]
    data["old_log_probs"] = torch.nested.as_nested_tensor(start, layout=torch.jagged)
    signs = [torch.full((RESPONSE,), 1.0 if place % 2 else -1.0) for place in range(len(FAR_OFF))]
    data["advantages"] = torch.nested.as_nested_tensor(signs, layout=torch.jagged)
    tu.assign_non_tensor(data, micro_batch_size_per_gpu=micro)
    return data, partial(ppo_loss, config=actor_config(trm))


def trained(trm: TrmConfig, directory, micro: int):
    """Gradients of one update, and which sequences had one."""
    data, loss = settings_and_data(trm, directory, micro)
    made = engine()
    with made.train_mode():
        made.train_batch(data, loss)
        gradients = [parameter.grad.full_tensor().clone() for parameter in made.module.parameters()]
    accepted = torch.cat([part.sequences.accepted for part in made._update.parts]).tolist()
    return gradients, accepted


def test_the_seed_of_an_update_is_of_the_run_the_step_and_its_number():
    seeds = {seed_of_update(*of) for of in [(0, 7, 0), (1, 7, 0), (0, 8, 0), (0, 7, 1), (0, 0, 7)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("trm", [PERMUTED, YOKED, RANDOM], ids=["permuted", "yoked", "random"])
def test_ranks_decide_as_one(trm, tmp_path, monkeypatch):
    # of the second update
    paired = {PAIRED_KEY: json.dumps([(1, 1, 1, 1), (0.9, 0.6, 0.5, 0.2)])}

    def decided(ranks: int, step: int = 3, seed: int = 0) -> list[bool]:
        data, loss = settings_and_data(trm, tmp_path, 1)
        tu.assign_non_tensor(data, **paired, **{SEED_KEY: seed})
        parts = tu.chunk_tensordict(data, ranks)
        everyone = [whole_batch._rows(part, trm) for part in parts]
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: ranks)
        monkeypatch.setattr(
            torch.distributed, "all_gather_object", lambda to, own, group: to.__setitem__(slice(None), everyone)
        )
        found = []
        for rank, part in enumerate(parts):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda group, rank=rank: rank)
            whole_batch.add_decisions(part, loss, None, step=step, number=1)
            found += part[whole_batch.DECIDED_KEY].tolist()
        return found

    alone = decided(1)
    assert 0 < sum(alone) < len(FAR_OFF)
    assert decided(2) == decided(3) == alone
    # whatever has been drawn before, as in a run that was resumed
    torch.manual_seed(5)
    assert decided(1) == alone
    if trm is not PERMUTED:  # of six sequences hardly two share a quarter and a sign
        assert any(decided(1, step) != alone for step in range(4, 9))
        assert any(decided(1, seed=seed) != alone for seed in range(1, 6))


@pytest.mark.usefixtures("one_rank")
def test_permuted_keeps_as_many_as_the_criterion_in_any_micro_batches(tmp_path):
    gradients, accepted = trained(PERMUTED, tmp_path / "2", 2)
    assert sum(accepted) == FAR_OFF.count(False)
    for micro in (3, 6):
        others, again = trained(PERMUTED, tmp_path / str(micro), micro)
        assert again == accepted
        for one, other in zip(others, gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3


@pytest.mark.usefixtures("one_rank")
def test_the_coin_of_a_sequence_is_the_same_in_any_micro_batches(tmp_path):
    gradients, accepted = trained(RANDOM, tmp_path / "1", 1)
    assert 0 < sum(accepted) < len(FAR_OFF)
    for micro in (2, 6):
        torch.manual_seed(micro)
        others, again = trained(RANDOM, tmp_path / str(micro), micro)
        assert again == accepted
        for one, other in zip(others, gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("one_rank")
def test_the_start_of_the_step_decides_in_the_engine(tmp_path):
    _, accepted = trained(TrmConfig(mask_policy="start_of_step"), tmp_path, 2)
    assert accepted == [not far for far in FAR_OFF]


@pytest.mark.usefixtures("one_rank")
def test_a_yoked_coin_has_the_acceptance_of_the_paired_runs_same_update(tmp_path):
    made, updates = engine(), (1.0, 0.0, 1.0)
    with made.train_mode():
        for number, acceptance in enumerate(updates, start=1):
            data, loss = settings_and_data(YOKED, tmp_path / str(number), 2)
            tu.assign_non_tensor(data, **{PAIRED_KEY: json.dumps([[each] * 4 for each in updates]), STEP_KEY: 3})
            metrics = made.train_batch(data, loss)["metrics"]
            accepted = torch.cat([part.sequences.accepted for part in made._update.parts]).tolist()
            assert accepted == [bool(acceptance)] * len(FAR_OFF)
            # the record that another run may be paired with
            told = {name: values for name, values in final_metrics(metrics).items() if "_update_" in name}
            assert told == {of_update(name, number): [acceptance] for name in QUARTERS}


def test_the_driver_names_the_acceptance_of_the_paired_run(tmp_path):
    lines = [{"step": step, **dict.fromkeys(QUARTERS, step / 10)} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trm = TrmConfig(criterion="yoked", yoked_run=str(tmp_path))
    told = for_decisions(trm, 2, 4, lambda: 1)
    assert json.loads(told[PAIRED_KEY]) == [[0.2] * 4]
    assert told[SEED_KEY] == 4
    assert for_decisions(RANDOM, 2, 4, lambda: 1) == {SEED_KEY: 4}
    assert for_decisions(TrmConfig(), 2, 4, lambda: 1) == {}
    with pytest.raises(ValueError, match=r"of step 3"):
        for_decisions(trm, 3, 4, lambda: 1)
    with pytest.raises(ValueError, match=r"yoked_run: got null"):
        for_decisions(TrmConfig(criterion="yoked"), 1, 4, lambda: 1)


@pytest.mark.parametrize(("batches", "numbers"), [(1, {1}), (1, {1, 2}), (2, {1}), (2, {2})])
def test_the_driver_counts_a_steps_updates_and_drops_the_number_of_a_lone_one(batches, numbers, tmp_path):
    """A step of `batches` batches, one of which logs the updates `numbers`."""
    per_batch = len(numbers)
    row = {"step": 3, **dict.fromkeys(QUARTERS, 0.5)}
    row |= {of_update(name, number): 0.5 for name in QUARTERS for number in range(1, batches * per_batch + 1)}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    loss = {"loss_mode": "trm", "trm": {"criterion": "yoked", "yoked_run": str(tmp_path)}, "dump": {"every": 0}}
    actor = {"policy_loss": loss, "loss_agg_mode": "token-mean", "ppo_mini_batch_size": 2, "ppo_epochs": 1}
    config = {"actor_rollout_ref": {"actor": actor, "rollout": {"n": 3, "top_k": -1}}, "run": None}
    config |= {"data": {"max_response_length": 8}, "trainer": {"nnodes": 1, "n_gpus_per_node": 1}}
    trainer = SimpleNamespace(config=OmegaConf.create(config), global_steps=3, parameter_sync_step=batches)
    logged = {of_update(name, number) for name in QUARTERS for number in numbers}

    def verls(self, batch, metrics):
        metrics.update(dict.fromkeys(logged, 0.5))
        return batch

    batch, metrics = SimpleNamespace(extra_info={}, keys=["row"] * 6 * per_batch), {}
    with_trust_region(verls)(trainer, batch, metrics)
    assert len(json.loads(batch.extra_info[PAIRED_KEY])) == batches * per_batch
    assert metrics.keys() == (set() if (batches, numbers) == (1, {1}) else logged)


@pytest.mark.parametrize(
    ("trm", "acceptances", "told"),
    [(PERMUTED, [0.99, 1.0, 1.0], 1), (PERMUTED, [0.99, 0.0], 0), (RANDOM, [1.0], 0), (TrmConfig(), [1.0], 0)],
)
def test_a_step_in_which_nothing_is_shuffled_is_told_once(trm, acceptances, told, caplog):
    trainer = SimpleNamespace()
    with caplog.at_level(logging.WARNING, "trm_agent"):
        for acceptance in acceptances:
            warn_if_nothing_is_shuffled(trainer, {"trm/acceptance": acceptance}, trm)
    assert caplog.text.count("accepted every sequence by criterion max, so criterion=permuted shuffled nothing") == told


@pytest.mark.parametrize(
    ("settings", "told"), [({"mask_policy": "start_of_step"}, 1), ({"decoupled": True}, 0), ({}, 0)]
)
def test_the_cost_of_a_forward_pass_for_the_mask_is_printed_once(settings, told, capsys):
    loss = {"loss_mode": "trm", "trm": settings}
    config = OmegaConf.create({"actor_rollout_ref": {"actor": {"policy_loss": loss}}})
    trainer = SimpleNamespace(config=config)
    compute = with_cost(lambda self, batch, metrics: batch)
    for _ in range(3):
        assert compute(trainer, ["a", "b"], metrics={}) == ["a", "b"]
    assert capsys.readouterr().out.count("s for the 2 sequences") == told
