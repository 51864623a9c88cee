"""A token whose kept set may be larger than its record, under every criterion and rival: the rule for the undecided."""

from dataclasses import replace
from importlib import resources
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from trm_agent.core.token_batch import DivergenceBounds, TokenBatch
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.masking import decide, examine
from trm_agent.trust_region.settings import TrmConfig

LENGTH, PLACE = 6, 2
# rows: all is inside but a cut token; all is inside; the last token is outside, and one is cut
INSIDE, KNOWN, OUTSIDE = range(3)
# of the cut token on its record: on policy, and on either side of it
ON_RECORD = (0.0, 0.01, -0.01)
# they look at no policy
COINS = ("random", "yoked")


def settings() -> dict[str, dict[str, Any]]:
    """Name -> settings of every row of the table, of every preset with our loss, and of DPPO's mask."""
    found: dict[str, dict[str, Any]] = {name: {"criterion": name} for name in CRITERIA}
    found["dppo"] = {"criterion": "prefix", "min_position_weight": 1.0, "prefix_budget": None}
    found["opsm_without_clip"] = {"criterion": "opsm", "opsm_clip": None}
    for controlled in ("stop", "prefix", "opsm"):
        found[f"inverse_of_{controlled}"] = {"criterion": "inverse", "controlled": controlled}
    for preset in (resources.files("trm_agent") / "conf" / "policy_loss").iterdir():
        actor = OmegaConf.create(preset.read_text(encoding="utf-8")).get("actor_rollout_ref", {}).get("actor", {})
        trm = actor.get("policy_loss", {}).get("trm")
        if trm is not None:
            found[preset.name.removesuffix(".yaml")] = OmegaConf.to_container(trm)
    return found


SETTINGS = settings()
BY_A_POLICY = [name for name, given in SETTINGS.items() if given.get("criterion") not in (*COINS, "permuted")]


def trm_of(name: str, undecided: str) -> TrmConfig:
    return TrmConfig.from_mapping({**SETTINGS[name], "estimator": "replayed", "undecided": undecided})


def batch(advantage: float, on_record: float = 0.0, *, is_cut: bool = True) -> TokenBatch:
    """Three sequences; without the cut the tokens at its place are on policy."""
    # outward for an advantage above 0 and below it, far inside of OPSM's mean and of every threshold; then far outside
    log_ratio = torch.full((3, LENGTH), 1e-5 * advantage, dtype=torch.float64)
    log_ratio[OUTSIDE, -1] = 2.0 * advantage
    kl, tv = log_ratio.square(), log_ratio.abs() / 4
    lower, upper = torch.stack([kl, tv]), torch.stack([kl, tv])
    rows = [INSIDE, OUTSIDE]
    log_ratio[rows, PLACE] = on_record if is_cut else 0.0
    lower[:, rows, PLACE] = 0.0
    upper[:, rows, PLACE] = torch.tensor([[torch.inf], [1.0]], dtype=torch.float64) if is_cut else 0.0
    measured = DivergenceBounds(lower[0], upper[0], lower[1], upper[1]).of_batch(log_ratio, known=False, replayed=True)
    ones = torch.ones_like(log_ratio)
    return TokenBatch(log_ratio, -ones, advantage * ones, ones.bool(), measured)


def of_the_rest(name: str, advantage: float) -> torch.Tensor:
    """What stays if the cut tokens are on policy."""
    return decide(trm_of(name, "reject"), batch(advantage, is_cut=False))


def reads_nothing(name: str, advantage: float) -> bool:
    """Whether the sign of the advantage decides alone: A >= 0 stays whatever its divergence and ratio."""
    return advantage > 0 and name.removeprefix("trm_") in ("negative_only", "opsm_without_clip")


@pytest.mark.parametrize("on_record", ON_RECORD)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("name", BY_A_POLICY)
def test_a_cut_token_is_undecided_whatever_its_ratio_on_the_record(name, advantage, on_record):
    rest = of_the_rest(name, advantage)
    given = batch(advantage, on_record)
    rejecting, statistics = examine(trm_of(name, "reject"), given)
    accepting = decide(trm_of(name, "accept"), given)
    # by the rest, and by it alone: on the record the token may be on any side of a threshold
    assert torch.equal(accepting, rest)
    assert torch.equal(rejecting[KNOWN], rest[KNOWN])
    undecided = statistics.sequences.undecided.tolist()
    assert not undecided[KNOWN]
    if reads_nothing(name, advantage):
        assert torch.equal(rejecting, rest)
        assert not any(undecided)
        return
    assert undecided[INSIDE]
    if trm_of(name, "reject").criterion == "inverse":
        # it keeps what the criterion rejects: of a criterion of sequences all
        assert not rest[INSIDE].any()
        assert rejecting[INSIDE, PLACE]
        assert rejecting[INSIDE].all() or trm_of(name, "reject").masks_tokens
        return
    assert rest[INSIDE].all()
    assert not rejecting[[INSIDE, OUTSIDE], PLACE].any()
    assert not (rejecting & ~accepting).any()
    row = CRITERIA[trm_of(name, "reject").criterion]
    if not row.masks_tokens:
        assert not rejecting[[INSIDE, OUTSIDE]].any()
    elif trm_of(name, "reject").criterion.startswith("stop"):
        assert rejecting[INSIDE].tolist() == [True] * PLACE + [False] * (LENGTH - PLACE)


@pytest.mark.parametrize("name", ["directional", "stop_directional", "opsm"])
def test_without_an_advantage_no_direction_is_asked_for(name):
    kept, statistics = examine(trm_of(name, "reject"), batch(0.0))
    assert kept[INSIDE].all()
    assert not statistics.sequences.undecided.any()


@pytest.mark.parametrize("length", [LENGTH, 1])
def test_the_last_token_has_no_weight_in_the_length_neutral_sum(length):
    log_ratio, kl = torch.zeros(2, 1, length, dtype=torch.float64)
    upper, tv = kl.clone(), kl.clone()
    upper[0, -1] = torch.inf
    measured = DivergenceBounds(kl, upper, tv, tv).of_batch(log_ratio, known=False, replayed=True)
    ones = torch.ones_like(log_ratio)
    assert decide(trm_of("ln", "reject"), TokenBatch(log_ratio, -ones, ones, ones.bool(), measured)).all()


@pytest.mark.parametrize("undecided", ["reject", "accept"])
@pytest.mark.parametrize("name", COINS)
def test_a_coin_looks_at_no_policy(name, undecided):
    given = batch(1.0)
    trm = TrmConfig(criterion=name, estimator="replayed", undecided=undecided)
    tossed = replace(given, decided=torch.tensor([True, False, True]))
    kept, statistics = examine(trm, tossed)
    assert kept.all(dim=-1).tolist() == [True, False, True]
    assert not statistics.sequences.undecided.any()


def test_a_permutation_needs_estimates_which_no_cut_set_has():
    with pytest.raises(ValueError, match=r"estimator: got 'replayed', with mask_policy='start_of_step'"):
        TrmConfig(criterion="permuted", mask_policy="start_of_step", estimator="replayed")


def test_a_ratio_between_two_whole_policies_is_known_where_the_divergence_has_no_bound():
    given = batch(1.0)
    bounds = DivergenceBounds(
        *(getattr(each, side) for each in (given.measured.kl_for_max, given.measured.tv) for side in ("lower", "upper"))
    )
    of_topk = replace(given, measured=bounds.of_batch(given.log_ratio, known=False))
    # the means of |rho - 1| are 8e-6 and (e^2 - 1) / 6: the threshold is 0.05
    kept = decide(TrmConfig(criterion="ser", estimator="topk"), of_topk)
    assert kept.all(dim=-1).tolist() == [True, True, False]


def test_a_budget_that_the_cut_token_itself_would_raise_keeps_no_other():
    # D = 0.18, 0.055, 0, ..., 0 and one of 0 to 1, all outward and of weight 1. The 90th percentile of 21 is the third
    # largest: 0, so that the budget is 0.02 and the second token may have 0.2 + 0.02 - 0.18 = 0.04; or with TV = 1 it
    # is 0.055, the budget 0.04, and the token is inside 0.06
    log_ratio = torch.full((1, 21), 1e-3, dtype=torch.float64)
    lower_tv = torch.zeros_like(log_ratio)
    lower_tv[0, :2] = torch.tensor([0.18, 0.055])
    upper_tv, lower_kl, upper_kl = lower_tv.clone(), 0 * lower_tv, 0 * lower_tv
    upper_tv[0, -1], upper_kl[0, -1] = 1.0, torch.inf
    bounds = DivergenceBounds(lower_kl, upper_kl, lower_tv, upper_tv)
    measured = bounds.of_batch(log_ratio, known=False, replayed=True)
    ones = torch.ones_like(log_ratio)
    of = TokenBatch(log_ratio, -ones, ones, ones.bool(), measured)
    more = {"criterion": "prefix", "estimator": "replayed", "min_position_weight": 1.0}
    rejecting, accepting = (decide(TrmConfig(undecided=rule, **more), of)[0].tolist() for rule in ("reject", "accept"))
    assert rejecting == [True, False, *[True] * 18, False]
    assert accepting == [True] * 21


@pytest.mark.parametrize("undecided", ["reject", "accept"])
@pytest.mark.parametrize(("name", "kept"), [("stop", PLACE), ("ser", 0), ("opsm", 0)])
def test_a_cut_token_that_no_loss_can_weigh_is_no_open_question(name, kept, undecided):
    # with A < 0 the sequence under `opsm`: its mean is not a number
    on_record = torch.nan if name == "opsm" else 1000.0
    found, statistics = examine(trm_of(name, undecided), batch(-1.0, on_record))
    assert found[INSIDE].tolist() == [True] * kept + [False] * (LENGTH - kept)
    assert not statistics.sequences.undecided[INSIDE]
