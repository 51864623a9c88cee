import json
import subprocess
import sys

import pytest
import torch

from trm_agent.cli import main
from trm_agent.core.bounds import error_bounds, pinsker, pinsker_marginal_integral
from trm_agent.core.chi2_bounds import chi2_kl_bound
from trm_agent.core.horizon import effective_horizon

TABLE_1 = ["bounds", "--horizon", "4096", "--delta", "1e-4", "--kl-seq", "0.01"]
WITH_TV = ["--eps", "5e-3", "--tv-seq", "0.05"]
NAMES = [
    "classical",
    "coupling",
    "pinsker_marginal_kl",
    "pinsker_marginal_tv",
    "mixed_kl",
    "mixed_tv",
    "adaptive",
    "unified",
]


def printed(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_json_holds_table_1(capsys):
    record = json.loads(printed(capsys, [*TABLE_1, *WITH_TV, "--json"]))
    assert list(record) == [*NAMES, "effective_horizon", "halved", "chi2_kl", "path_sum", "assumed"]
    assert [f"{record[name]:.1f}" for name in NAMES] == ["838.7", "79.9", "35.0", "24.7", "8.2", "4.1", "24.7", "4.1"]
    # only what no flag gives: the mean divergence, taken as uniform, and twice the KL
    assert record["assumed"] == {"mean_tv": 5e-3, "chi2_seq": 0.02}
    assert record["effective_horizon"] == effective_horizon(1e-4, 0.01 / 4096, max_tv=5e-3).item()


def test_json_names_what_follows_from_pinsker(capsys):
    record = json.loads(printed(capsys, [*TABLE_1, "--json"]))
    bounds = error_bounds(4096, 1e-4, 0.01)
    expected = {name: getattr(bounds, name).item() for name in NAMES}
    marginal = pinsker_marginal_integral(4096, pinsker(1e-4), 1e-4).item()
    assert {name: record[name] for name in NAMES} == expected | {
        "pinsker_marginal_kl": marginal,
        "pinsker_marginal_tv": marginal,
    }
    # sqrt(1e-4 / 2) and sqrt(0.01 / 2)
    tv, seq_tv = pytest.approx(7.0710678e-3), pytest.approx(7.0710678e-2)
    assert record["assumed"] == {"eps": tv, "tv_seq": seq_tv, "mean_tv": tv, "chi2_seq": 0.02}


def test_our_bounds_stand_beside_the_papers(capsys):
    record = json.loads(printed(capsys, [*TABLE_1, *WITH_TV, "--acceptance", "0.15", "--json"]))
    assert record["halved"] == {name: record[name] / 2 for name in NAMES}
    # K sqrt(T / 2) = 0.01 * sqrt(2048)
    assert record["chi2_kl"] == record["path_sum"] == pytest.approx(0.45255, abs=1e-5)
    # stop: half of Mixed KL, 2 * 4096 * sqrt(1e-4 / 2) * sqrt(0.01 / 2), the 85 % that are cut and sqrt(0.01 / 2)
    assert record["stop"] == pytest.approx(4.096 + 0.85 + 0.07071, abs=1e-5)
    # with four times the chi2 the bound is twice as large; the path sum knows no chi2
    other = json.loads(printed(capsys, [*TABLE_1, "--chi2-seq", "0.08", "--json"]))
    assert other["chi2_kl"] == pytest.approx(0.9051, abs=1e-4)
    assert other["path_sum"] == record["path_sum"]
    assert "stop" not in other
    # at a small delta half of Pinsker-Marginal, 2/3 T^(3/2) delta = 0.0175, is below chi2-KL; nothing is cut
    small = ["bounds", "--horizon", "4096", "--delta", "1e-7", "--kl-seq", "0.01", "--acceptance", "1", "--json"]
    assert json.loads(printed(capsys, small))["stop"] == pytest.approx(0.0175 + 0.0707, abs=1e-3)


def test_stop_takes_no_proportion_of_chi2_and_kl_for_granted(capsys):
    # all chi2 before the last token and all KL at it: sqrt((T - 1) X K / 2), where one proportion has sqrt(T X K) / 2
    chi2, kl = torch.zeros(2, 4096, dtype=torch.float64)
    chi2[:-1], kl[-1] = 0.02 / 4095, 0.01
    worst = chi2_kl_bound(chi2, kl).item()
    asked = [*TABLE_1, "--chi2-seq", "0.02", "--acceptance", "1"]
    record = json.loads(printed(capsys, [*asked, "--json"]))
    assert record["stop"] == pytest.approx(worst + 0.07071, rel=1e-5)
    assert record["chi2_kl"] < 0.71 * worst
    assert "half of Pinsker-Marginal KL, half of Mixed KL and chi2-KL in any proportion" in printed(capsys, asked)
    # twice the KL in place of a chi2 that is not given would be an assumption
    told = printed(capsys, [*TABLE_1, "--acceptance", "1"])
    assert "the least of half of Pinsker-Marginal KL and half of Mixed KL, and the price" in told


def test_the_table_says_what_was_assumed_and_what_it_is_worth(capsys):
    text = printed(capsys, TABLE_1)
    assert "Unified B*                    8.192        4.096   the least of these: Mixed KL" in text
    assert "chi2-KL" + 34 * " " + "0.45255" in text
    assert "By Pinsker: eps = min(1, sqrt(delta / 2)), tv_seq = min(1, sqrt(kl_seq / 2))." in text
    assert "eps = 0.00707107" in text
    assert "above 1, the largest reward, a bound says nothing" in text
    text = printed(capsys, [*TABLE_1, *WITH_TV])
    assert "Unified B*                    4.096        2.048   the least of these: Mixed TV" in text
    assert "By Pinsker" not in text


def test_infinity_is_null_in_json(capsys):
    arguments = ["bounds", "--horizon", "9000000000000000", "--delta", "1e300", "--kl-seq", "0", "--json"]
    assert json.loads(printed(capsys, arguments))["classical"] is None
    record = json.loads(printed(capsys, ["bounds", "--horizon", "9", "--delta", "0", "--kl-seq", "0", "--json"]))
    assert record["effective_horizon"] is None
    assert record["unified"] == 0.0


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--horizon", "0"),
        ("--delta", "-0.0001"),
        ("--delta", "nan"),
        ("--kl-seq", "inf"),
        ("--eps", "1.5"),
        ("--tv-seq", "-0.1"),
        ("--chi2-seq", "-0.5"),
        ("--acceptance", "1.5"),
    ],
)
def test_bad_values_name_their_flag(flag, value, capsys):
    arguments = [*TABLE_1, *WITH_TV, "--chi2-seq", "0.02", "--acceptance", "0.9"]
    arguments[arguments.index(flag) + 1] = value
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {flag}: got {float(value):g}; allowed: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[*TABLE_1[:-2]], [*TABLE_1, "--eps", "small"]])
def test_missing_and_unreadable_flags_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "--kl-seq" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_process():
    command = [sys.executable, "-m", "trm_agent.cli", *TABLE_1, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["mixed_kl"] == pytest.approx(8.192)
    assert done.stderr == ""
