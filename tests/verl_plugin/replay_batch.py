"""The batch of a dump as verl's driver would hand it to its ranks: filled up with padding, dealt out by length."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from trm_agent.verl_plugin.rollout.distributions import (
    FULL_LOG_PROBS,
    KEPT_IDS,
    KEPT_LOG_PROBS,
    TOP_IDS,
    TOP_LOG_PROBS,
)

from .replay_plan import CUT_SEQUENCE, PLACES, TOP_K, Row

# verl fills a batch up with sequences of so many prompt tokens and one token that nobody sampled
PADDING_PROMPT = 127


def dumped_rows(directory: Path) -> list[Row]:
    """The sequences of a dump, in the order of its files."""
    return pyarrow.parquet.read_table(directory).to_pylist()


def batch_of(rows: Sequence[Row], size: int, eos_token_id: int, estimator: str = "exact") -> TensorDict:
    """Make verl's nested batch of a dump's rows, with what the estimator needs of the rollout's distributions."""
    sequences = [_tensors(row, estimator, number == CUT_SEQUENCE) for number, row in enumerate(rows)]
    template = {"prompts": torch.full((PADDING_PROMPT,), eos_token_id), "responses": torch.tensor([eos_token_id])}
    padding = {**sequences[0], **template, **{name: torch.zeros(1) for name in _OF_TOKENS}}
    padding["response_mask"] = torch.zeros(1, dtype=torch.int64)
    sequences += [padding] * (size - len(rows))
    columns = {name: [sequence[name] for sequence in sequences] for name in sequences[0]}
    columns["input_ids"] = [torch.cat([item["prompts"], item["responses"]]) for item in sequences]
    columns["position_ids"] = [torch.arange(len(ids)) for ids in columns["input_ids"]]
    columns["loss_mask"], columns["old_log_probs"] = columns["response_mask"], columns["rollout_log_probs"]
    nested = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in columns.items()}
    return TensorDict(nested, batch_size=[size])


def with_start(batch: TensorDict) -> TensorDict:
    """A copy with a policy of the start of the step, which has left the rollout in every second sequence."""
    moved = [values - place % 2 for place, values in enumerate(batch["rollout_log_probs"].unbind())]
    changed = batch.copy()
    changed["old_log_probs"] = torch.nested.as_nested_tensor(moved, layout=torch.jagged)
    return changed


_OF_TOKENS = ("rollout_log_probs", "advantages")


def _tensors(row: Row, estimator: str, is_cut: bool) -> dict[str, torch.Tensor]:
    mask = torch.tensor(row["response_mask"])
    sequence = {
        "prompts": torch.tensor(row["prompt_ids"]),
        "responses": torch.tensor(row["response_ids"]),
        "response_mask": mask.long(),
        **{name: torch.tensor(row[name]).nan_to_num(nan=0.0) for name in _OF_TOKENS},
    }
    sampled = np.frombuffer(row["rollout_full_log_probs"], np.float32).reshape(-1, row["vocab_size"])
    full = torch.full((len(mask), row["vocab_size"]), -math.inf)
    full[mask] = torch.from_numpy(sampled.copy())
    if estimator == "topk":
        top = full.topk(TOP_K)
        return {**sequence, TOP_LOG_PROBS: top.values, TOP_IDS: top.indices}
    if estimator == "replayed":
        return sequence | _kept(full, mask, sequence["responses"], is_cut)
    return {**sequence, FULL_LOG_PROBS: full}


def _kept(full: torch.Tensor, mask: torch.Tensor, drawn: torch.Tensor, is_cut: bool) -> dict[str, torch.Tensor]:
    """What a rollout of the drawn token and the likeliest others records; with `is_cut` no place of the first is free.

    Args:
        full: log-probs of the whole distributions, shape (tokens, vocabulary).
        mask: bool, the sampled tokens.
        drawn: the tokens.
        is_cut: whether the first token's set fills its record.
    """
    sizes = torch.full_like(drawn, TOP_K)
    sizes[0] = PLACES if is_cut else TOP_K
    ids = full.scatter(1, drawn.unsqueeze(-1), torch.inf).topk(PLACES).indices
    outside = torch.arange(PLACES) >= sizes.unsqueeze(-1)
    values, order = full.gather(1, ids).masked_fill(outside, -torch.inf).log_softmax(-1).sort(descending=True)
    ids, values = ids.gather(1, order), values.masked_fill(~mask.unsqueeze(-1), -torch.inf)
    own = torch.where(ids == drawn.unsqueeze(-1), values, -torch.inf).amax(-1)
    return {KEPT_IDS: ids, KEPT_LOG_PROBS: values, "rollout_log_probs": own.where(mask, 0.0)}


def share_of(batch: TensorDict, rank: int, ranks: int) -> TensorDict:
    """The part of a data-parallel rank, as verl's `_balance_batch` and its dispatch deal it out."""
    lengths = batch["input_ids"].offsets().diff()
    parts = get_seqlen_balanced_partitions(calculate_workload(lengths), k_partitions=ranks, equal_size=True)
    return tu.index_select_tensor_dict(batch, parts[rank])
