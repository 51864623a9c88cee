"""Named by `worker_extension_cls` in rollout's training run: vLLM imports it in the engine's process."""

import vllm.v1.engine.core  # noqa: F401  (what is probed must be loaded)

from benchmarks import rollout_probe
from trm_agent.verl_plugin.cpu.vllm_worker import CPUWorkerExtension

rollout_probe.install()


class ProbedWorkerExtension(CPUWorkerExtension):
    """The worker extension of a run on a CPU, in a process with probes."""
