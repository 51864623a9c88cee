import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from trm_agent.core.exact import exact_divergences
from trm_agent.core.intervals import topk_intervals
from trm_agent.episode import Episode, StopReason, Turn, episode_record
from trm_agent.verl_plugin.actor.divergences import policy_log_probs, rollout_divergences, sampled_rows
from trm_agent.verl_plugin.rollout.distributions import (
    ALL,
    EPISODE_RECORD,
    FULL_LOG_PROBS,
    RECORDED,
    TOP_IDS,
    TOP_LOG_PROBS,
    EnvOutput,
    Recorded,
    distribution_fields,
    num_recorded,
    record_field,
    record_of,
    unpack,
)

VOCAB = 7


def episode(extras: list[dict]) -> Episode:
    """Two turns of two tokens and one, with two tokens of an observation between them."""
    return Episode(
        env_id="x",
        seed=0,
        options={},
        prompt_ids=[1, 2],
        response_ids=[3, 4, 0, 0, 5],
        response_mask=[True, True, False, False, True],
        rollout_log_probs=[-1.0, -1.0, 0.0, 0.0, -1.0],
        turns=[Turn((0, 2), "a", True, observation_span=(2, 4)), Turn((4, 5), "b", True)],
        reward=1.0,
        success=True,
        stop_reason=StopReason.TERMINATED,
        extras=extras,
    )


def recorded(num_tokens: int, width: int, seed: int) -> Recorded:
    """A random distribution's largest entries, most likely first."""
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(VOCAB), num_tokens)).astype(np.float32)
    ids = np.argsort(-log_probs, axis=1)[:, :width]
    return Recorded(ids, np.take_along_axis(log_probs, ids, axis=1))


def test_each_estimator_asks_for_what_it_needs():
    assert [num_recorded(name, 20) for name in ("sampled", None, "topk", "exact")] == [0, 0, 20, ALL]


def test_top_k_lies_on_the_sampled_tokens_and_filler_elsewhere():
    first, second = recorded(2, 3, 0), recorded(1, 3, 1)
    fields = distribution_fields(episode([{RECORDED: first}, {RECORDED: second}]), 3)
    assert fields[TOP_IDS].shape == fields[TOP_LOG_PROBS].shape == (5, 3)
    assert np.array_equal(fields[TOP_IDS][[0, 1, 4]], np.concatenate([first.ids, second.ids]))
    assert np.array_equal(fields[TOP_LOG_PROBS][[0, 1, 4]], np.concatenate([first.log_probs, second.log_probs]))
    assert np.isneginf(fields[TOP_LOG_PROBS][2:4]).all()


def test_whole_distributions_stand_in_the_order_of_the_vocabulary():
    turns = [recorded(2, VOCAB, 2), recorded(1, VOCAB, 3)]
    full = distribution_fields(episode([{RECORDED: turn} for turn in turns]), ALL)[FULL_LOG_PROBS]
    assert np.exp(full).sum(axis=1) == pytest.approx([1, 1, 0, 0, 1], rel=1e-5)
    for row, (turn, token) in zip((0, 1, 4), ((0, 0), (0, 1), (1, 0)), strict=True):
        for index, value in zip(turns[turn].ids[token], turns[turn].log_probs[token], strict=True):
            assert full[row, index] == value


def test_a_turn_without_a_record_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="recorded no distributions for 1 tokens"):
        distribution_fields(episode([{RECORDED: recorded(2, 3, 0)}, {}]), 3)
    with pytest.raises(ValueError, match="recorded 1 distributions for 2 tokens"):
        distribution_fields(episode([{RECORDED: recorded(1, 3, 0)}, {RECORDED: recorded(1, 3, 0)}]), 3)


def test_the_output_hands_tensors_to_the_batch():
    fields = distribution_fields(episode([{RECORDED: recorded(2, 3, 0)}, {RECORDED: recorded(1, 3, 1)}]), 3)
    output = EnvOutput(prompt_ids=[1], response_ids=[1] * 5, response_mask=[1] * 5, metrics={}, arrays=fields).as_dict()
    assert output[TOP_IDS].dtype == torch.int64
    assert output[TOP_LOG_PROBS].shape == (5, 3)
    assert not {"arrays", FULL_LOG_PROBS} & output.keys()


def test_what_happened_in_an_episode_travels_as_bytes():
    told = episode([{}, {}])
    arrays = record_field(told)
    output = EnvOutput(prompt_ids=[1], response_ids=[1] * 5, response_mask=[1] * 5, metrics={}, arrays=arrays).as_dict()
    assert json.loads(record_of(output[EPISODE_RECORD])) == json.loads(json.dumps(episode_record(told)))
    # two tokens, two of an observation, one token: see `episode`
    spans = [(turn["start"], turn["stop"], turn["observation_stop"]) for turn in episode_record(told)["turns"]]
    assert spans == [(0, 2, 4), (4, 5, None)]


def micro_batch(temperature, remove_padding: bool, **fields: list[torch.Tensor]) -> TensorDict:
    """Two sequences as verl packs them: prompts of 2 and 1 tokens, responses of 5 and 3."""
    prompts, responses = [torch.ones(2), torch.ones(1)], [torch.ones(5), torch.ones(3)]
    masks = [torch.tensor([1, 1, 0, 0, 1]), torch.tensor([1, 0, 1])]
    rows = {"prompts": prompts, "responses": responses, "response_mask": masks, **fields}
    rows["input_ids"] = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    data = TensorDict(
        {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in rows.items()}, [2]
    )
    if isinstance(temperature, torch.Tensor):
        data["temperature"] = temperature
    else:
        tu.assign_non_tensor(data, temperature=temperature)
    tu.assign_non_tensor(data, use_remove_padding=remove_padding)
    return data


def test_a_sequence_that_fills_up_a_batch_may_carry_the_rows_of_another():
    batch = {
        "responses": [torch.ones(1), torch.ones(3)],
        "response_mask": [torch.tensor([0]), torch.tensor([1, 0, 1])],
        TOP_IDS: [torch.zeros(5, 2, dtype=torch.int64), torch.tensor([[1, 2], [3, 4], [5, 6]])],
    }
    nested = {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in batch.items()}
    data = TensorDict(nested, [2])
    assert sampled_rows(data[TOP_IDS], data).tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize("remove_padding", [True, False])
@pytest.mark.parametrize("temperature", [1.0, torch.tensor([0.5, 2.0])])
@pytest.mark.parametrize("estimator", ["exact", "topk"])
def test_the_actor_measures_the_logits_that_predicted_each_token(remove_padding, temperature, estimator):
    generator = torch.Generator().manual_seed(0)
    packed = [torch.randn(num, VOCAB, generator=generator) for num in (7, 4)]
    full = [torch.randn(num, VOCAB, generator=generator).log_softmax(-1) for num in (5, 3)]
    if estimator == "exact":
        fields = {FULL_LOG_PROBS: full}
    else:
        top = [values.topk(3) for values in full]
        fields = {TOP_IDS: [entry.indices for entry in top], TOP_LOG_PROBS: [entry.values for entry in top]}
    batch = micro_batch(temperature, remove_padding, **fields)
    if remove_padding:
        # verl pads the packed sequence at its end
        logits = torch.cat([*packed, torch.full((2, VOCAB), math.nan)]).unsqueeze(0)
    else:
        logits = torch.full((2, 7, VOCAB), math.nan)
        logits[0], logits[1, :4] = packed[0], packed[1]
    found = rollout_divergences(logits, batch)
    # sequence, response token, packed row of its logits (one before its own), entry in verl's layout
    places = [(0, 0, 1), (0, 1, 2), (0, 4, 5), (1, 0, 0), (1, 2, 2)]
    entries = [row + (0, 7)[sequence] for sequence, _, row in places]
    scale = [float(temperature if isinstance(temperature, float) else temperature[s]) for s, _, _ in places]
    scaled = torch.stack([packed[s][row] / t for (s, _, row), t in zip(places, scale, strict=True)])
    rollout = torch.stack([full[s][token] for s, token, _ in places])
    if estimator == "exact":
        exact = exact_divergences(rollout, scaled)
        expected = {"kl_lower": exact.kl, "kl_upper": exact.kl, "tv_lower": exact.tv, "tv_upper": exact.tv}
    else:
        values, ids = rollout.topk(3)
        expected = vars(topk_intervals(ids, values, scaled))
    for name, values in found.named().items():
        torch.testing.assert_close(values[entries], expected[name].float(), msg=name)
        if estimator == "topk":
            outside = values[entries].double() - expected[name]
            assert (outside <= 0).all() if name.endswith("lower") else (outside >= 0).all()
        rest = [index for index in range(11) if index not in entries]
        assert (values[rest] == 0).all()
    torch.testing.assert_close(policy_log_probs(logits, batch), scaled.log_softmax(-1))


def test_vllms_flat_list_splits_into_candidates_and_sampled_tokens():
    # for each token the sampled one first, then the candidates
    found, sampled = unpack([5, 1, 2, 3, 3, 6], [-2.5, -0.5, -1.5, -0.1, -0.1, -3.0], 2)
    assert found.ids.tolist() == [[1, 2], [3, 6]]
    assert found.log_probs.tolist() == np.array([[-0.5, -1.5], [-0.1, -3.0]], dtype=np.float32).tolist()
    assert sampled.tolist() == pytest.approx([-2.5, -0.1])
