"""Settings of the nano model, and the key under which the model that they make is cached."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from trm_agent.episode.call_protocol import DEFAULT, resolved
from trm_agent.models.traces import Solver
from trm_fields import ABOVE_0, COUNT, SEEDS, Free, Number, Several, Text, check_settings, setting

PATH = "nano"
CONTEXT = 32_768
"""Tokens of its longest context."""
RECIPE_FILES = ("traces.py", "tokenizer.py", "warm_start.py", "imitated.py", "imitation.py")


@dataclasses.dataclass(frozen=True)
class NanoSpec:
    """Everything that decides a nano model.

    Raises:
        ValueError: if a value is not allowed.
    """

    seed: int = setting(0, SEEDS, "Seed of the weights and of the training tasks.")
    env_id: str = setting("trm/ChainMath-v0", Text(), "The environment whose solver is imitated.")
    env_module: str | None = setting(
        None, Text(optional=True), "Module to import first, because it registers that environment."
    )
    env_kwargs: dict[str, Any] = setting({}, Free(), "Arguments of `gymnasium.make`.")
    horizon: int = setting(4, COUNT, "Horizon at which success is measured to end the warm start.")
    target_success: float = setting(
        0.35,
        Number("of 0 or more and below 1", lambda value: 0 <= value < 1),
        "Success at that horizon to stop at: weak enough for RL to have something to do. 0: the task is beyond the "
        "model, which imitates for `max_steps` steps and may leave RL nothing to reinforce.",
    )
    warm_start_horizons: tuple[int, ...] = setting(
        (1, 2, 3, 4, 6, 8, 12, 16),
        Several(COUNT),
        "Drawn evenly; the longest decides how long the conversations are that the model can follow at all.",
    )
    num_short_steps: int = setting(
        60, COUNT, "Steps on the first of these horizons alone at the start, where copying is learnt fastest."
    )
    batch_tokens: int = setting(1500, COUNT, "Tokens of conversation per step, about.")
    learning_rate: float = setting(1.5e-3, ABOVE_0, "Of AdamW, constant after a short warm-up.")
    max_steps: int = setting(1000, COUNT, "Steps without reaching a target above 0 after which the warm start fails.")
    hidden_size: int = setting(192, COUNT, "Width of the residual stream.")
    num_layers: int = setting(2, COUNT, "Transformer layers.")
    num_heads: int = setting(4, COUNT, "Attention heads of the queries.")
    num_kv_heads: int = setting(2, COUNT, "Attention heads of keys and values.")
    head_dim: int = setting(32, COUNT, "Width of a head.")
    mlp_size: int = setting(768, COUNT, "Width of the feed-forward layer.")
    max_vocab_size: int = setting(
        1024, COUNT, "Upper limit; the tokenizer stops earlier when nothing is left to merge."
    )

    def __post_init__(self) -> None:
        check_settings(self, PATH)
        object.__setattr__(self, "warm_start_horizons", tuple(self.warm_start_horizons))
        # the tokenizer's template is made for that protocol
        object.__setattr__(self, "env_kwargs", resolved(self.env_kwargs, DEFAULT))

    def solver(self, split: str) -> Solver:
        """Return the imitated solver on tasks of one split."""
        return Solver(self.env_id, split, self.env_module, self.env_kwargs)

    def cache_key(self) -> str:
        """Return a hash of the fields, the recipe's source and the environment's first traces."""
        fields = dataclasses.asdict(self)
        for name in ("env_module", "env_kwargs"):
            del fields[name]  # they show in the traces
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        for name in RECIPE_FILES:
            digest.update(Path(__file__).with_name(name).read_bytes())
        solver = self.solver("train")
        for seed, horizon in enumerate(self.warm_start_horizons):
            digest.update(json.dumps(dataclasses.asdict(solver.solve(seed, horizon)), sort_keys=True).encode())
        return digest.hexdigest()[:16]
