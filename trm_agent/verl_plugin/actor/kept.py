"""The actor's side of replayed rollouts: each policy of the trainer on the tokens that each rollout could draw."""

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from trm_agent.core.kept_set import is_cut, kept_entropy, kept_log_probs
from trm_agent.verl_plugin.actor.divergences import predicted_logits, predicting_rows, sampled_rows
from trm_agent.verl_plugin.rollout.distributions import KEPT_IDS, KEPT_LOG_PROBS


@dataclass
class CutSets:
    """How many tokens of an update had a kept set that may be larger than its record, and in how many sequences."""

    num_cut: int = 0
    """Number of them."""
    num_tokens: int = 0
    """Number of all tokens that the model sampled."""
    num_cut_sequences: int = 0
    """Number of the sequences with such a token."""
    num_sequences: int = 0
    """Number of all sequences of which the model sampled a token."""

    def count(self, micro_batch: TensorDict, vocab: int) -> None:
        """Add the tokens of a micro-batch.

        Args:
            micro_batch: verl's, with the kept sets.
            vocab: number of tokens of the vocabulary.
        """
        cut = is_cut(sampled_rows(micro_batch[KEPT_LOG_PROBS], micro_batch), vocab)
        self.num_cut += int(cut.sum())
        self.num_tokens += len(cut)
        _, sequence = predicting_rows(micro_batch)
        self.num_cut_sequences += len(sequence[cut].unique())
        self.num_sequences += len(sequence.unique())

    def shares(self, group: Any = None) -> tuple[float, float]:
        """Return the shares of tokens and sequences over all ranks of a data-parallel group; None for one rank."""
        own = [[self.num_cut, self.num_tokens], [self.num_cut_sequences, self.num_sequences]]
        counts = torch.tensor(own, dtype=torch.float64)
        if group is not None and torch.distributed.get_world_size(group) > 1:
            gathered: list[Any] = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(gathered, counts, group=group)
            counts = torch.stack(gathered).sum(dim=0)
        of_tokens, of_sequences = (counts[:, 0] / counts[:, 1].clamp(min=1)).tolist()
        return of_tokens, of_sequences


def has_kept_sets(micro_batch: TensorDict) -> bool:
    """Return True if the rollouts of a micro-batch are to be replayed on their own sets."""
    return KEPT_IDS in micro_batch


def without_verls_own(micro_batch: TensorDict) -> TensorDict:
    """Return a micro-batch for which verl takes no log-probs and no entropy of the whole vocabulary.

    Args:
        micro_batch: verl's; it stays as it is.
    """
    asked = micro_batch.copy()
    # verl's word for a pass without log-probs; the losses of a distillation, which it is for, are asked for separately
    tu.assign_non_tensor(asked, calculate_entropy=False, distillation_only=True)
    return asked


def replayed_outputs(logits: Any, micro_batch: TensorDict, only_sampled: bool = False) -> dict[str, torch.Tensor]:
    """Return what verl takes from a forward pass, of the policy on each token's kept set.

    Whose policy it is the pass says: the one in training, the trainer's at the start of the step, or the reference.

    Args:
        logits: of verl's forward pass, see `rollout_divergences`.
        micro_batch: verl's, with the kept sets.
        only_sampled: see `rollout_divergences`.

    Returns:
        `log_probs` of the sampled tokens, and `entropy` where verl asks for it, in nats and with graph. Nested in the
        layout of verl's log-probs: a row for each sequence, entry j belongs to token j + 1, 0 where the model did not
        sample.
    """
    ids, recorded = (sampled_rows(micro_batch[name], micro_batch) for name in (KEPT_IDS, KEPT_LOG_PROBS))
    drawn = sampled_rows(micro_batch["responses"], micro_batch)
    rows, _, scale, source, flat = predicted_logits(logits, micro_batch, only_sampled)
    # these entries alone, since rows of the whole vocabulary would be copied
    found = flat[source.unsqueeze(-1), torch.cat([ids, drawn.unsqueeze(-1)], dim=-1)].float() / scale.unsqueeze(-1)
    kept = found[:, :-1].masked_fill(recorded == -torch.inf, -torch.inf)
    values = {"log_probs": kept_log_probs(kept, found[:, -1])}
    if tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False):
        values["entropy"] = kept_entropy(kept)
    whole, offsets = found.new_zeros(len(micro_batch["input_ids"].values())), micro_batch["input_ids"].offsets()
    return {
        name: torch.nested.nested_tensor_from_jagged(whole.index_copy(0, rows, each), offsets)
        for name, each in values.items()
    }
