"""Loss, gradient and metrics of every criterion against float64 loops, under autocast too, however it is split."""

import math
from dataclasses import asdict, dataclass, field
from functools import cache

import pytest
import torch

pytest.importorskip("verl")

from tests.core import reference, reference_criteria
from tests.core.batches import Tensors, to_tensors
from tests.core.reference_criteria import Bounds, Sequence
from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.controls import OF_TOKENS
from trm_agent.trust_region.criteria import CRITERIA, parts_of
from trm_agent.trust_region.settings import ESTIMATORS, TrmConfig
from trm_agent.verl_plugin.actor.update import Update

from .loss_support import MicroBatch, actor_config, batch_info, collect_update, loss_of, set_micro_batch, through_verl

THRESHOLDS = {
    "max_token_kl": 0.02,
    "avg_token_kl": 0.005,
    "cumulative_kl": 0.03,
    "length_neutral": 0.1,
    "ratio_deviation": 0.1,
    "token_tv": 0.03,
}
# the inverse of a criterion of tokens, by what the metrics call it
INVERSES = {f"inverse_of_{name}": {"criterion": "inverse", "controlled": name} for name in OF_TOKENS}
NAMES = [*CRITERIA, *INVERSES]
# what else a criterion needs
MORE = {
    "permuted": {"mask_policy": "start_of_step"},
    "both": {"avg_token_kl": 0.008, "max_token_kl": 0.03},
    **INVERSES,
}
CASES = [
    (name, estimator)
    for name in NAMES
    for estimator in ESTIMATORS
    if estimator == "sampled" or "mask_policy" not in MORE.get(name, {})
]
PRECISIONS = [(torch.float64, False), pytest.param(torch.float32, True, marks=pytest.mark.slow)]
# an interval alone leaves something undecided
WITH_RULES = [(*case, rule) for case in CASES for rule in ("reject", "accept") if rule == "reject" or "topk" in case]


def settings(name: str, estimator: str, **more) -> TrmConfig:
    return TrmConfig(**{"criterion": name, "estimator": estimator, **THRESHOLDS, **MORE.get(name, {}), **more})


def reasons_of(name: str) -> tuple[str, ...]:
    return (name,) if name in INVERSES else parts_of(name)


@dataclass
class Data:
    """An update whose sequences lie on both sides of the thresholds: ragged, with tool tokens, one of advantage 0."""

    tensors: Tensors
    kl: torch.Tensor
    """Lower and upper bounds, shape (2, batch, response_length); of total variation half of it."""
    decided: torch.Tensor

    def rows(self, rows: slice, pad: int) -> "Data":
        def cut(values: torch.Tensor, filler: float | bool) -> torch.Tensor:
            return torch.nn.functional.pad(values.detach(), (0, pad), value=filler)

        given = self.tensors
        part = Tensors(
            cut(given.log_probs[rows], -7.0).requires_grad_(),
            cut(given.rollout_log_probs[rows], -3.0),
            cut(given.advantages[rows], 0.0),
            cut(given.response_mask[rows], False),
        )
        return Data(part, cut(self.kl[:, rows], 0.0), self.decided[rows])

    def bounds(self, estimator: str) -> DivergenceBounds | None:
        if estimator == "sampled":
            return None
        low, high = self.kl[1 if estimator == "exact" else 0], self.kl[1]
        return DivergenceBounds(low, high, low / 2, high / 2)


@cache
def whole(dtype: torch.dtype) -> Data:
    batch = reference.random_batch(5, num_sequences=40, spread=0.5)
    batch.advantages[7] = [0.0] * len(batch.advantages[7])
    tensors = to_tensors(batch, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(tensors.response_mask.shape, generator=generator, dtype=torch.float64) / 2
    moved = (tensors.log_probs - tensors.rollout_log_probs).detach().double()
    # of the context, so not that of the drawn token
    kl = torch.where(tensors.response_mask, moved.square() / 2 * (1.5 - noise), 0.0)
    decided = torch.rand(len(kl), generator=generator) < 0.6
    return Data(tensors, torch.stack([kl * (1 - noise), kl]).to(dtype), decided)


def run(data: Data, trm: TrmConfig, info: dict, autocast: bool = False) -> tuple[float, torch.Tensor, Update]:
    """Loss, gradient and statistics of one micro-batch that says how large its update is."""
    leaf = data.tensors.log_probs.detach().clone().requires_grad_()
    given = data.tensors
    tensors = Tensors(leaf, given.rollout_log_probs, given.advantages, given.response_mask)
    with collect_update() as update, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        micro_batch = MicroBatch(
            data.bounds(trm.estimator),
            given.rollout_log_probs,
            decided=data.decided if trm.decides_on_whole_batch else None,
        )
        set_micro_batch(micro_batch)
        # the policy at the start of the step is the current one here
        with_start = Tensors(leaf, leaf.detach(), given.advantages, given.response_mask)
        loss, _ = loss_of(with_start if trm.starts_with_log_probs else tensors, actor_config(trm, **info))
    loss.backward()
    return loss.item(), leaf.grad, update


def sequences(data: Data, trm: TrmConfig) -> list[Sequence]:
    """The update as the loops read it: lists of the model's tokens in float64."""
    found = []
    for row, mask in enumerate(data.tensors.response_mask):
        ours, theirs, advantages = (
            values[row][mask].detach().double().tolist()
            for values in (data.tensors.log_probs, data.tensors.rollout_log_probs, data.tensors.advantages)
        )
        pairs = list(zip(ours, theirs, strict=True))
        if trm.estimator == "sampled":
            for_max, for_avg = (
                [reference.token_divergence(*pair, name) for pair in pairs]
                for name in (trm.max_estimator, trm.avg_estimator)
            )
            binary = [abs(math.exp(one) - math.exp(other)) for one, other in pairs]
            bounds = [Bounds(values, values) for values in (for_max, for_avg, binary)]
        else:
            low, high = (values[row][mask].double().tolist() for values in data.kl)
            low = high if trm.estimator == "exact" else low
            half = Bounds([value / 2 for value in low], [value / 2 for value in high])
            bounds = [Bounds(low, high), Bounds(low, high), half]
        ratios = [math.exp(one - other) for one, other in pairs]
        found.append(Sequence(*bounds, ratios, advantages, bool(data.decided[row])))
    return found


@dataclass
class Sign:
    """The tokens of one sign of the advantage, and the sequences that have more of them than of the other."""

    num_tokens: int = 0
    num_kept: int = 0
    kept_gain: float = 0.0
    accepted: list[bool] = field(default_factory=list)

    def add(self, gain: float, stays: bool) -> None:
        self.num_tokens += 1
        self.num_kept += stays
        self.kept_gain += gain if stays else 0.0


def expected(data: Data, trm: TrmConfig) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Loss, gradient and the metrics that depend on the criterion."""
    rows, of = sequences(data, trm), asdict(trm)
    size, loss, gain, kept_gain = len(rows), 0.0, 0.0, 0.0
    gradient = torch.zeros(data.tensors.log_probs.shape, dtype=torch.float64)
    accepted, undecided, lengths, num_kept, num_undecided = [], [], [], 0, 0
    signs = {"positive": Sign(), "negative": Sign()}
    rejected: dict[str, list[bool]] = {}
    for row, sequence in enumerate(rows):
        if not sequence.ratios:
            continue
        kept, reasons = reference_criteria.kept_tokens(trm.criterion, sequence, of)
        places = data.tensors.response_mask[row].nonzero().flatten().tolist()
        for place, stays, ratio, advantage in zip(places, kept, sequence.ratios, sequence.advantages, strict=True):
            gain += advantage * (ratio - 1)
            if advantage:
                signs["positive" if advantage > 0 else "negative"].add(advantage * (ratio - 1), stays)
            if stays:
                kept_gain += advantage * (ratio - 1)
                gradient[row, place] = -advantage * ratio / size
                loss -= advantage * ratio / size
        num_kept += sum(kept)
        accepted.append(any(kept))
        mostly = sum((advantage > 0) - (advantage < 0) for advantage in sequence.advantages)
        if mostly:
            signs["positive" if mostly > 0 else "negative"].accepted.append(any(kept))
        lengths.append(len(kept))
        undecided.append(reference_criteria.is_undecided(trm.criterion, sequence, of))
        num_undecided += reference_criteria.num_undecided_tokens(trm.criterion, sequence, of)
        for part, rejects in reasons.items():
            rejected.setdefault(part, []).append(rejects)
    counted = len(lengths)
    metrics = {
        "acceptance": sum(accepted) / counted,
        "all_rejected": float(num_kept == 0),
        "undecided": sum(undecided) / counted,
        "undecided_tokens": num_undecided / sum(lengths),
        "kept_tokens": num_kept / sum(lengths),
        "surrogate_gain": gain / counted,
        "surrogate_gain_masked": kept_gain / counted,
    }
    for name, sign in signs.items():
        metrics[f"acceptance_{name}"] = sum(sign.accepted) / len(sign.accepted)
        metrics[f"kept_tokens_{name}"] = sign.num_kept / sign.num_tokens
        metrics[f"contribution_{name}_masked"] = -sign.kept_gain / counted
    metrics |= {f"rejected_by_{part}": sum(values) / counted for part, values in rejected.items()}
    quarters = enumerate(reference_criteria.acceptance_by_length(lengths, accepted), start=1)
    return loss, gradient, metrics | {f"acceptance_length_q{quarter}": share for quarter, share in quarters}


@cache
def of_max(estimator: str, dtype: torch.dtype, autocast: bool, **thresholds: float) -> dict[str, float]:
    data = whole(dtype)
    trm = TrmConfig(estimator=estimator, **{**THRESHOLDS, **thresholds})
    return through_verl([run(data, trm, batch_info(data.tensors), autocast)[2]])


@pytest.mark.parametrize(("name", "estimator", "undecided"), WITH_RULES)
@pytest.mark.parametrize(("dtype", "autocast"), PRECISIONS)
def test_loss_gradient_and_metrics_equal_the_loops(name, estimator, undecided, dtype, autocast):
    data, trm = whole(dtype), settings(name, estimator, undecided=undecided)
    loss, gradient, update = run(data, trm, batch_info(data.tensors), autocast)
    wanted_loss, wanted_gradient, wanted = expected(data, trm)
    exactness = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 1e-6}
    assert loss == pytest.approx(wanted_loss, rel=exactness["rtol"], abs=exactness["atol"])
    torch.testing.assert_close(gradient.double(), wanted_gradient, **exactness)
    found = through_verl([update])
    for metric, value in wanted.items():
        # a ratio of two counts is a float32
        error = max(exactness["rtol"], 1e-7)
        assert found[f"trm/{metric}"] == pytest.approx(value, rel=error, abs=exactness["atol"]), metric
    # every other number is of the batch, whatever the criterion
    shared = {item: getattr(trm, item) for item in ("max_token_kl", "avg_token_kl")}
    others = of_max(estimator, dtype, autocast, **shared)
    assert found.keys() - others.keys() <= {f"trm/rejected_by_{part}" for part in reasons_of(name)}
    rest = others.keys() - {f"trm/{metric}" for metric in wanted} - {"trm/rejected_by_max"}
    assert len(rest) > 25
    assert {metric: found[metric] for metric in rest} == {metric: others[metric] for metric in rest}
    # the case can fail: something is masked, and something is not
    assert 0.02 < wanted["kept_tokens"] < 0.98


@pytest.mark.parametrize(("name", "estimator"), CASES)
def test_micro_batches_and_padding_change_nothing(name, estimator):
    data, trm = whole(torch.float64), settings(name, estimator)
    info = batch_info(data.tensors)
    loss, gradient, _ = run(data, trm, info)
    width, total = gradient.shape[1], 0.0
    for rows, pad in ((slice(0, 1), 0), (slice(1, 14), 3), (slice(14, 40), 1)):
        part_loss, part_gradient, _ = run(data.rows(rows, pad), trm, info)
        torch.testing.assert_close(part_gradient[:, :width], gradient[rows], rtol=0, atol=0)
        assert (part_gradient[:, width:] == 0).all()
        total += part_loss
    assert total == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("permuted", "random", "yoked")])
def test_the_start_of_the_step_decides_where_it_is_asked_for(name):
    # the current policy has gone elsewhere: the mask is that of the start, the ratios are its own
    data = whole(torch.float64)
    before, after = settings(name, "sampled"), settings(name, "sampled", mask_policy="start_of_step")
    kept = run(data, before, batch_info(data.tensors))[1] != 0
    moved = data.tensors.log_probs.detach().roll(1, dims=0) * 0.5
    leaf = moved.clone().requires_grad_()
    given = data.tensors
    with collect_update():
        set_micro_batch(MicroBatch(None, given.rollout_log_probs))
        start = given.log_probs.detach()
        loss, _ = loss_of(
            Tensors(leaf, start, given.advantages, given.response_mask), actor_config(after, **batch_info(given))
        )
    loss.backward()
    ratios = torch.where(given.response_mask, moved - given.rollout_log_probs, 0.0).exp()
    wanted = torch.where(kept, -given.advantages * ratios / len(ratios), 0.0)
    torch.testing.assert_close(leaf.grad, wanted)
    assert 0 < int(kept.sum()) < int((given.advantages[given.response_mask] != 0).sum())
