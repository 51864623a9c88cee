"""Updates of a replayed rollout, and what they come to in a float64 loop over single tokens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from trm_agent.verl_plugin.rollout.distributions import KEPT_IDS, KEPT_LOG_PROBS

VOCAB, TOP, WIDTH = 23, 4, 8
# that of a trained model whose logits are as large as those of the tests' is far flatter
TEMPERATURE = 3.0
# prompt and sampled tokens (1) among those of the response; the last is what verl fills a batch up with
SHAPES = ((3, "11011"), (2, "1101"), (4, "110011"), (3, "111"), (2, "101"), (3, "0"))
ADVANTAGES = (1.0, -0.5, 0.8, -1.2, 0.7, 0.0)
# sequence and place of the token more of whose alternatives tie than its record holds
CUT = (2, 1)
ENTROPY_COEFF, KL_COEF = 0.05, 0.3
MAX_TOKEN_KL, RATIO_DEVIATION, RATIO_TRUNCATION, PROXIMAL_CLIP = 0.0085, 0.06, 1.05, 0.2
# distance of the rollout from the policy, nats
NOISE = 0.1
# tokens, shape (length,) -> logits, shape (length, VOCAB): row j predicts token j + 1
Policy = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Episode:
    """One sequence of an update."""

    ids: torch.Tensor
    """Of prompt and response."""
    prompt: int
    """Length of the prompt."""
    mask: list[bool]
    """Which tokens of the response were sampled."""
    advantage: float
    kept_ids: torch.Tensor
    """Shape (response, WIDTH)."""
    kept_log_probs: torch.Tensor
    """Same shape, -infinity where filler."""

    def tokens(self) -> list[int]:
        """Places of the sampled tokens in the response."""
        return [place for place, sampled in enumerate(self.mask) if sampled]

    def kept(self, place: int) -> dict[int, float]:
        """Id -> log-prob of what could be drawn at a place."""
        pairs = zip(self.kept_ids[place].tolist(), self.kept_log_probs[place].tolist(), strict=True)
        return {token: value for token, value in pairs if value > -math.inf}

    def drawn(self, place: int) -> int:
        return int(self.ids[self.prompt + place])


def rollouts(policy: Policy, generator: torch.Generator, top_p: float = 1.0, outside: bool = False) -> list[Episode]:
    """Draw episodes with top-k, and top-p, from near to a policy, in few digits so that some tokens tie.

    Args:
        policy: in training.
        generator: of the draws.
        top_p: of the rollout.
        outside: whether the token at `CUT` is one that its record lacks.
    """
    return [_rollout(policy, generator, number, top_p, outside) for number in range(len(SHAPES))]


def _rollout(policy: Policy, generator: torch.Generator, number: int, top_p: float, outside: bool) -> Episode:
    prompt, mask = SHAPES[number]
    ids = torch.randint(VOCAB, (prompt,), generator=generator)
    kept_ids = torch.zeros(len(mask), WIDTH, dtype=torch.int64)
    kept_log_probs = torch.full(kept_ids.shape, -torch.inf)
    for place, sampled in enumerate(mask):
        token = torch.randint(VOCAB, (1,), generator=generator)
        if sampled == "1":
            logits = policy(ids)[-1].detach().float() / TEMPERATURE
            logits = (logits + NOISE * torch.randn(VOCAB, generator=generator)).mul(4).round().div(4)
            if (number, place) == CUT:
                logits.clamp_(max=logits.topk(WIDTH + 2).values[-1])
            processed = _processed(logits, 1.0 if (number, place) == CUT else top_p)
            values, found = processed.topk(WIDTH)
            token = found[values.exp().multinomial(1, generator=generator)]
            if outside and (number, place) == CUT:
                token = processed.index_fill(0, found, -torch.inf).argmax(0, keepdim=True)
                found[-1:], values[-1:] = token, processed[token]
            kept_ids[place], kept_log_probs[place] = found, values
        ids = torch.cat([ids, token])
    return Episode(ids, prompt, [each == "1" for each in mask], ADVANTAGES[number], kept_ids, kept_log_probs)


def _processed(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """What an engine that samples with top-k calls the log-probs: -infinity where a token is less than the K-th.

    With top-p too it drops the least likely of these while all that is dropped has at most 1 - top_p of their mass.
    """
    kept = logits.masked_fill(logits < logits.topk(TOP).values[-1], -torch.inf)
    values, order = kept.softmax(-1).sort()
    dropped = order[(values.cumsum(-1) <= 1 - top_p) & (values < values[-1])]
    return kept.index_fill(0, dropped, -torch.inf).log_softmax(-1)


def batch_of(episodes: Sequence[Episode], **settings) -> TensorDict:
    """verl's nested batch, the kept sets of the filler as long as those of the first sequence."""
    columns: dict[str, list[torch.Tensor]] = {}
    for each in episodes:
        is_filler, mask = not each.tokens(), torch.tensor(each.mask).long()
        rollout = [each.kept(place).get(each.drawn(place), 0.0) for place in range(len(mask))]
        values = {
            "prompts": each.ids[: each.prompt],
            "responses": each.ids[each.prompt :],
            "input_ids": each.ids,
            "position_ids": torch.arange(len(each.ids)),
            "response_mask": mask,
            "loss_mask": mask,
            "rollout_log_probs": torch.tensor(rollout),
            "advantages": each.advantage * mask,
            KEPT_IDS: episodes[0].kept_ids if is_filler else each.kept_ids,
            KEPT_LOG_PROBS: episodes[0].kept_log_probs if is_filler else each.kept_log_probs,
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    nested = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in columns.items()}
    data = TensorDict(nested, batch_size=[len(episodes)])
    tu.assign_non_tensor(data, temperature=TEMPERATURE, **settings)
    return data


def on_kept(episode: Episode, place: int, logits: torch.Tensor) -> dict[int, torch.Tensor]:
    """Log-probs of a policy on what could be drawn at a place, one token after the other, float64.

    Args:
        episode: the sequence.
        place: of the token in the response.
        logits: of the sequence, row j predicts token j + 1.
    """
    row = logits[episode.prompt + place - 1].double()
    scaled = {token: row[token] / TEMPERATURE for token in episode.kept(place)}
    total = torch.zeros((), dtype=torch.float64)
    for value in scaled.values():
        total = total + value.exp()
    return {token: value - total.log() for token, value in scaled.items()}


def entropy(log_probs: dict[int, torch.Tensor]) -> torch.Tensor:
    """Minus the sum of q log q."""
    found = torch.zeros((), dtype=torch.float64)
    for value in log_probs.values():
        found = found - value.exp() * value
    return found


def kl(episode: Episode, place: int, log_probs: dict[int, torch.Tensor]) -> float:
    """KL(roll || theta) on the record of a token."""
    kept = episode.kept(place)
    return sum(math.exp(kept[token]) * (kept[token] - float(log_probs[token])) for token in kept)


def accepted(episode: Episode, number: int, logits: torch.Tensor, criterion: str, undecided: str) -> bool:
    """Decide by the criterion `max` or `ser`; of a token whose record may be cut nothing is known."""
    largest, deviations = 0.0, 0.0
    for place in episode.tokens():
        is_cut = len(episode.kept(place)) == WIDTH
        assert is_cut == ((number, place) == CUT)
        if is_cut and undecided == "reject":
            return False
        if not is_cut:
            drawn, log_probs = episode.drawn(place), on_kept(episode, place, logits)
            largest = max(largest, kl(episode, place, log_probs))
            deviations += abs(math.exp(float(log_probs[drawn]) - episode.kept(place)[drawn]) - 1)
    if criterion == "max":
        return largest <= MAX_TOKEN_KL
    return deviations <= RATIO_DEVIATION * len(episode.tokens())


@dataclass
class Expected:
    """Means over all sampled tokens, float64."""

    policy: torch.Tensor
    """The policy loss, with graph."""
    entropy: torch.Tensor
    """Of the policy in training, with graph."""
    kl: torch.Tensor
    """k3 to the reference, with graph."""
    acceptance: float
    """Share of the sequences with a sampled token."""
    token_kl: float
    """Mean KL(roll || theta) of the tokens whose record holds all that could be drawn."""

    @property
    def loss(self) -> torch.Tensor:
        """All terms of verl's loss."""
        return self.policy - ENTROPY_COEFF * self.entropy + KL_COEF * self.kl


def expect(
    episodes: Sequence[Episode], theta: Policy, start: Policy, reference: Policy, criterion: str, undecided: str
) -> Expected:
    """Return what an undivided update comes to, with three policies, entropy and reference.

    Args:
        episodes: of the update.
        theta, start, reference: the policy in training, that of the start of the step, and the reference.
        criterion: see `accepted`.
        undecided: `accept` or `reject`.
    """
    policy, total, further_kl, known_kl = [], [], [], []
    stays = []
    for number, each in enumerate(episodes):
        logits, of_start, of_reference = theta(each.ids), start(each.ids).detach(), reference(each.ids).detach()
        stays.append(accepted(each, number, logits.detach(), criterion, undecided))
        for place in each.tokens():
            drawn, log_probs = each.drawn(place), on_kept(each, place, logits)
            if (number, place) != CUT:
                known_kl.append(kl(each, place, log_probs))
            proximal = on_kept(each, place, of_start)[drawn]
            weight = min(math.exp(proximal - each.kept(place)[drawn]), RATIO_TRUNCATION)
            ratio = (log_probs[drawn] - proximal).exp()
            clipped = ratio.clamp(1 - PROXIMAL_CLIP, 1 + PROXIMAL_CLIP)
            policy.append(-stays[-1] * weight * torch.minimum(ratio * each.advantage, clipped * each.advantage))
            total.append(entropy(log_probs))
            further = on_kept(each, place, of_reference)[drawn] - log_probs[drawn]
            further_kl.append(further.exp() - further - 1)
    means = [torch.stack(values).mean() for values in (policy, total, further_kl)]
    # the filler has no token, and is in no share
    return Expected(*means, sum(stays[:-1]) / (len(stays) - 1), sum(known_kl) / len(known_kl))
