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
from trm_agent.trust_region.recording import ALL, REPLAYED, num_recorded
from trm_agent.verl_plugin.actor.divergences import policy_log_probs, rollout_divergences, sampled_rows
from trm_agent.verl_plugin.actor.kept import CutSets, replayed_outputs
from trm_agent.verl_plugin.rollout.distributions import (
    EPISODE_RECORD,
    FULL_LOG_PROBS,
    KEPT_IDS,
    KEPT_LOG_PROBS,
    RECORDED,
    TOP_IDS,
    TOP_LOG_PROBS,
    EnvOutput,
    Recorded,
    distribution_fields,
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
    names = ("sampled", None, "topk", "exact", "replayed")
    assert [num_recorded(name, 20, 64) for name in names] == [0, 0, 20, ALL, 64 + 32]


def test_top_k_lies_on_the_sampled_tokens_and_filler_elsewhere():
    first, second = recorded(2, 3, 0), recorded(1, 3, 1)
    fields = distribution_fields(episode([{RECORDED: first}, {RECORDED: second}]), 3)
    assert fields[TOP_IDS].shape == fields[TOP_LOG_PROBS].shape == (5, 3)
    assert np.array_equal(fields[TOP_IDS][[0, 1, 4]], np.concatenate([first.ids, second.ids]))
    assert np.array_equal(fields[TOP_LOG_PROBS][[0, 1, 4]], np.concatenate([first.log_probs, second.log_probs]))
    assert np.isneginf(fields[TOP_LOG_PROBS][2:4]).all()


def drawn_inside(number: int) -> Recorded:
    """A record of one token whose most likely candidate is a token of the episode, and whose last is filler."""
    return Recorded(np.array([[number, 0, 1]]), np.array([[-0.2, -1.7, -np.inf]], dtype=np.float32))


def test_kept_sets_have_names_of_their_own_and_hold_the_drawn_tokens():
    pairs = (vars(drawn_inside(number)).values() for number in (3, 4))
    first = Recorded(*(np.concatenate(pair) for pair in zip(*pairs, strict=True)))
    turns = [{RECORDED: first}, {RECORDED: drawn_inside(5)}]
    fields = distribution_fields(episode(turns), 3, REPLAYED)
    assert sorted(fields) == [KEPT_IDS, KEPT_LOG_PROBS]
    assert fields[KEPT_IDS][[0, 1, 4], 0].tolist() == [3, 4, 5]
    turns[1] = {RECORDED: drawn_inside(6)}
    with pytest.raises(ValueError, match="x seed 0: turn 2 drew token 5, which is not among the 3 most likely"):
        distribution_fields(episode(turns), 3, REPLAYED)
    # with an id that is filler the token was not recorded either
    turns[1] = {RECORDED: Recorded(np.array([[6, 0, 5]]), drawn_inside(6).log_probs)}
    with pytest.raises(ValueError, match="turn 2 drew token 5"):
        distribution_fields(episode(turns), 3, REPLAYED)


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


def kept_batch(remove_padding: bool, temperature, width: int):
    """A micro-batch whose kept sets have 3 tokens and filler, the logits as verl has them, and where they stand."""
    generator = torch.Generator().manual_seed(1)
    packed = [torch.randn(num, VOCAB, generator=generator) for num in (7, 4)]
    kept = [torch.randn(num, VOCAB, generator=generator).topk(3) for num in (5, 3)]
    ids = [torch.nn.functional.pad(each.indices, (0, width - 3)) for each in kept]
    rows = [torch.nn.functional.pad(each.values.log_softmax(-1), (0, width - 3), value=-math.inf) for each in kept]
    drawn = [each[:, 1] for each in ids]
    batch = micro_batch(temperature, remove_padding, responses=drawn, **{KEPT_IDS: ids, KEPT_LOG_PROBS: rows})
    if remove_padding:
        logits = torch.cat(packed).unsqueeze(0)
    else:
        logits = torch.zeros(2, 7, VOCAB)
        logits[0], logits[1, :4] = packed[0], packed[1]
    places = [(0, 0, 1), (0, 1, 2), (0, 4, 5), (1, 0, 0), (1, 2, 2)]
    return batch, logits.requires_grad_(), packed, [(ids[s][t], rows[s][t], packed[s][row]) for s, t, row in places]


@pytest.mark.parametrize("remove_padding", [True, False])
@pytest.mark.parametrize("temperature", [1.0, torch.tensor([0.5, 2.0])])
@pytest.mark.parametrize("width", [3, 5])
def test_the_actor_replays_the_kept_sets(remove_padding, temperature, width):
    batch, logits, _, tokens = kept_batch(remove_padding, temperature, width)
    found = replayed_outputs(logits, batch)["log_probs"]
    assert found.offsets().tolist() == [0, 7, 11]
    entries = [1, 2, 5, 7, 9]
    scale = [float(temperature if isinstance(temperature, float) else temperature[s]) for s in (0, 0, 0, 1, 1)]
    expected = [(row / each)[ids[:3]].log_softmax(-1)[1] for (ids, _, row), each in zip(tokens, scale, strict=True)]
    torch.testing.assert_close(found.values()[entries], torch.stack(expected))
    assert (found.values()[[index for index in range(11) if index not in entries]] == 0).all()
    found.values().sum().backward()
    assert (logits.grad != 0).sum() == 5 * 3, "the tokens that could not be drawn get no gradient"
    measured = rollout_divergences(logits, batch)
    for entry, (ids, log_probs, row), each in zip(entries, tokens, scale, strict=True):
        exact = exact_divergences(log_probs[:3].unsqueeze(0), (row / each)[ids[:3]].unsqueeze(0))
        known = {"kl_lower": exact.kl, "kl_upper": exact.kl, "tv_lower": exact.tv, "tv_upper": exact.tv}
        if width == 3:  # a token may tie with the last
            known = {"kl_lower": 0.0, "kl_upper": math.inf, "tv_lower": 0.0, "tv_upper": 1.0}
        for name, value in measured.named().items():
            assert float(value[entry]) == pytest.approx(float(known[name]), rel=1e-5, abs=1e-7), name
    cut = CutSets()
    cut.count(batch, VOCAB)
    assert cut.shares() == ((1.0, 1.0) if width == 3 else (0.0, 0.0))
    # a single one: of 5 sampled tokens, in one of 2 sequences
    one = CutSets()
    if width == 5:
        batch[KEPT_LOG_PROBS].values()[7, -1] = -9.0
    one.count(batch, VOCAB)
    assert one.shares() == ((1.0, 1.0) if width == 3 else (0.2, 0.5))


def test_the_whole_vocabulary_kept_is_the_exact_divergence_and_the_plain_log_prob():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 11, VOCAB, generator=generator)
    full = [torch.randn(num, VOCAB, generator=generator).log_softmax(-1) for num in (5, 3)]
    kept = [each.topk(VOCAB) for each in full]
    drawn = {"responses": [each.indices[:, 2] for each in kept]}
    fields = {KEPT_IDS: [each.indices for each in kept], KEPT_LOG_PROBS: [each.values for each in kept]}
    replayed, exact = (micro_batch(1.0, True, **drawn, **each) for each in (fields, {FULL_LOG_PROBS: full}))
    expected = rollout_divergences(logits, exact).named()
    for name, values in rollout_divergences(logits, replayed).named().items():
        torch.testing.assert_close(values, expected[name], msg=name)
    found = replayed_outputs(logits, replayed)["log_probs"].values()
    rows = torch.tensor([1, 2, 5, 7, 9])
    tokens = torch.cat([drawn["responses"][0][[0, 1, 4]], drawn["responses"][1][[0, 2]]])
    torch.testing.assert_close(found[rows], logits[0].log_softmax(-1)[rows, tokens])


def test_vllms_flat_list_splits_into_candidates_and_sampled_tokens():
    # for each token the sampled one first, then the candidates
    found, sampled = unpack([5, 1, 2, 3, 3, 6], [-2.5, -0.5, -1.5, -0.1, -0.1, -3.0], 2)
    assert found.ids.tolist() == [[1, 2], [3, 6]]
    assert found.log_probs.tolist() == np.array([[-0.5, -1.5], [-0.1, -3.0]], dtype=np.float32).tolist()
    assert sampled.tolist() == pytest.approx([-2.5, -0.1])
