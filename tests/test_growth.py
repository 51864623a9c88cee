"""The growth of time and memory with the tokens: exponents, and the fit that tells attention from the rest."""

import math
import sys
from dataclasses import replace

import pytest

from benchmarks import growth, growth_turns
from benchmarks.growth import LENGTHS, as_table
from benchmarks.growth_fit import LEAST_EXPLAINED, Cost, exponents, fit
from benchmarks.growth_parts import PARTS


def test_exponents_are_those_of_each_doubling() -> None:
    assert exponents([1, 2, 4], [3.0, 6.0, 24.0]) == pytest.approx([1.0, 2.0])
    # not only of doublings: 1000 to 3000, three times as much
    assert exponents([1000, 3000], [1.0, 3.0]) == pytest.approx([1.0])


def test_attention_is_told_from_what_is_linear() -> None:
    # 2e-8 s a pair of tokens; 1 s and 1e-3 s a token for the rest
    costs = [Cost(n, 2e-8 * n**2 + 1 + 1e-3 * n, 2e-8 * n**2, 1.0 * n) for n in (1000, 2000, 4000)]
    found = fit(costs)
    assert (found.per_token_pair, found.per_token, found.explained) == pytest.approx((2e-8, 1e-3, 1.0))
    # 2, 3 and 5 s: log(5 / 2) / log(4)
    assert found.power == pytest.approx(math.log(2.5) / math.log(4))


def test_a_rest_that_is_not_linear_is_seen_in_the_fit() -> None:
    # residuals of the line through (1, 1), (2, 4), (3, 9), slope 4: 1/3, -2/3, 1/3; R^2 = 1 - (6/9) / (98/3) = 1 - 1/49
    found = fit([Cost(n, float(n**2), 0.0, 1.0) for n in (1, 2, 3)])
    assert (found.per_token, found.explained) == pytest.approx((4.0, 1 - 1 / 49))


def test_the_line_is_that_of_all_seconds_without_the_fitted_square() -> None:
    # a = (0 * 1 + 2 * 4 + 10 * 9) / (1 + 16 + 81) = 1, and n^2 + 2 n without it is 2 n; without attention's own seconds
    # it would be 3, 6, 5
    found = fit([Cost(n, float(n**2 + 2 * n), attention, 1.0) for n, attention in ((1, 0.0), (2, 2.0), (3, 10.0))])
    assert (found.per_token_pair, found.per_token, found.explained) == pytest.approx((1.0, 2.0, 1.0))


def test_the_table_says_whether_what_attention_leaves_is_linear() -> None:
    linear = as_table([Cost(n, 2e-8 * n**2 + 1e-3 * n, 2e-8 * n**2, 1.0) for n in (1000, 2000, 4000)]).splitlines()
    assert linear[-2] == "a = 2e-08 s, of attention's own calls"
    told = "seconds - a x tokens^2: 1 ms a token, R^2 1.0000, at least 0.98; the rest's power 1.00, at most 1.2: holds"
    assert linear[-1] == told
    # as above, 1 - 1/49 = 0.9796
    square = as_table([Cost(n, float(n**2), 1e-9, 1.0) for n in (1, 2, 3)])
    assert square.endswith("R^2 0.9796, at least 0.98; the rest's power 2.00, at most 1.2: FAILS")


def test_a_power_that_a_line_almost_explains_is_not_linear() -> None:
    costs = [Cost(n, (n / 1000) ** 1.5, 0.0, 1.0) for n in LENGTHS]
    assert fit(costs).explained > LEAST_EXPLAINED
    assert not fit(costs).is_linear


def test_attention_that_took_longer_than_all_has_no_power_and_fails() -> None:
    costs = [Cost(n, n / 1000, 1.01 if n == 1000 else 0.1, 1.0) for n in (1000, 2000, 4000)]
    assert fit(costs).power == math.inf
    assert as_table(costs).endswith("FAILS")


@pytest.mark.parametrize(("power", "status"), [(1.0, 0), (1.5, 1)])
def test_a_benchmark_whose_claim_fails_ends_with_1(power, status, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["growth", "--model", "nano"])
    monkeypatch.setattr(growth, "measure_alone", lambda _, n: Cost(n, (n / 1000) ** power, 1e-9, 1.0))
    assert growth.main() == status
    monkeypatch.setattr(sys, "argv", ["growth_turns", "--tokenizer", "nano"])
    monkeypatch.setattr(growth_turns, "preload", lambda: None)

    def measured(_: object, tokens: int, __: bool) -> list[growth_turns.Cost]:
        return turn_costs("dump", lambda n: (n / 1000) ** power, (tokens,))

    monkeypatch.setattr(growth_turns, "measure_alone", measured)
    assert growth_turns.main() == status


def test_the_table_has_a_line_for_each_length() -> None:
    lines = as_table([Cost(n, 2.0 * n, n / 4, 8.0 * n) for n in (1000, 2000, 4000)]).splitlines()
    assert len(lines) == 6
    assert lines[2].split()[-4:] == ["1.00"] * 4
    assert math.isclose(float(lines[1].split()[3]), 1750.0)


def turn_costs(part, seconds, lengths=(1000, 2000, 4000, 8000, 16000)):
    return [growth_turns.Cost(part, n, n / 64, seconds(n), n / 1000, n / 500, 0.0) for n in lengths]


def test_the_slope_is_the_power_of_growth():
    # least squares through (0, 0), (1, 1), (2, 3) in logarithms of 2: (1 * 3 - 0 - 0) / 2 = 1.5
    assert growth_turns.slope([1, 2, 4], [1.0, 2.0, 8.0]) == pytest.approx(1.5)


def test_of_several_processes_the_fastest_and_the_median_of_memory_count():
    # free memory of earlier parts makes single ones too small, garbage too large
    found = [(3, 6.0, 5), (2, 0.0, 1), (4, 0.0, 40)]
    measured = [growth_turns.Cost("report", 8000, 125, *costs, 7.0) for costs in found]
    assert growth_turns.joined(measured) == growth_turns.Cost("report", 8000, 125, 2, 6.0, 5, 7.0)


@pytest.mark.parametrize(
    ("allocated", "resident", "is_linear"), [(1, 1, True), (1.2, 1, False), (1, 1.2, False), (1, 0, True)]
)
def test_allocations_are_judged_and_a_resident_set_that_is_large(allocated, resident, is_linear):
    lengths = (1000, 2000, 4000, 8000)
    costs = [growth_turns.Cost("dump", n, n / 64, n, n**allocated, 100 * n**resident, n) for n in lengths]
    assert growth_turns.is_linear(costs) == is_linear
    small = [replace(cost, resident_mib=3 * cost.resident_mib / costs[-1].resident_mib) for cost in costs]
    assert growth_turns.is_linear(small) == (allocated <= 1.1)


def test_what_is_allocated_is_counted_again_to_the_byte():
    mib = [growth_turns._allocated_mib(lambda work: len(bytearray(8 << 20)), None) for _ in range(2)]
    assert mib[0] == pytest.approx(8, abs=0.01)
    assert mib[1] == pytest.approx(mib[0], abs=0.001)


def test_only_the_last_lengths_decide_what_is_linear():
    part = next(iter(PARTS))
    # what a call costs at least hides the growth of short episodes; the fit leaves the shortest out
    found = growth_turns.fits(turn_costs(part, lambda n: 10.0 if n == 1000 else n / 1000))
    assert found == pytest.approx({"seconds": 1.0, "allocated": 1.0, "resident": 1.0})
    assert "linear" in growth_turns.as_table(turn_costs(part, lambda n: n / 1000))
    assert "NOT LINEAR" in growth_turns.as_table(turn_costs(part, lambda n: n**1.2))


def test_the_table_compares_each_length_with_the_shortest_times_the_factor():
    lines = growth_turns.as_table(turn_costs("a part of others", lambda n: (n / 1000) ** 2)).splitlines()
    # 16 times the tokens take 256 times as long
    assert lines[6].split()[:5] == ["16000", "250", "256.000", "16.00", "2.00"]
    assert "LINEAR" not in "".join(lines).upper()
