"""A run is named after its environment, if that is not the one that its experiment is made for."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from trm_agent.runs.compose import _split_address, compose_run, earlier_name, name_of_environment


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("mine/Sql-v0", "sql"),
        ("FrozenLake-v1", "frozen_lake"),
        ("FrozenLake8x8-v1", "frozen_lake8x8"),
        ("my_games:mine/SQLTables-v12", "sql_tables"),
        ("a/b/CodeTests-v0", "code_tests"),
        ("../../etc-v0", "etc"),
        ("ünï-v0", "n"),
        ("-v0", "own"),
    ],
)
def test_an_environments_name_is_fit_for_files(env_id: str, name: str) -> None:
    assert name_of_environment(env_id) == name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["env=custom", "env.id=mine/Sql-v0"], "sql-seed0"),
        (["experiment=math_nano", "env=custom", "env.id=mine/Sql-v0", "seed=3"], "sql-seed3"),
        (["experiment=math_qwen3_8b", "env=code_repair"], "code_repair-seed0"),
        (["env=gym", "env.kwargs.env_id=FrozenLake-v1"], "frozen_lake-seed0"),
        (["env=custom", "env.id=mine/Sql-v0", "trainer.experiment_name=second_try"], "second_try-seed0"),
        (["env=custom", "env.id=mine/Sql-v0", "run.name=third"], "third"),
        (["experiment=math_nano_mismatch"], "math_nano_mismatch-seed0"),
        (["experiment=code_nano"], "code_nano-seed0"),
        (["experiment=math_nano", "env=chain_math"], "math_nano-seed0"),
    ],
)
def test_a_run_is_named_after_its_environment(overrides: list[str], name: str) -> None:
    config = compose_run(overrides)
    assert config.run.name == name
    assert config.run.experiment == experiment_of(overrides)


def test_module_and_id_may_be_given_as_one_as_to_other_commands() -> None:
    config = compose_run(["env=custom", "env.id=my.shop:shop/Sql-v0"])
    assert (config.env.id, config.env.module, config.run.name) == ("shop/Sql-v0", "my.shop", "sql-seed0")
    assert (config.nano.env_id, config.nano.env_module) == ("shop/Sql-v0", "my.shop")


@pytest.mark.parametrize(
    ("env_id", "module", "taken"),
    [
        ("shop:shop/Sql-v0", "shop", ("shop/Sql-v0", "shop")),
        ("shop/Sql-v0", "shop", ("shop/Sql-v0", "shop")),
        (":shop/Sql-v0", None, (":shop/Sql-v0", None)),
        ("shop:", None, ("shop:", None)),
        (None, None, (None, None)),
    ],
)
def test_an_id_alone_and_a_part_of_an_address_are_left_alone(env_id: Any, module: Any, taken: tuple) -> None:
    config = OmegaConf.create({"env": {"id": env_id, "module": module}})
    _split_address(config)
    assert (config.env.id, config.env.module) == taken


def test_an_address_of_another_module_is_refused() -> None:
    config = OmegaConf.create({"env": {"id": "shop:shop/Sql-v0", "module": "other"}})
    with pytest.raises(ValueError, match=r"env.id: got 'shop:shop/Sql-v0', where env.module=other; .*leave one"):
        _split_address(config)


def experiment_of(overrides: list[str]) -> str:
    return dict(override.split("=", 1) for override in overrides).get("experiment", "math_nano")


def composed(name: str, run: str, experiment: str | None = "math_nano") -> dict[str, Any]:
    """The fields that name a run of Frozen Lake."""
    env = {"id": "trm/Gym-v0", "kwargs": {"env_id": "FrozenLake-v1"}}
    return {"run": {"name": run, "experiment": experiment}, "trainer": {"experiment_name": name}, "env": env}


@pytest.mark.parametrize(
    ("config", "earlier"),
    [
        (composed("frozen_lake", "frozen_lake-seed3"), "math_nano-seed3"),
        (composed("frozen_lake", "frozen_lake-seed3", experiment=None), None),
        # names of the user's own, and the experiment's own environment
        (composed("frozen_lake", "mine"), None),
        (composed("mine", "mine-seed3"), None),
        (composed("math_nano", "math_nano-seed3"), None),
        ({"run": {"name": "run"}}, None),
    ],
)
def test_the_name_of_an_earlier_version_is_the_experiments(config: dict[str, Any], earlier: str | None) -> None:
    assert earlier_name(config) == earlier
