"""A channel past verl, between engine, policy loss and driver.

verl hands a policy loss four tensors and averages its metrics over micro-batches, which is wrong for quantiles,
extremes and, across unequal micro-batches, for ratios. So the engine leaves its tensors of a micro-batch in a context
that the loss reads, the loss leaves its statistics there, and the engine forms the metrics once per update, from all
micro-batches of all ranks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from trm_agent.core.diagnostics import SequenceStatistics, UpdateStatistics, concatenate
from trm_agent.core.summary import summarize_parts
from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.adaptive import DecidedBy
from trm_agent.trust_region.paired_run import QUARTERS, of_update
from trm_agent.trust_region.settings import DumpConfig, TrmConfig
from trm_agent.verl_plugin.actor.ratios import Ratios, joined, ratios_of

# verl's driver takes np.max / np.min over the updates of a step of each key that contains "max" / "min", and np.mean of
# the rest: a mean travels in capitals, which contain neither.
EXTREMES = ("ratio_min", "ratio_max", "token_kl_k2_max", "token_kl_max")
MEAN_PREFIX = "TRM/"
PREFIX = "trm/"
# the statistics of a step's updates, for the adaptive thresholds
DECIDED_BY = MEAN_PREFIX + "DECIDED_BY"
# the sums of a step's updates, for the numbers of their parts
RATIOS = MEAN_PREFIX + "RATIOS"
# shares of tokens whose kept set may be larger than its record, and of sequences with one, with estimator `replayed`
KEPT_SET_CUT = MEAN_PREFIX + "KEPT_SET_CUT"
KEPT_SET_CUT_SEQUENCES = MEAN_PREFIX + "KEPT_SET_CUT_SEQUENCES"
# keys of the batch, from the driver to the engine: as JSON the adaptive thresholds, the step's DumpConfig and the tasks
# of its dump; the step; the seed of the run; as JSON the acceptance of a paired run in each update of this step; the
# tokens that a response can have
ADAPTIVE_KEY, DUMP_KEY, TASKS_KEY, STEP_KEY = "trm_thresholds", "trm_dump", "trm_dump_tasks", "trm_step"
SEED_KEY, PAIRED_KEY, LONGEST_KEY = "trm_seed", "trm_paired_acceptance", "trm_longest_response"


@dataclass
class MicroBatch:
    """The engine's tensors of the micro-batch whose loss is being computed. Shapes (batch, response_length)."""

    divergences: DivergenceBounds | None = None
    """Bounds from the actor's logits; None with sampled estimators."""
    rollout_log_probs: torch.Tensor | None = None
    """Log-probs of the policy that sampled, nats."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Adaptive thresholds of this step: field of `TrmConfig` -> value; empty where none adapts."""
    lags: torch.Tensor | None = None
    """See `TokenBatch.lags`."""
    prompt_lengths: torch.Tensor | None = None
    """See `TokenBatch.prompt_lengths`."""
    decided: torch.Tensor | None = None
    """See `TokenBatch.decided`."""
    groups: torch.Tensor | None = None
    """See `TokenBatch.groups`."""


@dataclass
class Update:
    """The statistics of an update's micro-batches on this rank."""

    parts: list[UpdateStatistics] = field(default_factory=list)
    micro_batch: MicroBatch = field(default_factory=MicroBatch)
    step: int = 0
    """Step of the run."""
    number: int = 0
    """Number among the updates of its step."""
    dump: DumpConfig | None = None
    """Settings of the dump; None for no dump."""
    tasks: frozenset[str] | None = None
    """Tasks whose sequences are dumped; None for all."""
    longest: int | None = None
    """Tokens that a response can have; None where it is not known."""
    trm: TrmConfig | None = None
    """Settings of the computed loss."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the dump."""

    def metrics(self, group: Any = None) -> dict[str, Any]:
        """Return the update's metrics, the same on every rank.

        Args:
            group: the data-parallel group of torch.distributed; None for one rank.

        Returns:
            Key for verl's driver (see `final_metrics`) -> number, `Ratios`, or a `DecidedBy` if the thresholds adapt;
            empty if our loss was not computed.
        """
        parts = [_to_cpu(part) for part in self.parts]
        if group is not None and torch.distributed.get_world_size(group) > 1:
            gathered: list[Any] = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(gathered, parts, group=group)
            parts = [part for of_rank in gathered for part in of_rank]
        if not parts:
            return {}
        whole = concatenate(parts)
        metrics, ratios = summarize_parts(whole, self.longest)
        values = torch.stack(list(metrics.values())).tolist()
        named: dict[str, Any] = {_key(name): value for name, value in zip(metrics, values, strict=True)}
        named[RATIOS] = ratios_of(ratios)
        if self.trm is not None:
            # a mean over the step's updates would not tell which of them rejected
            quarters = [name for name in map(_bare, QUARTERS) if name in metrics]
            named |= {_key(of_update(name, self.number + 1)): named[_key(name)] for name in quarters}
        rows = whole.sequences
        if self.trm is not None and self.trm.target_acceptance is not None and bool(rows.has_tokens.any()):
            decided = {name: value[rows.has_tokens].tolist() for name, value in rows.decided_by.items()}
            named[DECIDED_BY] = DecidedBy(self.trm.target_acceptance, (decided,))
        return named


_UPDATE: ContextVar[Update | None] = ContextVar("trm_update", default=None)


@contextmanager
def collect_update(
    step: int = 0,
    number: int = 0,
    dump: DumpConfig | None = None,
    tasks: frozenset[str] | None = None,
    longest: int | None = None,
) -> Iterator[Update]:
    """Collect the statistics of every `trm` loss that is computed inside the block.

    Args:
        step: of the run.
        number: number of the update in its step.
        dump: settings of the dump; None for no dump.
        tasks: those whose sequences are dumped; None for all.
        longest: tokens that a response can have; None where it is not known.

    Yields:
        The update, filled as losses are computed.
    """
    update = Update(step=step, number=number, dump=dump, tasks=tasks, longest=longest)
    token = _UPDATE.set(update)
    try:
        yield update
    finally:
        _UPDATE.reset(token)


def current_micro_batch() -> MicroBatch:
    """Return the tensors that the engine has left for the loss; empty outside an update."""
    update = _UPDATE.get()
    return MicroBatch() if update is None else update.micro_batch


def set_micro_batch(micro_batch: MicroBatch) -> None:
    """Leave the engine's tensors for the loss; without effect outside an update (a forward pass alone)."""
    update = _UPDATE.get()
    if update is not None:
        update.micro_batch = micro_batch


def report(part: UpdateStatistics, trm: TrmConfig) -> dict[str, float]:
    """Hand the statistics of a micro-batch to the update.

    Args:
        part: the statistics.
        trm: the settings that they were made with.

    Returns:
        The metrics for verl to average: none inside `collect_update`; otherwise those of the micro-batch, so that
        another engine logs at least an average over micro-batches.
    """
    update = _UPDATE.get()
    if update is None:
        return as_numbers(Update([part]).metrics())
    update.parts.append(part)
    update.trm = trm
    return {}


def as_numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Divide the sums of an update's metrics, for a driver that does not add them over updates.

    Args:
        metrics: of `Update.metrics`, which lose their `Ratios`.
    """
    sums: Ratios = metrics.pop(RATIOS, Ratios())
    return metrics | {_key(name): value for name, value in sums.numbers().items()}


def final_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Give the metrics of the updates their names, and form those that need all updates of the step.

    Args:
        metrics: the step's metrics after verl's reduction.

    Returns:
        A new dict: `trm/...` as in docs/metrics.md, the rest unchanged.
    """
    final: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, Ratios):
            final |= named_ratios(value)
        else:
            final |= value.thresholds() if isinstance(value, DecidedBy) else {_name(key): value}
    return final


def named_ratios(ratios: Ratios) -> dict[str, float]:
    """Return the numbers of the parts of updates by their names, as in docs/metrics.md."""
    return {PREFIX + name: value for name, value in ratios.numbers().items()}


def ratios_in(metrics: Mapping[str, Any]) -> Ratios:
    """Return the sums in a step's metrics, before `final_metrics`; none with another engine."""
    return joined(value for value in metrics.values() if isinstance(value, Ratios))


def other_terms(actor: Mapping[str, Any]) -> list[str]:
    """Name the terms of verl's actor loss beside the policy loss, which no mask touches.

    Args:
        actor: verl's `actor_rollout_ref.actor`.

    Returns:
        None, one or both of `entropy` and `KL`.
    """
    terms = ["entropy"] if actor.get("entropy_coeff") else []
    return [*terms, "KL"] if actor.get("use_kl_loss") and actor.get("kl_loss_coef", 1) else terms


def _key(name: str) -> str:
    return PREFIX + name if name in EXTREMES else MEAN_PREFIX + name.upper()


def _bare(name: str) -> str:
    return name.removeprefix(PREFIX)


def _name(key: str) -> str:
    for prefix in (MEAN_PREFIX, PREFIX):
        before, found, name = key.partition(prefix)
        if found and before in ("", "actor/"):
            return PREFIX + name.lower()
    return key


def _to_cpu(part: UpdateStatistics) -> UpdateStatistics:
    rows: dict[str, Any] = {}
    for item in fields(SequenceStatistics):
        value = getattr(part.sequences, item.name)
        if isinstance(value, dict):
            rows[item.name] = {name: tensor.cpu() for name, tensor in value.items()}
        else:
            rows[item.name] = None if value is None else value.cpu()
    return UpdateStatistics(replace(part.sequences, **rows), part.position_tv.cpu())
