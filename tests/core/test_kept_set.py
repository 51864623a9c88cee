"""The two policies on the tokens that a rollout could draw."""

import pytest
import torch

from trm_agent.core.exact import exact_divergences
from trm_agent.core.kept_set import is_cut, kept_divergences, kept_entropy, kept_log_probs, kept_logits

from .constant_reward import standard_errors_of_the_gain

VOCAB, TOP, WIDTH = 50, 8, 16


def rollout(generator: torch.Generator, tokens: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """What an engine records of a top-k rollout of few digits: ties at the last place are kept, then filler.

    Returns:
        Ids and processed log-probs, shape (tokens, WIDTH).
    """
    logits = torch.randn(tokens, VOCAB, generator=generator).mul(4).round().div(4)
    least = logits.topk(TOP).values[:, -1:]
    processed = logits.masked_fill(logits < least, -torch.inf).log_softmax(-1)
    values, ids = processed.topk(WIDTH)
    assert (values[:, TOP] > -torch.inf).any(), "no ties: nothing is shown of them"
    assert (values[:, -1] == -torch.inf).all(), "a set is larger than its record"
    return ids, values


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def truncated(logits: torch.Tensor, ids: torch.Tensor, recorded: torch.Tensor) -> torch.Tensor:
    """The policy on the kept tokens, by hand: all others have no probability; float64, shape (tokens, VOCAB)."""
    outside = torch.full_like(logits, -torch.inf, dtype=torch.float64)
    for row in range(len(ids)):
        for token, log_prob in zip(ids[row], recorded[row], strict=True):
            if log_prob > -torch.inf:
                outside[row, token] = 0.0
    return (logits.double() + outside).log_softmax(-1)


@pytest.mark.parametrize("autocast", [False, True])
def test_log_probs_and_their_gradient_are_those_of_the_cut_policy(generator, autocast) -> None:
    ids, recorded = rollout(generator)
    logits = torch.randn(40, VOCAB, generator=generator, requires_grad=True)
    drawn = recorded.exp().multinomial(1, generator=generator)
    tokens = ids.gather(1, drawn)
    weights = torch.randn(40, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = kept_log_probs(kept_logits(logits, ids, recorded), logits.gather(1, tokens)[:, 0])
    (found * weights).sum().backward()
    again = logits.detach().clone().requires_grad_()
    expected = truncated(again, ids, recorded).gather(1, tokens)[:, 0]
    (expected * weights).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.grad, again.grad, rtol=1e-4, atol=1e-6)
    off = torch.ones(40, VOCAB, dtype=torch.bool).scatter(1, ids.where(recorded > -torch.inf, ids[:, :1]), False)
    assert (logits.grad[off] == 0).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_entropy_and_its_gradient_are_those_of_the_cut_policy(generator, autocast) -> None:
    ids, recorded = rollout(generator)
    logits = (3 * torch.randn(40, VOCAB, generator=generator)).requires_grad_()
    weights = torch.randn(40, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = kept_entropy(kept_logits(logits, ids, recorded))
    (found * weights).sum().backward()
    again, total = logits.detach().double().requires_grad_(), torch.zeros((), dtype=torch.float64)
    for row, weight in enumerate(weights.tolist()):
        kept = [token for token, value in zip(ids[row], recorded[row], strict=True) if value > -torch.inf]
        normaliser = sum(again[row, token].exp() for token in kept)
        q = [again[row, token].exp() / normaliser for token in kept]
        entropy = -sum(value * value.log() for value in q)
        assert found[row].item() == pytest.approx(entropy.item(), rel=1e-5, abs=1e-6)
        total = total + weight * entropy
    total.backward()
    torch.testing.assert_close(logits.grad.double(), again.grad, rtol=1e-4, atol=1e-6)


def test_a_set_of_one_token_has_no_entropy_and_no_gradient() -> None:
    logits = torch.tensor([[300.0, 2.0, -1.0]], requires_grad=True)
    found = kept_entropy(logits.masked_fill(torch.tensor([[False, True, True]]), -torch.inf))
    found.sum().backward()
    assert (float(found), logits.grad.tolist()) == (0.0, [[0.0, 0.0, 0.0]])


def test_divergences_are_those_of_the_cut_policies(generator) -> None:
    ids, recorded = rollout(generator)
    logits = torch.randn(40, VOCAB, generator=generator)
    found = kept_divergences(recorded, kept_logits(logits, ids, recorded))
    theirs = truncated(recorded.new_zeros(40, VOCAB).scatter(1, ids, recorded), ids, recorded)
    ours = truncated(logits, ids, recorded)
    p, q = theirs.exp(), ours.exp()
    terms = torch.where(p > 0, p * (theirs - ours), 0.0)
    torch.testing.assert_close(found.kl.double(), terms.sum(-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.tv.double(), (p - q).abs().sum(-1) / 2, rtol=1e-5, atol=1e-6)


def test_on_the_whole_vocabulary_nothing_is_cut_off(generator) -> None:
    recorded, ids = torch.randn(20, VOCAB, generator=generator).log_softmax(-1).topk(VOCAB)
    logits = torch.randn(20, VOCAB, generator=generator)
    whole = recorded.new_zeros(20, VOCAB).scatter(1, ids, recorded)
    found, expected = kept_divergences(recorded, kept_logits(logits, ids, recorded)), exact_divergences(whole, logits)
    torch.testing.assert_close(found.kl, expected.kl, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.tv, expected.tv, rtol=1e-5, atol=1e-7)
    tokens = ids[:, 3]
    log_probs = kept_log_probs(kept_logits(logits, ids, recorded), logits.gather(1, tokens[:, None])[:, 0])
    torch.testing.assert_close(log_probs, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(kept_entropy(kept_logits(logits, ids, recorded)), entropy)
    assert not is_cut(recorded, VOCAB).any()


def test_the_first_order_gain_of_a_constant_reward_is_nothing_and_with_the_whole_policy_it_is_not(generator) -> None:
    ids, recorded = rollout(generator)
    logits = torch.randn(40, VOCAB, generator=generator)
    kept = kept_logits(logits, ids, recorded)
    p = recorded.double().exp()

    def gain(log_probs: torch.Tensor) -> torch.Tensor:
        ratio = torch.where(p > 0, (log_probs.double() - recorded.double()).exp(), 0.0)
        return (p * (ratio - 1)).sum(-1)

    own = torch.stack([kept_log_probs(kept, kept[:, place]) for place in range(WIDTH)], dim=-1)
    assert gain(own).abs().max() < 1e-6
    assert gain(logits.log_softmax(-1).gather(1, ids)).max() < -0.1


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_drawn_tokens_show_whether_the_ratio_is_on_the_tokens_that_could_be_drawn(generator, top_p) -> None:
    sequences, length = 300, 8
    of_rollout = 2 * torch.randn(sequences * length, VOCAB, generator=generator)
    logits = of_rollout + 0.1 * torch.randn(of_rollout.shape, generator=generator)
    recorded, ids = of_rollout.log_softmax(-1).topk(TOP)
    # a token stays while those before it have less than the share
    probs = recorded.softmax(-1)
    recorded = recorded.masked_fill(probs.cumsum(-1) - probs >= top_p, -torch.inf).log_softmax(-1)
    assert ((recorded > -torch.inf).sum(-1).double().mean() < 0.8 * TOP) == (top_p < 1)
    drawn = recorded.exp().multinomial(1, generator=generator)
    theirs, of_drawn = recorded.gather(1, drawn)[:, 0], logits.gather(1, ids.gather(1, drawn))[:, 0]
    own = kept_log_probs(kept_logits(logits, ids, recorded), of_drawn)
    whole = of_drawn - logits.logsumexp(-1)

    def away(log_probs: torch.Tensor) -> float:
        shape = sequences, length
        mask = torch.ones(shape, dtype=torch.bool)
        return standard_errors_of_the_gain(*(each.view(shape).numpy() for each in (log_probs, theirs, mask)))

    assert away(own) < 4
    # at each token a tenth of the mass and more is missing
    assert away(whole) > 40


def test_a_set_is_cut_where_the_last_recorded_token_has_a_probability() -> None:
    recorded = torch.tensor([[-0.1, -2.0, -4.0], [-0.1, -2.0, -torch.inf]])
    assert is_cut(recorded, VOCAB).tolist() == [True, False]
    assert is_cut(recorded, 3).tolist() == [False, False]


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kept_logits \(4, 3\) and drawn_logits \(3,\)"):
        kept_log_probs(torch.zeros(4, 3), torch.zeros(3))
