"""The trainer's side of the transfer of weights: binds the socket of this run. Imports vLLM."""

from typing import Any

from verl.workers.rollout.vllm_rollout import ServerAdapter

from trm_agent.verl_plugin.rollout.weight_socket import own_handle


class WeightSender(ServerAdapter):
    """verl's adapter with a socket of this run alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zmq_handle = own_handle(self.zmq_handle)
