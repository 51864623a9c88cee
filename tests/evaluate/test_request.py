"""Requests that a training run completes: its validation, its environment, its budgets."""

import functools
from dataclasses import replace

import pytest
import yaml

from tests.evaluate.evaluation_fakes import fake_checkpoint
from trm_agent.episode import Limits
from trm_agent.evaluate import request
from trm_agent.evaluate.request import Request, build_plan, run_of
from trm_agent.runs.compose import compose_run, plain
from trm_agent.tasks import task_at

OVERRIDES = (
    "experiment=math_nano",
    "env.val.horizons=[2,5]",
    "env.val.num_tasks=7",
    "env.limits.max_turns=9",
    "data.max_prompt_length=400",
    "data.max_response_length=900",
    "actor_rollout_ref.rollout.max_model_len=1300",
    "actor_rollout_ref.rollout.val_kwargs.temperature=0.7",
    "actor_rollout_ref.rollout.val_kwargs.n=3",
)


@functools.cache
def _composed():
    return yaml.safe_dump(plain(compose_run(OVERRIDES)))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The folder of a run whose checkpoints are fakes."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(_composed())

    def parse(text, nano=None, tokenizer=None):
        return replace(fake_checkpoint("fake"), source=text)

    monkeypatch.setattr(request, "parse_checkpoint", parse)
    return folder


def test_a_validation_plays_the_runs_own_tasks_within_its_limits_and_with_its_sampling(run):
    plan = build_plan(Request((f"start:{run}",), validation=""))
    config = yaml.safe_load((run / "config.yaml").read_text())
    (environment,) = plan.environments
    assert plan.name == "validation-chain_math"
    assert environment.num_tasks == 7
    assert [environment.task(i) for i in range(7)] == [task_at(config["env"], "val", i) for i in range(7)]
    tokens = {"max_prompt_tokens": 400, "max_response_tokens": 900}
    expected = Limits.from_mapping({**config["env"]["limits"], **tokens})
    assert [environment.limits_at(horizon) for horizon in (2, 5)] == [expected, expected]
    assert expected.max_turns == 9
    assert (plan.sampling.temperature, plan.sampling.top_p, plan.samples) == (0.7, 1.0, 3)


def test_a_validation_that_was_cut_by_top_k_is_not_played_without_the_cut(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["actor_rollout_ref"]["rollout"]["val_kwargs"]["top_k"] = 20
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"^actor_rollout_ref.rollout.val_kwargs.top_k: got 20, .*allowed: -1 or 0;"):
        build_plan(Request((f"start:{run}",), validation=""))
    # the most likely token is in every cut
    assert build_plan(Request((f"start:{run}",), validation="", temperature=0.0)).sampling.temperature == 0


@pytest.mark.slow
def test_what_the_user_says_goes_before_the_validations_sampling(run):
    plan = build_plan(Request(("nano",), validation=str(run), temperature=0.0, samples=2, limit=4))
    assert (plan.sampling.temperature, plan.samples, plan.environments[0].num_tasks) == (0.0, 2, 4)


@pytest.mark.slow
def test_without_a_choice_the_runs_environment_is_played_on_other_tasks_than_its_validations(run):
    plan = build_plan(Request((f"start:{run}",), horizons=(5, 12)))
    config = yaml.safe_load((run / "config.yaml").read_text())
    (environment,) = plan.environments
    assert (plan.name, environment.horizons, environment.num_tasks, environment.split) == (
        "chain_math",
        (5, 12),
        100,
        "held_out",
    )
    assert not {environment.task(i).seed for i in range(100)} & {
        task_at(config["env"], "val", i).seed for i in range(7)
    }
    # 9 turns are for the longest horizon that the run knows, 6 in training
    assert [environment.limits_at(horizon).max_turns for horizon in (5, 12)] == [9, 18]
    assert (plan.sampling.temperature, plan.samples) == (1.0, 5)


@pytest.mark.slow
def test_greedy_samples_would_all_be_one(run):
    assert build_plan(Request((f"start:{run}",), temperature=0.0)).samples == 1


def test_a_checkpoint_knows_its_run(run):
    actor = run / "checkpoints" / "global_step_3" / "actor"
    actor.mkdir(parents=True)
    fsdp = replace(fake_checkpoint("x"), kind="fsdp", path=actor, source="anything")
    assert run_of(fsdp) == run.resolve()
    assert run_of(replace(fake_checkpoint("x"), source=f"start:{run}")) == run
    assert run_of(fake_checkpoint("x")) is None


def test_a_folder_alone_does_not_have_programs_run_without_isolation(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env"]["kwargs"]["sandbox"] = "unsafe"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"sandbox=unsafe in the run's config.yaml: .*--set sandbox=unsafe"):
        build_plan(Request((f"start:{run}",), validation=""))
    for name in ("unsafe", "local"):
        plan = build_plan(Request((f"start:{run}",), validation="", settings=(f"sandbox={name}",)))
        assert plan.environments[0].kwargs["sandbox"] == name


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "a: 1" + "0" * 5000, "a: &b [c]\nd: *b", "a: ["])
def test_a_configuration_out_of_bounds_is_a_clear_error(run, text):
    (run / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml: .*; give the folder of a run whose configuration can be read"):
        build_plan(Request((f"start:{run}",), validation=""))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("env",), 5),
        (("env", "val"), None),
        (("env", "limits"), "many"),
        (("env", "kwargs", "protocol"), [1]),
        (("data",), {}),
        (("actor_rollout_ref", "rollout"), []),
    ],
)
def test_a_runs_configuration_that_is_none_is_a_clear_error(run, path, value):
    config = yaml.safe_load((run / "config.yaml").read_text())
    section = config
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"config.yaml of start:.* is not one that this version can read \("):
        build_plan(Request((f"start:{run}",), validation=""))
