"""The trainer by itself: its log-probs are the model's, and a fault in its positions is named by its depth."""

import copy
import functools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from transformers import AutoModelForCausalLM, AutoTokenizer

from trm_agent.episode import chat_tokens
from trm_agent.models.imitated import tokeniser
from trm_agent.models.nano import NanoSpec, ensure_nano_model
from trm_agent.numerics.forcing import Played
from trm_agent.numerics.measuring import Pair, compared
from trm_agent.numerics.verdict import JUMPS
from trm_agent.verl_plugin.actor.alone import Compute, Tokens, batch_of, log_probs, rows_of

from .test_engine import Engine, engine
from .test_packed import VOCAB, model

pytestmark = pytest.mark.usefixtures("one_rank")
PROMPT = 40
LENGTHS = (2600, 700)


def tokens(length: int, seed: int) -> Tokens:
    """Random tokens, of which three of four behind the prompt count as sampled, the last one too."""
    generator = torch.Generator().manual_seed(seed)
    sampled = torch.rand(length, generator=generator) < 0.75
    sampled[:PROMPT], sampled[-1] = False, True
    return Tokens(torch.randint(VOCAB, (length,), generator=generator), sampled)


SEQUENCES = [tokens(length, seed) for seed, length in enumerate(LENGTHS)]


def compute_of(made: Engine) -> Compute:
    def compute(data):
        with made.eval_mode():
            return made.infer_batch(data)["model_output"]["log_probs"]

    return compute


def recomputed(made: Engine, temperature: float = 1.0) -> list[np.ndarray]:
    rows = log_probs(compute_of(made), SEQUENCES, temperature)
    return [part.double().numpy() for row in rows for part in row]


@torch.no_grad()
def of_model(each: Tokens, temperature: float = 1.0) -> torch.Tensor:
    """What a rollout engine would have recorded: transformers' own pass over one sequence."""
    logits = model()(each.ids[None]).logits[0, :-1].double() / temperature
    found = logits.log_softmax(-1).gather(-1, each.ids[1:, None])[:, 0]
    return torch.cat([torch.zeros(1), found]).where(each.sampled, 0.0)


def against(values: Sequence[np.ndarray]) -> Pair:
    played = [Played(each.ids.tolist(), each.sampled.tolist(), of_model(each).tolist(), 40) for each in SEQUENCES]
    return compared("float32", "float32", played, values)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_the_models_for_sequences_that_share_a_row(temperature):
    made = engine()
    assert made.packing is not None
    assert [len(row) for row in rows_of(SEQUENCES)] == [2]
    for found, each in zip(recomputed(made, temperature), SEQUENCES, strict=True):
        assert found == pytest.approx(of_model(each, temperature)[each.sampled].numpy(), abs=2e-5)


def test_a_row_holds_8192_tokens_unless_a_sequence_is_longer():
    lengths = (5000, 3000, 200, 9000, 100)
    rows = list(rows_of([tokens(length, seed) for seed, length in enumerate(lengths)]))
    assert [[len(each.ids) for each in row] for row in rows] == [[5000, 3000], [200], [9000], [100]]


def test_what_follows_the_last_sampled_token_is_left_out():
    each = Tokens.of([5, 6, 7, 8, 9], [0, 0, 1, 1, 0])
    assert each.ids.tolist() == [5, 6, 7, 8]
    data = batch_of([each], 1.0)
    assert data["prompts"].values().tolist() == [5, 6]
    assert data["response_mask"].values().tolist() == [1, 1]


def test_the_same_model_on_both_sides_is_healthy():
    judged = against(recomputed(engine())).verdict
    assert (judged.kind, judged.is_healthy) == ("rounding", True)


def shifted(module, args, kwargs, depth: int):
    """Begin a position later from a depth on; to be called before the forward pass."""
    positions = kwargs["position_ids"]
    return args, kwargs | {"position_ids": positions + (positions >= depth)}


@pytest.mark.parametrize("depth", [512, 1024])
def test_positions_that_are_shifted_from_a_depth_on_are_found_and_named(depth):
    made = engine()
    made.module.register_forward_pre_hook(functools.partial(shifted, depth=depth), with_kwargs=True)
    pair = against(recomputed(made))
    assert (pair.verdict.kind, pair.verdict.starts_at, pair.verdict.is_healthy) == ("jumps", depth, False)
    assert "position ids" in pair.verdict.first_check
    before = [each for each in pair.bins if each.stop <= depth]
    assert before
    assert all(each.largest < 1e-4 for each in before)


@functools.cache
def nano() -> torch.nn.Module:
    folder = ensure_nano_model(NanoSpec(), show_progress=False)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()


class OfNano(Engine):
    made = staticmethod(lambda: copy.deepcopy(nano()))


@functools.cache
def solved(seed: int, length: int = 1300) -> Tokens:
    """Tasks in a row by the solver, whose turns count as sampled."""
    tokenizer = AutoTokenizer.from_pretrained(ensure_nano_model(NanoSpec(), show_progress=False))
    tokenise, solver = tokeniser(tokenizer, chat_tokens(tokenizer)), NanoSpec().solver("held_out")
    ids: list[int] = []
    sampled: list[int] = []
    while len(ids) < length:
        seed += 1
        batch = tokenise([solver.solve(seed, 6)])
        ids += batch.input_ids[0].tolist()
        sampled += batch.loss_mask[0].int().tolist()
    return Tokens.of(ids[:length], sampled[:length])


@torch.no_grad()
def recorded(each: Tokens, number_format: torch.dtype) -> list[float]:
    """What an engine in a number format would have recorded; logits and log-softmax as vLLM rounds them."""
    logits = copy.deepcopy(nano()).to(number_format)(each.ids[None]).logits[0, :-1].float()
    found = logits.log_softmax(-1).gather(-1, each.ids[1:, None])[:, 0]
    return torch.cat([torch.zeros(1), found]).where(each.sampled, 0.0).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("of_engine", "of_trainer"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_shift_by_one_is_named_above_the_noise_of_bfloat16(of_engine, of_trainer):
    episodes = [solved(1000 * number) for number in range(3)]
    formats = {"param_dtype": of_trainer, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    made = engine(OfNano, mixed_precision=formats)
    played = [
        Played(each.ids.tolist(), each.sampled.tolist(), recorded(each, getattr(torch, of_engine)), 40)
        for each in episodes
    ]

    def against_trainer() -> Pair:
        rows = log_probs(compute_of(made), episodes, 1.0)
        return compared(of_engine, of_trainer, played, [part.double().numpy() for row in rows for part in row])

    clean = against_trainer()
    made.module.register_forward_pre_hook(functools.partial(shifted, depth=512), with_kwargs=True)
    faulty = against_trainer()
    # a noise that float32 does not have
    assert clean.whole.largest > 0.02
    assert clean.verdict.kind != JUMPS
    assert not clean.verdict.is_high
    assert (faulty.verdict.kind, faulty.verdict.starts_at, faulty.verdict.is_healthy) == (JUMPS, 512, False)
    assert [each.kl for each in faulty.bins[:1]] == [each.kl for each in clean.bins[:1]]
