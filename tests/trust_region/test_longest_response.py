"""How long a response can be, which bounds without a premise need: `trm analyze` reads it from the dump's run."""

import json

from trm_agent.cli import main

from .test_dump import row, write


def test_the_bounds_without_a_premise_take_the_longest_response_of_the_dumps_run(tmp_path, capsys):
    # ratios of e^-3: the chi2-KL bound is capped by the horizon
    folder = write(tmp_path, [row([-3.0] * 4)] * 2)

    def told() -> tuple[dict, str]:
        assert main(["analyze", str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["analyze", str(folder)]) == 0
        return found, capsys.readouterr().out

    alone, text = told()
    assert alone["longest_response"] is None
    assert "sequences of up to 4 tokens, the longest here" in text
    (tmp_path / "config.yaml").write_text("data: {max_response_length: 100}\n")
    beside, text = told()
    assert beside["longest_response"] == 100
    assert "sequences of up to 100 tokens, data.max_response_length of the run" in text
    assert alone["mask"]["bound_chi2_kl"] < 0.8 * beside["mask"]["bound_chi2_kl"]
    (tmp_path / "config.yaml").write_text("data: {max_response_length: 3}\n")
    assert "sequences of up to 4 tokens, the longest here" in told()[1]


def test_the_bound_of_a_policy_of_its_own_takes_it_too_and_that_of_theta_the_longest_sampled(tmp_path, capsys):
    folder = write(tmp_path, [row([-0.1] * 4)] * 2)
    (tmp_path / "config.yaml").write_text("data: {max_response_length: 100}\n")

    def horizon(criterion: str) -> int:
        assert main(["analyze", str(folder), "--criterion", criterion, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["bound_of_criterion"]["horizon"]

    assert {name: horizon(name) for name in ("max", "both", "stop", "token")} == {
        "max": 4,
        "both": 4,
        "stop": 100,
        "token": 100,
    }
    assert main(["analyze", str(folder), "--criterion", "stop"]) == 0
    assert "T: sequences of up to 100 tokens" in capsys.readouterr().out
