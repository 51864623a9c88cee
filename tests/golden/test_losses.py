"""The policy loss gives what it gave, bit for bit where the bits can be the same."""

import functools
import math
import warnings

import pytest

pytest.importorskip("verl")

from tests.golden import losses, stored

CASES = losses.cases()
GOLDEN = stored.read("losses")
QUICK = [name for name in CASES if "decoupled" not in name]


@functools.cache
def same_machine() -> bool:
    """Whether the bits can be compared; else it warns once, and 1e-6 must do."""
    here, there = stored.this_machine(), GOLDEN["machine"]
    if here != there:
        warnings.warn(f"golden losses are of {there}, this is {here}: floats are compared within 1e-6", stacklevel=2)
    return here == there


def assert_equal(name: str) -> None:
    result, expected = losses.compute(GOLDEN["batches"], CASES[name]), losses.from_table(GOLDEN, name)
    assert (result["accepted"], result["tokens"]) == (expected["accepted"], expected["tokens"]), name
    # a metric may come, but none may go
    missing = expected["metrics"].keys() - result["metrics"].keys()
    assert not missing, f"{name}: {sorted(missing)}"
    pairs = [("loss", result["loss"], expected["loss"])]
    pairs += [
        (f"sum of row {row}", *pair) for row, pair in enumerate(zip(result["sums"], expected["sums"], strict=True))
    ]
    pairs += [(key, result["metrics"][key], value) for key, value in expected["metrics"].items()]
    if same_machine():
        pairs.append(("gradient", result["gradient"], expected["gradient"]))
        differing = [pair for pair in pairs if pair[1] != pair[2]]
    else:
        differing = [pair for pair in pairs if not is_close(float.fromhex(pair[1]), float.fromhex(pair[2]))]
    assert not differing, f"{name}: {differing[:5]}; see tests/golden/make.py"


def is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))


def test_the_files_hold_every_case() -> None:
    assert GOLDEN["results"].keys() == CASES.keys(), "run tests/golden/make.py losses"


def test_losses_are_what_they_were() -> None:
    for name in QUICK:
        assert_equal(name)


@pytest.mark.slow
def test_decoupled_losses_are_what_they_were() -> None:
    for name in CASES.keys() - set(QUICK):
        assert_equal(name)


def test_a_stored_batch_holds_long_off_policy_and_broken_rows() -> None:
    accepted = losses.from_table(GOLDEN, "long sampled max")["accepted"]
    # row 0 of 600 tokens is accepted; rows 4, 5, 7 hold NaN or infinity, row 6 is off policy, row 9 has no token
    assert accepted == "1111000010"


def test_another_machine_is_compared_within_1e_6_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "long sampled both token-mean"
    fake = {**GOLDEN["machine"], "instructions": "a fake one"}
    result = losses.compute(GOLDEN["batches"], CASES[name])
    loss, moved = float.fromhex(result["loss"]), {"gradient": "other bits"}
    monkeypatch.setattr(losses, "compute", lambda batches, case: {**result, **moved})
    monkeypatch.setattr(stored, "this_machine", lambda: fake)
    same_machine.cache_clear()
    try:
        moved["loss"] = (loss * (1 + 1e-7)).hex()
        with pytest.warns(UserWarning, match="a fake one.*compared within 1e-6"):
            assert_equal(name)
        moved["loss"] = (loss * (1 + 1e-5)).hex()
        with pytest.raises(AssertionError, match="loss"):
            assert_equal(name)
    finally:
        same_machine.cache_clear()
