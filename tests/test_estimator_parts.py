"""The calls that `python -m benchmarks.estimators --before` and `exact_divergences --before` make in turn."""

import pytest
import torch

pytest.importorskip("verl")

from benchmarks import estimators_parts as parts
from benchmarks import exact_divergences
from trm_agent.trust_region.settings import ESTIMATORS


@pytest.fixture
def small(monkeypatch):
    """Two episodes in two micro-batches, 96 tokens in the vocabulary, torch's threads as they were."""
    threads = torch.get_num_threads()
    for name, value in {"EPISODES": 2, "MICRO_BATCH": 1, "VOCAB": 97, "THREADS": threads}.items():
        monkeypatch.setattr(parts, name, value)


@pytest.mark.usefixtures("small")
def test_every_part_of_every_estimator_is_called():
    calls = parts.timed_calls()
    wanted = ("record", "measure", "mask and loss", "every diagnostic")
    assert list(calls) == [
        f"{name}: {part}" for name in ESTIMATORS for part in (wanted[2:] if name == "sampled" else wanted)
    ]
    assert all(0 < call() < 10 for call in calls.values())


@pytest.mark.usefixtures("small")
def test_a_record_holds_what_its_estimator_asks_for():
    generator = torch.Generator().manual_seed(1)
    rollout = torch.randn(2, parts.RESPONSE, 97, generator=generator).log_softmax(-1)
    drawn = rollout.argmax(-1)
    found = {name: parts.recorder(name, rollout, drawn)()[0] for name in ESTIMATORS[1:]}
    sampled = parts.SAMPLED
    assert found["exact"]["rollout_full_log_probs"][sampled] == pytest.approx(rollout[0][sampled].numpy())
    assert found["topk"]["rollout_top_ids"].shape == (parts.RESPONSE, 20)
    kept = found["replayed"]["rollout_kept_log_probs"]
    # 64 of the 96 recorded tokens were kept, and are a distribution
    assert (kept[sampled] > -float("inf")).sum(axis=1).tolist() == [64] * sampled.sum()
    assert torch.from_numpy(kept[sampled]).exp().sum(-1).numpy() == pytest.approx(1, rel=1e-5)


def test_the_exact_divergences_of_all_forms_are_called(monkeypatch):
    for name, value in {"VOCAB": 200, "NUM_WHOLE": 4, "NUM_HIDDEN": 2, "NUM_INTERVALS": 3}.items():
        monkeypatch.setattr(exact_divergences, name, value)
    calls = exact_divergences.timed_calls()
    assert len(calls) == 6
    assert all(0 < call() < 10 for call in calls.values())
