"""What is printed and written of a verdict."""

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from trm_agent.numerics.depth import by_depth, over_all
from trm_agent.numerics.measuring import Measured, Pair
from trm_agent.numerics.sampled import joined
from trm_agent.numerics.spec import NumericsSpec
from trm_agent.numerics.told import as_json, as_text
from trm_agent.numerics.verdict import verdict

from .made_up import NOISE, OfDepth, behind, episode

# inside the first bin, so that no bin tells a jump: the window behind it alone
DEPTH = 304


def measured(noise: OfDepth) -> Measured:
    episodes = [episode(seed, length=1200, noise=noise) for seed in range(4)]
    together = joined(episodes)
    whole = over_all(together)
    judged = verdict(episodes, whole, is_float32=False)
    pair = Pair("float32", "bfloat16", "trainer", by_depth(together), whole, judged)
    played = cast("Any", [SimpleNamespace(num_turns=3)] * 4)
    return Measured("made up", "trm/X-v0", 1200, {"float32": played}, [pair])


def verdict_line(found: Measured) -> str:
    (line,) = (line for line in as_text(found, NumericsSpec()).splitlines() if line.startswith("Verdict: "))
    return line.partition(";")[0]


def test_where_both_sides_agree_before_a_jump_no_ratio_is_told() -> None:
    found = measured(lambda depths: np.where(depths >= DEPTH, NOISE, 0.0))
    assert verdict_line(found) == f"Verdict: jumps at a depth of about {DEPTH} tokens, before which logits are equal"
    (pair,) = as_json(found, NumericsSpec())["pairs"]
    told = pair["verdict"]
    assert (told["starts_at"], told["ratio"], told["equal_before"]) == (DEPTH, None, True)
    # JSON has no infinity
    json.dumps(pair, allow_nan=False)


def test_else_it_is_told_how_many_times_as_far_apart_logits_are() -> None:
    found = measured(behind(512, 4))
    (pair,) = as_json(found, NumericsSpec())["pairs"]
    told = pair["verdict"]
    assert not told["equal_before"]
    assert 3 < told["ratio"] < 5
    words = f", behind which logits are {told['ratio']:.1f} times as far apart as before"
    assert verdict_line(found) == f"Verdict: jumps at a depth of 512 tokens{words}"
