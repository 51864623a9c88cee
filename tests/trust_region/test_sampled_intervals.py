"""The intervals of our bounds over a dump: its groups are its prompts."""

import json
from pathlib import Path

from trm_agent.cli import main
from trm_agent.trust_region import analysis
from trm_agent.trust_region.dump import read_dump
from trm_agent.trust_region.settings import TrmConfig

from .test_dump import row, write

ENDS = ("bound_chi2_kl_low", "bound_chi2_kl_high", "bound_stop_low", "bound_stop_high")


def of_prompts(tmp_path: Path, name: str, prompts: list[list[int] | None]) -> Path:
    """A sequence of each, the first the furthest out."""
    rows = [row([0.4 - 0.1 * place] * 3) | {"prompt_ids": prompt} for place, prompt in enumerate(prompts)]
    return write(tmp_path / name, rows)


def test_sequences_with_one_prompt_are_one_group(tmp_path):
    prompts = [[1, 2], [2, 1], [1, 2], [1]]
    batch = analysis.load(read_dump(of_prompts(tmp_path, "all", prompts)), TrmConfig())
    assert batch.tokens.groups.tolist() == [0, 1, 0, 2]
    lacking = analysis.load(read_dump(of_prompts(tmp_path, "lacking", [[1], None, [1], [1]])), TrmConfig())
    assert lacking.tokens.groups is None


def test_more_sequences_of_the_same_prompts_do_not_make_the_interval_narrower(tmp_path):
    few, many = [[1], [2], [3]], [[1], [2], [3]] * 4

    def metrics(name: str, prompts: list[list[int]]) -> dict[str, float]:
        rows = [row([0.1 * prompt[0]] * 3) | {"prompt_ids": prompt} for prompt in prompts]
        batch = analysis.load(read_dump(write(tmp_path / name, rows)), TrmConfig(max_token_kl=0.01))
        return analysis.masked(batch, TrmConfig(max_token_kl=0.01))

    expected, found = metrics("few", few), metrics("many", many)
    assert {name: round(found[name], 12) for name in ENDS} == {name: round(expected[name], 12) for name in ENDS}


def test_of_one_prompt_the_command_tells_no_interval(tmp_path, capsys):
    folder = of_prompts(tmp_path, "one", [[1, 2]] * 3)
    assert main(["analyze", str(folder), "--json"]) == 0
    mask = json.loads(capsys.readouterr().out)["mask"]
    assert {"bound_chi2_kl", "bound_stop"} <= mask.keys()
    assert not mask.keys() & set(ENDS)
    assert main(["analyze", str(folder)]) == 0
    assert capsys.readouterr().out.count("no interval: all of one prompt") == 2
