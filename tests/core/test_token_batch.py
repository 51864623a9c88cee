"""What is handed on together is cut together."""

from dataclasses import fields

import torch

from trm_agent.core.token_batch import TokenBatch

NAMES = ("max_estimator", "avg_estimator", "measured")


def test_every_tensor_is_cut_into_rows():
    names = [field.name for field in fields(TokenBatch) if field.name not in NAMES]
    batch = TokenBatch(**{name: torch.arange(12).view(4, 3) + place for place, name in enumerate(names)})
    order = [2, 0]
    cut = batch.rows(torch.tensor(order))
    assert all(torch.equal(getattr(cut, name), getattr(batch, name)[order]) for name in names)
    assert len(names) > 8
