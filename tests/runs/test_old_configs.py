"""A run folder of an older version: names, absent fields, defaults that changed, versions that are not known.

The fixture is the config.yaml of a run of commit b2ece64, with its folder replaced. It stays for all later changes: a
change after which it differs from today's default gets a line in runs/old_names.py or runs/old_fields.py.
"""

import copy
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.golden.presets import config_of
from trm_agent.runs import preflight
from trm_agent.runs.chat import resolve_protocol
from trm_agent.runs.compose import plain
from trm_agent.runs.declared_packages import pin_packages
from trm_agent.runs.defaults import defaults_of
from trm_agent.runs.folder import RunFolder, open_run_folder, record_resume
from trm_agent.runs.row_files import pin_rows
from trm_agent.runs.stored_config import absent_fields, config_differences, read_config
from trm_envs.scoring import SCORER_VERSION

FIXTURE = Path(__file__).parent / "fixtures/config_b2ece64.yaml"
# what is learned has changed since, so that the old rule has to be asked for
COMMAND = ["experiment=math_nano", "env.limits.max_malformed_turns=null"]
COMMIT = "b2ece64b28ee0bd515df0995dd6ad64a7ab74f89"
LIMITS = ("step_timeout_s", "generate_timeout_s", "episode_timeout_s")


def no_field_is_set(fields: Collection[str]) -> Mapping[str, Any]:
    return {}


def todays(**fields: Any) -> dict[str, Any]:
    """The configuration of today's default command as `train` stores it."""
    config = copy.deepcopy(config_of(*COMMAND))
    preflight.check(config)
    resolve_protocol(config)
    pin_rows(config)
    pin_packages(config)
    return {**plain(config), "scorer_version": SCORER_VERSION, **fields}


def old_folder(tmp_path: Path, text: str | None = None, made: Any = None) -> Path:
    """A folder whose run began with an older version and was killed at step 10."""
    path = tmp_path / "math_nano-seed0-001"
    (path / "checkpoints/global_step_10/actor").mkdir(parents=True)
    (path / "checkpoints/latest_checkpointed_iteration.txt").write_text("10")
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in range(11)))
    (path / "config.yaml").write_text(FIXTURE.read_text() if text is None else text)
    if made is not None:
        (path / "git.json").write_text(json.dumps(made))
    return path


def with_run(config: dict[str, Any], root: Path, directory: Path | None) -> dict[str, Any]:
    return {**config, "run": {**config["run"], "root": str(root), "dir": directory and str(directory)}}


def release(folder: RunFolder) -> None:
    assert folder._lock is not None
    folder._lock.close()


def test_a_run_of_b2ece64_has_todays_configuration(tmp_path: Path) -> None:
    config, path = todays(), old_folder(tmp_path)
    old = read_config(path)
    assert config_differences(old, config, defaults_of(COMMAND)) == []
    for directory in (None, path):
        folder = open_run_folder(with_run(config, tmp_path, directory), defaults_of(COMMAND))
        assert (folder.path, folder.state, folder.step) == (path, "resumed", 10)
        scorer, absent = folder.notes
        assert "rewards up to step 10 are of a scorer whose version was not stored" in scorer
        assert (
            "absent fields count as their defaults: actor_rollout_ref.actor.policy_loss.trm.adaptive_avg_cap" in absent
        )
        release(folder)


def test_a_default_that_decides_what_is_learned_is_no_silent_change_of_an_old_run(tmp_path: Path) -> None:
    config = plain(config_of(COMMAND[0]))
    assert [
        difference
        for difference in config_differences(read_config(old_folder(tmp_path)), config, defaults_of(COMMAND[:1]))
        if "malformed" in difference
    ] == ["data.env.limits.max_malformed_turns: None -> 1", "env.limits.max_malformed_turns: None -> 1"]


def test_what_really_differs_is_refused_with_field_old_and_new(tmp_path: Path) -> None:
    config = todays()
    config["actor_rollout_ref"]["actor"]["optim"]["lr"] = 1e-3
    # a user's own limit is no default
    changed = FIXTURE.read_text().replace("step_timeout_s: 20", "step_timeout_s: 30")
    path = old_folder(tmp_path, changed)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    message = (
        r"another configuration \(actor_rollout_ref.actor.optim.lr: 0.0005 -> 0.001; "
        r"data.env.limits.step_timeout_s: 30 -> 120; env.limits.step_timeout_s: 30 -> 120\)"
    )
    with pytest.raises(ValueError, match=message):
        open_run_folder(with_run(config, tmp_path, path), defaults_of(COMMAND))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_field_that_the_user_sets_is_compared_with_its_default() -> None:
    # of the four fields only the first two were set by the user, b to its default
    new = {"run": {"a": 5, "b": 2, "c": 3}, "env": {"limits": {"step_timeout_s": 120}}}
    old = {"run": {}, "env": {"limits": {"step_timeout_s": 20}}}
    asked = []

    def defaults(fields: Collection[str]) -> Mapping[str, Any]:
        asked.extend(sorted(fields))
        return {"run.a": 1, "run.b": 2}

    assert config_differences(old, new, defaults) == ["run.a: 1 -> 5"]
    assert asked == ["env.limits.step_timeout_s", "run.a", "run.b", "run.c"]
    set_by_user = config_differences(old, new, lambda _: {"run.a": 5, "env.limits.step_timeout_s": 20})
    assert set_by_user == ["env.limits.step_timeout_s: 20 -> 120"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.max_infrastructure_steps=4", {"run.max_infrastructure_steps": 3}),
        ("+run.mine=4", {"run.mine": "(absent)"}),
    ],
)
@pytest.mark.slow
def test_the_default_is_the_value_without_the_users_override(override: str, expected: dict[str, Any]) -> None:
    fields = [*expected, "run.max_infrastructure_share"]
    assert defaults_of([*COMMAND, "trainer.test_freq=5", override])(fields) == expected


def test_a_choice_of_a_group_sets_no_field_by_name() -> None:
    assert defaults_of(["experiment=math_nano", "env=chain_math", "seed=1"])(["env.limits.tool_time_s", "seeds"]) == {}


def test_an_absent_setting_of_the_loss_has_the_dataclasses_default_whatever_the_preset() -> None:
    def trm(**fields: Any) -> dict[str, Any]:
        return {"actor_rollout_ref": {"actor": {"policy_loss": {"trm": {"top_k": 20, **fields}}}}}

    assert config_differences(trm(), trm(criterion="max"), no_field_is_set) == []
    assert config_differences(trm(), trm(criterion="ser"), no_field_is_set) == [
        "actor_rollout_ref.actor.policy_loss.trm.criterion: max -> ser"
    ]


def test_what_an_absent_field_meant_counts_and_not_its_default() -> None:
    def env(**kwargs: Any) -> dict[str, Any]:
        return {"env": {"kwargs": kwargs}, "data": {"env": {"kwargs": kwargs}}}

    assert config_differences(env(), env(protocol="hermes"), no_field_is_set) == []
    assert config_differences(env(), env(protocol="fences"), no_field_is_set) == [
        "data.env.kwargs.protocol: hermes -> fences",
        "env.kwargs.protocol: hermes -> fences",
    ]
    assert absent_fields(env(), env(protocol="hermes", rows="")) == ["env.kwargs.rows"]


def test_without_defaults_a_field_that_one_side_lacks_is_a_difference() -> None:
    assert config_differences({"a": 1}, {"a": 1, "b": 2}) == ["b: (absent) -> 2"]
    # null says as much as a field that is not there
    assert config_differences({"a": 1}, {"a": 1, "b": None}) == []
    assert config_differences({"a": 1, "b": None}, {"a": 1}) == []
    assert config_differences({"a": 1, "b": 2}, {"a": 1}, no_field_is_set) == ["b: 2 -> (absent)"]


BROKEN = {
    "a name that is gone": (
        FIXTURE.read_text().replace("verl_plugin.dataset", "verl_plugin.data_loader"),
        "names what is not in this one (data.custom_cls.path: pkg://trm_agent.",
    ),
    "a class that is gone": (
        FIXTURE.read_text().replace("TrmPolicyLossConfig", "MaskedLossConfig"),
        ".MaskedLossConfig)",
    ),
    "an evaluation": ("format: trm-eval\nversion: 3\n", "lacks the section `run`"),
    "a list": ("- 1\n", "lacks the section `run`"),
    "nothing": ("", "lacks the section `run`"),
    "a cut file": ("run: {dir: null, root: 'ru", "cannot be read (while scanning"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_unknown_version_is_refused_and_left_alone(tmp_path: Path, case: str) -> None:
    text, told = BROKEN[case]
    path = old_folder(tmp_path, text, {"commit": COMMIT, "dirty": False})
    config = {"run": {"root": str(tmp_path), "name": "math_nano-seed0", "dir": str(path)}}
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=r"^run.dir=.*git checkout b2ece64b28, .*nothing was written$") as refused:
        open_run_folder(config)
    assert told in str(refused.value)
    config["run"]["dir"] = None
    folder = open_run_folder(config)
    assert (folder.path.name, folder.state) == ("math_nano-seed0-002", "new")
    (note,) = folder.notes
    assert note.startswith(f"{path} is unfinished and not resumed: its config.yaml")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("made", "remedy"),
    [
        ({"commit": None, "dirty": None, "version": "0.1.0"}, "pip install trm-agent==0.1.0, and repeat the command"),
        ({"commit": None, "dirty": None}, "no git.json says which version began it"),
        ([], "no git.json says which version began it"),
        (None, "no git.json says which version began it"),
    ],
)
def test_the_remedy_names_the_version_that_began_the_run(tmp_path: Path, made: Any, remedy: str) -> None:
    path = old_folder(tmp_path, "format: other", made)
    with pytest.raises(ValueError, match="lacks the section") as refused:
        read_config(path)
    assert remedy in str(refused.value)


def test_a_resumed_run_is_of_the_scorer_that_went_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run"
    old = {"run": {"dir": str(path), "root": str(tmp_path), "name": "run"}}
    config = {**old, "scorer_version": SCORER_VERSION}
    release(open_run_folder(old))
    first = open_run_folder(config, no_field_is_set)
    assert [note.partition(":")[0] for note in first.notes] == ["warning"]
    record_resume(first, SCORER_VERSION)
    release(first)
    again = open_run_folder(config, no_field_is_set)
    assert (again.state, again.notes) == ("resumed", ())
    record_resume(again, "0")
    release(again)
    with pytest.raises(ValueError, match=f"scorer version 0, and this is scorer version {SCORER_VERSION}"):
        open_run_folder(config, no_field_is_set)
    rows = [json.loads(line) for line in (path / "resumes.jsonl").read_text().splitlines()]
    assert [(row["after_step"], row["scorer_version"]) for row in rows] == [(0, SCORER_VERSION), (0, "0")]
    assert rows[0].keys() >= {"commit", "dirty", "version", "time"}
