"""`trm train --extend RUN`: the same folder, only fields of a list, the rate schedule by choice, a history."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.golden.presets import config_of
from tests.runs.test_old_configs import FIXTURE
from trm_agent.runs import extend
from trm_agent.runs.announcing import completed
from trm_agent.runs.compose import plain
from trm_agent.runs.extend import EXTENDABLE, compose_extension, go_on, open_extended, write_extension
from trm_agent.runs.history import history
from trm_agent.runs.stored_config import read_config
from trm_envs.scoring import SCORER_VERSION

PAGE = Path(__file__).parents[2] / "docs" / "extend_export_resume.md"
SLOW = pytest.mark.slow
STEPS = "trainer.total_training_steps"


@pytest.fixture(scope="module")
def composed() -> Any:
    """Today's default tree, composed once."""
    return config_of("experiment=math_nano")


@pytest.fixture
def run(tmp_path: Path, composed: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of today's version, of 40 steps."""
    monkeypatch.setattr(extend, "compose_tree", lambda overrides: copy.deepcopy(composed))
    return folder(tmp_path / "run-001", yaml.safe_dump({**plain(composed), "scorer_version": SCORER_VERSION}))


def folder(path: Path, config: str, steps: int = 40, finished: bool = True) -> Path:
    (path / f"checkpoints/global_step_{steps}/actor").mkdir(parents=True)
    (path / "checkpoints/latest_checkpointed_iteration.txt").write_text(str(steps))
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in range(steps + 1)))
    (path / "config.yaml").write_text(config)
    if finished:
        (path / "summary.json").write_text("{}")
    return path


def extended(run: Path, *overrides: str, schedule: str | None = None) -> Any:
    """The folder as the command opens it, its lock released."""
    config, stored = compose_extension(run, overrides)
    opened = open_extended(run, config, stored, schedule, SCORER_VERSION)
    assert opened._lock is not None
    opened._lock.close()
    return opened


def contents(run: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}


def test_a_finished_run_goes_on_in_its_folder_and_its_history_tells_it(run: Path) -> None:
    before = contents(run)
    opened = extended(run, f"{STEPS}=80", "trainer.save_freq=5")
    assert (opened.state, opened.step, opened.schedule) == ("resumed", 40, "stretch")
    assert opened.changes == {"trainer.save_freq": (10, 5), STEPS: (40, 80)}
    assert opened.notes == (
        "extended: trainer.save_freq: 10 -> 5; trainer.total_training_steps: 40 -> 80",
        "rate schedule stretched: cosine after a warm-up over steps 1 to 80 (--schedule restart is the other choice)",
    )
    assert contents(run) == before, "nothing is written before the model has been checked"
    go_on(opened, SCORER_VERSION)
    assert not (run / "summary.json").exists()
    stored = read_config(run)
    assert (stored["trainer"]["total_training_steps"], stored["trainer"]["save_freq"]) == (80, 5)
    assert stored["scorer_version"] == SCORER_VERSION
    (entry,) = history(run)["extended"]
    assert (entry["after_step"], entry["schedule"]) == (40, "stretch")
    assert entry["fields"] == {"trainer.save_freq": [10, 5], STEPS: [40, 80]}
    # the same command again, interrupted or not, resumes and extends nothing
    again = extended(run, f"{STEPS}=80", "trainer.save_freq=5", schedule=None)
    assert (again.state, again.changes) == ("resumed", {})


@SLOW
def test_without_a_change_a_finished_run_is_complete_and_an_unfinished_one_resumes(run: Path) -> None:
    finished = extended(run, "seed=0")
    assert finished.state == "finished"
    assert f"trm train --extend {run} trainer.total_training_steps=N, above 40, makes more" in completed(finished)
    (run / "summary.json").unlink()
    assert (extended(run).state, extended(run).step) == ("resumed", 40)


@SLOW
def test_a_restarted_schedule_begins_at_the_last_checkpoint_and_once(run: Path) -> None:
    opened = extended(run, f"{STEPS}=80", schedule="restart")
    assert opened.changes["run.schedule_from"] == (0, 40)
    assert "rate schedule restarted: cosine after a warm-up over steps 41 to 80" in opened.notes[-1]
    write_extension(opened)
    assert read_config(run)["run"]["schedule_from"] == 40
    assert extended(run, f"{STEPS}=80", schedule="restart").changes == {}
    # another frequency changes no rate, and a second extension stretches what began at 40
    assert extended(run, "trainer.save_freq=3").notes == ("extended: trainer.save_freq: 10 -> 3",)
    assert "over steps 41 to 90" in extended(run, f"{STEPS}=90").notes[-1]


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["seed=1"], "seed: got 1; allowed: 0, as in the run; with --extend only these may differ: trainer.total_tr"),
        pytest.param(
            ["actor_rollout_ref.actor.optim.lr=1"],
            "optim.lr: got 1; allowed: 0.0005, as in the run",
            marks=SLOW,
        ),
        pytest.param(
            ["env.train.horizons=[2]"],
            r"env.train.horizons: got \[2\]; allowed: \[2, 4, 6\], as in the run",
            marks=SLOW,
        ),
        pytest.param(
            ["policy_loss=ppo_clip"],
            "policy_loss: got 'ppo_clip'; allowed: no choice of a group with --extend",
            marks=SLOW,
        ),
        (["trainer.total_trainning_steps=80"], "no such field; did you mean"),
        pytest.param(["+trainer.mine=80"], "trainer.mine: no such field", marks=SLOW),
        pytest.param(["~trainer.logger"], "trainer.logger: got '~trainer.logger'", marks=SLOW),
        pytest.param(["run.schedule_from=3"], "run.schedule_from: got 3; allowed: 0, as in the run", marks=SLOW),
        pytest.param(
            [f"{STEPS}=30"],
            f"{STEPS}: got 30, while the run's last checkpoint is of step 40; allowed: more than 40",
            marks=SLOW,
        ),
        pytest.param(["80"], "80: it sets nothing; expected FIELD=VALUE", marks=SLOW),
        pytest.param(["run.warn_infrastructure_share=2"], "run.warn_infrastructure_share: got 2", marks=SLOW),
    ],
)
def test_another_change_is_refused_and_nothing_written(run: Path, overrides: list[str], word: str) -> None:
    before = contents(run)
    with pytest.raises(ValueError, match=word):
        extended(run, *overrides)
    assert contents(run) == before


@SLOW
def test_a_folder_that_cannot_go_on_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--extend: got .*none', which is not there"):
        compose_extension(tmp_path / "none", [])
    (run / "checkpoints/latest_checkpointed_iteration.txt").unlink()
    with pytest.raises(ValueError, match="which has no checkpoint to go on from"):
        extended(run, f"{STEPS}=80")
    stored = read_config(run)
    (run / "config.yaml").write_text(yaml.safe_dump({**stored, "scorer_version": "0"}))
    with pytest.raises(ValueError, match=r"--extend .*rewards are of scorer version 0"):
        extended(run, f"{STEPS}=80")
    (run / "config.yaml").write_text("run: 3")
    with pytest.raises(ValueError, match=r"--extend .*lacks the section `run`"):
        extended(run)


@SLOW
def test_a_finished_run_does_not_lose_the_steps_whose_checkpoint_is_gone(run: Path) -> None:
    (run / "checkpoints/global_step_30/actor").mkdir(parents=True)
    shutil.rmtree(run / "checkpoints/global_step_40")
    before = contents(run)
    begin = "begin a new run at step 30: trainer.resume_mode=resume_path trainer.resume_from_path=.*/global_step_30"
    with pytest.raises(ValueError, match=f"which has no checkpoint of its last step, 40; .*{begin}"):
        extended(run, f"{STEPS}=80")
    assert contents(run) == before
    # an interrupted one repeats them
    (run / "summary.json").unlink()
    assert extended(run, f"{STEPS}=80").step == 30


@SLOW
@pytest.mark.parametrize("value", ["${oc.env:HOME}", "x${run.dir}", ["a", "${oc.env:HOME}"], {"a": "${oc.env:HOME}"}])
def test_an_interpolation_in_a_stored_configuration_is_not_resolved(run: Path, value: Any) -> None:
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["trainer"]["project_name"] = value
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    before = contents(run)
    with pytest.raises(ValueError, match=r"--extend .*: trainer\.project_name.*without interpolations"):
        extended(run, "trainer.total_training_steps=80")
    assert contents(run) == before


def test_a_run_in_progress_is_not_joined(run: Path) -> None:
    config, stored = compose_extension(run, [f"{STEPS}=80"])
    held = open_extended(run, config, stored, None, SCORER_VERSION)
    with pytest.raises(ValueError, match="which is in use; allowed: a run that no process is training"):
        open_extended(run, config, stored, None, SCORER_VERSION)
    assert held.step == 40


@SLOW
def test_a_run_of_an_older_version_goes_on_with_its_own_values(run: Path, tmp_path: Path) -> None:
    old = folder(tmp_path / "old", FIXTURE.read_text(), steps=10, finished=False)
    opened = extended(old, f"{STEPS}=60")
    assert opened.changes == {STEPS: (40, 60)}
    stored = opened.changed_config
    # the fixture's own limit of a step, and today's default of a field that it lacks
    assert stored["env"]["limits"]["step_timeout_s"] == 20
    assert stored["data"]["env"]["limits"]["step_timeout_s"] == 20
    assert stored["run"]["init_from"] is None
    assert stored["env"]["kwargs"]["protocol"] == "hermes"
    # options that another environment of today's would have are not invented
    assert set(stored["env"]["kwargs"]) <= {*yaml.safe_load(FIXTURE.read_text())["env"]["kwargs"], "protocol"}


def test_an_older_run_gains_no_greedy_validation_unless_it_asks_for_it(run: Path) -> None:
    stored = yaml.safe_load((run / "config.yaml").read_text())
    for env in (stored["env"], stored["data"]["env"]):
        del env["val"]["greedy_tasks"]
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    config, old = compose_extension(run, [])
    assert config.env.val.greedy_tasks == config.data.env.val.greedy_tasks == 0
    assert extend._changes(old, plain(config)) == {}
    config.env.val.greedy_tasks = 64
    assert extend._changes(old, plain(config)) == {"env.val.greedy_tasks": (0, 64)}


def test_the_page_lists_the_fields_that_may_differ() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [field for field in EXTENDABLE if f"`{field}`" not in text] == []
