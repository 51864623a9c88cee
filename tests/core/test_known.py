"""Tokens of whose divergence nothing is known, against loops over single tokens: where they count, and where not."""

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import pytest
import torch

from trm_agent.core.by_depth import FIRST_DEPTHS
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.diagnostics import concatenate
from trm_agent.core.stop import stop_bound
from trm_agent.core.summary import summarize
from trm_agent.core.token_batch import DivergenceBounds, TokenBatch
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import TrmConfig

SEQUENCES, WIDTH, DELTA = 12, 40, 0.02


@dataclass
class Token:
    """One that the model sampled."""

    row: int
    number: int
    """From 1."""
    turn: int
    depth: int
    lag: int
    advantage: float
    log_ratio: float
    kl: float
    tv: float
    known: bool

    @property
    def k3(self) -> float:
        return math.expm1(self.log_ratio) - self.log_ratio


def batch(share: float = 0.05) -> TokenBatch:
    """Turns of five tokens, of three versions; nothing is known of a share of them, nor of the first two rows."""
    generator = torch.Generator().manual_seed(5)
    place = torch.arange(WIDTH)
    mask = (place < torch.randint(8, WIDTH + 1, (SEQUENCES, 1), generator=generator)) & (place % 7 < 5)
    noise = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    log_ratio = torch.where(mask, 0.1 * noise, 0.0)
    advantages = torch.randn(SEQUENCES, 1, generator=generator, dtype=torch.float64) * mask
    lags = torch.where(mask, torch.randint(3, mask.shape, generator=generator), -1)
    unknown = mask & (torch.rand(mask.shape, generator=generator) < share)
    if share:
        unknown[:2] = mask[:2]
    # neither k2 nor k3
    kl, tv = 0.9 * log_ratio.square() / 2, log_ratio.expm1().abs() / 3
    bounds = DivergenceBounds(
        kl.masked_fill(unknown, 0.0),
        kl.masked_fill(unknown, torch.inf),
        tv.masked_fill(unknown, 0.0),
        tv.masked_fill(unknown, 1.0),
    )
    measured = bounds.of_batch(log_ratio, known=False)
    prompts = torch.arange(SEQUENCES) * 11
    zeros = torch.zeros_like(log_ratio)
    return TokenBatch(log_ratio, zeros, advantages, mask, measured, lags=lags, prompt_lengths=prompts)


def tokens_of(of: TokenBatch) -> list[Token]:
    assert of.measured is not None
    assert of.lags is not None
    kl, tv = of.measured.kl_for_avg, of.measured.tv
    found = []
    for row in range(SEQUENCES):
        places = of.response_mask[row].nonzero().flatten().tolist()
        for number, place in enumerate(places, start=1):
            at = row, place
            values = (each[at].item() for each in (of.advantages, of.log_ratio, kl.lower, tv.lower))
            known = bool(kl.upper[at] == kl.lower[at])
            found.append(Token(row, number, place // 7 + 1, 11 * row + place, int(of.lags[at]), *values, known))
    return found


def examined(of: TokenBatch, undecided: str = "reject"):
    return examine(TrmConfig(estimator="replayed", max_token_kl=DELTA, undecided=undecided), of)[1]


def metrics(of: TokenBatch, undecided: str = "reject") -> dict[str, float]:
    return {name: value.item() for name, value in summarize(examined(of, undecided)).items()}


def mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def by_row(tokens: list[Token]) -> list[list[Token]]:
    return [[each for each in tokens if each.row == row] for row in range(SEQUENCES)]


def test_divergences_are_those_of_the_tokens_that_are_known():
    of = batch()
    every = tokens_of(of)
    known = [each for each in every if each.known]
    assert SEQUENCES < len(every) - len(known) < len(every) / 3
    peaks = [max(own, key=lambda each: each.kl) for own in by_row(known) if own]
    assert len(peaks) == SEQUENCES - 2
    lengths = [len(own) for own in by_row(every)]
    expected = {
        "nonfinite": 0.0,
        "token_kl_mean": mean(each.kl for each in known),
        "token_tv_mean": mean(each.tv for each in known),
        "token_kl_max": max(each.kl for each in known),
        "token_kl_mean_k3": mean(each.k3 for each in every),
        "max_kl_position": mean(each.number / lengths[each.row] for each in peaks),
        "max_kl_turn": mean(each.turn for each in peaks),
        "seq_max_kl_p99": math.inf,
    }
    bins, lags, spans = defaultdict(list), defaultdict(list), defaultdict(list)
    for each in known:
        lags[each.lag].append(each.kl)
        bins[max(first for first in FIRST_DEPTHS if first <= each.depth)].append(each)
    for own in by_row(every):
        span = max(each.lag for each in own) - min(each.lag for each in own)
        spans[span] += [each.kl for each in own if each.known]
    expected |= {f"token_kl_mean_lag_{lag}": mean(values) for lag, values in lags.items()}
    expected |= {f"token_kl_mean_span_{span}": mean(values) for span, values in spans.items() if values}
    for first, own in bins.items():
        expected[f"token_kl_mean_depth_{first}"] = mean(each.kl for each in own)
        expected[f"mean_depth_{first}"] = mean(each.depth for each in own)
    of_bin = Counter(max(first for first in FIRST_DEPTHS if first <= each.depth) for each in every)
    known_of_bin = {first: len(own) for first, own in bins.items() if len(own) < of_bin[first]}
    assert known_of_bin
    expected |= {f"num_known_tokens_depth_{first}": number for first, number in known_of_bin.items()}
    assert len(expected) > 15
    found = metrics(of)
    assert {name for name in found if name.startswith("num_known")} <= expected.keys()
    # a maximum and sums over whole sequences are not known
    of_the_paper = {"bound_classical", "bound_unified", "bound_adaptive", "margin", "kl_seq", "effective_horizon"}
    assert not of_the_paper & found.keys()
    assert of_the_paper <= metrics(batch(0.0)).keys()
    # places are float32
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert sum(found[f"num_tokens_depth_{first}"] for first in bins) == len(every)


def test_the_total_variation_of_a_position_is_that_of_the_known():
    of, sums = batch(), [0.0] * WIDTH
    for each in tokens_of(of):
        sums[each.number - 1] += each.tv if each.known else 0.0
    assert examined(of).position_tv.tolist() == pytest.approx(sums, rel=1e-9)


def test_stop_cuts_at_what_is_unknown_and_expectations_take_k3_for_its_kl():
    of = batch()
    every = tokens_of(of)
    chi2 = delayed = share = stop_kl = stop_chi2 = stop_delayed = stop_gain = 0.0
    for own in by_row(every):
        stopped = False
        for each in own:
            deviation, kl = math.expm1(each.log_ratio), each.kl if each.known else each.k3
            chi2 += deviation**2 / SEQUENCES
            delayed += (each.number - 1) * kl / SEQUENCES
            stopped = stopped or not each.known or each.kl > DELTA
            if not stopped:
                stop_kl += kl / SEQUENCES
                stop_chi2 += deviation**2 / SEQUENCES
                stop_delayed += (each.number - 1) * kl / SEQUENCES
                stop_gain += each.advantage * deviation / SEQUENCES
        share += stopped / SEQUENCES
    longest = max(len(own) for own in by_row(every))
    expected = {
        "bound_chi2_kl": pooled_chi2_kl_bound(longest, chi2, delayed).item(),
        "bound_stop": stop_bound(longest, DELTA, share, stop_kl, stop_chi2, stop_delayed).item(),
        "surrogate_gain_stop": stop_gain,
    }
    assert 0 < stop_chi2 < chi2
    found = metrics(of)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_what_is_made_of_ratios_does_not_see_what_is_unknown():
    names = ("effective_tokens", "effective_turns", "effective_sequences", "ratio_min", "ratio_max", "ppl_gap")
    names += ("surrogate_gain", "contribution_positive", "contribution_negative", "token_kl_mean_k3", "nonfinite")
    found, expected = metrics(batch()), metrics(batch(0.0))
    assert found["undecided"] > 0.1
    assert expected["undecided"] == 0
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


def test_the_rule_for_the_undecided_decides_on_the_mask_and_on_no_divergence():
    found, other = metrics(batch(), "reject"), metrics(batch(), "accept")
    assert found["acceptance"] < other["acceptance"]
    assert found.keys() == other.keys()
    of_the_mask = ("acceptance", "kept_tokens", "rejected_by", "all_rejected")
    differ = {name for name in found if found[name] != other[name]}
    assert [name for name in differ if not name.startswith(of_the_mask) and not name.endswith("_masked")] == []


@pytest.mark.parametrize("borders", [list(range(SEQUENCES + 1)), [0, 1, 5, SEQUENCES]])
def test_no_split_of_an_update_shows(borders):
    # parts of known tokens alone and of unknown ones alone are among them
    of = batch()
    expected = metrics(of)
    parts = [examined(of.rows(slice(*pair))) for pair in itertools.pairwise(borders)]
    found = {name: value.item() for name, value in summarize(concatenate(parts[::-1])).items()}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_an_infinite_divergence_that_is_measured_is_known(share):
    of = batch(share)
    assert of.measured is not None
    place = int(of.response_mask[5].nonzero()[0])
    kl = [bound.clone() for bound in (of.measured.kl_for_avg.lower, of.measured.kl_for_avg.upper)]
    for bound in kl:
        bound[5, place] = torch.inf
    tv = of.measured.tv
    found = [
        metrics(replace(of, measured=DivergenceBounds(*kl, tv.lower, tv.upper).of_batch(of.log_ratio, known=known)))
        for known in (True, False)[bool(share) :]
    ]
    others = [each for each in tokens_of(of) if each.known and each.row != 5]
    for each in found:
        assert each["nonfinite"] == pytest.approx(1 / SEQUENCES)
        assert each["token_kl_mean"] == pytest.approx(mean(other.kl for other in others), rel=1e-9)


def test_without_a_known_token_there_is_no_number_of_divergences():
    found = metrics(batch(1.0))
    # all is cut at its first token: nothing is left of the hybrid, and the price is the whole reward
    assert (found["bound_stop"], found["nonfinite"], found["seq_max_kl_p50"]) == (1.0, 0.0, math.inf)
    assert found["bound_chi2_kl"] > 0
    assert found["token_kl_mean_k3"] > 0
    known = {"token_kl_max", "token_tv_mean", "max_kl_position", "max_kl_turn", "kl_seq", "margin", "bound_unified"}
    assert not {"effective_horizon", "token_kl_mean", *known} & found.keys()
    assert not [name for name in found if name.startswith(("token_kl_mean_", "mean_depth")) and name[-2:] != "k3"]
