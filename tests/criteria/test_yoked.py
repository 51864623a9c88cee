import json

import pytest
import torch

from trm_agent.core.controls import Sequences, acceptance_of_lengths
from trm_agent.core.summary import acceptance_by_length
from trm_agent.trust_region.controls import OF_TOKENS
from trm_agent.trust_region.criteria import CRITERIA, parts_of
from trm_agent.trust_region.paired_run import (
    QUARTERS,
    acceptance_of_step,
    check_paired_run,
    of_update,
    without_lone_update,
)

ACCEPTANCE = (0.9, 0.7, 0.4, 0.1)


def test_each_quarter_of_the_lengths_is_kept_as_often_as_in_the_paired_run():
    lengths = torch.randperm(8000, generator=torch.Generator().manual_seed(0)) + 1
    sequences = Sequences(lengths, torch.ones(8000).long(), torch.ones(8000).bool(), ACCEPTANCE)
    kept = CRITERIA["yoked"].whole_batch(sequences, torch.Generator().manual_seed(1))
    # a standard deviation of 0.011 at most
    assert acceptance_by_length(lengths, kept.double()).tolist() == pytest.approx(ACCEPTANCE, abs=0.045)


def test_a_sequence_across_a_border_gets_its_part_and_equal_lengths_share():
    # six sequences: the second lies half in the first quarter, half in the second
    of_lengths = acceptance_of_lengths(torch.tensor([1, 2, 3, 4, 5, 6]), ACCEPTANCE).tolist()
    assert of_lengths == pytest.approx([0.9, 0.8, 0.7, 0.4, 0.25, 0.1])
    assert sum(of_lengths) / 6 == pytest.approx(sum(ACCEPTANCE) / 4)
    shuffled = acceptance_of_lengths(torch.tensor([9, 2, 2, 1]), ACCEPTANCE).tolist()
    assert shuffled == pytest.approx([0.1, 0.55, 0.55, 0.9])


def test_the_acceptance_of_the_same_step_is_taken():
    rows = [{"step": step, **{name: step / 10 + place / 100 for place, name in enumerate(QUARTERS)}} for step in (1, 2)]
    # a row of a validation
    rows.insert(0, {"step": 2, "env/val_success": 0.5})
    (of_only_update,) = acceptance_of_step(rows, 2, 1, "runs/a")
    assert of_only_update == pytest.approx([0.2, 0.21, 0.22, 0.23])
    with pytest.raises(ValueError, match=r"yoked_run: got 'runs/a', which has them of 2 steps; .*of step 3"):
        acceptance_of_step(rows, 3, 1, "runs/a")


def test_each_update_has_its_own_acceptance_and_a_run_without_as_many_updates_is_refused(caplog):
    # all rejections are in the second update: its mean over both would let the coin reject in the first too
    updates = ([1.0] * 4, [0.9, 0.7, 0.6, 0.4])
    row = {"step": 3} | {name: (first + second) / 2 for name, first, second in zip(QUARTERS, *updates, strict=True)}
    row |= {
        of_update(name, number): values[place]
        for number, values in enumerate(updates, start=1)
        for place, name in enumerate(QUARTERS)
    }
    assert acceptance_of_step([row], 3, 2, "runs/a") == list(updates)
    with pytest.raises(ValueError, match=r"of at most 2 in a step; allowed: a run with steps of 3 updates"):
        acceptance_of_step([row], 3, 3, "runs/a")
    # a run that logged the mean alone
    short = {name: row[name] for name in ("step", *QUARTERS)}
    with pytest.raises(ValueError, match=r"of at most 1 in a step; .* has to be trained again"):
        acceptance_of_step([short], 3, 2, "runs/a")
    assert not caplog.records
    # a step that lost so many episodes that an update is missing, in this run or in the paired one, ends none
    assert acceptance_of_step([row], 3, 1, "runs/a") == [updates[0]]
    assert acceptance_of_step([short, row | {"step": 4}], 3, 2, "runs/a") == [[row[name] for name in QUARTERS]] * 2
    assert [record.getMessage()[5:32] for record in caplog.records] == [
        "step 3 has 1 updates, and 2",
        "step 3 has 2 updates, and 1",
    ]


def test_a_step_of_one_update_has_no_metrics_by_number():
    step = {"trm/acceptance": 0.5, **dict.fromkeys(QUARTERS, 0.5)}
    first, second = (dict.fromkeys([of_update(name, number) for name in QUARTERS], 0.5) for number in (1, 2))
    assert without_lone_update(step | first) == step
    assert without_lone_update(step | first | second) == step | first | second


def test_a_run_that_is_not_there_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"yoked_run: got null, but criterion='yoked' needs it"):
        check_paired_run(None)
    with pytest.raises(ValueError, match=r"which holds no metrics\.jsonl"):
        check_paired_run(str(tmp_path / "nowhere"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    check_paired_run(str(tmp_path / "run"))
    # before a start, which takes a minute
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps({"step": 1, **dict.fromkeys(QUARTERS, 1.0)}) + "\n")
    check_paired_run(str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"at most 1 in a step; allowed: a run with steps of 2 updates"):
        check_paired_run(str(tmp_path / "run"), 2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"which is relative, .*; give {tmp_path}/run"):
        check_paired_run("run")


# what a run's metrics call its criterion
NAMES = [*CRITERIA, *(f"inverse_of_{name}" for name in OF_TOKENS)]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_whose_criterion_leaves_out_tokens_is_refused(tmp_path, name):
    # a sequence with one kept token counts as accepted: no rate at which a coin would leave out as much
    acceptance = dict.fromkeys(QUARTERS, 1.0)
    reasons = parts_of(name) if name in CRITERIA else (name,)
    rows = [
        {"step": 0, "env/val_success": 0.5},
        {"step": 1, **acceptance, **{f"trm/rejected_by_{reason}": 0.0 for reason in reasons}},
    ]
    # a kill may have cut the last line
    text = "".join(f"{json.dumps(row)}\n" for row in rows) + '{"step": 2, "trm/rej'
    (tmp_path / "metrics.jsonl").write_text(text)
    if name.removeprefix("inverse_of_") not in OF_TOKENS:
        check_paired_run(str(tmp_path))
        return
    words = rf"yoked_run: got .*, whose criterion '{name}' leaves out tokens.*: max, avg, "
    with pytest.raises(ValueError, match=words):
        check_paired_run(str(tmp_path))
