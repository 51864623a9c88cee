"""Memory and time of the exact divergences against the textbook form; the claims are 5 % of its memory and its time.

python -m benchmarks.exact_divergences [--before FOLDER]

Both give KL(roll || theta), KL(theta || roll) and TV of 2,048 tokens over a vocabulary of 151,936 in float32, each in a
process of its own. Memory is the peak resident set beyond the inputs (2.3 GiB); time is the best of three calls. FOLDER
holds another version of the code: 21 of its calls and of ours in turn, the median ratio of their times a row, and which
rows are above 1.05. The rows: whole distributions of 512 tokens in float32 and bfloat16, with the log-probs of the
sampled tokens; 32 tokens from hidden states of 576 numbers (SmolLM2-135M's); the interval from the top 20 of 64 tokens;
and kept sets of 96 recorded tokens for 512.
"""

import argparse
import functools
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.in_turn import compare
from trm_agent.core.exact import exact_divergences
from trm_agent.core.exact_hidden import exact_divergences_from_hidden
from trm_agent.core.intervals import topk_intervals

VOCAB = 151_936
NUM_TOKENS = 2_048
MEMORY_LIMIT, TIME_LIMIT = 0.05, 1.0
REPEATS = 3
# inputs of 4,096 tokens take 4.6 GiB
LENGTHS = (512, 2_048, 4_096)
# of the calls in turn
NUM_WHOLE, NUM_HIDDEN, NUM_INTERVALS = 512, 32, 64
HIDDEN_SIZE, TOP_K, NUM_KEPT = 576, 20, 96


def textbook(rollout_logits: torch.Tensor, logits: torch.Tensor) -> None:
    """Both log-softmaxes, both exponentials, three sums."""
    rollout_log_probs, log_probs = rollout_logits.log_softmax(-1), logits.log_softmax(-1)
    rollout_probs, probs = rollout_log_probs.exp(), log_probs.exp()
    log_ratio = log_probs - rollout_log_probs
    (rollout_probs * log_ratio).sum(-1).neg()
    (probs * log_ratio).sum(-1)
    (probs - rollout_probs).abs().sum(-1) / 2


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {"ours": exact_divergences, "textbook": textbook}


def status_mib(field: str) -> float:
    """A field of the process's status that is given in kB, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def random_logits(num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two policies that are close to each other."""
    generator = torch.Generator().manual_seed(0)
    rollout_logits, logits = torch.empty(2, num_tokens, VOCAB).normal_(0, 3, generator=generator)
    return rollout_logits, logits.mul_(0.01).add_(rollout_logits)


def seconds_of_one(call: Callable[[], object]) -> float:
    """Time a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def timed_calls() -> dict[str, Callable[[], float]]:
    """Return the calls for `in_turn.Version`."""
    rollout, logits = random_logits(NUM_WHOLE)
    half, sampled = (rollout.bfloat16(), logits.bfloat16()), rollout.argmax(-1)
    states, head = torch.empty(NUM_HIDDEN, HIDDEN_SIZE).normal_(), torch.empty(VOCAB, HIDDEN_SIZE).normal_(0, 0.1)
    recorded = rollout.log_softmax(-1).topk(NUM_KEPT)
    ids, log_probs = (values[:NUM_INTERVALS, :TOP_K].contiguous() for values in (recorded.indices, recorded.values))
    calls: dict[str, Callable[[], object]] = {
        "whole distributions": lambda: exact_divergences(rollout, logits),
        "the same in bfloat16": lambda: exact_divergences(*half),
        "with sampled log-probs": lambda: exact_divergences(rollout, logits, token_ids=sampled),
        "from hidden states": lambda: exact_divergences_from_hidden(states, head, 1.01 * states, head),
        "interval of the top 20": lambda: topk_intervals(ids, log_probs, logits[:NUM_INTERVALS]),
    }
    if importlib.util.find_spec("trm_agent.core.kept_set"):
        from trm_agent.core.kept_set import kept_divergences, kept_logits

        calls["kept sets"] = lambda: kept_divergences(
            recorded.values, kept_logits(logits, recorded.indices, recorded.values)
        )
    return {name: functools.partial(seconds_of_one, call) for name, call in calls.items()}


def measure(name: str, num_tokens: int) -> dict[str, float]:
    """Peak MiB beyond the inputs and seconds of the best call, in this process."""
    function = FUNCTIONS[name]
    rollout_logits, logits = random_logits(num_tokens)
    function(rollout_logits[:2, :1000], logits[:2, :1000])
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    seconds = []
    for _ in range(REPEATS):
        seconds.append(seconds_of_one(functools.partial(function, rollout_logits, logits)))
    return {"mib": status_mib("VmHWM") - before, "seconds": min(seconds)}


def measure_alone(name: str, num_tokens: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.exact_divergences", name, str(num_tokens)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another version of the code")
    if before := parser.parse_args().before:
        compare(before, "benchmarks.exact_divergences")
        return
    ours, baseline = measure_alone("ours", NUM_TOKENS), measure_alone("textbook", NUM_TOKENS)
    memory, seconds = ours["mib"] / baseline["mib"], ours["seconds"] / baseline["seconds"]
    print(f"{torch.get_num_threads()} threads, {NUM_TOKENS} tokens, vocabulary {VOCAB}, float32")
    print(f"{'':<26}{'ours':>10}{'textbook':>10}{'ratio':>8}{'limit':>8}")
    print(f"{'peak beyond inputs, MiB':<26}{ours['mib']:>10.1f}{baseline['mib']:>10.1f}{memory:>8.4f}{MEMORY_LIMIT:>8}")
    print(f"{'seconds':<26}{ours['seconds']:>10.2f}{baseline['seconds']:>10.2f}{seconds:>8.2f}{TIME_LIMIT:>8}")
    for num_tokens in LENGTHS:
        found = measure_alone("ours", num_tokens)
        print(f"ours, {num_tokens:>5} tokens: {found['mib']:6.1f} MiB, {found['seconds']:6.2f} s")


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in FUNCTIONS:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
