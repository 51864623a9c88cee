"""The groups of an update: sequences of one prompt, which are not draws of their own.

verl's name of a task stays with its driver, but every sequence has its prompt.
"""

import hashlib

import torch
from tensordict import TensorDict

# key of the batch: the groups
GROUPS_KEY = "trm_groups"


def add_groups(data: TensorDict) -> None:
    """Add the group of each sequence, int64, shape (batch,).

    Args:
        data: this rank's part of the update, nested.
    """
    data[GROUPS_KEY] = prompt_digests(data["prompts"]).to(data["response_mask"].values().device)


def prompt_digests(prompts: torch.Tensor) -> torch.Tensor:
    """Return a number for each prompt, the same wherever its tokens are: on every rank, in every part of a batch.

    Args:
        prompts: token ids, nested (jagged).

    Returns:
        64 bits of a digest as int64, shape (batch,), on the CPU.
    """
    digests = [hashlib.sha256(ids.numpy().tobytes()).digest() for ids in prompts.cpu().long().unbind()]
    return torch.tensor([int.from_bytes(digest[:8], "big", signed=True) for digest in digests], dtype=torch.int64)
