"""What is measured: a run's last checkpoint with its configuration, or a model with the defaults of this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_agent.episode import ChatSettings
from trm_agent.episode.call_protocol import example_call, find_protocol, is_auto, resolved, shows_tools
from trm_agent.evaluate.environments import changed, changes, load_run_config, named, of_run
from trm_agent.evaluate.plan import Environment
from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from trm_agent.evaluate.checkpoints.source import Checkpoint

FIELD = "RUN|MODEL"
ALLOWED = (
    "a run folder (its last checkpoint), RUN@STEP, start:RUN (what the run began with), a Hugging Face folder, a hub "
    "id, nano or smollm2"
)
DEFAULT_ENV = "chain_math"
CPU, GPU = "cpu", "gpu"
# verl's names of the number formats -> vLLM's
FORMATS = {"fp32": "float32", "float32": "float32", "bf16": "bfloat16", "bfloat16": "bfloat16"}
_ACTOR, _ROLLOUT, _MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Say = Callable[[str], Any]


@dataclass(frozen=True)
class Source:
    """A model, and how engine and trainer are configured."""

    label: str
    """Name for people."""
    folder: Path
    """Hugging Face folder of the weights."""
    config: DictConfig
    """A run's whole configuration, for one rank."""
    environment: Environment
    """The environment whose answers the model gets."""
    chat: ChatSettings | None
    """Settings of the run's chat template; None for a model alone."""
    longest: int | None
    """Tokens of the run's longest episode; None for a model alone."""

    @property
    def engine_format(self) -> str:
        """Return the number format of the run's engine."""
        return _format(f"{_ROLLOUT}.dtype", str(self.config.actor_rollout_ref.rollout.dtype))

    @property
    def trainer_format(self) -> str:
        """Return the number format that the layers of the run's trainer compute in."""
        # verl's default
        given = (self.config.actor_rollout_ref.actor.fsdp_config.get("mixed_precision") or {}).get("param_dtype")
        return _format(f"{_ACTOR}.fsdp_config.mixed_precision.param_dtype", str(given or "bf16"))


def find_source(text: str, env: str | None, settings: Sequence[str], kind: str, say: Say = print) -> Source:
    """Resolve what the user names, make or merge its weights where they are not there, and configure both sides.

    Args:
        text: see `ALLOWED`.
        env: a choice of conf/env, an id or MODULE:ID; None for the run's, or `chain_math`.
        settings: FIELD=VALUE texts, arguments of the environment.
        kind: `cpu` or `gpu`, this machine.
        say: takes a line for the user before what takes long.

    Raises:
        ValueError: there is no such source or environment, or the run is of another kind of machine.
    """
    from trm_agent.evaluate.prepare import with_folder
    from trm_agent.evaluate.request import run_of

    checkpoint = _checkpoint(text, say)
    run = run_of(checkpoint)
    stored = None if run is None else load_run_config(run)
    if stored is not None:
        _check_kind(text, stored, kind)
    environment = named(env or DEFAULT_ENV) if env or stored is None else of_run(stored)
    environment = changed(environment, changes(settings, [environment.name]))
    folder = with_folder(checkpoint, say).folder
    assert folder is not None, "an endpoint was refused"
    config = _of_run(stored, folder) if stored is not None else _of_model(folder, kind)
    if cut := _cut_of(config):
        say(f"{text}: the run draws from a part of the vocabulary ({cut}); here tokens and log-probs are of all of it")
    longest = None if stored is None else _longest(stored)
    chat = None if stored is None else ChatSettings.of_run(stored)
    return Source(checkpoint.label, folder, config, environment, chat, longest)


def reader(source: Source, tokenizer: Any) -> tuple[ChatSettings, dict[str, Any]]:
    """Return how the chat template is used, and the environment's arguments with the protocol by name.

    Raises:
        ValueError: no protocol reads the model's calls.
    """
    given, settings = source.environment.kwargs, source.chat or ChatSettings()
    protocol = find_protocol(tokenizer, settings.template_kwargs, describes_tools=True) if is_auto(given) else ""
    kwargs = resolved(given, protocol)
    return replace(settings, with_tools=shows_tools(kwargs), call=example_call(kwargs)), kwargs


def _cut_of(config: DictConfig) -> str:
    """Return the settings with which a run draws from a part of the vocabulary; "" for none."""
    rollout = config.actor_rollout_ref.rollout
    cuts = {"top_k": rollout.top_k > 0, "top_p": rollout.top_p < 1}
    return ", ".join(f"{name}={rollout[name]:g}" for name, is_cut in cuts.items() if is_cut)


def _checkpoint(text: str, say: Say) -> Checkpoint:
    from trm_agent.evaluate.checkpoints.source import parse_checkpoint

    if re.match(r"https?://", text):
        refuse(FIELD, text, ALLOWED, "give its weights", because="an endpoint, which has no trainer")
    if _HUB_ID.fullmatch(text) and not Path(text).expanduser().exists():
        return replace(parse_checkpoint(str(_downloaded(text, say)), allowed=ALLOWED), label=text)
    return parse_checkpoint(text, allowed=ALLOWED)


def _downloaded(name: str, say: Say) -> Path:
    """Return the folder of a model of the hub, which is downloaded unless it is there."""
    from huggingface_hub import snapshot_download

    say(f"{name}: looked up in the cache of the hub, and downloaded if it is not there")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
    except Exception as error:
        because = f"neither here nor on the hub ({' '.join(str(error).split())[:200]})"
        refuse(FIELD, name, ALLOWED, "check the name, or give a folder", because=because)


def _check_kind(text: str, stored: Mapping[str, Any], kind: str) -> None:
    """Refuse a run whose kernels are not those of this machine."""
    ran_on = (stored.get("hardware") or {}).get("kind")
    if ran_on != kind:
        refuse(
            FIELD,
            text,
            f"a run of hardware.kind={kind}, or a model",
            "go to a machine of its kind, or trm export it and give the folder, for the kernels of this machine",
            because=f"a run of hardware.kind={ran_on}",
        )


def _longest(stored: Mapping[str, Any]) -> int:
    """Return the tokens of a run's longest episode."""
    lengths = int(stored["data"]["max_prompt_length"]) + int(stored["data"]["max_response_length"])
    context = stored["actor_rollout_ref"]["rollout"].get("max_model_len")
    return min(lengths, int(context)) if context else lengths


def _of_run(stored: Mapping[str, Any], folder: Path) -> DictConfig:
    from omegaconf import OmegaConf

    return _on_one_rank(OmegaConf.create(dict(stored)), folder)


def _of_model(folder: Path, kind: str) -> DictConfig:
    from trm_agent.runs.compose import compose_tree

    overrides = [f"hardware={kind}", "model=hub", f"{_MODEL}.path={_quoted(folder)}"]
    return _on_one_rank(compose_tree(overrides), folder)


def _quoted(folder: Path) -> str:
    text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _on_one_rank(config: DictConfig, folder: Path) -> DictConfig:
    """Return the configuration of a trainer on one rank, a sequence at a time, with the given weights."""
    from omegaconf import OmegaConf, open_dict

    with open_dict(config):
        for name, value in {
            f"{_MODEL}.path": str(folder),
            # in the merged weights
            f"{_MODEL}.lora_rank": 0,
            f"{_ACTOR}.ulysses_sequence_parallel_size": 1,
            f"{_ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 1,
            f"{_ACTOR}.fsdp_config.fsdp_size": -1,
            f"{_ACTOR}.use_dynamic_bsz": False,
            f"{_ACTOR}.ppo_micro_batch_size_per_gpu": 1,
            f"{_ROLLOUT}.log_prob_use_dynamic_bsz": False,
            f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": 1,
            "trainer.nnodes": 1,
            "trainer.n_gpus_per_node": 1,
        }.items():
            OmegaConf.update(config, name, value)
    OmegaConf.resolve(config)
    return config


def _format(field: str, given: str) -> str:
    if given not in FORMATS:
        refuse(field, given, ", ".join(FORMATS), "name the formats: --engine float32, --trainer float32")
    return FORMATS[given]
