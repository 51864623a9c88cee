"""The module for `actor_rollout_ref.model.external_lib`, which verl imports wherever it builds the model's config."""

from verl.utils.device import get_device_name
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplicaRegistry

# policy_loss registers `trm` on import
from trm_agent.verl_plugin.actor import checkpoints, engine, log_probs, policy_loss  # noqa: F401
from trm_agent.verl_plugin.cpu import put_aside
from trm_agent.verl_plugin.driver import actor_update


def _recording_replica() -> type:
    # imports vLLM, hence only where a server is started
    from trm_agent.verl_plugin.rollout.recording_server import RecordingReplica

    return RecordingReplica


checkpoints.install()
if get_device_name() == "cpu":
    put_aside.apply_trainer_patches()
else:
    # without an accelerator `cpu.patches` does it
    log_probs.install()
engine.register()
actor_update.install()
RolloutReplicaRegistry.register("vllm", _recording_replica)
# two runs on a machine must not share the socket of their weights
base._ROLLOUT_REGISTRY["vllm", "async"] = "trm_agent.verl_plugin.rollout.weight_sender.WeightSender"
