"""Compose the configuration of a run from conf/ and the command line; errors name the closest choice."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trm_agent.extras import install
from trm_agent.runs.hidden_gpus import has_device, has_nvidia, hides_all
from trm_agent.runs.planning.auto import AUTO, expanded
from trm_agent.runs.planning.fit import fit
from trm_agent.runs.planning.machine import lacks_cuda
from trm_fields import OneOf, refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("experiment", "env", "model", "policy_loss", "hardware")
# Hydra's words on an override whose field is in no yaml
_NOT_THERE = re.compile(r"Could not override '([\w.]+)'")
_UNMERGED = re.compile(r"Error merging override (.*)")
_THERE = re.compile(r"An item is already at '([\w.]+)'")
NAME, EXPERIMENT = "trainer.experiment_name", "run.experiment"
DEFAULT_EXPERIMENT = "math_nano"
NVIDIA_DEVICE = Path("/dev/nvidia0")
GPU = "gpu"


def choices(group: str) -> list[str]:
    """Return the names that a config group offers."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose_run(overrides: Sequence[str]) -> DictConfig:
    """Compose `conf/train.yaml` with Hydra overrides, and fit the result to the GPUs of its hardware.

    Raises:
        ValueError: as `compose_tree`.
    """
    if f"experiment={AUTO}" in overrides:
        overrides, _ = expanded("math", overrides)
    config = compose_tree(overrides)
    if config.hardware.kind == GPU:
        fit(config, _given(overrides))
    return config


def compose_tree(overrides: Sequence[str]) -> DictConfig:
    """Compose `conf/train.yaml` with Hydra overrides, as it is written.

    Raises:
        ValueError: an unknown choice of a group, an unknown field, an override that cannot be read, a value of our
            groups that is not allowed.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from trm_agent.runs.field_names import check_additions, may_be_added, refuse_unknown
    from trm_agent.runs.overrides import check_overrides
    from trm_agent.runs.schema import check_groups, check_name, check_override, check_removal

    check_choices(overrides)
    check_overrides(overrides)
    check_additions(overrides, GROUPS)
    for override in overrides:
        check_removal(override)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            config = compose("train", overrides=[*overrides, f"hydra.searchpath=[file://{_verl_config()}]"])
    except (HydraException, OmegaConfBaseException) as error:
        if unknown := _NOT_THERE.search(str(error)):
            values = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
            check_name(unknown[1], values.get(unknown[1], ""))
            if not may_be_added(unknown[1]):
                refuse_unknown(unknown[1], GROUPS)
            raise ValueError(
                f"{unknown[1]}: no yaml shows this field; write it with a plus: +{unknown[1]}=..."
            ) from error
        if there := _THERE.search(str(error)):
            raise ValueError(f"+{there[1]}: the field is there already; leave out the plus") from error
        if unmerged := _UNMERGED.search(str(error)):
            check_override(unmerged[1])
        raise ValueError(_first_lines(error)) from error
    check_groups(config)
    _wait_unless_told(config)
    _dump_into_the_run(config)
    _split_address(config)
    _name(config, _given(overrides))
    return config


def _given(overrides: Sequence[str]) -> dict[str, str]:
    return {override.lstrip("+").partition("=")[0]: override.partition("=")[2] for override in overrides}


def check_choices(overrides: Sequence[str]) -> None:
    """Check the choices of our groups among the overrides.

    Raises:
        ValueError: the group has no such file.
    """
    for override in overrides:
        group, separator, name = override.partition("=")
        if separator and group in GROUPS:
            OneOf([*choices(group), *([AUTO] if group == "experiment" else [])]).check(group, name)


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a node of the configuration as a dictionary, interpolations resolved."""
    from omegaconf import OmegaConf

    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def expected_variables(overrides: Sequence[str]) -> dict[str, str] | None:
    """Return the environment variables that a run on this machine most likely sets; None where nothing tells.

    Before the configuration is composed, which takes a second: who acts on them has to look again afterwards.
    """
    import yaml

    if any("hardware" in override.partition("=")[0] for override in overrides):
        return None
    kind = "cpu"
    if has_device():
        kind = GPU
        if not _may_use_gpus(overrides):
            return None
    hardware = yaml.safe_load((CONF / "hardware" / f"{kind}.yaml").read_text(encoding="utf-8"))["hardware"]
    return {name: str(value) for name, value in hardware["env_vars"].items()}


def _may_use_gpus(overrides: Sequence[str]) -> bool:
    """Return True if a run with these overrides most likely takes GPUs of this machine, and starts a Ray of its own."""
    named = next((each.partition("=")[2] for each in overrides if each.startswith("experiment=")), AUTO)
    if not has_nvidia() or hides_all(os.environ) or lacks_cuda() or os.environ.get("RAY_ADDRESS"):
        return False
    return named == AUTO or _choice(named, "hardware") == GPU


def _dump_into_the_run(config: DictConfig) -> None:
    """Set the run's folder for a dump without a directory; the group `trm` itself reads no key outside verl's tree."""
    from omegaconf import OmegaConf

    dump = config.actor_rollout_ref.actor.policy_loss.get("dump")
    if OmegaConf.is_dict(dump) and dump.get("directory", "") is None:
        dump.directory = "${run.dir}/rollouts"


def _wait_unless_told(config: DictConfig) -> None:
    """Let an asynchronous run wait for old tasks where nothing is set; verl would drop them: the long ones."""
    from omegaconf import OmegaConf

    from trm_agent.runs.preflight_async import DROP, SYNC, WAIT

    v1 = OmegaConf.select(config, "trainer.v1")
    # what is no section is refused later on
    if not OmegaConf.is_dict(v1) or not OmegaConf.is_dict(v1.get("sampler")):
        return
    if v1.sampler.get("max_off_policy_strategy") is None:
        # verl's default where no run reads it
        strategy = DROP if v1.get("trainer_mode") == SYNC else WAIT
        config.trainer.v1.sampler.max_off_policy_strategy = strategy


def _split_address(config: DictConfig) -> None:
    """Take MODULE:ID as the id of an environment, as other commands do.

    Raises:
        ValueError: env.module names another module.
    """
    module, separator, env_id = str(config.env.id or "").rpartition(":")
    if not (separator and module and env_id):
        return
    if config.env.module not in (None, module):
        because = f"where env.module={config.env.module}"
        refuse("env.id", config.env.id, "an id of that module", "leave one of the two out", because=because)
    config.env.id, config.env.module = env_id, module


def _name(config: DictConfig, given: Mapping[str, str]) -> None:
    """Record the experiment, and name the run after its environment where that is another one than the experiment's.

    Args:
        config: the composed configuration.
        given: the overrides.

    Raises:
        ValueError: an override sets the record.
    """
    config.run.experiment = experiment = given.get("experiment", DEFAULT_EXPERIMENT)
    if EXPERIMENT in given:
        refuse(EXPERIMENT, given[EXPERIMENT], "nothing, the command fills it in", "choose a preset with experiment=")
    if config.env.id and NAME not in given and config.env.id != _own_environment(experiment):
        config.trainer.experiment_name = _environments_name(config.env)


def earlier_name(config: Mapping[str, Any]) -> str | None:
    """Return the name that an earlier version gave a run: its experiment's, whatever the environment.

    Returns:
        None where that is the run's name today, or the user has given one.
    """
    env, experiment = config.get("env") or {}, config["run"].get("experiment")
    name, today = str(config["run"]["name"]), (config.get("trainer") or {}).get("experiment_name")
    if not env.get("id") or experiment in (None, today) or today != _environments_name(env):
        return None
    return f"{experiment}{name.removeprefix(today)}" if name.startswith(f"{today}-") else None


def game_of(env: Mapping[str, Any]) -> str:
    """Return the Gymnasium id of what is played: that of a wrapped game, else the environment's."""
    return str((env.get("kwargs") or {}).get("env_id") or env.get("id") or "")


def _environments_name(env: Mapping[str, Any]) -> str:
    return name_of_environment(game_of(env))


def name_of_environment(env_id: str) -> str:
    """Return a name for files: "frozen_lake" of "mine/FrozenLake-v1"."""
    bare = re.sub(r"-v\d+$", "", env_id.rpartition(":")[2].rpartition("/")[2])
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", bare)
    return re.sub(r"[^a-z0-9]+", "_", apart.lower()).strip("_") or "own"


def _own_environment(experiment: str) -> str | None:
    """Return the id of the environment that an experiment is made for."""
    import yaml

    if (name := _choice(experiment, "env")) is None:
        return None
    return str(yaml.safe_load((CONF / "env" / f"{name}.yaml").read_text(encoding="utf-8"))["env"]["id"])


def _choice(experiment: str, group: str) -> str | None:
    """Return the choice of a group that an experiment is made for; None where it makes none, or is not there."""
    import yaml

    path = CONF / "experiment" / f"{experiment}.yaml"
    if not path.exists():
        return None
    names = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
    for each in names:
        if isinstance(each, dict) and f"override /{group}" in each:
            return str(each[f"override /{group}"])
    return next((found for each in names if isinstance(each, str) and (found := _choice(each, group))), None)


def _verl_config() -> Path:
    """Find the folder of verl's configuration without importing verl (5 s, and its plugins read the environment)."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ValueError(f"verl is not installed, and a run's configuration extends its own; {install('train')}")
    return Path(spec.origin).parent / "trainer" / "config"


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:3])
