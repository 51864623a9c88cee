"""Old dotted names lead to those of today, and names that lead nowhere are found."""

import pytest

from trm_agent.runs.old_names import OLD_NAMES, current_name, exists, unknown_names, with_current_names

# as they stand in a table: a module, a package with a module in it that went elsewhere, a class
NAMES = {
    "trm_agent.verl_plugin.dataset": "trm_agent.verl_plugin.driver.dataset",
    "trm_agent.verl_plugin": "trm_agent.plugin",
    "trm_agent.config.TrmConfig": "trm_agent.trust_region.settings.Settings",
    "user.module": "user.other",
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trm_agent.verl_plugin.dataset", "trm_agent.verl_plugin.driver.dataset"),
        ("pkg://trm_agent.verl_plugin.dataset", "pkg://trm_agent.verl_plugin.driver.dataset"),
        ("trm_agent.verl_plugin.dataset.EnvDataset", "trm_agent.verl_plugin.driver.dataset.EnvDataset"),
        ("trm_agent.verl_plugin.dataset:EnvDataset", "trm_agent.verl_plugin.driver.dataset:EnvDataset"),
        ("trm_agent.verl_plugin.policy_loss.Loss", "trm_agent.plugin.policy_loss.Loss"),
        ("trm_agent.config.TrmConfig", "trm_agent.trust_region.settings.Settings"),
        ("trm_agent.config:TrmConfig", "trm_agent.trust_region.settings:Settings"),
        ("trm_agent.config:TrmConfig.of", "trm_agent.trust_region.settings:Settings.of"),
        # a part of a name is none, nor is a sentence or a path
        ("trm_agent.verl_plugin.dataset2", "trm_agent.plugin.dataset2"),
        ("trm_agent.verl_plugins", "trm_agent.verl_plugins"),
        ("trm_agent.config", "trm_agent.config"),
        ("see trm_agent.verl_plugin.dataset", "see trm_agent.verl_plugin.dataset"),
        ("trm_agent/verl_plugin/dataset.py", "trm_agent/verl_plugin/dataset.py"),
        ("trm/ChainMath-v0", "trm/ChainMath-v0"),
        ("verl.workers.config.FSDPActorConfig", "verl.workers.config.FSDPActorConfig"),
    ],
)
def test_a_name_is_replaced_in_every_form(old: str, new: str) -> None:
    assert current_name(old, NAMES) == new


def test_names_are_replaced_at_any_depth_and_nothing_else_is() -> None:
    config = {"a": [{"b": "user.module:f"}, 3, None], "user.module": {"c": "pkg://user.module"}, "d": True}
    assert with_current_names(config, NAMES) == {
        "a": [{"b": "user.other:f"}, 3, None],
        "user.module": {"c": "pkg://user.other"},
        "d": True,
    }


def test_each_line_of_the_table_leads_to_something_that_exists_at_once() -> None:
    wrong = [new for new in OLD_NAMES.values() if not exists(new) or current_name(new) != new]
    assert not wrong, "write today's name on the right of every line of runs/old_names.py"


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        ("trm_agent.runs", True),
        ("trm_agent.runs.folder", True),
        ("pkg://trm_agent.runs.folder", True),
        ("trm_agent.runs.folder.RunFolder", True),
        ("trm_agent.runs.folder:CONFIG_FILE", True),
        ("trm_envs.ToolEnv", True),
        ("trm_agent.runs.folders", False),
        ("trm_agent.runs.folder.RunFolders", False),
        ("trm_agent.nothing.at_all", False),
        ("no_such_package.module", False),
    ],
)
def test_a_name_exists_or_not_without_an_import(name: str, is_there: bool) -> None:
    assert exists(name) == is_there


def test_only_our_own_names_can_be_unknown() -> None:
    config = {"a": {"_target_": "trm_agent.gone.Class"}, "b": ["my_env.gone", "pkg://trm_envs.gone"], "c": "verl.gone"}
    assert unknown_names(config) == {"a._target_": "trm_agent.gone.Class", "b[1]": "pkg://trm_envs.gone"}
