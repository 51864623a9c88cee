"""Where a run begins whose checkpoint has tasks in play: none of them is lost silently."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from trm_agent.runs.folder import RunFolder
from trm_agent.runs.origin import check_own
from trm_agent.runs.tasks_in_play import IN_PLAY

from .test_origin import check, checkpoint, config


def checkpoint_of(run: Path, mode: str | None, tasks: str | None) -> Path:
    """A run's checkpoint, the mode of the run and the tasks in play that stand in it."""
    path = checkpoint(run / "checkpoints")
    if mode is not None:
        (run / "config.yaml").write_text(yaml.safe_dump({"run": {}, "trainer": {"v1": {"trainer_mode": mode}}}))
    if tasks is not None:
        (path / IN_PLAY).write_text(tasks)
    return path


@pytest.mark.parametrize("wrote", [None, "colocate_async", "separate_async"])
def test_a_synchronous_run_refuses_a_checkpoint_with_tasks_in_play(wrote: str | None, tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, wrote, '{"tasks": [7, 8, 9]}')
    given = config(resume_mode="resume_path", resume_from_path=str(path))
    told = r"^trainer.resume_from_path: got .*, which has 3 tasks in play .*; set trainer.v1.trainer_mode to .*run.init"
    with pytest.raises(ValueError, match=told):
        check(given)
    given.trainer.v1 = {"trainer_mode": "colocate_async"}
    check(given)
    given.trainer.v1.trainer_mode = "sync"
    (path / IN_PLAY).write_text('{"tasks": []}')
    check(given)


@pytest.mark.parametrize("mode", ["colocate_async", "separate_async"])
def test_a_checkpoint_of_an_asynchronous_run_without_its_tasks_in_play_is_refused(mode: str, tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, mode, None)
    given = config(resume_mode="resume_path", resume_from_path=str(path), v1={"trainer_mode": mode})
    own = RunFolder(tmp_path, "resumed", 40)
    for field, look in (("trainer.resume_from_path", lambda: check(given)), ("run.dir", lambda: check_own(own))):
        with pytest.raises(ValueError, match=rf"^{field}: got .*, which lacks {IN_PLAY}, while .*={mode}: .*; put the"):
            look()
    (path / IN_PLAY).write_text('{"tasks": [4]}')
    check(given)
    check_own(own)
    (path / IN_PLAY).write_text('{"tasks": 4}')
    with pytest.raises(ValueError, match=rf"{IN_PLAY}: not the numbers of tasks; write"):
        check_own(own)


@pytest.mark.parametrize("mode", [None, "sync"])
def test_a_checkpoint_of_a_synchronous_run_has_no_tasks_in_play_and_is_gone_on_from(
    mode: str | None, tmp_path: Path
) -> None:
    path = checkpoint_of(tmp_path, mode, None)
    check_own(RunFolder(tmp_path, "resumed", 40))
    for goes_on in ("sync", "colocate_async"):
        check(config(resume_mode="resume_path", resume_from_path=str(path), v1={"trainer_mode": goes_on}))


def test_more_tasks_in_play_than_the_limit_of_age_has_room_for_are_refused(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, "colocate_async", '{"tasks": [1, 2, 3, 4, 5, 6, 7, 8, 9]}')
    sampler = {"max_off_policy_threshold": 2}
    v1 = {"trainer_mode": "colocate_async", "sampler": sampler}
    given = config(resume_mode="resume_path", resume_from_path=str(path), v1=v1)
    given.data = {"train_batch_size": 4}
    told = (
        r"^trainer.resume_from_path: got .*, which has 9 tasks in play .* on 8 within .*threshold; .* at most 8; raise"
    )
    with pytest.raises(ValueError, match=told):
        check(given)
    for field, value in (("data.train_batch_size", 5), ("trainer.v1.sampler.max_off_policy_threshold", None)):
        enough = given.copy()
        OmegaConf.update(enough, field, value)
        check(enough)
    (path / IN_PLAY).write_text('{"tasks": [1, 2, 3, 4, 5, 6, 7, 8]}')
    check(given)


@pytest.mark.parametrize(
    ("theirs", "ours", "numbers"),
    [
        (("sync", 2), ("separate_async", 2), "made 1 updates a step where this makes 2"),
        (("separate_async", 2), ("colocate_async", 2), "made 2 updates a step where this makes 1"),
        (("separate_async", 4), ("separate_async", 2), "made 4 updates a step where this makes 2"),
        (("sync", 2), ("colocate_async", 2), None),
        (("separate_async", 2), ("separate_async", 2), None),
        ((None, 2), ("separate_async", 2), None),
    ],
)
def test_the_place_in_the_schedule_of_a_checkpoint_counts_updates(theirs, ours, numbers, tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, None, '{"tasks": []}')
    trainers = [
        {"v1": {"trainer_mode": mode, "separate_async": {"parameter_sync_step": each}}} for mode, each in (theirs, ours)
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run": {}, "trainer": trainers[0]}))
    given = config(resume_mode="resume_path", resume_from_path=str(path), **trainers[1])
    given.actor_rollout_ref.actor.optim = {"lr_scheduler_type": "cosine"}
    if numbers is None:
        check(given)
        return
    told = rf"^trainer.resume_from_path: got .*, whose run {numbers}: .*; change .*, or give .* run.init_from"
    for changing in (
        {"lr_scheduler_type": "cosine"},
        {"lr_scheduler_type": "constant", "lr_warmup_steps": 5},
        {"lr_scheduler_type": "constant", "lr_warmup_steps": -1, "lr_warmup_steps_ratio": 0.1},
        {"lr_scheduler_type": "constant", "lr_warmup_steps": 0, "lr_warmup_steps_ratio": 0.1},
    ):
        given.actor_rollout_ref.actor.optim = changing
        with pytest.raises(ValueError, match=told):
            check(given)
    # one rate for all updates, whichever is next
    for steps in (-1, 0):
        given.actor_rollout_ref.actor.optim = {"lr_scheduler_type": "constant", "lr_warmup_steps": steps}
        check(given)
    given.actor_rollout_ref.actor.optim = {"lr_scheduler_type": "cosine"}
    given.actor_rollout_ref.actor.checkpoint.load_contents = ["model"]
    check(given)
