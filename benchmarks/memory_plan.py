"""The memory model against the peak of a real update: verl's FSDP engine with our loss, one process, float32, a CPU.

python -m benchmarks.memory_plan FOLDER [--tokens 2048 4096] [--checkpointing] [--mapped]

FOLDER is a Hugging Face model. Each length is a process of its own: it loads the model, notes its resident memory
(VmRSS), resets the kernel's peak, makes two updates of two micro-batches, and reads the peak (VmHWM). In the second
update gradients and Adam's moments are there from the beginning. The peak is of the process: it holds the gaps that
the C library's heap keeps between tensors, for which the plan has a measured share, and buffers of the matrix kernels,
which it leaves out. With --mapped each tensor above 256 KiB is a mapping of its own, which leaves no gaps, and the plan
is that of the tensors alone. Claim: the plan is within 20 % of the peak above the loaded model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trm_agent.runs.planning import memory
from trm_agent.runs.planning.layout import Layout, Part, total
from trm_agent.runs.planning.machine import MIB
from trm_agent.runs.planning.shapes import ModelShape, shape_of

PROMPT = 200
# tokens of a turn, of which the model samples so many
TURN, SAMPLED = 72, 34
CLAIM = 0.2
# for the C library: a mapping of its own for every tensor above so many bytes
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


def resident(field: str) -> int:
    """Return a size of this process from /proc/self/status, bytes: `VmRSS`, `VmHWM`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def planned(shape: ModelShape, tokens: int, checkpointing: bool, share: float, mapped: bool) -> list[Part]:
    """Return the parts of an update beyond the loaded parameters."""
    layout = Layout(checkpointing=checkpointing, width=4, by_sequence=True, on_cuda=False)
    parts = memory.update(shape, layout, tokens, share)
    left_out = ("parameters", *([memory.GAPS] if mapped else []))
    return [part for part in parts if part.size and part.name not in left_out]


def measured(folder: str, tokens: int, checkpointing: bool) -> dict[str, Any]:
    """Return the sizes of a process that loads a model and makes two updates of sequences of so many tokens."""
    import torch

    from trm_agent.verl_plugin.cpu.heap import trim_heap

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    before = resident("VmRSS")
    engine = made_engine(folder, checkpointing)
    data, share = batch(engine.module.config.vocab_size, tokens)
    trim_heap()
    loaded = resident("VmRSS")
    peaks = []
    for number in range(2):
        # the kernel forgets the peak so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        with engine.train_mode():
            engine.train_batch(data(number), loss(tokens))
        peaks.append(resident("VmHWM") - loaded)
    return {"loading": loaded - before, "first": peaks[0], "second": peaks[1], "share": share}


def made_engine(folder: str, checkpointing: bool) -> Any:
    """Return our engine around the model of a folder, as a run on a CPU makes it."""
    import torch
    from transformers import AutoModelForCausalLM
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig

    from trm_agent.verl_plugin.actor.engine import TrmFSDPEngine

    class Engine(TrmFSDPEngine):
        def _build_module(self) -> torch.nn.Module:
            module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
            if checkpointing:
                module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            return module

    model_config: Any = SimpleNamespace(
        use_remove_padding=True,
        lora_rank=0,
        enable_activation_offload=False,
        trust_remote_code=False,
        get_processor=lambda: None,
    )
    precision = dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")
    options: dict[str, Any] = {"strategy": "fsdp2", "use_torch_compile": False, "mixed_precision": precision}
    checkpoints: Any = None
    engine = Engine(
        model_config, FSDPEngineConfig(**options), FSDPOptimizerConfig(lr=1e-5, total_training_steps=10), checkpoints
    )
    engine.initialize()
    assert engine.packing is not None, "the model cannot be packed"
    return engine


def batch(vocab: int, tokens: int) -> tuple[Any, float]:
    """Return a function that makes the batch of an update, and the share of its tokens that the model sampled."""
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    from trm_agent.verl_plugin.actor.update import STEP_KEY

    rows, response = 2, tokens - PROMPT
    mask = (torch.arange(response) % TURN < SAMPLED).long().expand(rows, -1)

    def make(number: int) -> TensorDict:
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(vocab, (rows, tokens), generator=generator)
        log_probs = torch.full((rows, response), -10.0)
        columns = {
            "prompts": ids[:, :PROMPT],
            "responses": ids[:, PROMPT:],
            "input_ids": ids,
            "position_ids": torch.arange(tokens).expand(rows, -1),
            "response_mask": mask,
            "loss_mask": mask,
            "old_log_probs": log_probs,
            "rollout_log_probs": log_probs,
            "advantages": torch.tensor([[1.0], [-1.0]]) * mask,
        }
        nested = {
            name: torch.nested.as_nested_tensor(list(values), layout=torch.jagged) for name, values in columns.items()
        }
        data = TensorDict(nested, batch_size=[rows])
        tu.assign_non_tensor(data, **{STEP_KEY: number + 1}, temperature=1.0, global_batch_size=rows)
        tu.assign_non_tensor(data, use_dynamic_bsz=False, micro_batch_size_per_gpu=1, use_remove_padding=True)
        return data

    return make, float(mask.float().mean()) * response / tokens


def loss(tokens: int) -> Any:
    """Return the policy loss as verl's worker calls it; its threshold keeps every sequence."""
    from verl.workers.config import FSDPActorConfig
    from verl.workers.utils.losses import ppo_loss

    from trm_agent.trust_region.settings import TrmConfig
    from trm_agent.verl_plugin.actor.policy_loss import TrmPolicyLossConfig

    config = FSDPActorConfig(
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=TrmPolicyLossConfig(trm=TrmConfig(max_token_kl=1e9)),
        global_batch_info={"loss_scale_factor": tokens},
    )
    return partial(ppo_loss, config=config)


def in_a_process(folder: str, tokens: int, checkpointing: bool, mapped: bool) -> dict[str, Any]:
    """Return `measured` of a fresh process."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        arguments = [folder, "--tokens", str(tokens), "--into", file.name, *(["--checkpointing"] * checkpointing)]
        environment = {**os.environ, "VERL_PLATFORM": "cpu", **(MAPPED if mapped else {})}
        subprocess.run([sys.executable, "-m", "benchmarks.memory_plan", *arguments], check=True, env=environment)
        found: dict[str, Any] = json.loads(file.read())
    return found


def compare(folder: str, tokens: int, checkpointing: bool, mapped: bool) -> float:
    """Print plan and peak of one length; return their ratio."""
    shape = shape_of(folder)
    if shape is None:
        raise ValueError(f"{folder}: no config.json of a dense model is there")
    sizes = in_a_process(folder, tokens, checkpointing, mapped)
    parts = planned(shape, tokens, checkpointing, sizes["share"], mapped)
    ratio = total(parts) / sizes["second"]
    kind = "with" if checkpointing else "without"
    heap = ", each large tensor mapped by itself" if mapped else ""
    print(f"{tokens} tokens, {kind} checkpointing{heap}; logits of {sizes['share']:.0%} of them")
    for part in parts:
        print(f"  {part.size / MIB:8.0f} MiB  {part.name}")
    print(f"  {total(parts) / MIB:8.0f} MiB  planned")
    print(f"  {sizes['second'] / MIB:8.0f} MiB  measured, second update (first: {sizes['first'] / MIB:.0f})")
    print(f"  {ratio:8.2f}      planned / measured, the claim is {1 - CLAIM} to {1 + CLAIM}", flush=True)
    return ratio


def main() -> int:
    """Compare each length; 1 if one misses the claim."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="a Hugging Face model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096], help="lengths of a sequence")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--mapped", action="store_true", help="map each large tensor by itself, without gaps")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into:
        found = measured(arguments.folder, arguments.tokens[0], arguments.checkpointing)
        Path(arguments.into).write_text(json.dumps(found), encoding="utf-8")
        return 0
    ratios = [
        compare(arguments.folder, tokens, arguments.checkpointing, arguments.mapped) for tokens in arguments.tokens
    ]
    return int(any(abs(ratio - 1) > CLAIM for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
