"""verl's worker of agent loops, which makes little of an episode's beginning and end."""

import asyncio
import time
from typing import Any

import ray
import torch
import transfer_queue as tq
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.rollout_trace import rollout_trace_attr

from trm_agent.tasks import TRAIN, VALIDATION
from trm_agent.verl_plugin.rollout.agent_loop import EnvAgentLoop
from trm_agent.verl_plugin.rollout.distributions import EnvOutput
from trm_agent.verl_plugin.rollout.failed import failures_counted
from trm_agent.verl_plugin.rollout.in_turn import InTurn
from trm_agent.verl_plugin.rollout.loss_watch import LossWatch
from trm_agent.verl_plugin.rollout.outbox import DONE, Outbox, Row

NAME = "trm_env"
"""Name of our agent loop in agent_loop.yaml."""
_ACTOR: Any = AgentLoopWorkerTQ
_VERLS: Any = _ACTOR.__ray_metadata__.modified_class.__ray_actor_class__


class EpisodesWorker(_VERLS):  # type: ignore[misc]
    """A worker that builds our agent loop without Hydra and sends finished episodes in batches.

    verl instantiates an agent loop from a merged configuration and puts each episode by itself: together three times
    the work of all turns of a short episode. Agent loops of others, models with a processor and distillation take
    verl's way.

    An episode that raises is counted before verl logs it and ends its task.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outbox = Outbox(lambda **row: tq.async_kv_batch_put(**row))

    async def serve(self) -> None:
        """Wait for ever: the call fails when this process ends."""
        await asyncio.Event().wait()

    async def _run_agent_loop(
        self,
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        *,
        agent_name: str,
        trace: bool = True,
        **kwargs: Any,
    ) -> None:
        stream = VALIDATION if trajectory["validate"] else TRAIN
        async with failures_counted(stream, kwargs["uid"]):
            with self._outbox.playing():
                if agent_name != NAME:
                    given = {"agent_name": agent_name, "trace": trace, **kwargs}
                    await super()._run_agent_loop(sampling_params, trajectory, **given)
                    return
                with rollout_trace_attr(
                    step=trajectory["step"],
                    sample_index=trajectory["sample_index"],
                    rollout_n=trajectory["rollout_n"],
                    validate=trajectory["validate"],
                    name="agent_loop",
                    trace=trace,
                ):
                    loop = EnvAgentLoop(self, self.llm_client, self.tokenizer)
                    output = await loop.run(sampling_params, **kwargs)
                    await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        if not isinstance(output, EnvOutput) or self.processor is not None or self.distillation_enabled:
            await super()._agent_loop_postprocess(output, validate, **kwargs)
            return
        row = row_of(output, "val" if validate else "train", kwargs)
        row.tag[DONE] = time.time()
        await self._outbox.put(row)


class WorkersOfEpisodes(InTurn, AgentLoopManagerTQ):  # type: ignore[misc]
    """verl's manager, with our workers.

    Args:
        watch: told of the workers, and of `close`.
    """

    def __init__(self, *args: Any, watch: LossWatch, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(EpisodesWorker)
        self.watch = watch

    async def _init_agent_loop_workers(self) -> None:
        await super()._init_agent_loop_workers()
        workers = enumerate(self.agent_loop_workers)
        self.watch.begin({f"agent-loop worker {number}": worker for number, worker in workers})

    def close(self) -> None:
        """Expect the workers to end from now on."""
        self.watch.close()


def row_of(output: EnvOutput, partition: str, given: dict[str, Any]) -> Row:
    """Return the row that verl's worker puts for an episode of text.

    Args:
        output: with a reward.
        partition: verl's.
        given: the fields of the task, among them `uid`, `session_id` and `global_steps`.
    """
    fields = output.as_dict() | given
    prompts, responses = fields["prompts"], fields["responses"]
    total = len(prompts) + len(responses)
    fields.pop("multi_modal_data", None)
    fields["loss_mask"] = fields["response_mask"]
    fields["input_ids"] = torch.cat([prompts, responses])
    fields["position_ids"] = torch.arange(total)
    fields["multi_modal_inputs"] = {}
    tag = {
        "status": "success",
        "prompt_len": len(prompts),
        "response_len": len(responses),
        "seq_len": total,
        "global_steps": given["global_steps"],
        "min_global_steps": fields["extra_fields"].get("min_global_steps"),
        "max_global_steps": fields["extra_fields"].get("max_global_steps"),
    }
    return Row(partition, f"{given['uid']}_{given['session_id']}_0", fields, tag)
