"""The model that `experiment=auto` takes: the largest with what its plan switches on, and the reason."""

import math

import pytest

from tests.planning.fake_gpus import fake_gpu
from trm_agent.runs.compose import compose_run
from trm_agent.runs.planning import auto
from trm_agent.runs.planning.auto import for_gpus
from trm_agent.runs.planning.choose import Place
from trm_agent.runs.planning.fit import KNOBS, plan_of_run, shape_of_run
from trm_agent.runs.planning.largest import LADDER, Wanted, fitting, larger, obstacle, plan_for
from trm_agent.runs.planning.layout import total
from trm_agent.runs.planning.machine import GIB

IN_HOST = "parameters and moments in the host's memory"
BETWEEN = "parameters and moments off the device between updates"
# GiB that a driver shows of a card, GPUs, model, what is switched on, what the next larger model lacks. The step of the
# optimizer holds 20 bytes a parameter: four values of 4 bytes, and a root of the second moments. Over n GPUs, in GiB:
# 11.1/n (0.6B), 32.0/n (1.7B), 74.9/n (4B), 152.6/n (8B). Beside it two contexts and graphs take 2.0, with peers
# 2.5. An update holds 16 bytes a parameter, and of the 8B put together 6.4 (embedding, head, two layers), chunks 0.3.
TABLE = [
    # 11.1 + 2.0 are in, but the logits of 8,192 tokens, 4.6, are not; 32.0 + 2.0
    (15, 1, "qwen3_0_6b", ("gradient checkpointing", IN_HOST), "needs 34.0 GiB in the phase step, of 14.1 GiB usable"),
    # 8.0 + 2.5, and half of a sequence's logits; 18.7 + 2.5
    (
        15,
        4,
        "qwen3_1_7b",
        ("gradient checkpointing", "sequences over 2 devices (Ulysses)"),
        "needs 21.2 GiB in the phase step, of 14.1 GiB usable",
    ),
    # 9.4 + 2.5, nothing of the trainer's beside the engine's weights of 7.5; 15.3 + 6.4 + 2.5 + 0.3
    (
        15,
        8,
        "qwen3_4b",
        ("gradient checkpointing", "sequences over 8 devices (Ulysses)", BETWEEN),
        "needs 24.4 GiB in the phase update, of 14.1 GiB usable",
    ),
    (22, 1, "qwen3_0_6b", ("gradient checkpointing",), "needs 34.0 GiB in the phase step, of 20.7 GiB usable"),
    (22, 4, "qwen3_1_7b", ("gradient checkpointing",), "needs 21.2 GiB in the phase step, of 20.7 GiB usable"),
    (
        22,
        8,
        "qwen3_4b",
        ("gradient checkpointing", "sequences over 2 devices (Ulysses)"),
        "needs 24.4 GiB in the phase update, of 20.7 GiB usable",
    ),
    # 34.0 of 37.6 are in, but few tokens beside them
    (40, 1, "qwen3_0_6b", ("gradient checkpointing",), "holds trajectories of 11520 tokens"),
    # 38.1 + 2.5
    (40, 4, "qwen3_4b", ("gradient checkpointing",), "needs 40.6 GiB in the phase step, of 37.6 GiB usable"),
    (40, 8, "qwen3_8b_base", ("gradient checkpointing",), ""),
    # 74.9 + 2.0
    (79, 1, "qwen3_1_7b", ("gradient checkpointing",), "needs 76.9 GiB in the phase step, of 74.3 GiB usable"),
    (79, 4, "qwen3_8b_base", ("gradient checkpointing",), ""),
    (79, 8, "qwen3_8b_base", ("gradient checkpointing",), ""),
]


@pytest.fixture(autouse=True)
def a_machine_with_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "unreachable", lambda: "")
    monkeypatch.setattr(auto, "free_memory_gib", lambda: 2048.0)


def chosen(gib: int, gpus: int, **given: str) -> auto.Choice:
    return for_gpus("math", [fake_gpu(each, gib) for each in range(gpus)], given)


@pytest.mark.parametrize(("gib", "gpus", "model", "switched", "lacks"), TABLE)
def test_the_largest_model_is_taken_with_what_its_plan_switches_on_and_the_reason_is_told(
    gib: int, gpus: int, model: str, switched: tuple[str, ...], lacks: str
) -> None:
    choice = chosen(gib, gpus)
    assert f"model={model}" in choice.overrides
    told = choice.why.partition("tokens fit")[2]
    above = LADDER[LADDER.index(model) - 1] if lacks else ""
    slow = ", unless all stays in the host's memory, which the plan takes for twice the time"
    assert told == f" with {', '.join(switched)}" + (f"; {above} {lacks}{slow}" if lacks else "")


@pytest.mark.slow
@pytest.mark.parametrize(("gib", "gpus"), [(row[0], row[1]) for row in TABLE if BETWEEN in row[3] or IN_HOST in row[3]])
def test_the_run_switches_on_what_was_told(gib: int, gpus: int) -> None:
    config = compose_run(list(chosen(gib, gpus).overrides))
    shape = shape_of_run(config)
    assert shape is not None
    plan = plan_of_run(config, shape)
    assert all(total(parts) <= plan.place.usable for parts in plan.phases().values())
    switched = next(row[3] for row in TABLE if row[:2] == (gib, gpus))
    assert plan.layout.offload_policy == (IN_HOST in switched)
    assert plan.layout.param_offload == plan.layout.optimizer_offload == (BETWEEN in switched)
    assert plan.layout.ulysses == (8 if gpus == 8 else 1)


def test_a_smaller_model_without_the_host_s_memory_comes_before_a_larger_one_in_it() -> None:
    place, wanted = Place(1, 1, 22 * GIB), Wanted(8192)
    # every model of the ladder trains there, if all stays in the host's memory
    assert [model for model in LADDER[2:] if obstacle(plan_for(model, place, wanted, in_host=True), wanted) == ""] == [
        *LADDER[2:]
    ]
    (taken,) = fitting(place, wanted).values()
    assert (taken.shape.name, taken.layout.offload_policy) == ("Qwen3-0.6B", False)


def test_the_machine_s_memory_has_to_hold_what_is_loaded() -> None:
    place = Place(8, 1, 79 * GIB)
    # 4 bytes of 8,190,735,360 parameters once: 30.5 GiB; of 4,022,468,096 in each of eight processes, since embedding
    # and head are one matrix: 119.9; of 1,720,574,976: 51.3; of 596,049,920: 17.8
    for free, models in ((120, 4), (119, 3), (52, 3), (51, 2), (30, 1), (17, 0)):
        assert len(fitting(place, Wanted(8192, host_gib=free))) == models
    assert larger("qwen3_0_6b", place, Wanted(8192, host_gib=40)) == (
        "qwen3_1_7b needs 51.3 GiB of the machine's memory, of which 40.0 GiB are free"
    )
    assert larger("qwen3_0_6b", place, Wanted(8192)) == larger(LADDER[0], place, Wanted(8192, host_gib=40)) == ""
    assert math.isinf(Wanted(8192).host_gib)


def test_auto_asks_for_the_free_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "free_memory_gib", lambda: 40.0)
    # 30.5 GiB once; the smaller ones, several times
    assert "model=qwen3_8b_base" in chosen(79, 8).overrides
    # 2.2 GiB of the smallest, 6.4 of the next one
    monkeypatch.setattr(auto, "free_memory_gib", lambda: 3.0)
    assert "model=qwen3_0_6b" in chosen(79, 1).overrides
    monkeypatch.setattr(auto, "free_memory_gib", lambda: 2.0)
    choice = chosen(79, 1)
    assert choice.overrides[0] in ("experiment=math_nano", "experiment=math_smollm2")
    assert "no model holds trajectories of 32768 tokens (qwen3_0_6b needs 2.2 GiB of the machine's" in choice.why


def test_what_the_user_sets_of_the_memory_counts() -> None:
    # the engine's 7.5 GiB of weights have no room beside the trainer's 5.6, an eighth of parameters and moments: these
    # go, or the engine takes several devices
    stay = {KNOBS["param_offload"]: "false"}
    assert "devices an engine" in chosen(15, 8, **stay).why
    assert "model=qwen3_1_7b" in chosen(15, 8, **stay, **{KNOBS["tensor_parallel"]: "1"}).overrides
    # all in the host's memory: then the largest model may be trained so
    assert "model=qwen3_8b_base" in chosen(22, 8, **{KNOBS["offload_policy"]: "true"}).overrides
    # read where the configuration is composed
    assert "model=qwen3_4b" in chosen(15, 8, **{KNOBS["ulysses"]: "${trainer.nnodes}"}).overrides
    for odd in ("never", "[", "1"):
        with pytest.raises(ValueError, match=rf"^{KNOBS['param_offload']}: got .*; allowed: true or false"):
            chosen(15, 8, **{KNOBS["param_offload"]: odd})
