"""`trm analyze --criterion`: the bound that follows from a threshold, of theta or of what is kept."""

import json
import math

import pytest

from tests.trust_region.test_dump import FOUR, row, write
from trm_agent.cli import main
from trm_agent.commands.analyze import AS_SET, WITH_CURVE
from trm_agent.trust_region.criterion_bounds import CRITERION_BOUNDS, THETA, criterion_bound, known_bound
from trm_agent.trust_region.settings import TrmConfig


def analysed(capsys, *arguments: str) -> tuple[dict, str]:
    assert main(["analyze", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(["analyze", *arguments]) == 0
    return result, capsys.readouterr().out


@pytest.mark.parametrize(
    ("criterion", "threshold", "bound"),
    [
        # T = 3. max: 2 sqrt(d/2) (0 + sqrt(d/2) + sqrt(d)) at d = 0.05; avg: K sqrt(3/2), K = 3 * 0.001
        ("max", 0.05, 0.05 * (1 + 2**0.5)),
        ("avg", 0.001, 0.003 * 1.5**0.5),
        ("prefix_avg", 0.001, 0.003 * 1.5**0.5),
        ("both", 0.05, 0.003 * 1.5**0.5),
        # ln: e 0.05 (0 + sqrt(d/2) + sqrt(d)); ser: 3 * 0.05
        ("ln", 0.05, math.e * 0.05 * (0.025**0.5 + 0.05**0.5)),
        ("ser", 0.05, 0.15),
        ("token", 0.05, 0.05 * (1 + 2**0.5)),
        ("stop", 0.05, 0.05 * (1 + 2**0.5)),
        # K = 1
        ("stop_cumulative", 1.0, 1.5**0.5),
    ],
)
def test_a_criterion_knows_its_own_bound(tmp_path, capsys, criterion, threshold, bound):
    result, text = analysed(capsys, str(write(tmp_path, FOUR)), "--criterion", criterion)
    assert result["threshold_used"] == threshold
    told = result["bound_of_criterion"]
    assert (told["horizon"], told["used"]) == (3, pytest.approx(bound, rel=1e-6))
    assert f"Bound of the criterion {criterion} (ours), T = 3: {bound:.4g} at the run's threshold" in text
    assert told["premise"] in text
    assert (f"on the error of {told['policy']}" in text) == (told["policy"] != THETA)
    assert "bound_chi2_kl" in text
    assert bool(result["curve"]) == (f"Criterion {criterion} at other thresholds" in text) == (criterion in WITH_CURVE)


def test_both_has_the_least_of_its_parts():
    # of K = 3 * 0.2, larger than of 0.05 at each token
    found = [criterion_bound(name, 3, 0.05, TrmConfig(criterion=name, avg_token_kl=0.2)) for name in ("both", "max")]
    assert found[0] == found[1]


ABS = ("abs_log_ratio", "abs_ratio_minus_one")
OF_MAX, OF_AVG = {"max", "token", "stop"}, {"avg", "prefix_avg", "stop_cumulative"}


@pytest.mark.parametrize("estimator", ABS)
def test_a_threshold_that_is_no_kl_has_no_bound(estimator):
    for field, without in (("max_estimator", OF_MAX), ("avg_estimator", OF_AVG)):
        for name in CRITERION_BOUNDS:
            trm = TrmConfig(criterion=name, **{field: estimator})
            assert (criterion_bound(name, 256, 0.05, trm) is None) == (name in without), name
            assert (known_bound(name, trm) is None) == (name in without), name
            measured = TrmConfig(criterion=name, estimator="exact", **{field: estimator})
            assert criterion_bound(name, 256, 0.05, measured) is not None
    # of k2 the first is 76.6 = 2 sqrt(0.025) sum_t min(1, sqrt((t - 1) 0.025)), and |log rho| up to 0.05 is k2 up to
    # 0.00125, where it is 3.4
    bounds = [criterion_bound("max", 256, threshold, TrmConfig()) for threshold in (0.05, 0.05**2 / 2)]
    assert bounds == pytest.approx([76.6, 3.4], abs=0.05)


@pytest.mark.parametrize("estimator", ABS)
def test_both_has_the_bound_of_the_part_that_compares_a_kl(estimator):
    of_avg = criterion_bound("both", 256, 1e-9, TrmConfig(criterion="both", max_estimator=estimator))
    assert of_avg == criterion_bound("avg", 256, 0.001, TrmConfig())
    trm = TrmConfig(criterion="both", avg_token_kl=1e-9, avg_estimator=estimator)
    assert criterion_bound("both", 256, 0.05, trm) == criterion_bound("max", 256, 0.05, TrmConfig())
    neither = TrmConfig(criterion="both", max_estimator=estimator, avg_estimator=estimator)
    assert criterion_bound("both", 256, 0.05, neither) is None


@pytest.mark.parametrize(("criterion", "field"), [("max", "max_estimator"), ("stop_cumulative", "avg_estimator")])
def test_the_command_says_why_there_is_no_bound_and_what_has_one(tmp_path, capsys, criterion, field):
    arguments = str(write(tmp_path, FOUR)), "--criterion", criterion, "--set", f"{field}=abs_log_ratio"
    result, text = analysed(capsys, *arguments)
    assert result["bound_of_criterion"] is None
    told = f"{field}=abs_log_ratio is no KL, and every bound needs one (k2 and k3 are estimates)"
    assert f"No bound of its own is known for the criterion {criterion}: {told}" in text
    # a unit in which the paper's runs say nothing of what is stable
    assert "no trust region any more" not in text


def test_every_criterion_that_promises_something_has_a_bound_and_the_others_say_that_there_is_none(tmp_path, capsys):
    assert set(AS_SET) < set(CRITERION_BOUNDS) < {*AS_SET, *WITH_CURVE}
    assert criterion_bound("random", 10, 0.9, TrmConfig()) is None
    assert criterion_bound("max", 10, None, TrmConfig()) is None
    result, text = analysed(capsys, str(write(tmp_path, FOUR)), "--criterion", "directional")
    assert result["bound_of_criterion"] is None
    assert "No bound of its own is known for the criterion directional" in text


def test_a_criterion_without_a_curve_is_analysed_as_it_is_set(tmp_path, capsys):
    folder = str(write(tmp_path, FOUR))
    # k2 of the first tokens: 0.005, 0.02, 0.045, 0.08; two sequences lose all of their three tokens
    result, text = analysed(capsys, folder, "--criterion", "stop", "--set", "max_token_kl=0.03")
    assert (result["mask_criterion"], result["mask"]["kept_tokens"]) == ("stop", 0.5)
    assert (result["curve"], result["recommended_threshold"], result["bounds_recommended"]) == ([], None, {})
    assert "The settings' mask (stop in place of the run's max)" in text
    assert "For an acceptance of" not in text
    for flag in ("--threshold", "--target"):
        assert main(["analyze", folder, "--criterion", "stop", flag, "0.5"]) == 2
        assert f"{flag}: got " in (told := capsys.readouterr().err)
        assert "allowed: left out; set its thresholds with --set" in told


def test_what_takes_a_guarantee_away_stands_beside_its_bound(tmp_path, capsys):
    lost = "criterion=token is without its guarantee here"
    _, text = analysed(capsys, str(write(tmp_path, FOUR)), "--criterion", "token")
    assert f"{lost}: estimator=sampled" in text
    measured = str(write(tmp_path / "measured", [row([0.1, 0.0], kl=[0.01, 0.02])], TrmConfig(estimator="exact")))
    assert lost not in analysed(capsys, measured, "--criterion", "token")[1]
    # of a criterion of sequences nothing is lost that it has
    assert "without its guarantee" not in analysed(capsys, measured, "--criterion", "max")[1]
