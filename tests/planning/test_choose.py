"""The layout that is chosen fits, is the cheapest that does, and follows the user."""

import itertools
from dataclasses import replace

import pytest

from trm_agent.runs.planning.choose import (
    AT_ONCE,
    FULL_TOKENS,
    Aims,
    Place,
    choose,
    cost,
    layouts,
    plan_of,
    plan_on_cpu,
    shares_heads,
)
from trm_agent.runs.planning.layout import Layout, total
from trm_agent.runs.planning.machine import GIB
from trm_agent.runs.planning.shapes import KNOWN
from trm_agent.runs.planning.told import changes, table

SMALL, LARGE = KNOWN["Qwen/Qwen3-0.6B"], KNOWN["Qwen/Qwen3-8B"]
MODELS = list(KNOWN.values())


def place(gpus: int, gib: int, nodes: int = 1) -> Place:
    return Place(gpus, nodes, gib * GIB)


@pytest.mark.parametrize("gpus", [1, 4, 8])
@pytest.mark.parametrize("gib", [15, 22, 79])
@pytest.mark.parametrize("shape", MODELS, ids=lambda shape: shape.name)
def test_a_plan_that_fits_does_so_in_every_phase_and_holds_the_trajectory(shape, gpus: int, gib: int) -> None:
    plan = choose(shape, place(gpus, gib), Aims(8192))
    if not plan.fits:
        assert plan.longest < 8192
        return
    for name, parts in plan.phases().items():
        assert total(parts) <= plan.place.usable, name
    assert plan.micro_tokens * plan.layout.ulysses >= 8192
    assert plan.cache_tokens >= AT_ONCE * 8192


def test_no_cheaper_layout_fits() -> None:
    for shape, devices in itertools.product(MODELS, (place(1, 79), place(4, 79))):
        aims = Aims(8192)
        chosen = choose(shape, devices, aims)
        price = cost(vars(chosen.layout))
        cheaper = [each for each in layouts(shape, devices, aims) if cost(vars(each)) < price]
        assert not any(plan_of(shape, devices, aims, each).fits for each in cheaper)


def test_more_memory_and_more_devices_never_hold_less() -> None:
    for shape in MODELS:
        of_memory = [choose(shape, place(1, gib), Aims(10**6)).longest for gib in (15, 22, 40, 79, 140)]
        of_devices = [choose(shape, place(gpus, 40), Aims(10**6)).longest for gpus in (1, 2, 4, 8)]
        assert of_memory == sorted(of_memory)
        assert of_devices == sorted(of_devices)


def test_what_the_user_sets_is_kept() -> None:
    fixed = {"ulysses": 2, "tensor_parallel": 4, "checkpointing": True, "param_offload": True, "engine_share": 0.4}
    plan = choose(SMALL, place(8, 79), Aims(8192, fixed={**fixed, "micro_tokens": 5000}))
    assert {name: getattr(plan.layout, name) for name in fixed} == fixed
    assert plan.micro_tokens == 5000
    assert plan.longest == 10_000


def test_a_small_micro_batch_is_not_made_larger_than_a_full_device_gains_from() -> None:
    assert choose(SMALL, place(8, 79), Aims(1024)).micro_tokens == FULL_TOKENS


def test_heads_divide_the_devices_that_share_them() -> None:
    # 9 heads and 3 of keys; 16 heads and 8 of keys
    small = KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert [size for size in range(1, 10) if shares_heads(small, size)] == [1, 3, 9]
    assert [size for size in range(1, 17) if shares_heads(SMALL, size)] == [1, 2, 4, 8, 16]
    for shape in MODELS:
        for layout in layouts(shape, place(8, 79), Aims(8192)):
            assert shape.heads % layout.ulysses == shape.heads % layout.tensor_parallel == 0


def test_two_nodes_split_the_states_and_an_engine_stays_on_one() -> None:
    plan = choose(LARGE, place(8, 79, nodes=2), Aims(32_768))
    assert plan.layout.devices == 16
    found = layouts(LARGE, place(8, 79, nodes=2), Aims(32_768))
    assert max(each.tensor_parallel for each in found) == 8


def test_the_engine_takes_no_more_than_its_sequences_fill() -> None:
    few = Aims(512, Layout(sequences=8))
    assert choose(SMALL, place(1, 79), few).layout.engine_share == 0.2
    assert choose(SMALL, place(1, 79), Aims(16_384)).layout.engine_share > 0.6


def test_the_changes_that_are_named_do_lengthen_the_trajectory() -> None:
    plan = choose(SMALL, place(2, 22), Aims(8192))
    found = changes(plan)
    assert found
    assert all(tokens > plan.longest for _, _, tokens in found)
    lines = table(plan)
    assert sum(": fits" in line for line in lines) == len(plan.phases()) == 5
    assert any("DOES NOT FIT" in line for line in table(choose(LARGE, place(1, 15), Aims(8192))))


def test_a_processor_computes_again_only_where_memory_asks_for_it() -> None:
    small = KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"]
    roomy, tight = plan_on_cpu(small, 64 * GIB, 4096), plan_on_cpu(small, 15 * GIB, 4096)
    assert (roomy.layout.checkpointing, tight.layout.checkpointing) == (False, True)
    assert roomy.fits
    assert tight.fits
    assert not plan_on_cpu(small, 9 * GIB, 4096).fits
    # the engine's cache of 1 GiB: 2 * 30 layers * 3 heads * 64 * 4 bytes are 46,080 a token
    assert plan_on_cpu(small, 512 * GIB, 4096).cache_tokens == GIB // 46_080
    assert plan_on_cpu(replace(small, context=2048), 64 * GIB, 2048).limit == "context"
