"""Two policies on the tokens that a rollout could draw: what its top-k and top-p kept, recorded and replayed.

A rollout that samples with top-k draws from its K most likely tokens, and from those that tie with the last; with top-p
too, from the likeliest of these that hold a share p of their mass. On this set S, whatever made it, its processed
log-probs sum to one, so they *are* the policy that sampled. The policy in training is taken on the
same set, log q_v = z_v - log sum_{u in S} e^{z_u}, as are that of the start of a step and the reference: log-probs,
ratios, entropy, KL and total variation are exact from [tokens, K], without any [tokens, vocab] tensor. What is
guaranteed is guaranteed of these truncated policies.
"""

import torch

from trm_agent.core.exact import TokenDivergences, exact_divergences
from trm_agent.core.precision import without_autocast


@without_autocast
def kept_log_probs(kept_logits: torch.Tensor, drawn_logits: torch.Tensor) -> torch.Tensor:
    """Return the log-probs of the drawn tokens under the policy on the kept set, differentiable in both arguments.

    Args:
        kept_logits: of the policy in training on the kept tokens, -infinity where filler, shape (num_tokens, K), nats.
        drawn_logits: on the drawn token, which is one of them, shape (num_tokens,), nats.

    Returns:
        Shape (num_tokens,), nats, at least float32.

    Raises:
        ValueError: for shapes that do not fit.
    """
    if kept_logits.ndim != 2 or drawn_logits.shape != kept_logits.shape[:1]:
        raise ValueError(
            f"kept_logits {tuple(kept_logits.shape)} and drawn_logits {tuple(drawn_logits.shape)} must have the shapes "
            "(num_tokens, K) and (num_tokens,); gather both from one row of logits for each token"
        )
    dtype = torch.promote_types(torch.promote_types(kept_logits.dtype, drawn_logits.dtype), torch.float32)
    return drawn_logits.to(dtype) - kept_logits.to(dtype).logsumexp(dim=-1)


@without_autocast
def kept_entropy(kept_logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the policy on the kept set, differentiable.

    H = -sum_{v in S} q_v log q_v,   q = softmax over S of the logits

    Args:
        kept_logits: see `kept_log_probs`.

    Returns:
        Shape (num_tokens,), nats, at least float32; NaN for a token without any kept one.
    """
    log_probs = kept_logits.to(torch.promote_types(kept_logits.dtype, torch.float32)).log_softmax(dim=-1)
    # of filler, whose probability is 0, so that its gradient is not 0 times infinity
    finite = log_probs.masked_fill(kept_logits == -torch.inf, 0.0)
    return -(log_probs.exp() * finite).sum(dim=-1)


def kept_logits(logits: torch.Tensor, kept_ids: torch.Tensor, kept_log_probs: torch.Tensor) -> torch.Tensor:
    """Gather the logits of the kept tokens, with -infinity where the record is filler.

    Args:
        logits: shape (num_tokens, vocab), nats.
        kept_ids: int64, shape (num_tokens, K); meaningless where filler.
        kept_log_probs: the rollout's, -infinity where filler, shape (num_tokens, K), nats.

    Returns:
        Shape (num_tokens, K), nats, with the graph of `logits`.
    """
    return logits.gather(1, kept_ids).masked_fill(kept_log_probs == -torch.inf, -torch.inf)


def kept_divergences(kept_log_probs: torch.Tensor, logits_of_kept: torch.Tensor) -> TokenDivergences:
    """Measure the divergences between the two policies on the kept sets, exactly.

    Args:
        kept_log_probs: the rollout's processed log-probs, -infinity where filler, shape (num_tokens, K), nats.
        logits_of_kept: from `kept_logits`, same shape.

    Returns:
        KL(roll || theta), KL(theta || roll) and TV of each token, without a graph.
    """
    return exact_divergences(kept_log_probs, logits_of_kept)


def is_cut(kept_log_probs: torch.Tensor, vocab: int) -> torch.Tensor:
    """Return True where more tokens may have been kept than were recorded: then nothing is known of the rest.

    Args:
        kept_log_probs: most likely first, -infinity where filler, shape (num_tokens, K), nats.
        vocab: number of tokens of the vocabulary: a record of all of them is complete.

    Returns:
        bool, shape (num_tokens,).
    """
    if kept_log_probs.shape[-1] >= vocab:
        return torch.zeros(len(kept_log_probs), dtype=torch.bool, device=kept_log_probs.device)
    return kept_log_probs[:, -1] > -torch.inf
