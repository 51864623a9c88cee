"""Memory and time of the exact divergences against the textbook form; the claims are 5 % of its memory and its time.

python -m benchmarks.exact_divergences [--before FOLDER]

Both give KL(roll || theta), KL(theta || roll) and TV of 2,048 tokens over a vocabulary of 151,936 in float32, each in a
process of its own. Memory is the peak resident set beyond the inputs (2.3 GiB); time is the best of three calls. FOLDER
holds another version of the code: its calls and ours in turn, 512 tokens, and the median ratio of their times.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.in_turn import HERE, Version, in_turn, ratio
from trm_agent.core.exact import exact_divergences

VOCAB = 151_936
NUM_TOKENS = 2_048
MEMORY_LIMIT, TIME_LIMIT = 0.05, 1.0
REPEATS = 3
# inputs of 4,096 tokens take 4.6 GiB
LENGTHS = (512, 2_048, 4_096)
CALLS_IN_TURN, TOKENS_IN_TURN = 21, 512


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


def seconds_of_one(
    function: Callable[[torch.Tensor, torch.Tensor], object], rollout_logits: torch.Tensor, logits: torch.Tensor
) -> float:
    """Time a call."""
    started = time.perf_counter()
    function(rollout_logits, logits)
    return time.perf_counter() - started


def timed_calls(num_tokens: str) -> dict[str, Callable[[], float]]:
    """Return the call for `in_turn.Version`."""
    return {"ours": functools.partial(seconds_of_one, exact_divergences, *random_logits(int(num_tokens)))}


def compare(tree: Path) -> None:
    """Print the time of ours against that of another version."""
    module = "benchmarks.exact_divergences"
    with Version(HERE, module, TOKENS_IN_TURN) as now, Version(tree, module, TOKENS_IN_TURN) as before:
        found = in_turn({"now": now, "before": before}, now.names, CALLS_IN_TURN)
    times = ratio(found["now"]["ours"], found["before"]["ours"])
    print(f"{TOKENS_IN_TURN} tokens, median of {CALLS_IN_TURN} calls in turn: {times:.3f} times the version before")


def measure(name: str, num_tokens: int) -> dict[str, float]:
    """Peak MiB beyond the inputs and seconds of the best call, in this process."""
    function = FUNCTIONS[name]
    rollout_logits, logits = random_logits(num_tokens)
    function(rollout_logits[:2, :1000], logits[:2, :1000])
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    seconds = []
    for _ in range(REPEATS):
        seconds.append(seconds_of_one(function, rollout_logits, logits))
    return {"mib": status_mib("VmHWM") - before, "seconds": min(seconds)}


def measure_alone(name: str, num_tokens: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.exact_divergences", name, str(num_tokens)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another version of the code")
    if before := parser.parse_args().before:
        compare(before)
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
