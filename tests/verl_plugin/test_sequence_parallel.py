"""Two ranks that share the tokens of each packed row compute what one does: verl's Ulysses without flash-attn."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

from verl.plugin.platform import platform_manager
from verl.utils import ulysses
from verl.workers.engine.fsdp import transformer_impl

from trm_agent.verl_plugin.actor.divergences import policy_log_probs, predicting_rows, rollout_divergences
from trm_agent.verl_plugin.actor.exchange import repeated_for_ranks
from trm_agent.verl_plugin.actor.ratios import Ratios
from trm_agent.verl_plugin.actor.shard import Shard
from trm_agent.verl_plugin.cpu.platform import PlatformCPU
from trm_agent.verl_plugin.rollout.distributions import FULL_LOG_PROBS, TOP_IDS, TOP_LOG_PROBS

from . import test_engine
from .test_packed import LENGTHS, VOCAB, Engine, micro_batch, model

RANKS = 2
# kind and options of a model; the last one has fewer key heads than there are ranks
MODELS = {
    "grouped keys": ("qwen3", {}),
    "a window": ("window", {}),
    "one key head": ("llama", {"num_key_value_heads": 1}),
}
# the sequences whose tokens the model sampled; of the first alone the second rank has none
SAMPLED = {"all": range(len(LENGTHS)), "the first": range(1)}
CASES = [(kind, sampled, takes_rows) for kind in MODELS for sampled in SAMPLED for takes_rows in (True, False)]


def batch(sampled: range) -> Any:
    """The micro-batch of `test_packed`, 29 tokens, with some of its sequences sampled and with distributions."""
    data = micro_batch()
    masks = [mask * (index in sampled) for index, mask in enumerate(data["response_mask"].unbind())]
    data["response_mask"] = torch.nested.as_nested_tensor(masks, layout=torch.jagged)
    full = torch.randn(len(data["responses"].values()), VOCAB, generator=torch.Generator().manual_seed(2))
    full, offsets = full.log_softmax(-1), data["responses"].offsets()
    top = full.topk(5)
    for name, values in ((FULL_LOG_PROBS, full), (TOP_IDS, top.indices), (TOP_LOG_PROBS, top.values)):
        data[name] = torch.nested.nested_tensor_from_jagged(values, offsets)
    return data


def passed(case: tuple[str, str, bool], group: Any = None) -> list[torch.Tensor]:
    """What the loss reads of a forward pass, and the gradients as FSDP forms them from all ranks."""
    (kind, options), sampled, takes_rows = MODELS[case[0]], SAMPLED[case[1]], case[2]
    # float64: what differs is another computation, not another order of sums
    data, module = batch(sampled), model(kind, **options).double()
    engine = Engine(module, True, group)
    assert engine.packing is not None
    assert engine.packing.takes_rows
    engine.packing.takes_rows = takes_rows
    if group is not None:
        # the ranks trade again in the backward pass
        module.train().gradient_checkpointing_enable({"use_reentrant": False})
    outputs, logits = engine.outputs(data)
    exact = rollout_divergences(logits, data, engine.only_sampled, engine.shard)
    intervals = rollout_divergences(logits, data.exclude(FULL_LOG_PROBS), engine.only_sampled, engine.shard)
    measured = [*exact.named().values(), *intervals.named().values()]
    full = policy_log_probs(logits, data, engine.only_sampled, engine.shard)
    rows, _ = predicting_rows(data)
    log_probs, entropy = (outputs[name].values()[rows] for name in ("log_probs", "entropy"))
    ((log_probs + entropy) * torch.linspace(-1, 1, len(rows))).sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    if group is not None:
        assert module.is_gradient_checkpointing
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= RANKS
    return [log_probs.detach(), entropy.detach(), *measured, full, *gradients]


def of_one_rank(rank: int, folder: Path) -> None:
    """Compute every case on one of the ranks and leave it in a file."""
    torch.set_num_threads(1)
    platform_manager._current_platform, transformer_impl.device_name = PlatformCPU(), "cpu"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=RANKS)
    group = torch.distributed.group.WORLD
    ulysses.set_ulysses_sequence_parallel_group(group)
    found = {case: passed(case, group) for case in CASES}
    ulysses.set_ulysses_sequence_parallel_group(None)
    update = test_engine.update(test_engine.engine(ulysses_sequence_parallel_size=RANKS), folder / f"dump{rank}")
    refusal = ""
    try:
        test_engine.engine(test_engine.Windowed, ulysses_sequence_parallel_size=RANKS)
    except ValueError as error:
        refusal = str(error)
    torch.save((found, (*update[:2], len(update[2])), refusal), folder / f"rank{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(of_one_rank, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"rank{rank}", weights_only=False) for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_two_ranks_compute_what_one_does(ranks, case):
    expected = passed(case)
    assert expected[0].std() > 0.5
    assert max(value.abs().max() for value in expected[-3:]) > 1e-3
    for found, *_ in ranks:
        for of_two, of_one in zip(found[case], expected, strict=True):
            # divergences and distributions are taken in float32
            error = 1e-9 if of_one.dtype == torch.float64 else 1e-5
            torch.testing.assert_close(of_two, of_one, atol=error, rtol=error)


def _numbers(value: Any) -> Any:
    """Return a metric, of sums the numbers that they make."""
    return value[0].numbers() if isinstance(value, list) and isinstance(value[0], Ratios) else value


@pytest.mark.slow
def test_an_update_of_two_ranks_is_that_of_one(ranks, tmp_path, one_rank):
    gradients, metrics, _ = test_engine.update(test_engine.engine(test_engine.EveryPass), tmp_path)
    assert metrics["grad_norm"] > 0.01
    for _, (of_two, *_), _ in ranks:
        assert [each.shape for each in of_two] == [each.shape for each in gradients]
        found, expected = (torch.cat([each.flatten() for each in part]) for part in (of_two, gradients))
        # float32 sums in another order; single numbers of a random model are sums that nearly cancel
        assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert [num_dumped for _, (*_, num_dumped), _ in ranks] == [len(test_engine.ADVANTAGES), 0]
    # verl keeps those of a group's first rank
    of_two, of_one = ({name: _numbers(value) for name, value in found.items()} for found in (ranks[0][1][1], metrics))
    assert of_two.keys() == of_one.keys()
    for name, value in of_one.items():
        torch.testing.assert_close(of_two[name], value, atol=1e-6, rtol=1e-5, equal_nan=True, msg=name)


@pytest.mark.slow
def test_a_model_that_cannot_be_packed_is_refused_over_ranks(ranks):
    for *_, refusal in ranks:
        assert re.search("ulysses_sequence_parallel_size: got 2, but .*PhimoeForCausalLM cannot be packed", refusal)
        assert "allowed: 1; leave it out" in refusal


def test_a_part_of_a_row_holds_its_own_positions(one_rank):
    rows = torch.tensor([1, 4, 5, 8])
    # the second half of ten tokens: of the positions, 5 and 8
    part = Shard(5, 5, torch.distributed.group.WORLD)
    assert rows[part.held(rows)].tolist() == [5, 8]
    assert part.local(rows).tolist() == [0, 3]
    # none of its own: its first token, which nobody reads
    assert part.local(rows[:2]).tolist() == [0]


@pytest.mark.parametrize(("keys", "ranks", "expected"), [(2, 4, [0, 0, 1, 1]), (4, 2, [0, 1, 2, 3]), (1, 3, [0, 0, 0])])
def test_fewer_key_heads_than_ranks_are_repeated_beside_themselves(keys, ranks, expected):
    # the first of four ranks has the first quarter of the heads, which read the first of two key heads
    found = repeated_for_ranks(torch.arange(keys).view(1, keys, 1, 1), ranks)
    assert found.flatten().tolist() == expected
