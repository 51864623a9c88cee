import json
import subprocess
import sys

import pytest

from trm_agent.cli import main
from trm_agent.core.bounds import error_bounds, pinsker, pinsker_marginal_integral
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
    assert list(record) == [*NAMES, "effective_horizon", "assumed"]
    assert [f"{record[name]:.1f}" for name in NAMES] == ["838.7", "79.9", "35.0", "24.7", "8.2", "4.1", "24.7", "4.1"]
    # only what no flag gives: the mean divergence, taken as uniform
    assert record["assumed"] == {"mean_tv": 5e-3}
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
    assert record["assumed"] == {"eps": tv, "tv_seq": seq_tv, "mean_tv": tv}


def test_the_table_says_what_was_assumed_and_what_it_is_worth(capsys):
    text = printed(capsys, TABLE_1)
    assert "Unified B*                    8.192   the least of these: Mixed KL" in text
    assert "By Pinsker: eps = min(1, sqrt(delta / 2)), tv_seq = min(1, sqrt(kl_seq / 2))." in text
    assert "eps = 0.00707107" in text
    assert "above 1, the largest reward, it says nothing" in text
    text = printed(capsys, [*TABLE_1, *WITH_TV])
    assert "Unified B*                    4.096   the least of these: Mixed TV" in text
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
    ],
)
def test_bad_values_name_their_flag(flag, value, capsys):
    arguments = [*TABLE_1, *WITH_TV]
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
