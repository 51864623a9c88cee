"""Refuse settings that cannot work, before Ray starts. Each message has field, value, allowed values and remedy."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from trm_agent.episode import ChatSettings
from trm_agent.models.smollm2 import SMOLLM2
from trm_agent.runs.compose import plain
from trm_agent.runs.environment_check import Trial, Wording, check_environment, check_registered
from trm_agent.runs.fit_cpu_engine import limits_with_room, rate_of
from trm_agent.runs.preflight_sampling import SAMPLING_RULES
from trm_agent.runs.preflight_training import TRAINING_RULES
from trm_agent.runs.preflight_verl import MACHINE_RULES, VERL_RULES, refusals
from trm_agent.runs.verl_fates import verl_fields
from trm_agent.tasks import Task
from trm_envs.sandbox.local.demands import demand
from trm_fields import OneOf, refuse

LEAST_RATE = "hardware.least_tokens_per_s"
NANO = "nano"
MODEL_PATH = "actor_rollout_ref.model.path"
_ACTOR = "actor_rollout_ref.actor"
# files that hold a model's weights
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
# files of which a tokenizer has one at least
TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")


def check(config: DictConfig) -> None:
    """Check a composed configuration, and make its demands on sandboxes; needs neither verl nor the model.

    Raises:
        ValueError: the first fault.
    """
    demand(OmegaConf.select(config, "sandbox.require") or ())
    # an environment is played last
    for rule in (
        *VERL_RULES,
        *TRAINING_RULES,
        *SAMPLING_RULES,
        refusals,
        _model_path,
        _imported,
        _chat,
        _environment,
        _nano,
    ):
        rule(config)


def check_machine(config: DictConfig) -> None:
    """Check a composed configuration against the devices and accounts of this machine.

    Raises:
        ValueError: the first fault.
    """
    for rule in MACHINE_RULES:
        rule(config)


def check_policy_loss(config: DictConfig, known: Iterable[str]) -> None:
    """Check the loss's name against verl's registry.

    Raises:
        ValueError: verl has no such policy loss.
    """
    field, known = f"{_ACTOR}.policy_loss.loss_mode", sorted(known)
    name = OmegaConf.select(config, field)
    OneOf(known).check(field, name)


def _environment(config: DictConfig) -> None:
    env, wording = config.env, _wording(config)
    if not env.id:
        refuse("env.id", env.id, "the Gymnasium id of your environment", "give it, such as env.id=mine/Task-v0")
    check_registered(env.id, env.module, wording)
    _streams(config)
    # one task of each stream and horizon
    tasks = [
        Task(env.id, 0, {"horizon": horizon, "split": env[stream].split})
        for stream in ("train", "val")
        for horizon in dict.fromkeys(env[stream].horizons)
    ]
    trial = Trial(
        env.id,
        env.module,
        plain(env.kwargs),
        tasks,
        [limits_with_room(config)],
        rate_of(config),
    )
    check_environment(trial, wording)


def _nano(config: DictConfig) -> None:
    """Check the environment that a nano model imitates, where it is another one."""
    if config.actor_rollout_ref.model.path != NANO:
        return
    env, nano = config.env, config.nano
    taught = (nano.env_id, nano.env_module, plain(nano.env_kwargs))
    if taught == (env.id, env.module, plain(env.kwargs)):
        return
    wording = Wording(
        id=f"nano.env_id={nano.env_id!r}",
        module=f"nano.env_module={nano.env_module!r}",
        own="for an environment of your own set nano.env_module to the module that registers it",
        settings=f"nano.env_kwargs={taught[2]} of {nano.env_id}",
    )
    check_environment(Trial(*taught, tasks=[], limits=[], tokens_per_s=1.0), wording)


def _imported(config: DictConfig) -> None:
    """Refuse modules that verl would import after Ray has started, if they are not here, and an absent adapter."""
    for field in (f"{MODEL_PATH.rpartition('.')[0]}.external_lib", "trainer.checkpoint_callback_class"):
        given = OmegaConf.select(config, field)
        for name in [given] if isinstance(given, str) else given or ():
            top = str(name).partition(".")[0]
            if not top or importlib.util.find_spec(top) is None:
                refuse(field, name, "a module that can be imported here", "install it, or fix the name")
    field = f"{MODEL_PATH.rpartition('.')[0]}.lora_adapter_path"
    adapter = OmegaConf.select(config, field)
    if adapter and "://" not in adapter and not _is_hub_id(adapter) and not Path(adapter).expanduser().exists():
        allowed = "the folder of an adapter, or a hub id (organisation/name)"
        refuse(field, adapter, allowed, "give one", because="which is not there")


def _is_hub_id(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~"))


def _wording(config: DictConfig) -> Wording:
    env = config.env
    return Wording(
        id=f"env.id={env.id!r}",
        module=f"env.module={env.module!r}",
        own="for an environment of your own set env.module to the module that registers it, or write env.id=MODULE:ID",
        settings=f"env.kwargs={plain(env.kwargs)} of {env.id}",
        rate=LEAST_RATE,
    )


def _streams(config: DictConfig) -> None:
    """Refuse horizons without tasks, and a validation on tasks of training."""
    env = config.env
    for stream in ("train", "val"):
        horizons = list(env[stream].horizons)
        if env[stream].num_tasks < len(horizons):
            refuse(
                f"env.{stream}.num_tasks",
                env[stream].num_tasks,
                f"{len(horizons)} or more, one for each horizon",
                "raise it",
            )
    if env.train.split == env.val.split or "all" in (env.train.split, env.val.split):
        refuse(
            "env.val.split",
            env.val.split,
            "splits that share no task, so that validation tasks are never trained on",
            "set env.train.split=train and env.val.split=held_out",
            because=f"with env.train.split={env.train.split!r}: the two share tasks",
        )


def _chat(config: DictConfig) -> None:
    ChatSettings.of_run({name: plain(config[name]) for name in ("env", "data")})


def _model_path(config: DictConfig) -> None:
    field = MODEL_PATH
    path = str(OmegaConf.select(config, field))
    folder = Path(path).expanduser()
    parts = {"config.json": ("config.json",), "weights": WEIGHTS, "tokenizer": TOKENIZERS}
    missing = [part for part, names in parts.items() if not any(next(folder.glob(name), None) for name in names)]
    is_default = path == verl_fields()["fields"][field][1]
    if path in (NANO, SMOLLM2) or (_is_hub_id(path) and not is_default) or not missing:
        return
    allowed = (
        f"a folder with config.json, a hub id (organisation/name), {SMOLLM2!r}, or {NANO!r} for the model of the "
        "embedded default"
    )
    if is_default:
        refuse(field, None, allowed, "give one", because="which model=hub needs")
    lack = "which is not a folder here"
    if folder.is_dir():
        lack = f"which has no {missing[0]}"
    refuse(field, path, allowed, "give one", because=lack)
