"""The nano model: a Qwen3 of about a million parameters that half knows an environment, made from scratch by a seed.

`ensure_nano_model(NanoSpec())` returns the folder of a Hugging Face model and tokenizer, made once and then cached
under a hash of everything that made it. From the shell: `python -m trm_agent.models.nano --seed 0 --out DIR`.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# torch and transformers are imported where a model is made: finding a cached one takes no time.
from trm_agent.models.failure import WarmStartFailed
from trm_agent.models.making import appearing, models_root, only_one
from trm_agent.models.nano_spec import CONTEXT, NanoSpec
from trm_agent.models.saving import save_model

NUM_TOKENIZER_TRACES = 300
REPORTED_HORIZONS = (1, 2, 4, 8)
NUM_REPORTED_TASKS = 64


def ensure_nano_model(
    spec: NanoSpec, cache_dir: str | Path | None = None, max_seconds: float = math.inf, show_progress: bool = True
) -> Path:
    """Return the folder of the model, and make it if the cache does not hold it.

    Args:
        spec: the model's settings.
        cache_dir: the folder of models; by default `models/` in $TRM_AGENT_CACHE or in ~/.cache/trm-agent.
        max_seconds: wall-clock limit of the warm start; by default there is none.
        show_progress: True to draw a progress bar on stderr.

    Raises:
        WarmStartFailed: if the warm start does not reach its target in time.
    """
    folder = nano_folder(spec, cache_dir)
    if is_made(folder):
        return folder
    with only_one(folder):
        if not is_made(folder):
            make_nano_model(spec, folder, max_seconds, show_progress)
    return folder


def nano_folder(spec: NanoSpec, cache_dir: str | Path | None = None) -> Path:
    """Return the model's place in the cache, whether it is made or not; arguments as for `ensure_nano_model`."""
    return models_root(cache_dir) / f"nano-{spec.cache_key()}"


def is_made(folder: Path) -> bool:
    """Return True if a folder of the cache holds a complete model."""
    return (folder / "nano.json").exists()


def make_nano_model(
    spec: NanoSpec, folder: str | Path, max_seconds: float = math.inf, show_progress: bool = True
) -> None:
    """Make the model and move it to `folder`, complete or not at all.

    Raises:
        FileExistsError: if `folder` exists and is not empty.
        WarmStartFailed: if the warm start does not reach its target in time.
    """
    with appearing(Path(folder)) as unfinished:
        _make_in(spec, unfinished, max_seconds, show_progress)


def make_tokenizer(spec: NanoSpec) -> Any:
    """Train the tokenizer on solved tasks of short horizons."""
    from trm_agent.models.tokenizer import train_tokenizer

    solver = spec.solver("train")
    traces = [solver.solve(seed, 1 + seed % 6) for seed in range(NUM_TOKENIZER_TRACES)]
    return train_tokenizer(traces, spec.max_vocab_size)


def make_model(spec: NanoSpec, tokenizer: Any) -> Any:
    """Return a fresh Qwen3 model in float32 with random weights from the spec's seed."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        # verl masks logits beyond len(tokenizer) in the rollout only; more would make trainer and rollout disagree.
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.mlp_size,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return Qwen3ForCausalLM(config).float()


NOT_MEASURED = "not measured, as the loss is too high for any"


def _make_in(spec: NanoSpec, folder: Path, max_seconds: float, show_progress: bool) -> None:
    from tqdm import tqdm

    from trm_agent.models import warm_start
    from trm_agent.models.bars import bar_options
    from trm_agent.models.first_difference import learnt_so_far

    started = time.monotonic()
    tokenizer = make_tokenizer(spec)
    model = make_model(spec, tokenizer)
    bar_of_steps = tqdm(desc="warm start", unit="step", disable=not show_progress, **bar_options(sys.stderr))
    # success as last measured; a measured one is a mean of probabilities, and never exactly 0
    last = [0.0]
    with _one_thread(), bar_of_steps as bar:

        def report(step: int, loss: float, success: float) -> None:
            bar.update(step - bar.n)
            wanted = f", until {spec.target_success}" if spec.target_success else ""
            last[0] = success
            shown = f"{success:.2f}" if success else "not measured yet"
            bar.set_postfix_str(f"loss {loss:.2f}, success {shown}{wanted}", refresh=False)
            if show_progress and wanted and not success and step == spec.max_steps // 4:
                told = f"warm start, step {step} of {spec.max_steps}: no success at horizon {spec.horizon} yet"
                told += f" ({NOT_MEASURED})"
                bar.write("\n".join([told, *learnt_so_far(model, tokenizer, spec)]), file=sys.stderr)

        try:
            result = warm_start.warm_start(model, tokenizer, spec, max_seconds, report)
        except WarmStartFailed as failure:
            shown = learnt_so_far(model, tokenizer, spec)
            if not last[0]:
                shown.insert(0, f"  success at horizon {spec.horizon}: {NOT_MEASURED}")
            raise WarmStartFailed(failure.facts, failure.remedy, shown) from None
        success = {
            str(horizon): round(warm_start.success_at(model, tokenizer, spec, horizon, NUM_REPORTED_TASKS), 4)
            for horizon in REPORTED_HORIZONS
        }
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "spec": dataclasses.asdict(spec),
        "num_parameters": model.num_parameters(),
        "vocab_size": len(tokenizer),
        "num_steps": result.num_steps,
        "success": success,
        "seconds": round(time.monotonic() - started, 1),
    }
    (folder / "nano.json").write_text(json.dumps(facts, indent=2) + "\n")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the same result on any number of cores, and no slower, as matrices are tiny."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trm_agent.models.nano",
        description="Make the nano model (tokenizer, weights, warm start) in a folder, or find it in the cache.",
        epilog="example: python -m trm_agent.models.nano --seed 0 --out nano",
    )
    parser.add_argument("--seed", type=int, default=NanoSpec.seed, help="seed of weights and tasks (%(default)s)")
    parser.add_argument("--out", type=Path, help="new folder for the model; without it, the cache")
    parser.add_argument("--horizon", type=int, default=NanoSpec.horizon, help="where success is measured (%(default)s)")
    parser.add_argument(
        "--target-success", type=float, default=NanoSpec.target_success, help="success to stop at (%(default)s)"
    )
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="wall-clock limit (none)")
    options = parser.parse_args(arguments)
    try:
        spec = NanoSpec(seed=options.seed, horizon=options.horizon, target_success=options.target_success)
        if options.out is None:
            folder = ensure_nano_model(spec, max_seconds=options.max_seconds)
        else:
            folder = options.out
            make_nano_model(spec, folder, options.max_seconds)
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    facts = json.loads((folder / "nano.json").read_text())
    success = ", ".join(f"{horizon}: {rate:.2f}" for horizon, rate in facts["success"].items())
    print(f"{folder}: {facts['num_parameters']:,} parameters, {facts['seconds']} s; success by horizon {success}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
