"""How often `trm numerics` errs about jumps, on the nano model's own distributions: the numbers of docs/numerics.md.

From the repository's root: `python -m tests.numerics.passes [DEPTH ...]`. Transformers computes solved chains in
float32 and in bfloat16, tokens are drawn anew from either, and the other is the trainer, with positions shifted from
each DEPTH on.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trm_agent.episode import chat_tokens
from trm_agent.models.imitated import tokenised
from trm_agent.models.nano import NanoSpec, ensure_nano_model
from trm_agent.numerics.disturbance import WINDOW
from trm_agent.numerics.sampled import Sampled

from .rates import jump

EPISODES, CHOSEN, DRAWS, TOKENS, HORIZON = 4, 3, 30, 1300, 6
FORMATS = (torch.float32, torch.bfloat16)


def solved(tokenizer, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return the tokens of tasks in a row, shape (tokens,), and the depths of those that the solver wrote."""
    chat, solver, ids, mask = chat_tokens(tokenizer), NanoSpec().solver("held_out"), [], []
    while len(ids) < TOKENS:
        seed += 1
        more = tokenised(solver.solve(seed, HORIZON), tokenizer, chat)
        ids, mask = ids + more[0], mask + more[1]
    return torch.tensor(ids[:TOKENS]), np.flatnonzero(mask[:TOKENS])


@torch.no_grad()
def distributions(model, ids: torch.Tensor, depths: np.ndarray, shift: int | None = None) -> np.ndarray:
    """Return log-probs of the whole vocabulary at some depths, nats, float32, shape (depths, vocabulary)."""
    positions = torch.arange(len(ids))
    if shift is not None:
        positions = positions + (positions >= shift)
    logits = model(ids[None], position_ids=positions[None]).logits[0, depths - 1].float()
    return logits.log_softmax(-1).numpy()


def drawn(depths: np.ndarray, engine: np.ndarray, trainer: np.ndarray, random: np.random.Generator) -> Sampled:
    """Draw a token of the engine's at each depth."""
    tokens = (engine + random.gumbel(size=engine.shape)).argmax(axis=-1)
    rows = np.arange(len(depths))
    log_probs = engine[rows, tokens]
    return Sampled(depths, log_probs, trainer[rows, tokens] - log_probs)


def jumps(depths: Sequence[np.ndarray], engines: Sequence[np.ndarray], trainers: Sequence[np.ndarray]) -> list[int]:
    """Return where the verdicts of all draws say that they jump, without those that say nothing of it."""
    random, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        chosen = random.choice(EPISODES, CHOSEN, replace=False)
        found.append(jump([drawn(depths[each], engines[each], trainers[each], random) for each in chosen]))
    return [each for each in found if each is not None]


def main() -> None:
    """Print the rates."""
    folder = ensure_nano_model(NanoSpec(), show_progress=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    episodes = [solved(tokenizer, 1000 * number) for number in range(EPISODES)]
    depths = [depths for _, depths in episodes]

    def passes(number_format: torch.dtype, shift: int | None = None) -> list[np.ndarray]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=number_format, attn_implementation="sdpa").eval()
        return [distributions(model, *episode, shift) for episode in episodes]

    shifts = (None, *map(int, sys.argv[1:]))
    computed = {(name, shift): passes(name, shift) for name in FORMATS for shift in shifts}
    for shift in shifts:
        found = []
        for engine, trainer in (FORMATS, FORMATS[::-1]):
            found += jumps(depths, computed[engine, None], computed[trainer, shift])
        near = "" if shift is None else f", {sum(abs(each - shift) <= WINDOW for each in found)} within {WINDOW} tokens"
        print(f"shift from {shift} on: {len(found)} of {2 * DRAWS} jump{near}: {sorted(set(found))}", flush=True)


if __name__ == "__main__":
    main()
