"""An FSDP engine of verl that adds the inputs of our loss: divergences from the logits, metrics of a whole update."""

import json
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead
from verl.workers.utils.padding import no_padding_2_padding

from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.settings import DumpConfig
from trm_agent.verl_plugin.actor.divergences import (
    has_distributions,
    policy_log_probs,
    prompt_lengths,
    rollout_divergences,
    version_lags,
)
from trm_agent.verl_plugin.actor.dumping import collect_rows, is_due, wants_distributions, write_rows
from trm_agent.verl_plugin.actor.groups import GROUPS_KEY, add_groups
from trm_agent.verl_plugin.actor.host_memory import HostMemoryMixin
from trm_agent.verl_plugin.actor.kept import CutSets, has_kept_sets, replayed_outputs, without_verls_own
from trm_agent.verl_plugin.actor.packed_engine import PackedMixin
from trm_agent.verl_plugin.actor.schedule import ScheduleMixin
from trm_agent.verl_plugin.actor.update import (
    ADAPTIVE_KEY,
    DUMP_KEY,
    KEPT_SET_CUT,
    KEPT_SET_CUT_SEQUENCES,
    LONGEST_KEY,
    STEP_KEY,
    TASKS_KEY,
    MicroBatch,
    Update,
    as_numbers,
    collect_update,
    set_micro_batch,
)
from trm_agent.verl_plugin.actor.whole_batch import DECIDED_KEY, add_decisions
from trm_agent.verl_plugin.actor.without_gradient import WithoutGradientMixin
from trm_agent.verl_plugin.cpu.heap import trim_heap


class TrmFSDPEngine(ScheduleMixin, WithoutGradientMixin, PackedMixin, HostMemoryMixin, FSDPEngineWithLMHead):
    """An engine that compares the rollout's distributions with the actor's logits while the forward pass holds them."""

    def initialize(self) -> None:
        super().initialize()
        self._step, self._num_updates, self._update = -1, 0, Update()
        self._forward_only = True
        self._divergences: DivergenceBounds | None = None
        self._full_log_probs: torch.Tensor | None = None
        self._cut_sets: CutSets | None = None
        wrapped = isinstance(self.module, FSDP | FSDPModule)
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        backend = torch.distributed.get_backend()
        print(f"engine: FSDP {wrapped}, backend {backend}, {parameters} parameters", flush=True)

    def train_batch(self, data: TensorDict, loss_function: Callable) -> Any:
        step = tu.get_non_tensor_data(data, STEP_KEY, 0)
        self._num_updates = self._num_updates + 1 if step == self._step else 0
        self._step = step
        dump = tu.get_non_tensor_data(data, DUMP_KEY, None)
        dump = DumpConfig.from_mapping(json.loads(dump)) if dump else None
        tasks = tu.get_non_tensor_data(data, TASKS_KEY, None)
        tasks = frozenset(json.loads(tasks)) if tasks else None
        self._cut_sets = None
        add_decisions(data, loss_function, self.get_data_parallel_group(), step, self._num_updates)
        add_groups(data)
        longest = tu.get_non_tensor_data(data, LONGEST_KEY, None)
        with collect_update(step, self._num_updates, dump, tasks, longest) as self._update:
            output = super().train_batch(data, loss_function)
        if self.is_mp_src_rank_with_outputs():
            # the ranks that share a sequence have the same rows and the same data-parallel rank
            write_rows(self._update, self.get_data_parallel_rank())
        if get_device_name() == "cpu":
            trim_heap()
        metrics = self._update.metrics(self.get_data_parallel_group())
        if STEP_KEY not in data:
            # not our driver, which adds the sums of all updates
            metrics = as_numbers(metrics)
        if self._cut_sets is not None:
            shares = self._cut_sets.shares(self.get_data_parallel_group())
            metrics[KEPT_SET_CUT], metrics[KEPT_SET_CUT_SEQUENCES] = shares
        # verl expects a list over micro-batches for values that it does not aggregate itself
        output["metrics"].update({key: [value] for key, value in metrics.items()})
        return output

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict:
        self._divergences = self._full_log_probs = None
        if not self._forward_only and has_distributions(micro_batch):
            # before verl's own, which may scale the logits in place
            self._divergences = rollout_divergences(output.logits, micro_batch, self.only_sampled, self.shard)
            if is_due(self._update) and wants_distributions(self._update):
                self._full_log_probs = policy_log_probs(output.logits, micro_batch, self.only_sampled, self.shard)
        replayed: dict[str, torch.Tensor] = {}
        if has_kept_sets(micro_batch):
            # the passes of the start of the step and of the reference too, so that all policies are on one set
            replayed = replayed_outputs(output.logits, micro_batch, self.only_sampled)
            if not self._forward_only:
                self._cut_sets = self._cut_sets or CutSets()
                self._cut_sets.count(micro_batch, output.logits.shape[-1])
            micro_batch = without_verls_own(micro_batch)
        outputs = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        return outputs | replayed

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[torch.Tensor, dict]:
        def with_context(*, model_output: dict, data: TensorDict, dp_group: Any) -> Any:
            measured = self._divergences
            divergences = None if measured is None else measured.map(lambda values: no_padding_2_padding(values, data))
            thresholds = tu.get_non_tensor_data(data, ADAPTIVE_KEY, None)
            adapted = json.loads(thresholds) if thresholds else {}
            lags, prompts = version_lags(data, self._step), prompt_lengths(data)
            decided, groups = data.get(DECIDED_KEY, None), data.get(GROUPS_KEY, None)
            set_micro_batch(MicroBatch(divergences, _rollout_log_probs(data), adapted, lags, prompts, decided, groups))
            result = loss_function(model_output=model_output, data=data, dp_group=dp_group)
            if not forward_only and is_due(self._update):
                log_probs = no_padding_2_padding(model_output["log_probs"], data)
                collect_rows(self._update, data, log_probs, divergences, self._full_log_probs)
            return result

        self._forward_only = forward_only
        wrapped = with_context if loss_function else None
        if forward_only or not self.is_without_gradient(micro_batch, loss_function):
            return super().forward_step(micro_batch, wrapped, forward_only)
        with torch.no_grad():
            loss, output = super().forward_step(micro_batch, wrapped, forward_only)
        # verl asks for a backward pass: this one ends at the loss itself
        return loss.detach().requires_grad_(), output


def _rollout_log_probs(data: TensorDict) -> torch.Tensor | None:
    if "rollout_log_probs" not in data:
        return None
    log_probs = data["rollout_log_probs"]
    return log_probs.to_padded_tensor(0.0) if log_probs.is_nested else log_probs


def register() -> None:
    """Register the engine as verl's FSDP.

    verl has no engine for `cpu`; on CUDA it looks a vendor's engine up before its own, so nothing is replaced.
    """
    backends = ["fsdp", "fsdp2"]
    if get_device_name() == "cpu":
        EngineRegistry.register(model_type="language_model", backend=backends, device="cpu")(TrmFSDPEngine)
        EngineRegistry.register(model_type="value_model", backend=backends, device="cpu")(FSDPEngineWithValueHead)
    else:
        EngineRegistry.register(model_type="language_model", backend=backends, device="cuda", vendor="nvidia")(
            TrmFSDPEngine
        )
