"""What each criterion keeps of one dump, side by side."""

import json

import pytest

from trm_agent.cli import main
from trm_agent.trust_region.analysis import load
from trm_agent.trust_region.comparison import COMPARED, kept_by_criterion
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.dump import read_dump
from trm_agent.trust_region.settings import TrmConfig

from .test_dump import row, write

# k2 of 0.4 is 0.08: the second of the longest sequence's four tokens is outside of 0.05, and pushed further out
SEQUENCES = [row([0.0, 0.4, 0.0, 0.0]), *({**row([0.1]), "advantages": [-1.0, float("nan")]} for _ in range(3))]


def shares(kept) -> tuple:
    return kept.acceptance, kept.tokens, kept.tokens_positive, kept.tokens_negative, kept.tokens_longest


def test_tokens_are_counted_by_sign_and_in_the_longest_quarter(tmp_path):
    # whatever criterion the settings name
    trm = TrmConfig(criterion="inward", max_token_kl=0.05)
    found = {each.criterion: each for each in kept_by_criterion(load(read_dump(write(tmp_path, SEQUENCES)), trm), trm)}
    assert tuple(found) == COMPARED
    # 7 tokens: 4 of the one sequence with A > 0, which is the longest quarter, and 3 with A < 0
    assert shares(found["max"]) == (3 / 4, 3 / 7, 0, 1, 0)
    assert shares(found["stop"]) == shares(found["stop_directional"]) == (1, 4 / 7, 1 / 4, 1, 1 / 4)
    assert shares(found["token"]) == (1, 6 / 7, 3 / 4, 1, 3 / 4)
    assert shares(found["negative_only"]) == (1, 1, 1, 1, 1)
    assert found["both"].thresholds == {"max_token_kl": 0.05, "avg_token_kl": 0.001}


def test_controls_are_left_out_and_every_other_criterion_is_there():
    assert CRITERIA.keys() - set(COMPARED) == {"random", "inward", "inverse", "permuted", "yoked"}


def test_a_criterion_without_its_threshold_is_left_out(tmp_path):
    trm = TrmConfig(avg_token_kl=None)
    found = {each.criterion for each in kept_by_criterion(load(read_dump(write(tmp_path, SEQUENCES)), trm), trm)}
    assert found == set(COMPARED) - {"avg", "both", "prefix_avg"}


def test_what_is_not_there_has_no_share(tmp_path):
    dumped = load(read_dump(write(tmp_path, [row([0.0]), row([0.0])])), TrmConfig())
    # no A < 0, and two sequences have no fourth quarter
    assert shares(kept_by_criterion(dumped, TrmConfig())[0]) == (1, 1, 1, None, None)


def test_the_command_tells_it_when_asked(tmp_path, capsys):
    folder = str(write(tmp_path, SEQUENCES))
    assert main(["analyze", folder]) == 0
    assert "What each criterion keeps" not in capsys.readouterr().out
    assert main(["analyze", folder, "--all-criteria"]) == 0
    lines = capsys.readouterr().out.split("What each criterion keeps")[1].splitlines()
    stop = next(line.split() for line in lines if line.split()[:1] == ["stop"])
    assert " ".join(stop) == "stop 0.05 100.0 % 57.1 % 25.0 % 100.0 % 25.0 %"
    assert main(["analyze", folder, "--all-criteria", "--json"]) == 0
    found = {each["criterion"]: each for each in json.loads(capsys.readouterr().out)["criteria"]}
    assert found["stop"]["tokens"] == pytest.approx(4 / 7)
    assert found.keys() == set(COMPARED)
