"""Fields of older runs: the meaning of an absent field, and changed defaults.

A field that an older config.yaml lacks counts as its default of today. To add an exception:

- `MEANT`: the older code differed from today's default, for example with a fixed value for one that is now measured;
- `OLD_DEFAULTS`: a field that has another default now; the older one counts as today's, so that the same command
  resumes. Leave out a default that decides what is learned: such a run must be refused.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from trm_agent.trust_region.settings import DUMP_PATH, FIELD_PATH, DumpConfig, TrmConfig

_VLLM = "actor_rollout_ref.rollout.engine_kwargs.vllm"
# field -> the value that the code used before there was a field
MEANT: dict[str, Any] = {
    # the same for all templates but those under which the model saw no tools
    "env.chat.fallback": "describe",
    "env.chat.roles": ["tool", "user"],
    "env.kwargs.protocol": "hermes",
    "env.limits.max_malformed_turns": None,
    "nano.env_kwargs.protocol": "hermes",
}
# field -> earlier defaults
OLD_DEFAULTS: dict[str, tuple[Any, ...]] = {
    # decides nothing that is learned
    f"{DUMP_PATH}.max_sequences": (64,),
    # how sequences lie in memory; the same numbers to rounding
    "actor_rollout_ref.model.use_remove_padding": (False,),
    "actor_rollout_ref.actor.use_remove_padding": (False,),
    # null is torch's attention too, for every model that it computes rightly
    "actor_rollout_ref.model.override_config.attn_implementation": ("sdpa",),
    # time limits for faults; they decide nothing that is learned
    "env.limits.step_timeout_s": (20,),
    "env.limits.generate_timeout_s": (300,),
    "env.limits.episode_timeout_s": (600, 3600),
    # where an engine of one process runs: in that of its server, as before
    f"{_VLLM}.distributed_executor_backend": ("uni",),
    # how processes start
    "hardware.fork_server": (False,),
    # of the engine without a GPU: what suits the model by now
    "hardware.engine_threads": (1,),
    "hardware.least_tokens_per_s": (1, 10),
    "hardware.env_vars.VLLM_CPU_KVCACHE_SPACE": ("1",),
    # kept on the disk, and no more
    "trainer.max_actor_ckpt_to_keep": (None,),
    "trainer.max_critic_ckpt_to_keep": (None,),
}
# sections with the defaults of a dataclass under any preset
_DATACLASSES: dict[str, type] = {FIELD_PATH: TrmConfig, DUMP_PATH: DumpConfig}


def canonical(field: str) -> str:
    """Return the field that a user sets: verl's `data.env` repeats `env`."""
    return field.removeprefix("data.") if field.startswith("data.env.") else field


def default_of_dataclass(field: str) -> tuple[bool, Any]:
    """Return whether a dataclass of ours owns the default of a field, and that default."""
    section, _, name = field.rpartition(".")
    for item in fields(_DATACLASSES[section]) if section in _DATACLASSES else ():
        if item.name == name and item.default is not MISSING:
            return True, item.default
    return False, None
