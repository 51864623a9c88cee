"""Turns of the engine, checked."""

import math

from trm_agent.episode.types import Generation


def checked_generation(generation: Generation, max_tokens: int) -> Generation:
    """Return the engine's answer with plain numbers.

    Raises:
        ValueError: it does not fit; the message says what is wrong with it.
    """
    if not isinstance(generation, Generation):
        raise ValueError(f"the generator returned a {type(generation).__name__}; it must return a Generation")
    token_ids, log_probs = list(map(int, generation.token_ids)), list(map(float, generation.log_probs))
    if not token_ids:
        raise ValueError("the generator returned no token; it must return at least the end-of-turn token")
    if len(token_ids) > max_tokens:
        raise ValueError(f"the generator returned {len(token_ids)} tokens, max_tokens was {max_tokens}")
    if len(log_probs) != len(token_ids):
        raise ValueError(
            f"the generator returned {len(log_probs)} log-probs for {len(token_ids)} tokens; each token needs one"
        )
    if not all(map(math.isfinite, log_probs)):
        position, value = next((at, each) for at, each in enumerate(log_probs) if not math.isfinite(each))
        raise ValueError(f"the log-prob of sampled token {position} is {value}; it must be finite")
    return Generation(token_ids, log_probs, generation.finished, generation.extra)
