"""Refuses distributions that are none. Unlike all else in the core, these functions synchronise with the host."""

import torch

CHECK_ELEMENTS = 2**22


def check_log_probs(log_probs: torch.Tensor, *, name: str = "log_probs", tolerance: float = 1e-3) -> None:
    """Refuse what is not one normalised distribution a row.

    Args:
        log_probs: shape (num_tokens, vocab), nats; -infinity is a probability of 0.
        name: of the argument, for the message.
        tolerance: allowed distance of a row's probabilities from a sum of 1, and of a log-prob above 0.

    Raises:
        ValueError: for a shape that is not (num_tokens, vocab); else for the first row that holds a NaN or a log-prob
            above 0, or whose probabilities do not sum to one (none of them above 0 included).
    """
    if log_probs.ndim != 2 or log_probs.shape[-1] == 0:
        raise ValueError(f"{name}: got shape {tuple(log_probs.shape)}; allowed: (num_tokens, vocab) with vocab above 0")
    chunk_tokens = max(1, CHECK_ELEMENTS // log_probs.shape[-1])
    for start in range(0, len(log_probs), chunk_tokens):
        chunk = log_probs[start : start + chunk_tokens].detach().double()
        largest, total = chunk.amax(-1), chunk.exp().sum(-1)
        _raise_first(f"{name} row", torch.isnan(largest), largest, start, "a NaN", "numbers; find where it was born")
        above = largest > tolerance
        _raise_first(f"{name} row", above, largest, start, "a log-prob of", "at most 0; apply log_softmax to logits")
        apart = ~((total - 1).abs() <= tolerance)
        allowed = f"1 within {tolerance}; give the log-probs of the whole vocabulary, normalised after the temperature"
        _raise_first(f"{name} row", apart, total, start, "probabilities that sum to", allowed)


def check_topk(topk_ids: torch.Tensor, topk_log_probs: torch.Tensor, vocab: int, *, tolerance: float = 1e-3) -> None:
    """Refuse what cannot be the K most probable tokens of one distribution a row.

    Args:
        topk_ids: int64, shape (num_tokens, K).
        topk_log_probs: same shape, nats; -infinity is filler, whose id is not looked at.
        vocab: size of the vocabulary.
        tolerance: allowed excess of the probabilities over a sum of 1, of a log-prob over 0, and of the mass that is
            left over what the other tokens can hold.

    Raises:
        ValueError: for shapes that differ, K above the vocabulary or ids that are not int64; else for the first row
            with a NaN, a log-prob above 0, an id outside the vocabulary or given twice, probabilities that sum to more
            than one, or to less than the least of them allows the other tokens to make up.
    """
    check_topk_shapes(topk_ids, topk_log_probs, vocab)
    log_probs = topk_log_probs.detach().double()
    known = log_probs != -torch.inf
    largest, total = log_probs.amax(-1), log_probs.exp().sum(-1)
    _raise_first("topk_log_probs row", torch.isnan(largest), largest, 0, "a NaN", "numbers; find where it was born")
    above = largest > tolerance
    _raise_first("topk_log_probs row", above, largest, 0, "a log-prob of", "at most 0; record log-probs, not logits")
    ids = torch.where(known, topk_ids, 0)
    outside, worst = ((ids < 0) | (ids >= vocab)).any(-1), torch.where(ids.amin(-1) < 0, ids.amin(-1), ids.amax(-1))
    _raise_first("topk_ids row", outside, worst, 0, "the id", f"0 to {vocab - 1}; both sides need one tokenizer")
    # fillers become distinct negative numbers
    ordered = torch.where(known, topk_ids, -1 - torch.arange(ids.shape[-1], device=ids.device)).sort(-1).values
    same = ordered.diff(dim=-1) == 0
    twice = torch.where(same, ordered[:, 1:], -1).amax(-1) if ids.shape[-1] > 1 else ids[:, 0]
    _raise_first("topk_ids row", same.any(-1), twice, 0, "twice the id", "each id once; fill up with log-probs of -inf")
    _raise_first("topk_log_probs row", total > 1 + tolerance, total, 0, "probabilities that sum to", "at most 1")
    least = torch.where(known, log_probs, 0.0).amin(-1).exp()
    room = total + (vocab - known.sum(-1)) * least
    allowed = "a sum with room for 1; record the K most probable tokens, with log-probs before any top-k or top-p cut"
    _raise_first("topk_log_probs row", room < 1 - tolerance, total, 0, "probabilities that sum to", allowed)


def check_topk_shapes(topk_ids: torch.Tensor, topk_log_probs: torch.Tensor, vocab: int) -> None:
    """Refuse top-K tensors that do not belong together. Does not synchronise.

    Args:
        topk_ids: int64, shape (num_tokens, K).
        topk_log_probs: same shape.
        vocab: size of the vocabulary.

    Raises:
        ValueError: for shapes that differ, K of 0 or above the vocabulary, or ids that are not int64.
    """
    if topk_ids.ndim != 2 or topk_ids.shape != topk_log_probs.shape:
        raise ValueError(
            f"topk_ids {tuple(topk_ids.shape)} and topk_log_probs {tuple(topk_log_probs.shape)} must share one shape "
            "(num_tokens, K); flatten batch and length, and keep the sampled positions"
        )
    if not 1 <= topk_ids.shape[-1] <= vocab:
        raise ValueError(f"K: got {topk_ids.shape[-1]}; allowed: 1 to the vocabulary's {vocab}; record fewer tokens")
    if topk_ids.dtype != torch.int64:
        raise ValueError(f"topk_ids has dtype {topk_ids.dtype}; allowed: torch.int64; call .long() on it")


def _raise_first(what: str, faulty: torch.Tensor, values: torch.Tensor, start: int, got: str, allowed: str) -> None:
    if faulty.any():
        row = int(faulty.int().argmax())
        raise ValueError(f"{what} {start + row}: got {got} {values[row].item():.6g}; allowed: {allowed}")
