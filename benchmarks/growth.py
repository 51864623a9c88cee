"""Time and memory of one update by the length of its trajectory, with attention's share told apart.

python -m benchmarks.growth [--model FOLDER] [--tokens 2048 4096 8192 16384 32768] [--device cuda --dtype bfloat16]

One packed sequence, of which every other turn is the model's own: forward pass, log-probs of those tokens, the loss of
TRM, backward pass, as in training. Each length has a process of its own, and is the best of a few calls. Attention's
part is that of its own calls at the same shapes, forward and backward, times the layers. What is linear has exponent 1;
attention alone may go to 2: its own calls give a, and the claim is that seconds - a x tokens^2 lie on a line, with an
R^2 of at least 0.98. Five lengths of tokens^1.5 have such an R^2 too, so the rest's power is fitted as well, and is to
be 1.2 at most. Memory is the peak beyond the model and its gradients: resident on a processor, allocated on a device.
Exits with 1 where the claim fails.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.growth_fit import LEAST_EXPLAINED, MOST_POWER, Cost, exponents, fit

LENGTHS = (2048, 4096, 8192, 16384, 32768)
# tokens of a turn, of the model and of the environment in turn
TURN_TOKENS = 32
# tokens whose logits are normalised at once
CHUNK = 1024
TIMEOUT_S = 1200
MIB = 2**20


def measure(folder: str, num_tokens: int, device: str, dtype: str, repeats: int) -> Cost:
    """Measure one length in this process.

    Args:
        folder: the model's.
        num_tokens: of the sequence.
        device: cpu or cuda.
        dtype: of weights and activations; log-probs and the loss are in float32.
        repeats: calls, of which the fastest counts.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from trm_agent.verl_plugin.actor.packed import pack

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    model = model.to(device).train()
    packing = pack(model, dtype=model.dtype)
    if packing is None:
        raise RuntimeError(f"{folder}: {type(model).__name__} cannot be packed")
    update = _update(model, packing, num_tokens, device)
    update()  # makes the gradients, which belong to the model
    before, peak = _memory(device)
    seconds = min(_timed(update, device) for _ in range(repeats))
    mib = peak() - before
    attention = _attention(model, num_tokens, device)
    attention()
    took = min(_timed(attention, device) for _ in range(repeats))
    return Cost(num_tokens, seconds, took * model.config.num_hidden_layers, mib)


def _update(model: Any, packing: Any, num_tokens: int, device: str) -> Callable[[], None]:
    """Return a call that runs forward and backward over one trajectory."""
    import torch

    from trm_agent.core import (
        Interval,
        kept_tokens,
        masked_log_ratio,
        masked_surrogate_tokens,
        max_statistic,
        sequence_mask,
        token_kl_k2,
    )
    from trm_agent.verl_plugin.actor.packed_attention import PackedRow
    from trm_agent.verl_plugin.actor.shard import Shard

    ids = torch.randint(model.config.vocab_size, (1, num_tokens), device=device)
    places = torch.arange(num_tokens, device=device).unsqueeze(0)
    is_ours = places[0] // TURN_TOKENS % 2 == 1
    rows = is_ours.nonzero()[:, 0] - 1
    mask = torch.ones(1, len(rows), dtype=torch.bool, device=device)
    advantages = torch.ones(1, len(rows), device=device)
    rollout: list[torch.Tensor] = []
    row, shard = PackedRow.of([num_tokens], device), Shard.of(num_tokens)

    def update() -> None:
        given = packing.arguments(row, shard, rows)
        logits = model(input_ids=ids, attention_mask=None, position_ids=places, use_cache=False, **given).logits[0]
        sampled = ids[0, rows + 1]
        parts = zip(logits.split(CHUNK), sampled.split(CHUNK), strict=True)
        log_probs = torch.cat([-torch.nn.functional.cross_entropy(a.float(), b, reduction="none") for a, b in parts])
        if not rollout:
            rollout.append(log_probs.detach())
        log_ratio = masked_log_ratio(log_probs.unsqueeze(0), rollout[0].unsqueeze(0), mask)
        largest = max_statistic(Interval.known(token_kl_k2(log_ratio.detach())))
        accepted = sequence_mask({"max": largest}, {"max": 0.05}, mask.any(-1)).accepted
        losses = masked_surrogate_tokens(log_ratio, advantages, kept_tokens(mask, accepted))
        (losses.sum() / mask.sum()).backward()

    return update


def _attention(model: Any, num_tokens: int, device: str) -> Callable[[], None]:
    """Return a call that runs forward and backward of one layer's attention on random queries, keys and values."""
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from trm_agent.verl_plugin.actor.packed_attention import ROW, PackedRow

    shape = model.config
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    attend = ALL_ATTENTION_FUNCTIONS[shape._attn_implementation]
    layer = model.model.layers[0].self_attn
    options: dict[str, Any] = {"device": device, "dtype": model.dtype, "requires_grad": True}
    query = torch.randn(1, shape.num_attention_heads, num_tokens, width, **options)
    key, value = (torch.randn(1, shape.num_key_value_heads, num_tokens, width, **options) for _ in range(2))
    row, marker = PackedRow.of([num_tokens], device), torch.empty(1, 1, 0, 0, dtype=torch.bool)

    def attention() -> None:
        output, _ = attend(layer, query, key, value, marker, scaling=width**-0.5, **{ROW: row})
        output.backward(torch.ones_like(output))

    return attention


def _timed(call: Callable[[], None], device: str) -> float:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _memory(device: str) -> tuple[float, Callable[[], float]]:
    """Forget the peak; return the memory as it is now and how to ask for the new peak, MiB."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB, lambda: torch.cuda.max_memory_allocated() / MIB
    from benchmarks.exact_divergences import status_mib
    from trm_agent.verl_plugin.cpu.heap import trim_heap

    trim_heap()
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return before, lambda: status_mib("VmHWM")


def measure_alone(options: argparse.Namespace, num_tokens: int) -> Cost:
    """`measure` in a fresh process."""
    told = ["--model", options.model, "--device", options.device, "--dtype", options.dtype]
    command = [
        sys.executable,
        "-m",
        "benchmarks.growth",
        *told,
        "--repeats",
        str(options.repeats),
        "--one",
        str(num_tokens),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"{num_tokens} tokens: {done.stderr.strip()[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def as_table(costs: Sequence[Cost]) -> str:
    """Return the costs by length, and how they grow."""
    tokens = [cost.tokens for cost in costs]
    grown = {
        name: ["", *(f"{power:.2f}" for power in exponents(tokens, values))]
        for name, values in (
            ("all", [cost.seconds for cost in costs]),
            ("attention", [cost.attention_s for cost in costs]),
            ("rest", [cost.rest_s for cost in costs]),
            ("memory", [cost.mib for cost in costs]),
        )
    }
    lines = [
        f"{'tokens':>7}{'all s':>9}{'attention':>11}{'rest s':>9}{'MiB':>8}   exponents: all, attention, rest, memory"
    ]
    for number, cost in enumerate(costs):
        powers = "".join(f"{grown[name][number]:>7}" for name in grown)
        figures = f"{cost.tokens:>7}{cost.seconds:>9.3f}{cost.attention_s:>11.3f}{cost.rest_s:>9.3f}{cost.mib:>8.0f}"
        lines.append(f"{figures}   {powers}")
    if len(costs) > 2:
        found = fit(costs)
        lines.append(f"a = {found.per_token_pair:.3g} s, of attention's own calls")
        line = f"{found.per_token * 1000:.3g} ms a token, R^2 {found.explained:.4f}, at least {LEAST_EXPLAINED}"
        power = f"the rest's power {found.power:.2f}, at most {MOST_POWER}"
        lines.append(f"seconds - a x tokens^2: {line}; {power}: {'holds' if found.is_linear else 'FAILS'}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of the model (default: the nano model)")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(LENGTHS), help="lengths (default: 2k to 32k)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: float32)")
    parser.add_argument("--repeats", type=int, default=2, help="calls, of which the fastest counts (default: 2)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is None:
        from trm_agent.models.nano import NanoSpec, ensure_nano_model

        options.model = str(ensure_nano_model(NanoSpec()))
    if options.one:
        print(json.dumps(asdict(measure(options.model, options.one, options.device, options.dtype, options.repeats))))
        return 0
    costs = []
    for num_tokens in sorted(set(options.tokens)):
        costs.append(measure_alone(options, num_tokens))
        print(f"{num_tokens} tokens: {costs[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    print(as_table(costs))
    return int(len(costs) > 2 and not fit(costs).is_linear)


if __name__ == "__main__":
    sys.exit(main())
