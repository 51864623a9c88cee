"""Laws that every row of the table obeys, and the errors of a row that is not whole."""

from dataclasses import fields, replace

import pytest
import torch

from tests.core import reference
from tests.core.batches import to_tensors
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region import criteria
from trm_agent.trust_region.criteria import CRITERIA, own_settings, parts_of
from trm_agent.trust_region.masking import decide, examine
from trm_agent.trust_region.settings import CommonConfig, TrmConfig
from trm_fields import ABOVE_0, Number, settings_of

from .worked import untested

# those that decide on single sequences, and those whose threshold is not turned round
SINGLE = [name for name, row in CRITERIA.items() if row.whole_batch is None]
OUTRIGHT = [name for name in SINGLE if CRITERIA[name].control is None]


def settings(name: str, value: float) -> TrmConfig:
    """The criterion with its compared thresholds at one value."""
    compared = [item.name for part in parts_of(name) for item in CRITERIA[part].thresholds[:1]]
    return TrmConfig(criterion=name, **dict.fromkeys(compared, value))


def far_off(seed: int = 0) -> TokenBatch:
    tensors = to_tensors(reference.random_batch(seed, num_sequences=40, spread=0.5))
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask).detach()
    return TokenBatch(log_ratio, tensors.rollout_log_probs, tensors.advantages, tensors.response_mask)


def decided(name: str, value: float, batch: TokenBatch) -> torch.Tensor:
    return decide(settings(name, value), batch)


def test_every_row_has_a_worked_example():
    messages = untested(CRITERIA)
    assert not messages, "\n".join(messages)


def test_a_row_without_a_worked_example_is_named_with_the_file_that_is_missing(tmp_path):
    (message,) = untested(["max", "harmonic"])
    assert "criterion 'harmonic'" in message
    assert "tests/criteria/test_harmonic.py" in message
    assert "CONTRIBUTING.md" in message
    # a file that tests nothing of it is no example
    (tmp_path / "test_harmonic.py").write_text('def test_nothing():\n    assert "max"\n')
    assert len(untested(["harmonic"], tmp_path)) == 1


@pytest.mark.parametrize("name", OUTRIGHT)
def test_every_criterion_masks_what_is_outside_of_a_tight_threshold_and_keeps_what_is_on_policy(name):
    batch = far_off()
    tight, medium, loose = (decided(name, value, batch) for value in (1e-9, 0.2, 1.0))
    assert tight.sum() < loose.sum()
    assert not (tight & ~medium).any()
    assert not (medium & ~loose).any()
    assert not (loose & ~batch.response_mask).any()
    if CRITERIA[name].statistic or CRITERIA[name].parts:
        on_policy = replace(batch, log_ratio=torch.zeros_like(batch.log_ratio))
        assert torch.equal(decided(name, 1e-9, on_policy), batch.response_mask)


@pytest.mark.parametrize("name", SINGLE)
def test_every_criterion_gives_whole_sequences_or_says_that_it_masks_tokens_and_names_its_reasons(name):
    batch = far_off(1)
    kept, update = examine(settings(name, 0.1), batch)
    counts, lengths = kept.sum(dim=-1), batch.lengths
    partial = bool(((counts > 0) & (counts < lengths)).any())
    assert partial == CRITERIA[name].masks_tokens
    assert tuple(update.sequences.rejected_by) == parts_of(name)
    assert torch.equal(update.sequences.accepted, counts > 0)


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_that_needs_the_whole_update_is_refused_with_a_part_of_it(name):
    needs_all = CRITERIA[name].whole_batch is not None
    more = {"mask_policy": "start_of_step"} if name == "permuted" else {}
    trm = TrmConfig(criterion=name, **more) if needs_all else settings(name, 0.1)
    batch = replace(far_off(), start_log_ratio=far_off().log_ratio)
    if not needs_all:
        decide(trm, batch)
        return
    with pytest.raises(ValueError, match=rf"criterion: got '{name}', which decides on all sequences of an update"):
        decide(trm, batch)
    # what was decided is what is kept, but for sequences without a token
    decided_before = torch.arange(len(batch.lengths)) % 2 == 0
    kept, update = examine(trm, replace(batch, decided=decided_before))
    assert torch.equal(kept, batch.response_mask & decided_before.unsqueeze(-1))
    assert tuple(update.sequences.rejected_by) == (name,)


@pytest.mark.parametrize("name", SINGLE)
def test_a_policy_of_the_start_of_the_step_that_is_not_known_is_refused(name):
    trm = replace(settings(name, 0.1), mask_policy="start_of_step")
    with pytest.raises(ValueError, match=r"mask_policy: got 'start_of_step', but the batch lacks them"):
        decide(trm, far_off())


def test_every_row_decides_in_one_way_and_its_parts_have_statistics():
    for name, row in CRITERIA.items():
        ways = (row.statistic, row.keeps, row.parts, row.control, row.whole_batch)
        assert sum(bool(way) for way in ways) == 1, name
        assert row.keeps is not None or not row.masks_tokens, name
        assert all(CRITERIA[part].statistic for part in row.parts), name
        assert row.masks_tokens or not row.without_premise, name
        assert all(CRITERIA[part].limits for part in parts_of(name)) or not row.adapts, name
        assert all(threshold.default is not None for threshold in row.thresholds), name


def test_every_setting_says_its_type_its_range_and_its_meaning():
    found = {item.name: item for item in settings_of(TrmConfig)}
    assert set(found) == {item.name for item in own_settings()} | {field.name for field in fields(CommonConfig)}
    for item in found.values():
        item.allowed.check(item.name, item.default)
        assert item.doc.endswith(".")
        assert item.allowed.words
    assert found["max_token_kl"].type == float | None
    assert found["top_k"].type is int
    assert found["decoupled"].type is bool
    assert found["min_position_weight"].allowed.words == "a finite number above 0 and at most 1"
    types = {field.name: field.type for field in fields(TrmConfig)}
    assert {name: item.type for name, item in found.items()} == types
    assert all(f"`{name}`: {row.meaning}" in found["criterion"].doc for name, row in CRITERIA.items())


def test_two_rows_cannot_give_one_name_to_different_settings(monkeypatch):
    other = replace(CRITERIA["ser"].thresholds[0], default=0.1, allowed=replace(ABOVE_0, optional=True))
    monkeypatch.setitem(criteria.CRITERIA, "other", replace(CRITERIA["ser"], thresholds=(other,)))
    with pytest.raises(
        ValueError, match=r"criterion 'other': its setting 'ratio_deviation' exists with another meaning"
    ):
        own_settings()


def test_an_optional_number_says_so():
    assert Number("above 0", lambda value: value > 0, optional=True).words == "null or a finite number above 0"
