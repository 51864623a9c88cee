"""Effective sample sizes of the importance weights: how many equal samples would carry an estimate as well.

n_eff = (sum w)^2 / sum w^2,   as a share of n: 1 where all weights are equal, 1/n where one outweighs all others

A weight is rho of a token, the product of rho over a turn's tokens, or over a sequence's.
"""

import torch

from trm_agent.core.block_sums import BlockSums
from trm_agent.core.reductions import sum_of_squares
from trm_agent.core.turns import Turns


def weight_statistics(
    log_ratio: BlockSums, ratio_deviation: torch.Tensor, sum_deviation: torch.Tensor, turns: Turns
) -> dict[str, torch.Tensor]:
    """Sum the weights of each sequence.

    Args:
        log_ratio: of log rho, 0 where the mask is False, nats.
        ratio_deviation: rho - 1, 0 where the mask is False, shape (batch, response_length).
        sum_deviation: sum_t (rho_t - 1), shape (batch,), float64.
        turns: of the batch.

    Returns:
        Shape (batch,), float64: `deviation`, sum_t (rho_t - 1), and `squares`, sum_t (rho_t - 1)^2, of its tokens;
        `turns`, log sum w, and `turn_squares`, log sum w^2, of its turns; `sequence`, log w of the whole. The numbers
        of a sequence with a ratio that is not finite mean nothing.
    """
    of_turns, turn_squares = _of_turns(log_ratio, turns)
    return {
        "deviation": sum_deviation,
        "squares": sum_of_squares(ratio_deviation),
        "turns": of_turns,
        "turn_squares": turn_squares,
        "sequence": log_ratio.total,
    }


def weight_metrics(
    weights: dict[str, torch.Tensor], num_tokens: torch.Tensor, num_turns: torch.Tensor, finite: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Form the effective shares of the tokens, turns and sequences.

    Args:
        weights: rows of `weight_statistics`.
        num_tokens: of each sequence, shape (batch,).
        num_turns: of each sequence, shape (batch,).
        finite: bool, sequences that count, shape (batch,).

    Returns:
        Name -> scalar float64; empty without a sequence that counts.
    """
    if not bool(finite.any()):
        return {}
    rows = {name: values[finite] for name, values in weights.items()}
    tokens, deviation = num_tokens[finite].double().sum(), rows["deviation"].sum()
    squares = (tokens + 2 * deviation + rows["squares"].sum()).clamp(min=torch.finfo(torch.float64).tiny)
    found = {
        "effective_tokens": (tokens, (tokens + deviation).clamp(min=0).log(), squares.log()),
        "effective_turns": (
            num_turns[finite].double().sum(),
            rows["turns"].logsumexp(dim=0),
            rows["turn_squares"].logsumexp(dim=0),
        ),
        "effective_sequences": (
            finite.double().sum(),
            rows["sequence"].logsumexp(dim=0),
            (2 * rows["sequence"]).logsumexp(dim=0),
        ),
    }
    # by Cauchy and Schwarz it is between 1/n and 1, also where a square overflows
    return {
        name: torch.maximum((2 * log_sum - log_squares).exp().clamp(max=size), torch.ones_like(size)) / size
        for name, (size, log_sum, log_squares) in found.items()
    }


def _of_turns(log_ratio: BlockSums, turns: Turns) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log sum w and log sum w^2 over the turns of each sequence; -infinity without one."""
    row, until = turns.row, log_ratio.until(turns.row, turns.end)
    # nothing is added between two turns: the sum until the end of the one before is that until this one begins
    before = torch.nn.functional.pad(until, (1, 0))[:-1]
    is_first = torch.nn.functional.pad(row, (1, 0), value=-1)[:-1] != row
    log_weights = until - torch.where(is_first, 0.0, before)

    largest = until.new_full(turns.counts.shape, -torch.inf).scatter_reduce(0, row, log_weights, "amax")
    scaled = (log_weights - largest[row]).exp()
    sums = torch.zeros_like(largest).index_add(0, row, scaled)
    squares = torch.zeros_like(largest).index_add(0, row, scaled.square())
    return largest + sums.log(), 2 * largest + squares.log()
