"""Settings of the nano model, and the key under which the model that they make is cached."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from trm_agent.episode.call_protocol import DEFAULT, resolved
from trm_agent.models.traces import Solver

RECIPE_FILES = ("traces.py", "tokenizer.py", "warm_start.py")


@dataclasses.dataclass(frozen=True)
class NanoSpec:
    """All that decides which nano model comes out.

    Raises:
        ValueError: if a value is not allowed.
    """

    seed: int = 0
    """Seed of the weights and of the training tasks."""
    env_id: str = "trm/ChainMath-v0"
    """The environment whose solver is imitated."""
    env_module: str | None = None
    """Module to import first, because it registers that environment."""
    env_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of `gymnasium.make`."""
    horizon: int = 4
    """Horizon at which success is measured to end the warm start."""
    target_success: float = 0.35
    """Success at that horizon to stop at, below 1: weak enough for RL to have something to do. 0: the task is beyond
    the model, which imitates for `max_steps` steps and may leave RL nothing to reinforce."""
    warm_start_horizons: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    """Drawn evenly; the longest decides how long the conversations are that the model can follow at all."""
    num_short_steps: int = 60
    """Steps on the first of these horizons alone at the start, where copying is learnt fastest."""
    batch_tokens: int = 1500
    """Tokens of conversation per step, about."""
    learning_rate: float = 1.5e-3
    """Of AdamW, constant after a short warm-up."""
    max_steps: int = 1000
    """Steps without reaching a target above 0 after which the warm start fails."""
    hidden_size: int = 192
    """Width of the residual stream."""
    num_layers: int = 2
    """Transformer layers."""
    num_heads: int = 4
    """Attention heads of the queries."""
    num_kv_heads: int = 2
    """Attention heads of keys and values."""
    head_dim: int = 32
    """Width of a head."""
    mlp_size: int = 768
    """Width of the feed-forward layer."""
    max_vocab_size: int = 1024
    """Upper limit; the tokenizer stops earlier when nothing is left to merge."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "warm_start_horizons", tuple(self.warm_start_horizons))
        # the tokenizer's template is made for that protocol
        object.__setattr__(self, "env_kwargs", resolved(self.env_kwargs, DEFAULT))
        if not 0.0 <= self.target_success < 1.0:
            raise ValueError(f"target_success = {self.target_success}: expected 0 or more and below 1, such as 0.35")
        if not self.warm_start_horizons or min(self.warm_start_horizons) < 1:
            raise ValueError(f"warm_start_horizons = {self.warm_start_horizons}: expected horizons of at least 1")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and field.name not in ("seed", "target_success") and value <= 0:
                raise ValueError(f"{field.name} = {value}: expected a positive number; the default is {field.default}")

    def solver(self, split: str) -> Solver:
        """Return the solver that is imitated, on tasks of one split."""
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
