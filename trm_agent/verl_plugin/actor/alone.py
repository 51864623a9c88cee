"""A run's trainer by itself: verl's actor worker on one rank, without Ray, for the log-probs of given tokens.

The worker, its engine and the forward pass are those of a run: FSDP, packed rows, our attention and log-probs.
`trm numerics` starts it as `python -m trm_agent.verl_plugin.actor.alone REQUEST ANSWER`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

# tokens of a packed row of several sequences; a longer sequence has a row of its own
ROW_TOKENS = 8192
# a batch -> log-probs in the layout of its `input_ids`, where entry j belongs to token j + 1
Compute = Callable[[TensorDict], torch.Tensor]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one episode."""

    ids: torch.Tensor
    """Token ids, int64, shape (tokens,)."""
    sampled: torch.Tensor
    """Whether a token was sampled, bool, shape (tokens,); not the first one."""

    @classmethod
    def of(cls, ids: Sequence[int], sampled: Sequence[int]) -> Tokens:
        """Return the tokens up to the last sampled one."""
        mask = torch.tensor(sampled, dtype=torch.bool)
        length = int(mask.nonzero()[-1]) + 1
        return cls(torch.tensor(ids, dtype=torch.int64)[:length], mask[:length])


def log_probs(compute: Compute, sequences: Sequence[Tokens], temperature: float) -> Iterator[list[torch.Tensor]]:
    """Yield the log-probs of the sampled tokens, nats, float32, row by row of sequences that are packed together.

    Args:
        compute: the trainer's.
        sequences: in any lengths; the order stays.
        temperature: of the sampling.
    """
    for row in rows_of(sequences):
        found = compute(batch_of(row, temperature))
        parts = found.values().float().cpu().split([len(each.ids) for each in row])
        yield [part[:-1][each.sampled[1:]] for part, each in zip(parts, row, strict=True)]


def rows_of(sequences: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """Yield the sequences in order, as many at a time as a row holds, one at least."""
    row: list[Tokens] = []
    for each in sequences:
        if row and sum(len(other.ids) for other in (*row, each)) > ROW_TOKENS:
            yield row
            row = []
        row.append(each)
    if row:
        yield row


def batch_of(row: Sequence[Tokens], temperature: float) -> TensorDict:
    """Return verl's nested batch of sequences, as its trainer asks for log-probs."""
    columns: dict[str, list[torch.Tensor]] = {}
    for each in row:
        # the prompt ends before the first sampled token
        start = int(each.sampled.nonzero()[0])
        mask = each.sampled[start:].long()
        values = {
            "prompts": each.ids[:start],
            "responses": each.ids[start:],
            "input_ids": each.ids,
            "position_ids": torch.arange(len(each.ids)),
            "response_mask": mask,
            "loss_mask": mask,
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    nested = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in columns.items()}
    data = TensorDict(nested, batch_size=[len(row)])
    tu.assign_non_tensor(
        data,
        temperature=temperature,
        calculate_entropy=False,
        compute_loss=False,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=len(row),
    )
    return data


def actor(config: DictConfig, number_format: str) -> Compute:
    """Build verl's actor worker as a run does, on one rank.

    Args:
        config: `actor_rollout_ref` of a run, resolved.
        number_format: `float32` or `bfloat16`, that its layers compute in; the weights are float32.
    """
    from verl.workers.engine_workers import ActorRolloutRefWorker

    given = dict(config.actor.fsdp_config.get("mixed_precision") or {})
    others = {name: given.get(name) or "fp32" for name in ("reduce_dtype", "buffer_dtype")}
    precision = {"mixed_precision": {"param_dtype": number_format, **others}}
    computing: Any = OmegaConf.merge(config, {"actor": {"fsdp_config": precision}})
    worker: Any = ActorRolloutRefWorker(config=computing, role="actor")
    worker.init_model()
    return lambda data: worker.compute_log_prob(data)["log_probs"]


def join_alone(folder: Path) -> None:
    """Set what Ray would tell the worker of its place."""
    ranks = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1") | dict.fromkeys(("RANK", "LOCAL_RANK"), "0")
    os.environ.update(ranks)
    # never connected to: the ranks of one process meet in a file
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "DIST_INIT_METHOD": f"file://{folder / 'store'}"}


def answer(request: Mapping[str, Any], told: TextIO) -> dict[str, list[list[float]]]:
    """Return for each number format the log-probs of each sequence's sampled tokens.

    Args:
        request: `formats`, `temperature`, `sequences` with `ids` and `sampled`, and `actor_rollout_ref`.
        told: gets a line of progress a row.
    """
    config = OmegaConf.create(request["actor_rollout_ref"])
    sequences = [Tokens.of(each["ids"], each["sampled"]) for each in request["sequences"]]
    total, found = sum(len(each.ids) for each in sequences), {}
    for name in request["formats"]:
        print(f"trainer {name}: loading the model", file=told, flush=True)
        compute = actor(config, name)
        values: list[list[float]] = []
        for row in log_probs(compute, sequences, request["temperature"]):
            values += [part.tolist() for part in row]
            done = sum(len(each.ids) for each in sequences[: len(values)])
            print(f"trainer {name}: {done:,} of {total:,} tokens", file=told, flush=True)
        found[name] = values
    return found


def main() -> None:
    """Read a request, write the answer; all output but progress goes to the standard error."""
    asked, answered = map(Path, sys.argv[1:])
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        join_alone(Path(folder))
        found = answer(json.loads(asked.read_text(encoding="utf-8")), told)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    answered.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
