"""Worked examples of criteria: small batches whose decisions are derived by hand."""

from collections.abc import Iterable
from pathlib import Path

import torch

from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region.masking import decide
from trm_agent.trust_region.settings import TrmConfig

FOLDER = Path(__file__).parent


def kept_tokens(
    criterion: str,
    log_ratios: list[list[float]],
    *,
    advantage: float = 1.0,
    rollout_log_prob: float = -1.0,
    **settings: object,
) -> list[list[bool]]:
    """Decide on sequences of one length by sampled divergences.

    Args:
        criterion: of the table.
        log_ratios: log rho of each token, nats.
        advantage: of every token.
        rollout_log_prob: of every token, nats.
        settings: fields of `TrmConfig`.

    Returns:
        True on the tokens that stay.
    """
    log_ratio = torch.tensor(log_ratios, dtype=torch.float64)
    batch = TokenBatch(
        log_ratio,
        torch.full_like(log_ratio, rollout_log_prob),
        torch.full_like(log_ratio, advantage),
        torch.ones_like(log_ratio, dtype=torch.bool),
    )
    return decide(TrmConfig(criterion=criterion, **settings), batch).tolist()


def kept_sequences(criterion: str, log_ratios: list[list[float]], **more) -> list[bool]:
    """Decide on sequences, see `kept_tokens`: True on those of which every token stays."""
    return [all(row) for row in kept_tokens(criterion, log_ratios, **more)]


def untested(criteria: Iterable[str], folder: Path = FOLDER) -> list[str]:
    """Name the criteria that have no worked example.

    Returns:
        A message each, which says what is missing and where it goes; empty if nothing is.
    """
    messages = []
    for name in criteria:
        file = folder / f"test_{name}.py"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if "def test_" not in text or f'"{name}"' not in text:
            messages.append(
                f"criterion {name!r} has a row in trm_agent/trust_region/criteria.py and no worked example: write a "
                f'test that calls kept_sequences("{name}", ...) or kept_tokens in tests/criteria/{file.name} '
                '(CONTRIBUTING.md, "A new criterion")'
            )
    return messages
